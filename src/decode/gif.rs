//! GIF: the first frame on its canvas, alpha ignored.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::samples::Palette;
use super::{DecodeError, Format, Limits};
use crate::sample::Rgb8;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(error)?;
    let (screen_width, screen_height) = (decoder.width(), decoder.height());
    limits.check(screen_width, screen_height, 2)?;

    let frame = decoder.next_frame_info().map_err(error)?;
    let frame = frame.ok_or(DecodeError::Truncated {
        format: Format::Gif,
    })?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (columns, rows) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent.unwrap_or(0);
    let colours = frame.palette.clone();

    // A frame that reaches past the screen widens it.
    let width = usize::from(screen_width).max(left + columns);
    let height = usize::from(screen_height).max(top + rows);
    limits.check(width as u64, height as u64, 2)?;
    if columns == 0 || rows == 0 {
        return Err(DecodeError::NoPixels {
            width: columns as u64,
            height: rows as u64,
        });
    }

    let mut indices = vec![0; columns * rows];
    decoder.read_into_buffer(&mut indices).map_err(error)?;

    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let colours = colours.or(global).unwrap_or_default();
    let palette = Palette::new(colours.as_chunks::<3>().0.iter().copied());

    let mut canvas = vec![transparent; width * height];
    for (y, row) in indices.chunks_exact(columns).enumerate() {
        canvas[(top + y) * width + left..][..columns].copy_from_slice(row);
    }
    Ok(Rgb8 {
        width: width as u32,
        height: height as u32,
        pixels: palette.rgb(&canvas),
    })
}

fn error(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::UnexpectedEof => DecodeError::Truncated {
            format: Format::Gif,
        },
        DecodingError::Io(error) => DecodeError::from_io(Format::Gif, &error),
        error => DecodeError::damaged(Format::Gif, error),
    }
}
