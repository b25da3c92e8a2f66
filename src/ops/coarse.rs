//! Coarse products: dot products of rows in a low precision, each with a bound of how far it can be from the exact one.
//!
//! Every op over embeddings finds *candidates* this way and computes them again by the canonical [`super::dot`], so a precision
//! changes time alone, never a result. Rows are first taken relative to a centre m, about their mean: embeddings of one model
//! lie in a cone and share a few large values, which would use up the range of 8 bits. With `X = x - m` and `Y = y - m`,
//!
//! `x.y = X.Y + shift_x + shift_y`, where `shift_x = m.x - |m|^2 / 2`,
//!
//! and where `X'` and `Y'` are X and Y rounded, `error_x >= |X - X'|` computed for each row as it is rounded,
//!
//! `|X.Y - X'.Y'| <= error_x |Y| + |X'| error_y` (Cauchy-Schwarz). For unit rows at d = 512 that comes to some 0.01 in 8 bits.

use super::rows::Rows;
use super::simd::int8::{self, PANEL, STRIP};
use super::simd::sift::{self, Found, Strip};
use super::simd::{gemm, quantise};
use std::ops::Range;

/// What candidates are found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// f32 by the `gemm` crate.
    F32,
    /// 8-bit integers with a scale for each row.
    Int8(int8::Kernel),
}

impl Precision {
    /// All that this processor can run, the fastest last.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Precision> {
        let int8 = int8::Kernel::available().into_iter().map(Precision::Int8);
        [Precision::F32].into_iter().chain(int8).collect()
    }

    /// The fastest for rows of `d` values.
    pub(crate) fn fastest(d: usize) -> Precision {
        match int8::Kernel::available().last() {
            Some(&kernel) if kernel != int8::Kernel::Portable && d <= int8::LONGEST_ROW => {
                Precision::Int8(kernel)
            }
            _ => Precision::F32,
        }
    }
}

/// Columns whose products with a strip stay in the first cache.
const COLUMNS: usize = 256;

/// Left rows of a strip in f32, whose kernel packs the right rows anew for each.
const STRIP_F32: usize = 128;

/// How rows of `d` values are rounded.
#[derive(Clone, Debug)]
pub(crate) struct Coarse {
    precision: Precision,
    d: usize,
    /// Bytes of a rounded row.
    depth: usize,
    /// m; zero in f32.
    centre: Vec<f32>,
    centre_length: f64,
}

impl Coarse {
    /// With the mean of some evenly spaced rows for a centre.
    pub(crate) fn new(precision: Precision, rows: Rows) -> Coarse {
        /// Enough for the values that all rows share.
        const SAMPLE: usize = 128;
        let (d, n) = (rows.d(), rows.len());
        let mut centre = vec![0.0f32; d];
        if precision != Precision::F32 {
            let sample = n.min(SAMPLE);
            for s in 0..sample {
                for (m, x) in centre.iter_mut().zip(rows.values(s * n / sample)) {
                    *m += x / sample as f32;
                }
            }
        }
        Coarse {
            precision,
            d,
            depth: d.next_multiple_of(int8::CHUNK),
            centre_length: super::dot::cosine(&centre, &centre).sqrt(),
            centre,
        }
    }

    /// What rows are rounded to.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// m, which all rows are taken relative to.
    pub(crate) fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// The rows that one [`Block`] on the left should have.
    pub(crate) fn strip(&self) -> usize {
        match self.precision {
            Precision::F32 => STRIP_F32,
            Precision::Int8(_) => STRIP,
        }
    }

    /// Rounds `rows`, at most [`Coarse::strip`] of them, as the left side of products.
    pub(crate) fn left<'r>(&self, rows: impl Iterator<Item = &'r [f32]>, block: &mut Block) {
        self.fill(rows, false, block);
    }

    /// Rounds `rows` as the right side of products.
    pub(crate) fn right<'r>(&self, rows: impl Iterator<Item = &'r [f32]>, block: &mut Block) {
        self.fill(rows, true, block);
    }

    fn fill<'r>(&self, rows: impl Iterator<Item = &'r [f32]>, right: bool, block: &mut Block) {
        block.clear();
        let Precision::Int8(kernel) = self.precision else {
            for x in rows {
                block.floats.extend_from_slice(x);
                block.rows += 1;
                block.lengthen((super::dot::cosine(x, x).sqrt() as f32).next_up());
            }
            block.padded = block.rows;
            block.scale.resize(block.rows, 1.0);
            block.error.resize(block.rows, 0.0);
            block.shift.resize(block.rows, 0.0);
            return;
        };
        let half = (self.centre_length.powi(2) / 2.0) as f32;
        let depth = self.depth;
        let expected = rows.size_hint().0.next_multiple_of(STRIP);
        block.bytes.reserve(expected * depth);
        let mut scratch = std::mem::take(&mut block.floats);
        scratch.resize(depth, 0.0);
        let mut packed = vec![0u8; depth];
        for x in rows {
            let n = block.rows;
            if n == block.padded {
                block.padded += STRIP;
                let fill = if right { kernel.offset() } else { 0 };
                block.bytes.grow(block.padded * depth, fill);
            }
            let place = if right {
                &mut packed
            } else {
                &mut block.bytes.get_mut()[n * depth..(n + 1) * depth]
            };
            let row = quantise::quantise(x, &self.centre, &mut scratch, place);
            if right {
                let panel = n / PANEL * PANEL * depth;
                let panel = &mut block.bytes.get_mut()[panel..panel + PANEL * depth];
                int8::pack(&packed, n % PANEL, kernel.offset(), panel);
            }
            block.rows += 1;
            block.scale.push(row.scale);
            block.error.push(row.error);
            block.shift.push(row.shift - half);
            block.sums.push(row.sum);
            block.lengthen((row.length + row.error).next_up());
        }
        block.floats = scratch;
        block.scale.resize(block.padded, 0.0);
        block.error.resize(block.padded, 0.0);
        block.length.resize(block.padded, 0.0);
        block.shift.resize(block.padded, 0.0);
        block.sums.resize(block.padded, 0);
    }

    /// How far the value of a product, with shifts and errors added in f32, can be from what exact arithmetic makes of the
    /// rounded rows. `longest` is at least the lengths of all rows, relative to the centre and rounded.
    ///
    /// In f32 it is the bound of [`gemm::error_bound`]. In 8 bits products are exact, and it is for the shifts, sums of d
    /// products in f32 each of which is off by at most `gamma_d |m| |x|` (see there), and for some ten roundings of numbers
    /// no greater than the squared length below.
    pub(crate) fn slack(&self, longest: f64) -> f64 {
        match self.precision {
            Precision::F32 => gemm::error_bound(self.d, longest * longest),
            Precision::Int8(_) => {
                4.0 * gemm::error_bound(self.d + 16, (self.centre_length + longest).powi(2))
            }
        }
    }

    /// [`Coarse::slack`] for products that no shifts are added to, only numbers up to `right * right / 2`: the rows on both sides
    /// are no longer than `left` and `right`. In 8 bits the roundings alone are left, each of them of a number no greater than
    /// the sum below.
    pub(crate) fn slack_unshifted(&self, left: f64, right: f64) -> f64 {
        const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
        match self.precision {
            Precision::F32 => 2.0 * gemm::error_bound(self.d, left.max(right).powi(2)),
            Precision::Int8(_) => {
                // The canonical distance that decides is off by little, but relative to rows that are not centred.
                let canonical = (self.d + 8) as f64 * 4.0 * f64::EPSILON;
                16.0 * UNIT * (left * right + right * right)
                    + canonical * (self.centre_length + left.max(right)).powi(2)
                    + self.d as f64 * f64::from(f32::MIN_POSITIVE)
            }
        }
    }

    /// Multiplies `left` with the rows of `right` from number `from` on, and hands the products to `visit` in chunks of columns.
    pub(crate) fn sweep(
        &self,
        left: &Block,
        right: &Block,
        from: usize,
        products: &mut Products,
        mut visit: impl FnMut(Chunk),
    ) {
        let Precision::Int8(kernel) = self.precision else {
            let from = from.min(right.rows);
            let columns = from..right.rows;
            if !columns.is_empty() {
                let out = products.floats.grow(left.rows * columns.len(), 0.0);
                gemm::rows_by_rows(&left.floats, &right.floats[from * self.d..], self.d, out);
                let products = Values::F32(out);
                visit(Chunk {
                    left,
                    right,
                    columns,
                    products,
                });
            }
            return;
        };
        let depth = self.depth;
        let mut start = from / STRIP * STRIP;
        while start < right.rows {
            let columns = start..(start + COLUMNS).min(right.padded);
            let out = products.integers.grow(STRIP * columns.len(), 0);
            let task = int8::Task {
                left: left.bytes.get(),
                sums: &left.sums,
                right: &right.bytes.get()[columns.start * depth..columns.end * depth],
                depth,
            };
            int8::products(kernel, task, out);
            start = columns.end;
            let products = Values::I32(out);
            visit(Chunk {
                left,
                right,
                columns,
                products,
            });
        }
    }
}

/// Rounded rows. Rows past the last are padding: zeros.
#[derive(Debug, Default)]
pub(crate) struct Block {
    rows: usize,
    padded: usize,
    bytes: Aligned<u8>,
    /// The rows themselves in f32; else scratch.
    floats: Vec<f32>,
    scale: Vec<f32>,
    error: Vec<f32>,
    /// The length of each row relative to the centre, exact and rounded, at most.
    length: Vec<f32>,
    shift: Vec<f32>,
    sums: Vec<i32>,
    longest: f64,
}

impl Block {
    fn clear(&mut self) {
        (self.rows, self.padded, self.longest) = (0, 0, 0.0);
        self.bytes.clear();
        self.floats.clear();
        self.scale.clear();
        self.error.clear();
        self.length.clear();
        self.shift.clear();
        self.sums.clear();
    }

    /// A NaN counts as infinity; `f64::max` would pass over it.
    fn lengthen(&mut self, length: f32) {
        let length = if length.is_nan() {
            f32::INFINITY
        } else {
            length
        };
        self.length.push(length);
        self.longest = self.longest.max(f64::from(length));
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The number of rows with padding.
    pub(crate) fn padded(&self) -> usize {
        self.padded
    }

    /// At least the lengths of all rows, relative to the centre, exact and rounded.
    pub(crate) fn longest(&self) -> f64 {
        self.longest
    }

    /// For each row what was lost by rounding, at most, as a length.
    pub(crate) fn error(&self, row: usize) -> f64 {
        f64::from(self.error[row])
    }

    /// The greatest of [`Block::error`].
    pub(crate) fn greatest_error(&self) -> f64 {
        f64::from(self.error.iter().copied().fold(0.0, f32::max))
    }

    /// `m.x - |m|^2 / 2` for each row x.
    pub(crate) fn shift(&self, row: usize) -> f64 {
        f64::from(self.shift[row])
    }

    /// `m.x - |m|^2 / 2` for each row x, zeros for padding.
    pub(crate) fn shifts(&self) -> &[f32] {
        &self.shift
    }

    /// Fills `over` and `under` with a number for each of these rows on the right, `base` and what the products of the row
    /// with those of `left` can be off, added and subtracted: `longest * error + greatest_error * length`, the first of each pair
    /// that of `left`. Minus infinity for padding. The roundings are in [`Coarse::slack`].
    pub(crate) fn bias(
        &self,
        base: &[f32],
        longest: f64,
        error: f64,
        over: &mut Vec<f32>,
        under: &mut Vec<f32>,
    ) {
        let (longest, error) = (longest as f32, error as f32);
        over.resize(self.padded, 0.0);
        under.resize(self.padded, 0.0);
        let rows = base.iter().zip(&self.error).zip(&self.length);
        for ((over, under), ((base, lost), length)) in over.iter_mut().zip(&mut *under).zip(rows) {
            let off = longest * lost + error * length;
            *over = base + off;
            *under = base - off;
        }
        over[self.rows..].fill(f32::NEG_INFINITY);
        under[self.rows..].fill(f32::NEG_INFINITY);
    }

    /// Fills `limits` with a number for each row, rounded down, and infinity for padding.
    pub(crate) fn limits(&self, limits: &mut Vec<f32>, of: impl Fn(usize) -> f64) {
        limits.clear();
        limits.extend((0..self.rows).map(|row| gemm::round_down(of(row))));
        limits.resize(self.padded, f32::INFINITY);
    }
}

/// Room for products that is used again.
#[derive(Debug, Default)]
pub(crate) struct Products {
    integers: Aligned<i32>,
    floats: Aligned<f32>,
}

enum Values<'a> {
    I32(&'a [i32]),
    F32(&'a [f32]),
}

/// The products of a strip of left rows with some right rows.
pub(crate) struct Chunk<'a> {
    left: &'a Block,
    right: &'a Block,
    /// The numbers of the right rows; those past the last are padding.
    columns: Range<usize>,
    products: Values<'a>,
}

impl Chunk<'_> {
    /// Appends to `found` all products that, scaled and with `bias` of the right row added, are at least `limits` of the left row:
    /// left rows ascending, right rows ascending in each. Both come from [`Block::bias`] and [`Block::limits`].
    pub(crate) fn at_least(&self, bias: &[f32], limits: &[f32], found: &mut Vec<Found>) {
        let before = found.len();
        match self.products {
            Values::I32(products) => sift::at_least(self.strip(products, bias), limits, found),
            Values::F32(products) => sift::at_least(self.strip(products, bias), limits, found),
        }
        for found in &mut found[before..] {
            found.column += self.columns.start as u32;
        }
    }

    /// Raises `greatest` to the greatest product of each left row, scaled and with `bias` added, among the first `ends` right rows
    /// of all.
    pub(crate) fn greatest(
        &self,
        bias: &[f32],
        ends: impl Fn(usize) -> usize,
        greatest: &mut [f32],
    ) {
        let ends: Vec<usize> = (0..self.left.rows)
            .map(|row| {
                ends(row)
                    .min(self.right.rows)
                    .saturating_sub(self.columns.start)
            })
            .collect();
        let greatest = &mut greatest[..self.left.rows];
        match self.products {
            Values::I32(products) => sift::greatest(self.strip(products, bias), &ends, greatest),
            Values::F32(products) => sift::greatest(self.strip(products, bias), &ends, greatest),
        }
    }

    fn strip<'s, P>(&'s self, products: &'s [P], bias: &'s [f32]) -> Strip<'s, P> {
        Strip {
            products,
            row_scale: &self.left.scale,
            column_scale: &self.right.scale[self.columns.clone()],
            bias: &bias[self.columns.clone()],
        }
    }
}

/// A vector whose first element lies on a cache line's border: tiles and registers are then read from one line each.
#[derive(Debug, Default)]
struct Aligned<T> {
    values: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for `len` elements in all, without more.
    fn reserve(&mut self, len: usize) {
        const LINE: usize = 64;
        let room = LINE / size_of::<T>();
        if self.start + len > self.values.len() {
            let mut values = vec![T::default(); len + room];
            let start = values.as_ptr().align_offset(LINE).min(room);
            values[start..start + self.len].copy_from_slice(self.get());
            (self.values, self.start) = (values, start);
        }
    }

    /// Makes it `len` long, new elements being `fill`.
    fn grow(&mut self, len: usize, fill: T) -> &mut [T] {
        if self.start + len > self.values.len() {
            self.reserve((2 * self.len).max(len));
        }
        if len > self.len {
            self.values[self.start + self.len..self.start + len].fill(fill);
        }
        self.len = len;
        self.get_mut()
    }

    fn get(&self) -> &[T] {
        &self.values[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dot;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_coarse_product_is_off_by_more_than_the_bound(
            d in 1usize..200,
            left_rows in 1usize..33,
            right_rows in 1usize..70,
            scales in prop::collection::vec(prop::sample::select(vec![1.0f32, 1.0, 1.0, 1e-3, 1e-20, 30.0]), 103),
            outlier in prop::sample::select(vec![0.0f32, 1.0, 100.0]),
            cone in prop::sample::select(vec![0.0f32, 0.5, 20.0]),
            seed in any::<u64>(),
        ) {
            use rand_chacha::rand_core::{RngCore, SeedableRng};
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut uniform = || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
            let data: Vec<f32> = (0..(left_rows + right_rows) * d)
                .map(|i| {
                    let (row, l) = (i / d, i % d);
                    let x = if l == row % d { outlier } else { uniform() };
                    (x + cone) * scales[row]
                })
                .collect();
            let rows = Rows::all(&data, d).unwrap();
            for precision in Precision::available() {
                let coarse = Coarse::new(precision, rows);
                let (mut left, mut right) = (Block::default(), Block::default());
                coarse.left((0..left_rows).map(|p| rows.values(p)), &mut left);
                coarse.right((left_rows..rows.len()).map(|p| rows.values(p)), &mut right);
                let (mut over, mut under) = (Vec::new(), Vec::new());
                right.bias(right.shifts(), left.longest(), 0.0, &mut over, &mut under);
                let slack = coarse.slack(left.longest().max(right.longest()));
                let limits = vec![f32::NEG_INFINITY; left.padded];
                let (mut products, mut seen) = (Products::default(), 0);
                coarse.sweep(&left, &right, 0, &mut products, |chunk| {
                    for (bias, sign) in [(&over, 1.0), (&under, -1.0)] {
                        let mut found = Vec::new();
                        chunk.at_least(bias, &limits, &mut found);
                        for f in found {
                            let (i, j) = (f.row as usize, f.column as usize);
                            if i >= left_rows || j >= right_rows {
                                continue;
                            }
                            let exact = dot::cosine(rows.values(i), rows.values(left_rows + j));
                            let lost = right.longest() * left.error(i) + slack;
                            let bound = f64::from(f.value) + left.shift(i) + sign * lost;
                            assert!(
                                sign * (bound - exact) >= 0.0,
                                "{precision:?}: {exact:e} is beyond {bound:e} by {:e}, slack {slack:e}",
                                bound - exact
                            );
                            seen += 1;
                        }
                    }
                });
                prop_assert_eq!(seen, 2 * left_rows * right_rows);
            }
        }
    }

    #[test]
    fn unit_rows_are_off_by_about_a_hundredth() {
        let d = 512;
        let mut data: Vec<f32> = (0..64 * d).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        crate::ops::normalize_rows(&mut data, d);
        let rows = Rows::all(&data, d).unwrap();
        let coarse = Coarse::new(Precision::Int8(int8::Kernel::Portable), rows);
        let mut left = Block::default();
        coarse.left((0..STRIP).map(|p| rows.values(p)), &mut left);
        let bound = 2.0 * left.longest() * left.greatest_error() + coarse.slack(left.longest());
        assert!((0.002..0.02).contains(&bound), "{bound}");
    }
}
