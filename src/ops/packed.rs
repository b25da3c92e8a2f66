//! Matrices packed once for the CPU's kernels, and products with them.
//!
//! A product is made for some rows of x at a time: they are *encoded* (rounded to the scheme's values and laid out as
//! [`blocks`] wants them), then multiplied with one pair of panels of the matrix after the other, and the sums are handed on
//! while they are in the cache, so that bias, activation, residual and rounding need no pass of their own.
//!
//! The order in which a sum is made depends on the depth alone, so that neither the number of rows nor that of threads changes a
//! result.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;
use rayon::prelude::*;

use super::element::Element;
use super::simd::blocks::{self, Block, CHUNK, EDGE, Format, LINES, Line, Task, Unit};
use super::simd::widest::widest;

/// How values are represented in a product. All add up in f32, [`Scheme::Int8`] in i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// As they are.
    F32(Unit),
    /// An f32 as three bf16 that add up to it: the 24 bits of its mantissa, eight in each part or nearly so. Of the nine products
    /// of parts the three smallest, together below 2⁻²³ of the whole, are left out. The six others are as exact as f32 is, and AMX
    /// makes them in half the time that AVX-512 takes for one product of f32.
    Split(Unit),
    /// Rounded to bfloat16.
    Bf16(Unit),
    /// The matrix to whole multiples, from -127 to 127, of a step of its own for every row; x to 256 steps between the least and
    /// the greatest value of every row.
    Int8(Unit),
}

impl Scheme {
    /// All that this machine can run for f32, the fastest last.
    pub(crate) fn for_f32() -> Vec<Scheme> {
        let mut schemes: Vec<Scheme> = Unit::available(Format::F32)
            .into_iter()
            .map(Scheme::F32)
            .collect();
        if Unit::available(Format::Bf16).contains(&Unit::Amx) {
            schemes.push(Scheme::Split(Unit::Amx));
        }
        schemes
    }

    /// The fastest for f32.
    pub(crate) fn f32() -> Scheme {
        Scheme::for_f32()
            .pop()
            .unwrap_or(Scheme::F32(Unit::Portable))
    }

    /// The fastest for f32 that takes the values as they are.
    pub(crate) fn unsplit_f32() -> Scheme {
        let unit = Unit::available(Format::F32).pop();
        Scheme::F32(unit.unwrap_or(Unit::Portable))
    }

    /// The fastest for bf16, where the processor has instructions for it.
    pub(crate) fn bf16() -> Option<Scheme> {
        Unit::available(Format::Bf16)
            .pop()
            .filter(|u| *u != Unit::Portable)
            .map(Scheme::Bf16)
    }

    /// The fastest for int8, where the processor has instructions for it.
    pub(crate) fn int8() -> Option<Scheme> {
        Unit::available(Format::Int8)
            .pop()
            .filter(|u| *u != Unit::Portable)
            .map(Scheme::Int8)
    }

    fn unit(self) -> Unit {
        match self {
            Scheme::F32(unit) | Scheme::Split(unit) | Scheme::Bf16(unit) | Scheme::Int8(unit) => {
                unit
            }
        }
    }

    fn format(self) -> Format {
        match self {
            Scheme::F32(_) => Format::F32,
            Scheme::Split(_) | Scheme::Bf16(_) => Format::Bf16,
            Scheme::Int8(_) => Format::Int8,
        }
    }

    /// Encoded values for each value.
    fn planes(self) -> usize {
        match self {
            Scheme::Split(_) => PARTS,
            _ => 1,
        }
    }

    /// Products of a plane of x with a plane of the matrix, in two sums that are added at the end: what is small first, on its
    /// own, so that it is not rounded to the steps of what is large. Each small term shares a plane with the one before.
    fn terms(self) -> [&'static [(usize, usize)]; 2] {
        match self {
            Scheme::Split(_) => [&[(0, 0)], &[(2, 0), (1, 0), (1, 1), (0, 1), (0, 2)]],
            _ => [&[(0, 0)], &[]],
        }
    }
}

/// Parts of a split f32.
const PARTS: usize = 3;
/// Chunks of a row that are multiplied before the next rows' are: a pair's share of them stays in the first cache, beside the
/// rows' that pass through it.
const STEP: usize = 12;
/// The same for small terms, whose loop reads less for what it multiplies.
const SMALL_STEP: usize = 2 * STEP;
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
    /// Of [`Scheme::Int8`]: the step of each row of a pair of panels, and the sum of its integers.
    steps: Vec<[f32; EDGE]>,
    totals: Vec<[f32; EDGE]>,
}

impl Packed {
    /// Packs `values` `[n, depth]`, row-major, with all threads.
    pub(crate) fn new(scheme: Scheme, values: &[f32], depth: usize) -> Packed {
        let mut packed = Packed::empty(scheme);
        packed.resize(values.len() / depth.max(1), depth);
        if let Scheme::Int8(_) = scheme {
            let of_pair = values.par_chunks(depth * EDGE).map(|rows| {
                let (mut steps, mut totals) = ([0.0; EDGE], [0.0; EDGE]);
                for (r, row) in rows.chunks_exact(depth).enumerate() {
                    let greatest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
                    steps[r] = greatest / 127.0;
                    totals[r] = row.iter().map(|x| integer(*x, steps[r])).sum();
                }
                (steps, totals)
            });
            (packed.steps, packed.totals) = of_pair.unzip();
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

    /// Packs another small matrix `[n, depth]` in the same memory, on the calling thread. Not for [`Scheme::Int8`].
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
            |plane, first, chunk, lines| {
                pack_columns(scheme, plane, values, n, first, chunk, lines);
            },
        );
    }

    /// Calls `pack` with the plane, the first row, the chunk and the lines of every panel that has rows.
    #[inline(always)]
    fn each_panel(&mut self, pack: impl Fn(usize, usize, usize, &mut [Line; 16])) {
        assert!(
            !matches!(self.scheme, Scheme::Int8(_)),
            "small matrices are of floats"
        );
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
        let [large, small] = self.scheme.terms();
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
            large_sums,
            small_sums,
            offsets,
        } = scratch;
        let blocks = slots * strips;
        let large_sums = at_least(large_sums, blocks, Block::ZERO);
        let small_sums = at_least(
            small_sums,
            if small.is_empty() { 0 } else { blocks },
            Block::ZERO,
        );
        find_ranges(self.scheme, x, self.depth, ranges);
        for first in (0..self.chunks).step_by(group) {
            let group = group.min(self.chunks - first);
            let encoded = at_least(encoded, planes * strips * group * LINES, Line::ZERO);
            encode_left(self.scheme, x, self.depth, ranges, first, group, encoded);
            for pair in 0..pairs {
                let slot = if slots == 1 { 0 } else { pair * strips };
                for (terms, step, sums) in [
                    (large, STEP, &mut *large_sums),
                    (small, SMALL_STEP, &mut *small_sums),
                ] {
                    for from in (0..if terms.is_empty() { 0 } else { group }).step_by(step) {
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
                for (r, &(least, width)) in ranges.iter().enumerate() {
                    let (strip, line) = (slot + r / EDGE, r % EDGE);
                    let mut sums = large_sums[strip].0[line];
                    if !small.is_empty() {
                        for (sum, small) in sums.iter_mut().zip(&small_sums[strip].0[line]) {
                            *sum += small;
                        }
                    }
                    if let Scheme::Int8(_) = self.scheme {
                        let (steps, totals) = (&self.steps[pair], &self.totals[pair]);
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let integer = sum.to_bits() as i32 as f32;
                            *sum = steps[i] * (width * integer + least * totals[i]);
                        }
                    }
                    emit(r, pair * EDGE, &sums);
                }
            }
        }
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

/// The memory of a packed matrix: where it is large, in large pages if the system has them, since a product walks through all of
/// it and would wait for the addresses of small ones.
enum Lines {
    Small(Vec<Line>),
    Large(MmapMut),
}

impl Lines {
    /// Bytes of a large page, on x86 and with pages of 4 KiB on ARM.
    const LARGE_PAGE: usize = 2 << 20;

    /// That many lines of zeros.
    fn reset(&mut self, lines: usize) {
        let bytes = lines * size_of::<Line>();
        if bytes >= 2 * Lines::LARGE_PAGE
            && let Ok(map) = MmapMut::map_anon(bytes)
        {
            // Advice that is not taken changes nothing but the speed.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            *self = Lines::Large(map);
            return;
        }
        match self {
            Lines::Small(small) => {
                small.clear();
                small.resize(lines, Line::ZERO);
            }
            Lines::Large(_) => *self = Lines::Small(vec![Line::ZERO; lines]),
        }
    }
}

impl Deref for Lines {
    type Target = [Line];
    fn deref(&self) -> &[Line] {
        match self {
            Lines::Small(lines) => lines,
            Lines::Large(map) => bytemuck::cast_slice(map),
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        match self {
            Lines::Small(lines) => lines,
            Lines::Large(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// Memory of a thread for [`Packed::multiply`], kept between calls.
#[derive(Default)]
pub(crate) struct Scratch {
    encoded: Vec<Line>,
    /// Of [`Scheme::Int8`]: the least value of each row and the width of a step.
    ranges: Vec<(f32, f32)>,
    large_sums: Vec<Block>,
    small_sums: Vec<Block>,
    offsets: Vec<(usize, usize)>,
}

/// The first values of memory that grows where it must. What is in it stays.
fn at_least<T: Copy>(memory: &mut Vec<T>, values: usize, new: T) -> &mut [T] {
    if memory.len() < values {
        memory.resize(values, new);
    }
    &mut memory[..values]
}

/// Calls `f` with the calling thread's own scratch memory.
pub(crate) fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
    }
    SCRATCH.with(|scratch| f(&mut scratch.borrow_mut()))
}

/// The three bf16 whose sum a finite f32 is: the nearest, the nearest to what is left, and the rest.
#[inline(always)]
fn split(x: f32) -> [half::bf16; PARTS] {
    // Rounding up beyond the largest bf16 would make an infinity of a finite number.
    let first = half::bf16::store(x.clamp(-MOST_SPLIT, MOST_SPLIT));
    let rest = x - first.load();
    let second = half::bf16::store(rest);
    [first, second, half::bf16::store(rest - second.load())]
}

/// The largest bf16. A NaN passes the clamp, and an infinity comes out as a huge number with an infinite rest.
const MOST_SPLIT: f32 = 3.389_531_4e38;

/// The whole multiple of `width` nearest to x.
#[inline(always)]
fn integer(x: f32, width: f32) -> f32 {
    if width > 0.0 {
        (x / width).round()
    } else {
        0.0
    }
}

/// A chunk of a row of floats as bytes: the values themselves, rounded, or one of the parts they are split into.
#[inline(always)]
fn f32_bytes(values: &[f32; 16]) -> [u8; CHUNK] {
    let mut bits = [0u32; 16];
    for (bits, x) in bits.iter_mut().zip(values) {
        *bits = x.to_bits().to_le();
    }
    bytemuck::cast(bits)
}

#[inline(always)]
fn bf16_bytes(values: &[f32; 32]) -> [u8; CHUNK] {
    let mut bits = [0u16; 32];
    for (bits, x) in bits.iter_mut().zip(values) {
        *bits = half::bf16::store(*x).to_bits().to_le();
    }
    bytemuck::cast(bits)
}

#[inline(always)]
fn split_bytes(values: &[f32; 32]) -> [[u8; CHUNK]; PARTS] {
    let mut bits = [[0u16; 32]; PARTS];
    for (i, x) in values.iter().enumerate() {
        let [a, b, c] = split(*x);
        bits[0][i] = a.to_bits().to_le();
        bits[1][i] = b.to_bits().to_le();
        bits[2][i] = c.to_bits().to_le();
    }
    bytemuck::cast(bits)
}

/// Chunk `chunk` of the first 16 rows of `values` `[.., depth]`, or as many as there are, into the lines of a panel; `steps` are
/// those of [`Scheme::Int8`].
#[inline(always)]
fn pack_rows(
    scheme: Scheme,
    plane: usize,
    values: &[f32],
    depth: usize,
    steps: &[f32],
    chunk: usize,
    lines: &mut [Line; 16],
) {
    for (r, row) in values.chunks_exact(depth).take(16).enumerate() {
        match scheme {
            Scheme::F32(_) => place(lines, r, f32_bytes(&chunk_of(row, chunk))),
            Scheme::Bf16(_) => place(lines, r, bf16_bytes(&chunk_of(row, chunk))),
            Scheme::Split(_) => place(lines, r, split_bytes(&chunk_of(row, chunk))[plane]),
            Scheme::Int8(_) => {
                let mut bytes = [0; CHUNK];
                for (byte, x) in bytes.iter_mut().zip(chunk_of::<f32, CHUNK>(row, chunk)) {
                    *byte = integer(x, steps[r]) as i8 as u8;
                }
                place(lines, r, bytes);
            }
        }
    }
}

/// The groups of row r of a panel in their places.
#[inline(always)]
fn place(lines: &mut [Line; 16], r: usize, bytes: [u8; CHUNK]) {
    for (line, group) in lines.iter_mut().zip(bytes.as_chunks::<4>().0) {
        line.0.as_chunks_mut::<4>().0[r] = *group;
    }
}

/// The same from the transpose `[depth, n]`, of the columns from `first` on.
#[inline(always)]
fn pack_columns(
    scheme: Scheme,
    plane: usize,
    values: &[f32],
    n: usize,
    first: usize,
    chunk: usize,
    lines: &mut [Line; 16],
) {
    for (g, line) in lines.iter_mut().enumerate() {
        let group = chunk * 16 + g;
        line.0 = match scheme {
            Scheme::F32(_) => f32_bytes(&columns_of(values, n, first, group)),
            Scheme::Bf16(_) | Scheme::Split(_) => {
                let even = columns_of(values, n, first, 2 * group);
                let odd = columns_of(values, n, first, 2 * group + 1);
                let mut pairs = [0.0; 32];
                for i in 0..16 {
                    (pairs[2 * i], pairs[2 * i + 1]) = (even[i], odd[i]);
                }
                match scheme {
                    Scheme::Split(_) => split_bytes(&pairs)[plane],
                    _ => bf16_bytes(&pairs),
                }
            }
            Scheme::Int8(_) => unreachable!("small matrices are of floats"),
        };
    }
}

/// Up to 16 values of a row of a matrix of n columns; zeros where it ends, and where there is no such row.
#[inline(always)]
fn columns_of(values: &[f32], n: usize, first: usize, row: usize) -> [f32; 16] {
    match values.get(row * n + first..(row + 1) * n) {
        Some(row) => chunk_of(row, 0),
        None => [0.0; 16],
    }
}

/// N values of a row, zeros where it ends.
#[inline(always)]
fn chunk_of<T: Element, const N: usize>(row: &[T], chunk: usize) -> [f32; N] {
    let rest = &row[row.len().min(chunk * N)..];
    let mut values = [0.0; N];
    match rest.first_chunk::<N>() {
        Some(whole) => {
            for (value, x) in values.iter_mut().zip(whole) {
                *value = x.load();
            }
        }
        None => {
            for (value, x) in values.iter_mut().zip(rest) {
                *value = x.load();
            }
        }
    }
    values
}

/// The least value of each row and the width of a step, zeros where a scheme does not ask for them.
#[inline(always)]
fn find_ranges<T: Element>(scheme: Scheme, x: &[T], depth: usize, ranges: &mut Vec<(f32, f32)>) {
    ranges.clear();
    if !matches!(scheme, Scheme::Int8(_)) {
        ranges.resize(x.len() / depth, (0.0, 0.0));
        return;
    }
    ranges.extend(x.chunks_exact(depth).map(|row| {
        let (mut least, mut most, mut nothing) =
            ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16], [0f32; 16]);
        let (whole, rest) = row.as_chunks::<16>();
        for chunk in whole {
            for l in 0..16 {
                let x = chunk[l].load();
                least[l] = if x < least[l] { x } else { least[l] };
                most[l] = if x > most[l] { x } else { most[l] };
                nothing[l] += x * 0.0;
            }
        }
        for x in rest {
            let x = x.load();
            (least[0], most[0], nothing[0]) =
                (least[0].min(x), most[0].max(x), nothing[0] + x * 0.0);
        }
        // A NaN where any value was not finite: the sums of the row are then not finite either.
        let nothing: f32 = nothing.iter().sum();
        let least = least.into_iter().fold(f32::INFINITY, f32::min);
        let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        (least + nothing, (most - least) / 255.0)
    }));
}

/// Encodes `group` chunks of every row of x, from the chunk `first` on; zeros after the end of a row and after the last row.
#[inline(always)]
fn encode_left<T: Element>(
    scheme: Scheme,
    x: &[T],
    depth: usize,
    ranges: &[(f32, f32)],
    first: usize,
    group: usize,
    encoded: &mut [Line],
) {
    let rows = Rows {
        x,
        depth,
        first,
        group,
    };
    let plane = encoded.len() / scheme.planes();
    match scheme {
        Scheme::F32(_) => rows.each(
            #[inline(always)]
            |_, at, values| encoded[at].0 = f32_bytes(values),
        ),
        Scheme::Bf16(_) => rows.each(
            #[inline(always)]
            |_, at, values| encoded[at].0 = bf16_bytes(values),
        ),
        Scheme::Split(_) => rows.each(
            #[inline(always)]
            |_, at, values| {
                for (part, bytes) in split_bytes(values).into_iter().enumerate() {
                    encoded[part * plane + at].0 = bytes;
                }
            },
        ),
        Scheme::Int8(_) => rows.each(
            #[inline(always)]
            |r, at, values: &[f32; 64]| {
                let (least, width) = ranges.get(r).copied().unwrap_or_default();
                let factor = if width > 0.0 { 1.0 / width } else { 0.0 };
                for (byte, x) in encoded[at].0.iter_mut().zip(values) {
                    // From 0 to 255 up to rounding; adding 2²³ leaves no room for a fraction.
                    let q = ((x - least) * factor).clamp(0.0, 255.0) + 8_388_608.0;
                    *byte = q.to_bits() as u8;
                }
            },
        ),
    }
}

/// Rows of x `[m, depth]` and the chunks of them that are encoded.
struct Rows<'a, T> {
    x: &'a [T],
    depth: usize,
    first: usize,
    group: usize,
}

impl<T: Element> Rows<'_, T> {
    /// Calls `put` with the row, the line where a chunk belongs and the chunk's N values.
    #[inline(always)]
    fn each<const N: usize>(&self, mut put: impl FnMut(usize, usize, &[f32; N])) {
        let m = self.x.len() / self.depth;
        for r in 0..m.next_multiple_of(EDGE) {
            let row = if r < m {
                &self.x[r * self.depth..][..self.depth]
            } else {
                &[]
            };
            let start = (r / EDGE * self.group) * LINES + r % EDGE;
            for c in 0..self.group {
                let values = chunk_of(row, self.first + c);
                put(r, start + c * LINES, &values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    /// Every scheme on every unit of this machine.
    fn schemes() -> Vec<Scheme> {
        let units = |format| Unit::available(format).into_iter();
        let mut all: Vec<Scheme> = units(Format::F32).map(Scheme::F32).collect();
        all.extend(units(Format::Bf16).flat_map(|u| [Scheme::Split(u), Scheme::Bf16(u)]));
        all.extend(units(Format::Int8).map(Scheme::Int8));
        all
    }

    fn uniform(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5)
            .collect()
    }

    /// All products, through `multiply` in blocks of `at_once` rows.
    fn product(packed: &Packed, x: &[f32], at_once: usize) -> Vec<f32> {
        let (n, depth) = (packed.rows(), packed.depth());
        let mut out = vec![f32::NAN; x.len() / depth * n];
        let mut scratch = Scratch::default();
        for (x, out) in x.chunks(at_once * depth).zip(out.chunks_mut(at_once * n)) {
            packed.multiply(x, &mut scratch, |row, column, sums| {
                let valid = EDGE.min(n - column);
                out[row * n + column..][..valid].copy_from_slice(&sums[..valid]);
            });
        }
        out
    }

    /// The largest error of each sum, relative to the sum of the magnitudes of its products.
    fn error(x: &[f32], matrix: &[f32], depth: usize, got: &[f32]) -> f64 {
        let n = matrix.len() / depth;
        let mut worst = 0f64;
        for (i, x) in x.chunks_exact(depth).enumerate() {
            for (j, y) in matrix.chunks_exact(depth).enumerate() {
                let products = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
                let size: f64 = products.clone().map(f64::abs).sum();
                let off = (f64::from(got[i * n + j]) - products.sum::<f64>()).abs();
                assert!(off.is_finite(), "{}", got[i * n + j]);
                worst = worst.max(off / size.max(1e-30));
            }
        }
        worst
    }

    #[test]
    fn every_scheme_is_as_exact_as_its_values_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for (m, n, depth) in [
            (1, 1, 1),
            (33, 31, 65),
            (70, 100, 192),
            (5, 64, 588),
            (40, 33, 3072),
        ] {
            let (x, matrix) = (uniform(&mut rng, m * depth), uniform(&mut rng, n * depth));
            for scheme in schemes() {
                let packed = Packed::new(scheme, &matrix, depth);
                let got = error(&x, &matrix, depth, &product(&packed, &x, 64));
                let bound = match scheme {
                    Scheme::F32(_) | Scheme::Split(_) => 1e-6,
                    Scheme::Bf16(_) => 6e-3,
                    Scheme::Int8(_) => 1e-2,
                };
                assert!(got < bound, "{scheme:?} at {m} x {n} x {depth}: {got:e}");
                if let Scheme::Int8(_) = scheme {
                    continue;
                }
                let expected = product(&packed, &x, 64);
                let mut refilled = Packed::new(scheme, &[1.0; 77], 7);
                refilled.refill(&matrix, depth);
                assert!(
                    product(&refilled, &x, 64) == expected,
                    "{scheme:?} refilled"
                );
                let transpose: Vec<f32> = (0..n * depth)
                    .map(|i| matrix[i % n * depth + i / n])
                    .collect();
                refilled.refill_transposed(&transpose, n);
                assert!(
                    product(&refilled, &x, 64) == expected,
                    "{scheme:?} from the transpose"
                );
            }
        }
    }

    #[test]
    fn split_products_are_no_worse_than_those_of_f32() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let (m, n, depth) = (64, 96, 3072);
        let mut x = uniform(&mut rng, m * depth);
        // Values of very different sizes, and of one sign: sums that round worst.
        for (i, x) in x.iter_mut().enumerate() {
            *x = x.abs() * 10f32.powi(i as i32 % 7 - 3);
        }
        let matrix: Vec<f32> = uniform(&mut rng, n * depth)
            .iter()
            .map(|x| x.abs())
            .collect();
        let of = |scheme| {
            let packed = Packed::new(scheme, &matrix, depth);
            error(&x, &matrix, depth, &product(&packed, &x, 64))
        };
        let plain = of(Scheme::F32(Unit::Portable));
        for unit in Unit::available(Format::Bf16) {
            let split = of(Scheme::Split(unit));
            assert!(split <= plain, "{unit:?}: {split:e}, in f32 {plain:e}");
        }
    }

    proptest! {
        #[test]
        fn three_parts_add_up_to_the_number(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            // Below, parts would be outside the normal range of bf16.
            prop_assume!(x.is_finite() && (x == 0.0 || x.abs() > 1e-30));
            let [a, b, c] = split(x).map(Element::load);
            prop_assert_eq!(f64::from(a) + f64::from(b) + f64::from(c), f64::from(x));
            prop_assert!(b.abs() <= x.abs() / 256.0 && c.abs() <= x.abs() / 65_536.0, "{x:e}: {a:e} {b:e} {c:e}");
        }

        #[test]
        fn a_sum_does_not_depend_on_the_rows_beside_it(
            m in 1usize..100, n in 1usize..70, depth in 1usize..900, at_once in 1usize..100, seed in any::<u64>()
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (x, matrix) = (uniform(&mut rng, m * depth), uniform(&mut rng, n * depth));
            for scheme in [Scheme::f32(), Scheme::bf16().unwrap_or(Scheme::f32()), Scheme::int8().unwrap_or(Scheme::f32())] {
                let packed = Packed::new(scheme, &matrix, depth);
                prop_assert!(product(&packed, &x, at_once) == product(&packed, &x, m), "{scheme:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_does_not_come_out_finite() {
        for scheme in schemes() {
            let packed = Packed::new(scheme, &[1.0; 2 * 40], 40);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![0.25; 2 * 40];
                x[40 + 7] = bad;
                let got = product(&packed, &x, 2);
                assert!(
                    got[..2].iter().all(|x| (x - 10.0).abs() < 0.1),
                    "{scheme:?}: {got:?}"
                );
                assert!(
                    got[2..].iter().all(|x| !x.is_finite()),
                    "{scheme:?} of {bad}: {got:?}"
                );
            }
        }
    }
}
