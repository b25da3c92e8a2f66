//! Shortest-edge bicubic resize and centre crop, equal to Pillow's bytes, at the cost of the crop alone.
//!
//! Vision towers are trained on what Pillow makes: bicubic (a = -0.5) whose support grows with the downscale factor, fixed-point
//! weights with 22 fractional bits, and 8-bit values between the horizontal and the vertical pass. Each of these moves the
//! embedding, so this module follows the algorithm to the last bit instead of approximating it.
//!
//! Only what the crop shows is computed: the horizontal pass makes the crop's columns, of those source rows that the crop's
//! rows draw on. An image of 1 x 60,000 pixels, which Pillow would first resize to 224 x 13,440,000, costs no more than any other.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use pulp::Arch;

use crate::sample::Rgb8;

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for the overshoot of a sum.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Bicubic reaches two source pixels to each side, before it is widened for a downscale.
const SUPPORT: f64 = 2.0;

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// Resizes so that the shorter edge has `shortest_edge` pixels, then cuts `crop x crop` pixels from the centre: `crop * crop * 3`
/// bytes, row by row, RGB.
///
/// Equals, byte for byte, Pillow 13's `resize(size, BICUBIC)` followed by Hugging Face's `center_crop`:
///
/// - the longer edge becomes `floor(shortest_edge * long / short)`,
/// - the crop begins at `floor((n - crop) / 2)` in each direction (torchvision rounds half to even instead, one pixel apart at
///   some odd margins),
/// - where the crop is larger than the resized image, the image lies in the centre of black; the odd row or column of the
///   margin comes before it.
///
/// Memory: the source rows in use times `crop * 3` bytes, and one set of weights a direction.
///
/// # Panics
/// If the image has no pixels, if `pixels` does not hold `width * height * 3` bytes, or if `shortest_edge` or `crop` is 0.
pub fn resize_and_crop(image: &Rgb8, shortest_edge: u32, crop: u32) -> Vec<u8> {
    let (width, height) = (image.width as usize, image.height as usize);
    assert!(width > 0 && height > 0, "{image:?} has no pixels");
    assert_eq!(
        image.pixels.len(),
        width * height * CHANNELS,
        "{image:?} with a pixel buffer of another size"
    );
    assert!(
        shortest_edge > 0 && crop > 0,
        "cannot resize to an edge of {shortest_edge} with a crop of {crop}"
    );

    let crop = crop as usize;
    let (resized_width, resized_height) = resized_size(image.width, image.height, shortest_edge);
    let columns = Window::centred(resized_width, crop);
    let rows = Window::centred(resized_height, crop);
    let horizontal = Weights::new(width, resized_width, columns.positions);
    let vertical = Weights::new(height, resized_height, rows.positions);

    let source = Tile {
        pixels: &image.pixels,
        width,
        left: 0,
        top: 0,
    };
    let resized = if vertical_first((width, height), (resized_width, resized_height)) {
        let needed = horizontal.needed();
        let low = resize_height(source, needed.clone(), &vertical);
        let low = Tile {
            pixels: &low,
            width: needed.len(),
            left: needed.start,
            top: 0,
        };
        resize_width(low, 0..vertical.len(), &horizontal)
    } else {
        let needed = vertical.needed();
        let narrow = resize_width(source, needed.clone(), &horizontal);
        let narrow = Tile {
            pixels: &narrow,
            width: horizontal.len(),
            left: 0,
            top: needed.start,
        };
        resize_height(narrow, 0..horizontal.len(), &vertical)
    };
    if columns.padding == 0 && rows.padding == 0 && resized.len() == crop * crop * CHANNELS {
        return resized;
    }

    let mut cropped = vec![0; crop * crop * CHANNELS];
    let shown = cropped.chunks_exact_mut(crop * CHANNELS).skip(rows.padding);
    let stride = horizontal.len() * CHANNELS;
    for (out, row) in shown.zip(resized.chunks_exact(stride)) {
        out[columns.padding * CHANNELS..][..stride].copy_from_slice(row);
    }
    cropped
}

/// Whether the height is resized before the width. It shows in the last bit, because the values between are rounded.
///
/// Pillow up to 12 always begins with the width; 13 begins with the height where that loses more than twice as many rows as
/// the width loses columns. (Found by trial: the boundary is exact over some thousand sizes.)
fn vertical_first(from: (usize, usize), to: (u64, u64)) -> bool {
    let lost = |from: usize, to: u64| from as i64 - to as i64;
    let (columns, rows) = (lost(from.0, to.0), lost(from.1, to.1));
    rows > 0 && rows > 2 * columns
}

/// Width and height after the shortest edge became `shortest_edge`: the other one is truncated, as Hugging Face does.
fn resized_size(width: u32, height: u32, shortest_edge: u32) -> (u64, u64) {
    let edge = u64::from(shortest_edge);
    let (w, h) = (u64::from(width), u64::from(height));
    if w <= h {
        (edge, edge * h / w)
    } else {
        (edge * w / h, edge)
    }
}

/// What the crop shows of one direction of the resized image.
struct Window {
    /// The positions of the resized image that are shown.
    positions: Range<u64>,
    /// Black pixels before them.
    padding: usize,
}

impl Window {
    /// The middle `crop` of `length` positions, or all of them with black around.
    fn centred(length: u64, crop: usize) -> Window {
        let crop = crop as u64;
        if crop <= length {
            let start = (length - crop) / 2;
            Window {
                positions: start..start + crop,
                padding: 0,
            }
        } else {
            Window {
                positions: 0..length,
                padding: (crop - length).div_ceil(2) as usize,
            }
        }
    }
}

/// For each position of a window of the resized direction, the source positions it is made of and their weights.
struct Weights {
    /// First source position and number of taps of each output position.
    taps: Vec<(usize, usize)>,
    /// `stride` fixed-point weights for each output position; those past its taps are zero.
    values: Vec<i32>,
    /// Taps of the widest output position.
    stride: usize,
}

impl Weights {
    /// The weights that make `window` of `output` positions out of `input` positions.
    ///
    /// A direction that keeps its length is not filtered in Pillow; its weights come out as exactly one here, which is the same.
    fn new(input: usize, output: u64, window: Range<u64>) -> Weights {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;

        // Pillow's conversions to int cut towards zero, and `as usize` stops at zero: its bound.
        let reach = |position: u64| {
            let centre = (position as f64 + 0.5) * scale;
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            (centre, first, end - first)
        };
        let widest = window.clone().map(|position| reach(position).2).max();
        let stride = widest.unwrap_or(0);

        let length = (window.end - window.start) as usize;
        let mut taps = Vec::with_capacity(length);
        let mut values = vec![0; length * stride];
        let mut exact = vec![0.0; stride];
        for (position, fixed) in window.zip(values.chunks_exact_mut(stride)) {
            let (centre, first, count) = reach(position);
            let exact = &mut exact[..count];
            let mut sum = 0.0;
            for (i, weight) in exact.iter_mut().enumerate() {
                // Multiplied by the inverse, not divided by the scale: the last bit of a weight depends on it.
                let offset = (i + first) as f64 - centre + 0.5;
                *weight = bicubic(offset * (1.0 / filter_scale));
                sum += *weight;
            }
            for (fixed, &weight) in fixed.iter_mut().zip(exact.iter()) {
                *fixed = to_fixed(if sum == 0.0 { weight } else { weight / sum });
            }
            taps.push((first, count));
        }
        Weights {
            taps,
            values,
            stride,
        }
    }

    /// Output positions.
    fn len(&self) -> usize {
        self.taps.len()
    }

    /// The weights of each output position.
    fn rows(&self) -> std::slice::ChunksExact<'_, i32> {
        self.values.chunks_exact(self.stride)
    }

    /// The source positions that any output position draws on.
    fn needed(&self) -> Range<usize> {
        let first = self.taps.iter().map(|&(first, _)| first).min();
        let end = self.taps.iter().map(|&(first, count)| first + count).max();
        first.unwrap_or(0)..end.unwrap_or(0)
    }
}

/// Keys' cubic convolution kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Nearest fixed-point number, halves away from zero.
fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
}

/// The 8-bit value of a sum that began at one half.
#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Where a sum begins, so that cutting its fractional bits rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// A rectangle of an image.
#[derive(Clone, Copy)]
struct Tile<'a> {
    /// Its pixels, row by row.
    pixels: &'a [u8],
    /// Pixels in a row.
    width: usize,
    /// Where it lies in the image.
    left: usize,
    /// Where it lies in the image.
    top: usize,
}

impl<'a> Tile<'a> {
    /// The pixels from row `y` and column `x` of the image on.
    fn row(&self, y: usize, x: usize) -> &'a [u8] {
        &self.pixels[((y - self.top) * self.width + x - self.left) * CHANNELS..]
    }
}

/// Makes the window's columns of some rows of the image: `rows x weights.len()` pixels.
fn resize_width(tile: Tile, rows: Range<usize>, weights: &Weights) -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    if let Some(resized) = avx2::resize_width(tile, rows.clone(), weights) {
        return resized;
    }
    resize_width_plain(tile, rows, weights)
}

/// [`resize_width`] on any processor.
fn resize_width_plain(tile: Tile, rows: Range<usize>, weights: &Weights) -> Vec<u8> {
    let stride = weights.len() * CHANNELS;
    let mut resized = vec![0; rows.len() * stride];
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
    resized
}

/// Makes the window's rows of some columns of the image: `weights.len() x columns` pixels.
fn resize_height(tile: Tile, columns: Range<usize>, weights: &Weights) -> Vec<u8> {
    let stride = columns.len() * CHANNELS;
    let mut resized = vec![0; weights.len() * stride];
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
    resized
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

    #[test]
    fn the_vector_pass_equals_the_plain_one() {
        for (width, to) in [(1, 7), (5, 3), (40, 40), (97, 13), (500, 298), (3000, 7)] {
            let height = 4;
            let pixels: Vec<u8> = (0..width * height * CHANNELS)
                .map(|i| ((i * 2_654_435_761) >> 13) as u8)
                .collect();
            let tile = Tile {
                pixels: &pixels,
                width,
                left: 0,
                top: 0,
            };
            for window in [0..to, to / 3..to - to / 4] {
                let weights = Weights::new(width, to, window);
                let plain = resize_width_plain(tile, 1..height, &weights);
                assert_eq!(
                    resize_width(tile, 1..height, &weights),
                    plain,
                    "{width} to {to}"
                );
            }
        }
    }

    #[test]
    fn the_weights_of_a_kept_length_are_one() {
        let weights = Weights::new(9, 9, 0..9);
        for (i, (&(first, _), values)) in weights.taps.iter().zip(weights.rows()).enumerate() {
            let nonzero: Vec<_> = (first..).zip(values).filter(|(_, w)| **w != 0).collect();
            assert_eq!(nonzero, [(i, &(1 << PRECISION_BITS))]);
        }
    }
}
