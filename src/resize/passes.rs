//! The horizontal and the vertical pass, in the fastest form that the processor has.

use std::ops::Range;

use pulp::Arch;

use super::CHANNELS;
use super::weights::Weights;
use crate::ops::simd::resample::{self, FRACTION_BITS, Rows};

/// The 8-bit value of a sum that began at one half.
#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Where a sum begins, so that cutting its fractional bits rounds.
pub(super) const HALF: i32 = 1 << (FRACTION_BITS - 1);

/// A rectangle of an image.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Its pixels, row by row.
    pub(super) pixels: &'a [u8],
    /// Pixels in a row.
    pub(super) width: usize,
    /// Where it lies in the image.
    pub(super) left: usize,
    /// Where it lies in the image.
    pub(super) top: usize,
}

impl<'a> Tile<'a> {
    /// The pixels from row `y` and column `x` of the image on.
    pub(super) fn row(&self, y: usize, x: usize) -> &'a [u8] {
        &self.pixels[((y - self.top) * self.width + x - self.left) * CHANNELS..]
    }
}

/// Makes the window's columns of some rows of the image: `resized` is `rows x weights.len()` pixels.
pub(super) fn resize_width(tile: Tile, rows: Range<usize>, weights: &Weights, resized: &mut [u8]) {
    let needed = weights.needed();
    let source = Rows {
        bytes: tile.row(rows.start, needed.start),
        step: tile.width * CHANNELS,
        length: needed.len() * CHANNELS,
    };
    let mut reach = Vec::new();
    if resample::across(source, weights.from(needed.start, &mut reach), resized) {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if super::avx2::resize_width(tile, rows.clone(), weights, resized) {
        return;
    }
    resize_width_plain(tile, rows, weights, resized);
}

/// [`resize_width`] on any processor.
fn resize_width_plain(tile: Tile, rows: Range<usize>, weights: &Weights, resized: &mut [u8]) {
    let stride = weights.len() * CHANNELS;
    for (y, out) in rows.zip(resized.chunks_exact_mut(stride)) {
        let outputs = out.chunks_exact_mut(CHANNELS);
        for ((out, &(first, count)), values) in outputs.zip(&weights.taps).zip(weights.rows()) {
            let pixels = &tile.row(y, first)[..count * CHANNELS];
            let mut sum = [HALF; CHANNELS];
            for (pixel, &weight) in pixels.chunks_exact(CHANNELS).zip(values) {
                for (sum, &value) in sum.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sum) {
                *out = to_byte(sum);
            }
        }
    }
}

/// Makes the window's rows of some columns of the image: `resized` is `weights.len() x columns` pixels.
pub(super) fn resize_height(
    tile: Tile,
    columns: Range<usize>,
    weights: &Weights,
    resized: &mut [u8],
) {
    let needed = weights.needed();
    let source = Rows {
        bytes: tile.row(needed.start, columns.start),
        step: tile.width * CHANNELS,
        length: columns.len() * CHANNELS,
    };
    let mut reach = Vec::new();
    if !resample::down(source, weights.from(needed.start, &mut reach), resized) {
        resize_height_anywhere(tile, columns, weights, resized);
    }
}

/// [`resize_height`] on any processor.
fn resize_height_anywhere(
    tile: Tile,
    columns: Range<usize>,
    weights: &Weights,
    resized: &mut [u8],
) {
    let stride = columns.len() * CHANNELS;
    let mut sums = vec![0; stride];
    let outputs = resized.chunks_exact_mut(stride);
    for ((out, &(first, count)), values) in outputs.zip(&weights.taps).zip(weights.rows()) {
        // The same loops, compiled for each generation of vector instructions.
        Arch::new().dispatch(BlendRows {
            rows: tile.row(first, columns.start),
            step: tile.width * CHANNELS,
            values: &values[..count],
            sums: &mut sums,
            out,
        });
    }
}

/// One output row's work.
struct BlendRows<'a> {
    /// The first source row, and what follows it.
    rows: &'a [u8],
    /// From one source row to the next.
    step: usize,
    values: &'a [i32],
    sums: &'a mut [i32],
    out: &'a mut [u8],
}

impl pulp::NullaryFnOnce for BlendRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.sums.fill(HALF);
        for (i, &weight) in self.values.iter().enumerate() {
            let row = &self.rows[i * self.step..][..self.sums.len()];
            for (sum, &value) in self.sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, &sum) in self.out.iter_mut().zip(self.sums.iter()) {
            *out = to_byte(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes, and windows of them, that take every path of every kernel.
    fn each_case(check: impl Fn(usize, u64, Range<u64>)) {
        for (from, to) in [
            (1, 7),
            (5, 3),
            (40, 40),
            (97, 13),
            (500, 298),
            (500, 448),
            (1000, 224),
            (3000, 7),
            (3000, 224),
        ] {
            for window in [0..to, to / 3..to - to / 4] {
                check(from, to, window);
            }
        }
    }

    fn noise(count: usize) -> Vec<u8> {
        (0..count)
            .map(|i| ((i * 2_654_435_761) >> 13) as u8)
            .collect()
    }

    #[test]
    fn the_vector_passes_over_the_width_equal_the_plain_one() {
        each_case(|width, to, window| {
            let height = 4;
            let pixels = noise(width * height * CHANNELS);
            let tile = Tile {
                pixels: &pixels,
                width,
                left: 0,
                top: 0,
            };
            let weights = Weights::new(width, width as f64, to, window);
            let mut plain = vec![0; (height - 1) * weights.len() * CHANNELS];
            resize_width_plain(tile, 1..height, &weights, &mut plain);
            let mut got = vec![0; plain.len()];
            resize_width(tile, 1..height, &weights, &mut got);
            assert!(got == plain, "{width} to {to}");
            #[cfg(target_arch = "x86_64")]
            {
                let mut got = vec![0; plain.len()];
                if super::super::avx2::resize_width(tile, 1..height, &weights, &mut got) {
                    assert!(got == plain, "{width} to {to}");
                }
            }
        });
    }

    #[test]
    fn the_vector_pass_over_the_height_equals_the_one_for_any_processor() {
        each_case(|height, to, window| {
            let width = 61;
            let pixels = noise(width * height * CHANNELS);
            let tile = Tile {
                pixels: &pixels,
                width,
                left: 0,
                top: 0,
            };
            let weights = Weights::new(height, height as f64, to, window);
            for columns in [0..width, 3..40] {
                let mut plain = vec![0; weights.len() * columns.len() * CHANNELS];
                resize_height_anywhere(tile, columns.clone(), &weights, &mut plain);
                let mut got = vec![0; plain.len()];
                resize_height(tile, columns, &weights, &mut got);
                assert!(got == plain, "{height} to {to}");
            }
        });
    }
}
