//! Pictures that cost a decoder what photographs cost it: smooth shapes, edges and a little grain.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rayon::prelude::*;

use crate::clip::random::uniform;
use crate::error::{Error, Result};

/// Pixels of a picture: those of the ImageNet average.
pub(super) const WIDTH: usize = 500;
pub(super) const HEIGHT: usize = 375;

/// JPEGs of quality 85, some 50 KB each, all different.
pub(super) fn jpegs(count: usize) -> Result<Vec<Vec<u8>>> {
    (0..count).into_par_iter().map(jpeg).collect()
}

fn jpeg(number: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 85)
        .write_image(
            &pixels(number),
            WIDTH as u32,
            HEIGHT as u32,
            ExtendedColorType::Rgb8,
        )
        .map_err(|e| Error::input(format!("picture {number}"), e.to_string()))?;
    Ok(bytes)
}

fn pixels(number: usize) -> Vec<u8> {
    // Ten waves and three discs.
    let parameters = uniform(21, number as u64, 10 * 4 + 3 * 4);
    let (waves, discs) = parameters.split_at(40);
    let grain = uniform(22, number as u64, WIDTH * HEIGHT);
    let mut pixels = Vec::with_capacity(WIDTH * HEIGHT * 3);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let (u, v) = (x as f32 / WIDTH as f32, y as f32 / WIDTH as f32);
            let mut colour = [128.0f32; 3];
            for (i, wave) in waves.chunks_exact(4).enumerate() {
                let height = (wave[0] * 30.0 * u + wave[1] * 30.0 * v + wave[2] * 6.0).sin();
                colour[i % 3] += 25.0 * wave[3] * height;
            }
            for (i, disc) in discs.chunks_exact(4).enumerate() {
                let (dx, dy) = (u - disc[0].abs(), v - 0.7 * disc[1].abs());
                if dx * dx + dy * dy < 0.03 * disc[2] * disc[2] {
                    colour[i] += 90.0 * disc[3];
                }
            }
            let noise = 14.0 * grain[y * WIDTH + x];
            pixels.extend(colour.map(|c| (c + noise).clamp(0.0, 255.0) as u8));
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_jpegs_of_the_size_of_photographs_and_differ() {
        let jpegs = jpegs(2).unwrap();
        assert_ne!(jpegs[0], jpegs[1]);
        for jpeg in &jpegs {
            assert!(
                (25_000..90_000).contains(&jpeg.len()),
                "{} bytes",
                jpeg.len()
            );
            let decoded = crate::decode::decode(jpeg, &crate::decode::Limits::default()).unwrap();
            assert_eq!(
                (decoded.image.width, decoded.image.height),
                (WIDTH as u32, HEIGHT as u32)
            );
        }
    }
}
