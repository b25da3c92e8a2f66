//! The fixed-point weights of one direction, as Pillow makes them.

use std::ops::Range;

use crate::ops::simd::resample::{FRACTION_BITS, Taps};

/// Bicubic reaches two source pixels to each side, before it is widened for a downscale.
const SUPPORT: f64 = 2.0;

/// For each position of a window of the resized direction, the source positions it is made of and their weights.
pub(super) struct Weights {
    /// First source position and number of taps of each output position.
    pub(super) taps: Vec<(usize, usize)>,
    /// `stride` fixed-point weights for each output position; those past its taps are zero.
    pub(super) values: Vec<i32>,
    /// Taps of the widest output position.
    pub(super) stride: usize,
}

impl Weights {
    /// The weights that make `window` of `output` positions out of `input` positions, of which the last may count in part: `length`
    /// is what they are together.
    ///
    /// A direction that keeps its length is not filtered in Pillow; its weights come out as exactly one here, which is the same.
    pub(super) fn new(input: usize, length: f64, output: u64, window: Range<u64>) -> Weights {
        let scale = length / output as f64;
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
    pub(super) fn len(&self) -> usize {
        self.taps.len()
    }

    /// The weights of each output position.
    pub(super) fn rows(&self) -> std::slice::ChunksExact<'_, i32> {
        self.values.chunks_exact(self.stride)
    }

    /// The same with source positions counted from `left`, as the kernels take them.
    pub(super) fn from<'a>(&'a self, left: usize, reach: &'a mut Vec<(usize, usize)>) -> Taps<'a> {
        reach.extend(
            self.taps
                .iter()
                .map(|&(first, count)| (first - left, count)),
        );
        Taps {
            reach,
            values: &self.values,
            stride: self.stride,
        }
    }

    /// The source positions that any output position draws on.
    pub(super) fn needed(&self) -> Range<usize> {
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
    let scaled = weight * f64::from(1 << FRACTION_BITS);
    (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_of_a_kept_length_are_one() {
        let weights = Weights::new(9, 9.0, 9, 0..9);
        for (i, (&(first, _), values)) in weights.taps.iter().zip(weights.rows()).enumerate() {
            let nonzero: Vec<_> = (first..).zip(values).filter(|(_, w)| **w != 0).collect();
            assert_eq!(nonzero, [(i, &(1 << FRACTION_BITS))]);
        }
    }
}
