//! Windows bitmaps.

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
