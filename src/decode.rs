//! From the bytes of an image file to upright RGB pixels, with limits that hold before anything is allocated.
//!
//! The result is what `ImageOps.exif_transpose(PIL.Image.open(file)).convert("RGB")` gives in Pillow 13, since that is what
//! the towers and heads were trained on:
//!
//! - The format comes from the content, never from the name.
//! - PNG, GIF, BMP, TIFF and lossless WebP: the same bytes, in every colour mode. Alpha is dropped, not composited; three or
//!   four channels of 16 bits give their high byte, but grey of more than 8 bits is clipped at 255, as Pillow does.
//! - JPEG: within the bound that [`decode`] states. Lossy WebP has come out equal wherever it was compared.
//! - Of an animation, the first frame.
//! - A file that ends early is an error, not a half-grey picture.
//!
//! One file a format under `decode/`: each reads the size first, checks it, and only then decodes.

mod bmp;
mod error;
mod gif;
mod jpeg;
mod orientation;
mod png;
mod samples;
mod scaled;
mod tiff;
mod webp;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::error::DecodeError;
use crate::sample::Rgb8;

/// What a file may cost. Each limit holds before the memory is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest width x height, of the file's canvas too where that is larger than the image.
    ///
    /// Default: 178,956,970, the size from which Pillow refuses an image as a decompression bomb. The pixels of one image then
    /// take at most 537 MB.
    pub max_pixels: u64,
    /// Largest file, in bytes. Default: 512 MiB.
    pub max_file_bytes: u64,
    /// Largest estimate, in bytes, of what a decoder holds besides the file: its own buffers and the samples before they are
    /// RGB, such as the coefficients of a progressive JPEG. Default: 2 GiB.
    pub max_memory: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_pixels: 178_956_970,
            max_file_bytes: 512 << 20,
            max_memory: 2 << 30,
        }
    }
}

impl Limits {
    /// Checks the size that a file claims, and what decoding it takes: `bytes_per_pixel` besides the three of the result.
    fn check(
        &self,
        width: impl Into<u64>,
        height: impl Into<u64>,
        bytes_per_pixel: u64,
    ) -> Result<(), DecodeError> {
        let (width, height) = (width.into(), height.into());
        if width == 0 || height == 0 {
            return Err(DecodeError::NoPixels { width, height });
        }
        let pixels = width.saturating_mul(height);
        // A width or height beyond u32 cannot stand in an `Rgb8`, whatever the limit.
        if pixels > self.max_pixels || width.max(height) > u64::from(u32::MAX) {
            return Err(DecodeError::TooManyPixels {
                width,
                height,
                limit: self.max_pixels,
            });
        }
        let memory = pixels.saturating_mul(bytes_per_pixel);
        if memory > self.max_memory {
            return Err(DecodeError::TooMuchMemory {
                needed: memory,
                limit: self.max_memory,
            });
        }
        Ok(())
    }
}

/// The image formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG: baseline and progressive, Huffman coded.
    Jpeg,
    /// PNG; of an animated one the default image.
    Png,
    /// WebP, lossy and lossless; of an animated one the first frame.
    WebP,
    /// GIF; the first frame.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF; the first page.
    Tiff,
}

impl Format {
    /// The name in lower case, as it stands in `samples/`: jpeg, png, webp, gif, bmp, tiff.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Jpeg => "jpeg",
            Format::Png => "png",
            Format::WebP => "webp",
            Format::Gif => "gif",
            Format::Bmp => "bmp",
            Format::Tiff => "tiff",
        }
    }

    /// The name as people write it.
    fn title(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
            Format::Tiff => "TIFF",
        }
    }

    /// The format by the first bytes of a file.
    pub fn of(bytes: &[u8]) -> Option<Format> {
        let is_webp = || bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Format::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
            [b'B', b'M', ..] => Some(Format::Bmp),
            _ if is_webp() => Some(Format::WebP),
            _ => None,
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.title())
    }
}

/// A decoded image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels, upright: width and height are those after the orientation was applied.
    pub image: Rgb8,
    /// What the file was.
    pub format: Format,
    /// Pixels in a row of the whole picture, upright; more than `image` has where that was decoded at a fraction of its size.
    pub width: u32,
    /// Rows of the whole picture.
    pub height: u32,
}

/// Decodes an image file.
///
/// For lossless formats the pixels are Pillow's, byte for byte; so they are for lossy WebP. A JPEG differs by the rounding of the
/// inverse DCT, of the colours and above all of the chroma upsampling: at most 5 of 255 and .25 on average over images of some
/// hundred pixels a side with 4:2:0 chroma (4:2:2: 5 and .11; 4:4:4 and grey: 3 and .01; CMYK: as its chroma). Only where
/// chroma has hardly more than a block or a column can one pixel be off by more, since libjpeg repeats the last column there.
///
/// What Pillow accepts and this refuses: JPEG without its end marker that is padded with zeros, arithmetic-coded JPEG, PNG
/// whose image data fail their checksum, bitmaps whose last row lacks its padding, TIFF in CIELAB or with exotic compression.
///
/// # Errors
/// See [`DecodeError`]. No input makes it panic: should a decoder do so, that is caught and reported as damage.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    decode_any(bytes, limits, None)
}

/// [`decode`], but a JPEG comes out at a half, a quarter or an eighth of its size where its shorter edge still has `edge` pixels
/// then. For large photographs that are reduced in any case: the decoder leaves out the finer part of the transform.
///
/// Pixels are not those of [`decode`] reduced: each comes from the low frequencies of its block alone, with more aliasing than
/// a filter leaves and chroma placed slightly differently. README says what that does to embeddings. Images of other
/// formats, CMYK, and files that the scaling decoder does not take are decoded whole.
///
/// # Errors
/// As [`decode`]: what that refuses for its size, for an early end or for its kind is refused here too. Of damage inside the
/// image data the two decoders may think differently.
pub fn decode_scaled(bytes: &[u8], limits: &Limits, edge: u32) -> Result<Decoded, DecodeError> {
    decode_any(bytes, limits, Some(edge))
}

fn decode_any(bytes: &[u8], limits: &Limits, edge: Option<u32>) -> Result<Decoded, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() as u64 > limits.max_file_bytes {
        return Err(DecodeError::TooManyBytes {
            bytes: bytes.len() as u64,
            limit: limits.max_file_bytes,
        });
    }
    let format = Format::of(bytes).ok_or_else(|| DecodeError::NotAnImage {
        start: describe_start(bytes),
    })?;

    // The decoders come from several crates, some of which index with values of the file; a panic in one must cost one sample,
    // not the run. Nothing outlives the call but the result, so no broken state can be seen afterwards.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        match format {
            Format::Jpeg => return jpeg::decode(bytes, limits, edge),
            Format::Png => png::decode(bytes, limits),
            Format::WebP => webp::decode(bytes, limits),
            Format::Gif => gif::decode(bytes, limits),
            Format::Bmp => bmp::decode(bytes, limits),
            Format::Tiff => tiff::decode(bytes, limits),
        }
        .map(|image| Decoded {
            width: image.width,
            height: image.height,
            image,
            format,
        })
    }));
    decoded.unwrap_or_else(|_| Err(DecodeError::damaged(format, "the decoder gave up on it")))
}

/// What the first bytes of something that is no image look like, for a person who wonders what was downloaded.
fn describe_start(bytes: &[u8]) -> String {
    let known: [(&[u8], &str); 8] = [
        (b"%PDF", "it is a PDF"),
        (b"PK\x03\x04", "it is a zip archive"),
        (&[0x1f, 0x8b], "it is gzip-compressed"),
        (b"\0\0\0\x0cJXL ", "it is JPEG XL, which is not supported"),
        (&[0xff, 0x0a], "it is JPEG XL, which is not supported"),
        (b"\0\0\0\x0cjP  ", "it is JPEG 2000, which is not supported"),
        (
            b"8BPS",
            "it is a Photoshop document, which is not supported",
        ),
        (b"RIFF", "it is a RIFF file, but not WebP"),
    ];
    if let Some((_, name)) = known.iter().find(|(start, _)| bytes.starts_with(start)) {
        return (*name).to_string();
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return "it is HEIF, AVIF or a video, which are not supported".to_string();
    }
    let start = &bytes[..bytes.len().min(24)];
    let text = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace();
    if start.iter().all(text) {
        let line = String::from_utf8_lossy(start);
        return match line.split_whitespace().next() {
            Some(word) => format!("it starts like text (`{word}`)"),
            None => "it starts with white space".to_string(),
        };
    }
    if start.iter().all(|&b| b == 0) {
        return "it starts with zeros".to_string();
    }
    let hex: Vec<String> = start.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("it starts with the bytes {}", hex.join(" "))
}
