//! Windows bitmaps. Colours of 15 or 16 bits are widened as Pillow does: `v * 255 / 31`, cut off.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::error::ImageError;
use image::{ColorType, ImageDecoder};

use super::samples::first_three;
use super::{DecodeError, Format, Limits};
use crate::sample::Rgb8;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, DecodeError> {
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(error)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height, 4)?;
    let colour = decoder.color_type();
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(error)?;
    if let Some(bits) = narrow_channels(bytes) {
        for (i, value) in samples.iter_mut().enumerate() {
            let largest = (1 << bits[i % 3]) - 1;
            // The decoder rounded where Pillow cuts; the high bits are still those of the file.
            let narrow = u16::from(*value >> (8 - bits[i % 3]));
            *value = (narrow * 255 / largest) as u8;
        }
    }
    let pixels = match colour {
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => first_three(&samples, 4),
        other => {
            return Err(DecodeError::unsupported(
                Format::Bmp,
                format!("{other:?} samples"),
            ));
        }
    };
    Ok(Rgb8 {
        width,
        height,
        pixels,
    })
}

/// Bits of red, green and blue, where a pixel has 16 bits.
fn narrow_channels(bytes: &[u8]) -> Option<[u8; 3]> {
    const BITFIELDS: u8 = 3;
    let &[bits, _, compression] = bytes.get(28..)?.first_chunk()?;
    let has_masks = bits == 16 && compression == BITFIELDS;
    match (bits, has_masks, bytes.get(58..60)) {
        // The mask of green.
        (16, true, Some([0xe0, 0x07])) => Some([5, 6, 5]),
        (16, ..) => Some([5, 5, 5]),
        _ => None,
    }
}

fn error(error: ImageError) -> DecodeError {
    from_image(Format::Bmp, error)
}

pub(super) fn from_image(format: Format, error: ImageError) -> DecodeError {
    match error {
        ImageError::IoError(error) => DecodeError::from_io(format, &error),
        ImageError::Unsupported(error) => DecodeError::unsupported(format, error),
        error => DecodeError::damaged(format, error),
    }
}
