//! Matrices packed once for the CPU's kernels, and products with them.
//!
//! A product is made for some rows of x at a time: they are *encoded* (rounded to the scheme's values and laid out as
//! [`blocks`] wants them), then multiplied with one pair of panels of the matrix after the other, and the sums are handed on
//! while they are in the cache, so that bias, activation, residual and rounding need no pass of their own.
//!
//! The order in which a sum is made depends on the depth alone, so that neither the number of rows nor that of threads changes a
//! result.

mod encode;
mod memory;
mod scheme;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use self::encode::{encode_left, find_ranges, pack_columns, pack_rows, steps_of};
use self::memory::{Lines, at_least};
use super::element::Element;
use super::simd::blocks::{self, Block, CHUNK, EDGE, LINES, Line, Task};
use super::simd::widest::widest;

pub(crate) use self::memory::{Scratch, with_scratch};
pub(crate) use self::scheme::Scheme;

/// Chunks of a row that are multiplied before the next rows' are, in all planes together: a pair's share of them stays in the first
/// cache, beside the rows' that pass through it.
const STEP: usize = 12;
/// Bytes of encoded rows that should stay in the second cache.
const MOST_ENCODED: usize = 1200 << 10;
/// Strips that are worked on at once, at most: as many as read a pair of panels while it is near.
const MOST_STRIPS: usize = 16;

/// A matrix `[n, depth]` whose rows are multiplied with rows of x `[m, depth]`: the weight of a linear layer, the keys of a head.
pub(crate) struct Packed {
    scheme: Scheme,
    rows: usize,
    depth: usize,
    /// Chunks of a row.
    chunks: usize,
    /// By plane, pair of panels and chunk.
    lines: Lines,
    /// Of schemes that have them, the step of each row of a pair of panels; of [`Scheme::Int8`] the sum of its integers too.
    steps: Vec<[f32; EDGE]>,
    totals: Vec<[f32; EDGE]>,
}

impl Packed {
    /// Packs `values` `[n, depth]`, row-major, with all threads.
    pub(crate) fn new(scheme: Scheme, values: &[f32], depth: usize) -> Packed {
        let mut packed = Packed::empty(scheme);
        packed.resize(values.len() / depth.max(1), depth);
        if scheme.has_steps() {
            let rows_of_pairs = values.par_chunks(depth * EDGE);
            let of_pairs = rows_of_pairs.map(|rows| steps_of(scheme, rows, depth));
            (packed.steps, packed.totals) = of_pairs.unzip();
        }
        let (chunks, pairs, steps) = (packed.chunks, packed.pairs(), &packed.steps);
        let places = packed
            .lines
            .par_chunks_mut((chunks * LINES).max(1))
            .enumerate();
        places.for_each(|(at, lines)| {
            let (plane, pair) = (at / pairs, at % pairs);
            widest(
                #[inline(always)]
                || {
                    for (at, lines) in lines.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                        let (chunk, first) = (at / 2, pair * EDGE + at % 2 * 16);
                        if first < packed.rows {
                            let steps = steps.as_flattened().get(first..).unwrap_or_default();
                            let values = &values[first * depth..];
                            pack_rows(scheme, plane, values, depth, steps, chunk, lines);
                        }
                    }
                },
            );
        });
        packed
    }

    /// A matrix of no rows, for [`Packed::refill`].
    pub(crate) fn empty(scheme: Scheme) -> Packed {
        Packed {
            scheme,
            rows: 0,
            depth: 0,
            chunks: 0,
            lines: Lines::Small(Vec::new()),
            steps: Vec::new(),
            totals: Vec::new(),
        }
    }

    /// Packs another small matrix `[n, depth]` in the same memory, on the calling thread. Not for schemes with steps.
    #[inline(always)]
    pub(crate) fn refill(&mut self, values: &[f32], depth: usize) {
        self.resize(values.len() / depth.max(1), depth);
        let scheme = self.scheme;
        self.each_panel(
            #[inline(always)]
            |plane, first, chunk, lines| {
                pack_rows(
                    scheme,
                    plane,
                    &values[first * depth..],
                    depth,
                    &[],
                    chunk,
                    lines,
                );
            },
        );
    }

    /// [`Packed::refill`] from the transpose `[depth, n]`.
    #[inline(always)]
    pub(crate) fn refill_transposed(&mut self, values: &[f32], n: usize) {
        self.resize(n, values.len() / n.max(1));
        let scheme = self.scheme;
        self.each_panel(
            #[inline(always)]
            |_, first, chunk, lines| pack_columns(scheme, values, n, first, chunk, lines),
        );
    }

    /// Calls `pack` with the plane, the first row, the chunk and the lines of every panel that has rows.
    #[inline(always)]
    fn each_panel(&mut self, pack: impl Fn(usize, usize, usize, &mut [Line; 16])) {
        assert!(!self.scheme.has_steps(), "small matrices are of floats");
        let (chunks, pairs, rows) = (self.chunks, self.pairs(), self.rows);
        let pair_of_lines = self.lines.chunks_exact_mut((chunks * LINES).max(1));
        for (at, lines) in pair_of_lines.enumerate() {
            let (plane, pair) = (at / pairs, at % pairs);
            for (at, lines) in lines.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let first = pair * EDGE + at % 2 * 16;
                if first < rows {
                    pack(plane, first, at / 2, lines);
                }
            }
        }
    }

    fn pairs(&self) -> usize {
        self.rows.div_ceil(EDGE)
    }

    fn resize(&mut self, rows: usize, depth: usize) {
        (self.rows, self.depth) = (rows, depth);
        self.chunks = (depth * self.scheme.format().size()).div_ceil(CHUNK);
        let lines = self.scheme.planes() * rows.div_ceil(EDGE) * self.chunks * LINES;
        self.lines.reset(lines);
    }

    /// The number of rows, which are columns of the product.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Rows of x that one thread should take at once, when there are m and as many threads as in the current pool.
    pub(crate) fn rows_at_once(m: usize) -> usize {
        let (strips, threads) = (m.div_ceil(EDGE), rayon::current_num_threads());
        let parts = strips.div_ceil(MOST_STRIPS).next_multiple_of(threads);
        strips.div_ceil(parts).max(1) * EDGE
    }

    /// `x · selfᵀ` for x `[m, depth]`, on the calling thread: `emit` gets the row, the first column and the sums of 32 columns, of
    /// which those past the last mean nothing.
    #[inline(always)]
    pub(crate) fn multiply<T: Element>(
        &self,
        x: &[T],
        scratch: &mut Scratch,
        mut emit: impl FnMut(usize, usize, &[f32; EDGE]),
    ) {
        if x.is_empty() || self.rows == 0 {
            return;
        }
        let m = x.len() / self.depth;
        let (strips, planes) = (m.div_ceil(EDGE), self.scheme.planes());
        let terms = self.scheme.sums();
        // As many whole steps of encoded rows as there is room for.
        let room = MOST_ENCODED / (strips * LINES * CHUNK * planes);
        let group = if room >= self.chunks {
            self.chunks
        } else {
            (room / STEP).max(1) * STEP
        };
        let pairs = self.pairs();
        let slots = if group == self.chunks { 1 } else { pairs };
        let Scratch {
            encoded,
            ranges,
            sums,
            offsets,
        } = scratch;
        // By sum, pair of panels and strip.
        let of_sum = slots * strips;
        let sums = at_least(sums, terms.len() * of_sum, Block::ZERO);
        find_ranges(self.scheme, x, self.depth, ranges);
        for first in (0..self.chunks).step_by(group) {
            let group = group.min(self.chunks - first);
            let encoded = at_least(encoded, planes * strips * group * LINES, Line::ZERO);
            encode_left(self.scheme, x, self.depth, ranges, first, group, encoded);
            for pair in 0..pairs {
                let slot = if slots == 1 { 0 } else { pair * strips };
                for (terms, sums) in terms.iter().zip(sums.chunks_exact_mut(of_sum)) {
                    let step = STEP / terms.len();
                    for from in (0..group).step_by(step) {
                        offsets.clear();
                        offsets.extend(terms.iter().map(|&(left, right)| {
                            let left = (left * strips * group + from) * LINES;
                            let right =
                                ((right * pairs + pair) * self.chunks + first + from) * LINES;
                            (left, right)
                        }));
                        let task = Task {
                            left: encoded,
                            left_stride: group * LINES,
                            right: &self.lines,
                            steps: offsets,
                            chunks: step.min(group - from),
                            fresh: first + from == 0,
                        };
                        let sums = &mut sums[slot..slot + strips];
                        blocks::accumulate(self.scheme.unit(), self.scheme.format(), task, sums);
                    }
                }
                if first + group < self.chunks {
                    continue;
                }
                for (r, &range) in ranges.iter().enumerate() {
                    let strip = slot + r / EDGE;
                    let sums = |sum: usize| &sums[sum * of_sum + strip].0[r % EDGE];
                    emit(r, pair * EDGE, &self.values(pair, range, sums));
                }
            }
        }
    }

    /// A row of sums as numbers: `range` is the row's, of x.
    #[inline(always)]
    fn values<'a>(
        &self,
        pair: usize,
        (least, width): (f32, f32),
        sums: impl Fn(usize) -> &'a [f32; EDGE],
    ) -> [f32; EDGE] {
        let integer = |sum: f32| sum.to_bits() as i32 as f32;
        let mut values = *sums(0);
        match self.scheme {
            Scheme::F32(_) | Scheme::Bf16(_) => {}
            Scheme::Int8(_) => {
                let (steps, totals) = (&self.steps[pair], &self.totals[pair]);
                for i in 0..EDGE {
                    values[i] = steps[i] * (width * integer(values[i]) + least * totals[i]);
                }
            }
            Scheme::Fixed(_) => {
                let (steps, middle, low) = (&self.steps[pair], sums(1), sums(2));
                for i in 0..EDGE {
                    let small = integer(middle[i]) * 256.0 + integer(low[i]);
                    // Digits from 256⁴ down to 256² were multiplied.
                    let sum = integer(values[i]) * 65_536.0 + small;
                    values[i] = sum * (width * 65_536.0) * steps[i];
                }
            }
        }
        values
    }
}

/// Sets up to 32 values of a row: by a loop of fixed length where there are as many, which compiles to a few instructions.
#[inline(always)]
pub(crate) fn set_each<T: Element>(out: &mut [T], value: impl Fn(usize, T) -> f32) {
    match out.first_chunk_mut::<EDGE>() {
        Some(out) => {
            // All in local arrays and written at once, so that nothing that is read can have been written: this compiles to vectors.
            let mut values = [0.0; EDGE];
            for i in 0..EDGE {
                values[i] = value(i, out[i]);
            }
            let mut stored = [T::store(0.0); EDGE];
            for i in 0..EDGE {
                stored[i] = T::store(values[i]);
            }
            *out = stored;
        }
        None => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = T::store(value(i, *out));
            }
        }
    }
}
