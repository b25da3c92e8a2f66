//! An image file's bytes -> a small JPEG as a `data:` address.

use std::collections::BTreeMap;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use super::html::base64;
use crate::decode::{Limits, decode};
use crate::digest::sha256_hex;
use crate::sample::Sample;

/// The longer edge of a thumbnail, in pixels: sharp where it is shown at most 144 wide on most displays.
const EDGE: u32 = 176;

/// Of a JPEG, 1 to 100.
const QUALITY: u8 = 78;

/// A small picture of a sample.
pub(crate) struct Thumbnail {
    /// A `data:image/jpeg` address.
    pub address: String,
    /// Its pixels in a row.
    pub width: u32,
    /// Its rows.
    pub height: u32,
}

/// Pictures of samples by their place in `samples/`, or a sentence on why there is none.
pub(crate) type Thumbnails = BTreeMap<usize, Result<Thumbnail, String>>;

/// Loads a sample again and makes it small. `sha256` is the one it had when it was embedded.
///
/// # Errors
/// A sentence for the page.
pub(crate) fn thumbnail(sample: &Sample, sha256: &str) -> Result<Thumbnail, String> {
    let limits = Limits::default();
    let bytes = sample.read(limits.max_file_bytes)?;
    if sha256_hex(&bytes) != sha256 {
        return Err("the file has changed since the run".into());
    }
    let image = decode(&bytes, &limits).map_err(|e| e.to_string())?.image;
    let (width, height) = fit(image.width, image.height);
    let image = RgbImage::from_raw(image.width, image.height, image.pixels)
        .ok_or("the pixels do not fit the size")?;
    let small = if (width, height) == image.dimensions() {
        image
    } else {
        image::imageops::thumbnail(&image, width, height)
    };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode_image(&small)
        .map_err(|e| e.to_string())?;
    Ok(Thumbnail {
        address: format!("data:image/jpeg;base64,{}", base64(&jpeg)),
        width,
        height,
    })
}

/// The size of a thumbnail: never larger than the image, never without a row or a column.
fn fit(width: u32, height: u32) -> (u32, u32) {
    let longer = width.max(height);
    if longer <= EDGE {
        return (width, height);
    }
    let scaled = |edge: u32| {
        let scaled = (u64::from(edge) * u64::from(EDGE)).div_ceil(u64::from(longer));
        u32::try_from(scaled).unwrap_or(EDGE).clamp(1, EDGE)
    };
    (scaled(width), scaled(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbnails_fit_their_square_and_are_never_empty() {
        assert_eq!(fit(100, 40), (100, 40));
        assert_eq!(fit(1760, 880), (176, 88));
        assert_eq!(fit(1, 60_000), (1, 176));
        assert_eq!(fit(u32::MAX, 1), (176, 1));
    }
}
