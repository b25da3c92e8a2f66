//! Shortest-edge bicubic resize and centre crop, equal to Pillow's bytes, at the cost of the crop alone.
//!
//! Vision towers are trained on what Pillow makes: bicubic (a = -0.5) whose support grows with the downscale factor, fixed-point
//! weights with 22 fractional bits, and 8-bit values between the horizontal and the vertical pass. Each of these moves the
//! embedding, so this module follows the algorithm to the last bit instead of approximating it.
//!
//! Only what the crop shows is computed: the horizontal pass makes the crop's columns, of those source rows that the crop's
//! rows draw on. An image of 1 x 60,000 pixels, which Pillow would first resize to 224 x 13,440,000, costs no more than any other.

use std::ops::Range;

use crate::sample::Rgb8;

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for the overshoot of a sum.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Bicubic reaches two source pixels to each side, before it is widened for a downscale.
const SUPPORT: f64 = 2.0;

/// Taps are padded with zero weights to a multiple of this, so that the inner loops have a fixed shape.
const TAP_GROUP: usize = 4;

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// Resizes so that the shorter edge has `shortest_edge` pixels, then cuts `crop x crop` pixels from the centre: `crop * crop * 3`
/// bytes, row by row, RGB.
///
/// Equals, byte for byte, Pillow's `resize(size, BICUBIC)` followed by Hugging Face's `center_crop`:
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

    let horizontal = Weights::new(width, resized_width, columns.source.clone());
    let vertical = Weights::new(height, resized_height, rows.source.clone());

    let needed = vertical.needed();
    let stride = (columns.source.end - columns.source.start) as usize * CHANNELS;
    let mut narrow = vec![0; needed.len() * stride];
    for (y, out) in needed.clone().zip(narrow.chunks_exact_mut(stride)) {
        let row = &image.pixels[y * width * CHANNELS..][..width * CHANNELS];
        resize_row(row, &horizontal, out);
    }

    let mut cropped = vec![0; crop * crop * CHANNELS];
    let shown = cropped
        .chunks_exact_mut(crop * CHANNELS)
        .skip(rows.padding)
        .take(vertical.len());
    let mut sums = vec![0; stride];
    for (i, out) in shown.enumerate() {
        let out = &mut out[columns.padding * CHANNELS..][..stride];
        blend_rows(&narrow, needed.start, &vertical, i, &mut sums, out);
    }
    cropped
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
    source: Range<u64>,
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
                source: start..start + crop,
                padding: 0,
            }
        } else {
            Window {
                source: 0..length,
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
    /// Taps of the widest output position, rounded up to a whole [`TAP_GROUP`].
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
        let stride = widest.unwrap_or(0).next_multiple_of(TAP_GROUP);

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
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Where a sum begins, so that cutting its fractional bits rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The window's columns of one source row.
fn resize_row(row: &[u8], weights: &Weights, out: &mut [u8]) {
    let outputs = out.chunks_exact_mut(CHANNELS);
    let values = weights.values.chunks_exact(weights.stride);
    for ((out, values), &(first, count)) in outputs.zip(values).zip(&weights.taps) {
        let pixels = &row[first * CHANNELS..][..count * CHANNELS];
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

/// The window's row number `i`, blended from rows of `narrow`, the first of which is source row `first_row`.
fn blend_rows(
    narrow: &[u8],
    first_row: usize,
    weights: &Weights,
    i: usize,
    sums: &mut [i32],
    out: &mut [u8],
) {
    let (first, count) = weights.taps[i];
    let values = &weights.values[i * weights.stride..][..count];
    let rows = narrow.chunks_exact(out.len()).skip(first - first_row);
    sums.fill(HALF);
    for (row, &weight) in rows.zip(values) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += i32::from(value) * weight;
        }
    }
    for (out, &sum) in out.iter_mut().zip(sums.iter()) {
        *out = to_byte(sum);
    }
}
