//! WebP: the container is read here, the image data by `image-webp`.
//!
//! Of an animation only the first frame is wanted, with its colours as they are, not blended over a background. So the first
//! frame's image data are wrapped into a file of their own, and the result is laid on the canvas. Alpha, which for lossy data
//! stands apart, is not even read.

use std::io::Cursor;

use image::ImageDecoder;
use image::codecs::webp::WebPDecoder;

use super::samples::first_three;
use super::{DecodeError, Format, Limits, orientation};
use crate::sample::Rgb8;

/// The parts of a file that matter.
#[derive(Default)]
struct Container<'a> {
    /// Width and height of the canvas, where the file has one.
    canvas: Option<(u32, u32)>,
    /// Left, top, width and height of the first frame, where the file is animated.
    frame: Option<[u32; 4]>,
    /// The `VP8 ` or `VP8L` chunk's name and content.
    data: Option<(&'a [u8; 4], &'a [u8])>,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, DecodeError> {
    const TRUNCATED: DecodeError = DecodeError::Truncated {
        format: Format::WebP,
    };
    let length = bytes.get(4..8).and_then(<[u8]>::first_chunk);
    let length = u32::from_le_bytes(*length.ok_or(TRUNCATED)?) as usize;
    let body = bytes
        .get(8..)
        .and_then(|rest| rest.get(..length))
        .and_then(|body| body.get(4..))
        .ok_or(TRUNCATED)?;

    let mut container = Container::default();
    container.read(body).ok_or(TRUNCATED)?;
    let (name, data) = container.data.ok_or(TRUNCATED)?;

    let (data_width, data_height) = data_size(name, data).ok_or(TRUNCATED)?;
    let (width, height) = container.canvas.unwrap_or((data_width, data_height));
    limits.check(width, height, 8)?;
    limits.check(data_width, data_height, 8)?;
    let [left, top, frame_width, frame_height] = container.frame.unwrap_or([0, 0, width, height]);
    let fits = |start: u32, length: u32, end: u32| start.checked_add(length) <= Some(end);
    if (frame_width, frame_height) != (data_width, data_height)
        || !fits(left, data_width, width)
        || !fits(top, data_height, height)
    {
        return Err(DecodeError::damaged(
            Format::WebP,
            format!(
                "{data_width} x {data_height} pixels do not fit a canvas of {width} x {height}"
            ),
        ));
    }

    let pixels = decode_data(name, data)?;
    let pixels = if (data_width, data_height) == (width, height) {
        pixels
    } else {
        let stride = width as usize * 3;
        let mut canvas = vec![0; stride * height as usize];
        let rows = canvas.chunks_exact_mut(stride).skip(top as usize);
        for (out, row) in rows.zip(pixels.chunks_exact(data_width as usize * 3)) {
            out[left as usize * 3..][..row.len()].copy_from_slice(row);
        }
        canvas
    };
    let image = Rgb8 {
        width,
        height,
        pixels,
    };
    let orientation = orientation::from_metadata(container.exif, container.xmp);
    Ok(orientation::apply(image, orientation))
}

impl<'a> Container<'a> {
    /// Reads a sequence of chunks: that of the file, or that of a frame. None where one reaches past the end.
    fn read(&mut self, chunks: &'a [u8]) -> Option<()> {
        let mut rest = chunks;
        while rest.len() >= 8 {
            let (name, after) = rest.split_first_chunk::<4>()?;
            let (length, after) = after.split_first_chunk::<4>()?;
            let length = u32::from_le_bytes(*length) as usize;
            let content = after.get(..length)?;
            match name {
                b"VP8X" => self.canvas = Some((u24(content, 4)? + 1, u24(content, 7)? + 1)),
                b"VP8 " | b"VP8L" if self.data.is_none() => self.data = Some((name, content)),
                b"ANMF" if self.frame.is_none() => {
                    self.frame = Some([
                        u24(content, 0)? * 2,
                        u24(content, 3)? * 2,
                        u24(content, 6)? + 1,
                        u24(content, 9)? + 1,
                    ]);
                    self.read(content.get(16..)?)?;
                }
                b"EXIF" => self.exif = Some(content),
                b"XMP " => self.xmp = Some(content),
                _ => {}
            }
            // Content of an odd length is padded; the last one's padding may be missing.
            rest = after.get(length.next_multiple_of(2)..).unwrap_or_default();
        }
        Some(())
    }
}

/// A 24-bit number.
fn u24(bytes: &[u8], at: usize) -> Option<u32> {
    let &[a, b, c] = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}

/// Width and height in the header of image data.
fn data_size(name: &[u8; 4], data: &[u8]) -> Option<(u32, u32)> {
    if name == b"VP8L" {
        let bits = u32::from_le_bytes(*data.get(1..)?.first_chunk()?);
        Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
    } else {
        let &[w0, w1, h0, h1] = data.get(6..)?.first_chunk()?;
        let size = |bytes| u32::from(u16::from_le_bytes(bytes) & 0x3fff);
        Some((size([w0, w1]), size([h0, h1])))
    }
}

/// Decodes image data to RGB.
fn decode_data(name: &[u8; 4], data: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let padding = data.len() % 2;
    let mut file = Vec::with_capacity(data.len() + 24);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&((data.len() + padding + 12) as u32).to_le_bytes());
    file.extend_from_slice(b"WEBP");
    file.extend_from_slice(name);
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(data);
    file.resize(file.len() + padding, 0);

    let error = |error| super::bmp::from_image(Format::WebP, error);
    let decoder = WebPDecoder::new(Cursor::new(file)).map_err(error)?;
    let channels = usize::from(decoder.color_type().channel_count());
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(error)?;
    Ok(match channels {
        3 => samples,
        _ => first_three(&samples, channels),
    })
}
