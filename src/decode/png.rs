//! PNG: 8-bit samples as they are, 16-bit colour by its high byte, 16-bit grey clipped at 255.
//!
//! Stricter than Pillow in one point: the checksums of the image data must hold. As there, the end chunk may be missing.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::error::ImageError;
use image::{ColorType, ImageDecoder};

use super::samples::{first_three, grey_to_rgb};
use super::{DecodeError, Format, Limits, orientation};
use crate::sample::Rgb8;

/// Bytes before the first chunk's content: signature, length, type.
const HEADER: usize = 8 + 8;

/// The end chunk: no content, its name, its checksum.
const END: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, DecodeError> {
    match decode_complete(bytes, limits) {
        // Complete but for the end chunk? Then with it, it decodes.
        Err(DecodeError::Truncated { .. }) if bytes.len() > HEADER => {
            decode_complete(&[bytes, &END].concat(), limits)
        }
        decoded => decoded,
    }
}

fn decode_complete(bytes: &[u8], limits: &Limits) -> Result<Rgb8, DecodeError> {
    // Before the decoder sees it: width and height stand at a fixed place.
    let size = bytes.get(HEADER..HEADER + 8).and_then(|s| {
        let (width, height) = s.split_first_chunk::<4>()?;
        let width = u32::from_be_bytes(*width);
        Some((width, u32::from_be_bytes(*height.first_chunk()?)))
    });
    let (width, height) = size.ok_or(DecodeError::Truncated {
        format: Format::Png,
    })?;
    limits.check(width, height, 8)?;

    let mut decoder_limits = image::Limits::no_limits();
    decoder_limits.max_alloc = Some(limits.max_memory);
    let mut decoder = PngDecoder::with_limits(Cursor::new(bytes), decoder_limits).map_err(error)?;
    let colour = decoder.color_type();
    let exif = decoder.exif_metadata().ok().flatten();
    let xmp = decoder.xmp_metadata().ok().flatten();

    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(error)?;

    let wide = || samples.as_chunks::<2>().0.iter();
    let high_bytes = || -> Vec<u8> {
        wide()
            .map(|&v| (u16::from_ne_bytes(v) >> 8) as u8)
            .collect()
    };
    let pixels = match colour {
        ColorType::L8 => grey_to_rgb(&samples),
        ColorType::La8 => grey_to_rgb(&every_other(&samples)),
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => first_three(&samples, 4),
        ColorType::L16 => {
            let clipped: Vec<u8> = wide()
                .map(|&v| u16::from_ne_bytes(v).min(255) as u8)
                .collect();
            grey_to_rgb(&clipped)
        }
        ColorType::La16 => grey_to_rgb(&every_other(&high_bytes())),
        ColorType::Rgb16 => high_bytes(),
        ColorType::Rgba16 => first_three(&high_bytes(), 4),
        other => {
            return Err(DecodeError::unsupported(
                Format::Png,
                format!("{other:?} samples"),
            ));
        }
    };
    let image = Rgb8 {
        width,
        height,
        pixels,
    };
    let orientation = orientation::from_metadata(exif.as_deref(), xmp.as_deref());
    Ok(orientation::apply(image, orientation))
}

/// Grey without its alpha.
fn every_other(samples: &[u8]) -> Vec<u8> {
    samples.iter().step_by(2).copied().collect()
}

fn error(error: ImageError) -> DecodeError {
    super::bmp::from_image(Format::Png, error)
}
