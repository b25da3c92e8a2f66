//! TIFF: the first page, its samples turned to RGB here.
//!
//! The `tiff` crate is used itself, not through `image`, for the samples as they are: `image` has its own way from CMYK to RGB
//! and reads no palettes.

use std::borrow::Cow;
use std::io::Cursor;

use tiff::ColorType;
use tiff::TiffError;
use tiff::decoder::{Decoder, DecodingResult};
use tiff::tags::Tag;

use super::orientation::{self, Directory};
use super::samples::{Palette, cmyk_to_rgb, first_three, grey_to_rgb, ycc_to_rgb};
use super::{DecodeError, Format, Limits};
use crate::sample::Rgb8;

const PHOTOMETRIC: u16 = 262;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, DecodeError> {
    let (bytes, has_palette) = as_grey(bytes);
    let mut decoder_limits = tiff::decoder::Limits::default();
    let memory = usize::try_from(limits.max_memory).unwrap_or(usize::MAX);
    decoder_limits.decoding_buffer_size = memory;
    decoder_limits.intermediate_buffer_size = memory;
    let mut decoder = Decoder::new(Cursor::new(&bytes[..]))
        .map_err(error)?
        .with_limits(decoder_limits);
    let (width, height) = decoder.dimensions().map_err(error)?;
    let colour = decoder.colortype().map_err(error)?;
    let channels = u64::from(colour.num_samples());
    let sample_bytes = u64::from(colour.bit_depth()).div_ceil(8);
    limits.check(width, height, 2 * channels * sample_bytes)?;

    let palette = if has_palette {
        Some(read_palette(&mut decoder)?)
    } else {
        None
    };
    let orientation = decoder
        .find_tag_unsigned::<u32>(Tag::Orientation)
        .ok()
        .flatten();
    let xmp = decoder.get_tag_u8_vec(Tag::Unknown(700)).ok();

    let mut samples = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(error)?;
    if layout.planes > 1 {
        samples = interleave(samples, layout.planes);
    }
    let pixels = to_rgb(samples, colour, palette, width as usize)?;
    if pixels.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        return Err(DecodeError::Truncated {
            format: Format::Tiff,
        });
    }
    let image = Rgb8 {
        width,
        height,
        pixels,
    };
    let orientation =
        orientation.unwrap_or_else(|| orientation::from_metadata(None, xmp.as_deref()));
    Ok(orientation::apply(image, orientation))
}

/// The file, saying of palette indices that they are grey, for a decoder that reads no palettes; and whether it had to.
fn as_grey(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let position = Directory::first(bytes).and_then(|directory| {
        let (at, size) = directory.position(PHOTOMETRIC)?;
        let number = |value: u16| {
            if directory.is_big_endian() {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let is_palette = size == 2 && bytes.get(at..at + 2)? == number(PALETTE);
        is_palette.then(|| (at, number(BLACK_IS_ZERO)))
    });
    match position {
        Some((at, grey)) => {
            let mut bytes = bytes.to_vec();
            bytes[at..at + 2].copy_from_slice(&grey);
            (Cow::Owned(bytes), true)
        }
        None => (Cow::Borrowed(bytes), false),
    }
}

/// The colour map: all reds, all greens, all blues, 16 bits each.
fn read_palette(decoder: &mut Decoder<Cursor<&[u8]>>) -> Result<Palette, DecodeError> {
    let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(error)?;
    let n = map.len() / 3;
    let colour = |i: usize| [map[i], map[n + i], map[2 * n + i]].map(|v| (v >> 8) as u8);
    Ok(Palette::new((0..n).map(colour)))
}

/// Planes, one after the other, to pixels.
fn interleave(samples: DecodingResult, planes: usize) -> DecodingResult {
    fn pixels<T: Copy>(samples: &[T], planes: usize) -> Vec<T> {
        let length = samples.len() / planes;
        (0..length)
            .flat_map(|i| (0..planes).map(move |plane| samples[plane * length + i]))
            .collect()
    }
    match samples {
        DecodingResult::U8(samples) => DecodingResult::U8(pixels(&samples, planes)),
        DecodingResult::U16(samples) => DecodingResult::U16(pixels(&samples, planes)),
        other => other,
    }
}

fn to_rgb(
    samples: DecodingResult,
    colour: ColorType,
    palette: Option<Palette>,
    width: usize,
) -> Result<Vec<u8>, DecodeError> {
    let unsupported = || DecodeError::unsupported(Format::Tiff, format!("{colour:?} samples"));
    let samples = match (samples, colour) {
        (DecodingResult::U8(samples), ColorType::Gray(bits @ (1 | 2 | 4 | 8))) => {
            let values = unpack(&samples, bits, width);
            return Ok(match palette {
                Some(palette) => palette.rgb(&values),
                // The largest value is white.
                None => {
                    let step = 255 / ((1u16 << bits) - 1) as u8;
                    let grey: Vec<u8> = values.iter().map(|v| v * step).collect();
                    grey_to_rgb(&grey)
                }
            });
        }
        // Grey of more than 8 bits is clipped.
        (DecodingResult::U16(samples), ColorType::Gray(_)) => {
            let grey: Vec<u8> = samples.iter().map(|&v| v.min(255) as u8).collect();
            return Ok(grey_to_rgb(&grey));
        }
        (DecodingResult::U32(samples), ColorType::Gray(_)) => {
            let grey: Vec<u8> = samples.iter().map(|&v| v.min(255) as u8).collect();
            return Ok(grey_to_rgb(&grey));
        }
        (DecodingResult::I16(samples), ColorType::Gray(_)) => {
            let grey: Vec<u8> = samples.iter().map(|&v| v.clamp(0, 255) as u8).collect();
            return Ok(grey_to_rgb(&grey));
        }
        (DecodingResult::I32(samples), ColorType::Gray(_)) => {
            let grey: Vec<u8> = samples.iter().map(|&v| v.clamp(0, 255) as u8).collect();
            return Ok(grey_to_rgb(&grey));
        }
        (DecodingResult::F32(samples), ColorType::Gray(_)) => {
            let grey: Vec<u8> = samples.iter().map(|&v| v as u8).collect();
            return Ok(grey_to_rgb(&grey));
        }
        (DecodingResult::U8(samples), _) => samples,
        (DecodingResult::U16(samples), _) => samples.iter().map(|&v| (v >> 8) as u8).collect(),
        _ => return Err(unsupported()),
    };
    let channels = usize::from(colour.num_samples());
    Ok(match colour {
        ColorType::GrayA(_) | ColorType::Multiband { num_samples: 2, .. } => {
            let grey: Vec<u8> = samples.iter().step_by(2).copied().collect();
            match palette {
                Some(palette) => palette.rgb(&grey),
                None => grey_to_rgb(&grey),
            }
        }
        ColorType::RGB(_) => samples,
        ColorType::RGBA(_) => first_three(&samples, channels),
        ColorType::CMYK(_) | ColorType::CMYKA(_) => {
            let pixels = samples.chunks_exact(channels);
            pixels
                .flat_map(|p| cmyk_to_rgb([p[0], p[1], p[2], p[3]]))
                .collect()
        }
        ColorType::YCbCr(_) => {
            let (pixels, _) = samples.as_chunks::<3>();
            pixels.iter().flat_map(|&p| ycc_to_rgb(p)).collect()
        }
        _ => return Err(unsupported()),
    })
}

/// Values of 1, 2, 4 or 8 bits, high bits first, rows beginning on a whole byte.
fn unpack(samples: &[u8], bits: u8, width: usize) -> Cow<'_, [u8]> {
    if bits == 8 {
        return Cow::Borrowed(samples);
    }
    let per_byte = usize::from(8 / bits);
    let mask = (1 << bits) - 1;
    let rows = samples.chunks_exact(width.div_ceil(per_byte));
    let values = rows.flat_map(|row| {
        (0..width).map(move |x| {
            let shift = 8 - usize::from(bits) * (x % per_byte + 1);
            (row[x / per_byte] >> shift) & mask
        })
    });
    Cow::Owned(values.collect())
}

fn error(error: TiffError) -> DecodeError {
    match error {
        TiffError::IoError(error) => DecodeError::from_io(Format::Tiff, &error),
        TiffError::UnsupportedError(error) => DecodeError::unsupported(Format::Tiff, error),
        TiffError::LimitsExceeded => DecodeError::damaged(
            Format::Tiff,
            "it asks for more memory than an image of its size takes",
        ),
        error => DecodeError::damaged(Format::Tiff, error),
    }
}
