//! JPEG: the markers are read here, the pixels by `zune-jpeg`.
//!
//! The walk over the markers finds what the decoder would not tell: whether the file is complete (the decoder fills what is
//! missing with grey), and how large it is before anything is allocated. Four-component files are asked for in their own
//! colours, because the way from CMYK to RGB is not the decoder's: Pillow takes all of them as inverted, as Adobe writes them.

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::samples::{cmyk_to_rgb, ycc_to_rgb};
use super::{DecodeError, Decoded, Format, Limits, orientation, scaled};
use crate::sample::Rgb8;

/// Scans of a progressive file. Encoders write about ten; each costs a pass over the whole image.
pub(super) const MAX_SCANS: usize = 100;

/// What the markers of a file say.
#[derive(Default)]
pub(super) struct Markers<'a> {
    pub width: u16,
    pub height: u16,
    pub components: u8,
    /// Bits of a sample.
    pub precision: u8,
    pub progressive: bool,
    pub scans: usize,
    pub exif: Option<&'a [u8]>,
    pub xmp: Option<&'a [u8]>,
}

/// The image, at a fraction of its size where the shorter edge has `edge` pixels then.
pub(super) fn decode(
    bytes: &[u8],
    limits: &Limits,
    edge: Option<u32>,
) -> Result<Decoded, DecodeError> {
    let markers = Markers::read(bytes)?;
    let orientation = orientation::from_metadata(markers.exif, markers.xmp);
    let fraction = edge.and_then(|edge| scaled::fraction(&markers, orientation, edge));
    // Coefficients of all components, 16 bits each, where they are collected: over several scans, or by a thread that runs
    // ahead of the transform.
    let collected = match markers.progressive || fraction.is_some() {
        true => 2,
        false => 0,
    };
    let components = u64::from(markers.components);
    limits.check(markers.width, markers.height, components * (1 + collected))?;
    if !matches!(markers.components, 1 | 3 | 4) {
        let detail = format!("{} components", markers.components);
        return Err(DecodeError::unsupported(Format::Jpeg, detail));
    }

    let scaled = fraction.and_then(|fraction| scaled::decode(bytes, &markers, fraction));
    let image = match scaled {
        Some(image) => image,
        None => Rgb8 {
            width: u32::from(markers.width),
            height: u32::from(markers.height),
            pixels: whole(bytes, markers.components)?,
        },
    };
    let (mut width, mut height) = (u32::from(markers.width), u32::from(markers.height));
    if orientation::lies(orientation) {
        (width, height) = (height, width);
    }
    Ok(Decoded {
        image: orientation::apply(image, orientation),
        format: Format::Jpeg,
        width,
        height,
    })
}

/// All pixels, RGB.
fn whole(bytes: &[u8], components: u8) -> Result<Vec<u8>, DecodeError> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    if components < 4 {
        return decoder.decode().map_err(error);
    }
    decoder.decode_headers().map_err(error)?;
    let inks = decoder.input_colorspace().unwrap_or(ColorSpace::CMYK);
    decoder.set_options(options.jpeg_set_out_colorspace(inks));
    let samples = decoder.decode().map_err(error)?;
    Ok(inks_to_rgb(&samples, inks))
}

/// Inverted CMYK or YCCK samples to RGB.
fn inks_to_rgb(samples: &[u8], colour: ColorSpace) -> Vec<u8> {
    let (samples, _) = samples.as_chunks::<4>();
    let convert = |&[a, b, c, k]: &[u8; 4]| {
        let [a, b, c] = match colour {
            ColorSpace::YCCK => ycc_to_rgb([a, b, c]).map(|v| 255 - v),
            _ => [a, b, c],
        };
        cmyk_to_rgb([a, b, c, k].map(|v| 255 - v))
    };
    samples.iter().flat_map(convert).collect()
}

impl<'a> Markers<'a> {
    /// Walks over the file to its end-of-image marker.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] where there is none. What follows it is ignored.
    fn read(bytes: &'a [u8]) -> Result<Markers<'a>, DecodeError> {
        const TRUNCATED: DecodeError = DecodeError::Truncated {
            format: Format::Jpeg,
        };
        let mut found = Markers::default();
        let mut framed = false;
        let mut at = 2;
        loop {
            let marker = next_marker(bytes, &mut at).ok_or(TRUNCATED)?;
            match marker {
                // Start of image, temporary, restart: no content.
                0xd8 | 0x01 | 0xd0..=0xd7 => continue,
                0xd9 => break,
                _ => {}
            }
            let length = bytes.get(at..).and_then(<[u8]>::first_chunk);
            let length = usize::from(u16::from_be_bytes(*length.ok_or(TRUNCATED)?));
            let content = bytes.get(at + 2..at + length.max(2)).ok_or(TRUNCATED)?;
            at += length.max(2);
            match marker {
                0xc0..=0xc2 if !framed => {
                    let &[precision, h0, h1, w0, w1, components] =
                        content.first_chunk().ok_or(TRUNCATED)?;
                    found.height = u16::from_be_bytes([h0, h1]);
                    found.width = u16::from_be_bytes([w0, w1]);
                    found.components = components;
                    found.precision = precision;
                    found.progressive = marker == 0xc2;
                    framed = true;
                }
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                    let kind = match marker & 0x0f {
                        3 | 7 => "lossless coding",
                        5 | 6 => "hierarchical coding",
                        _ => "arithmetic coding",
                    };
                    return Err(DecodeError::unsupported(Format::Jpeg, kind));
                }
                0xda => found.scans += 1,
                0xe1 if content.starts_with(b"Exif\0\0") => {
                    found.exif.get_or_insert(content);
                }
                0xe1 if content.starts_with(b"http://ns.adobe.com/xap/1.0/\0") => {
                    found.xmp = Some(content);
                }
                _ => {}
            }
        }
        if framed && found.scans > 0 {
            Ok(found)
        } else {
            Err(DecodeError::damaged(Format::Jpeg, "it holds no image"))
        }
    }
}

/// The next marker from `at`, which moves behind it. Bytes in between are image data, or rubbish that every decoder skips.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let rest = bytes.get(*at..)?;
        *at += rest.iter().position(|&b| b == 0xff)?;
        while *bytes.get(*at)? == 0xff {
            *at += 1;
        }
        *at += 1;
        match bytes[*at - 1] {
            // An escaped 0xff of the image data.
            0 => {}
            marker => return Some(marker),
        }
    }
}

fn error(error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::ExhaustedData => DecodeError::Truncated {
            format: Format::Jpeg,
        },
        DecodeErrors::Unsupported(kind) => {
            DecodeError::unsupported(Format::Jpeg, format!("{kind:?}"))
        }
        error => DecodeError::damaged(Format::Jpeg, error),
    }
}
