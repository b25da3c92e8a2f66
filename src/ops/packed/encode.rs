//! Values to bytes: rows of x as strips, rows or columns of a matrix as panels. All is inlined into loops of the widest vectors.

use super::scheme::{DIGITS, Scheme};
use crate::ops::element::Element;
use crate::ops::simd::blocks::{CHUNK, EDGE, LINES, Line};

/// The step of [`Scheme::Fixed`] for values of up to that magnitude: the power of two by which none of them is more than the
/// greatest number of three signed digits, `127 · (1 + 256 + 256²)`. That of a value that is not finite is NaN, so that its row is.
#[inline(always)]
pub(super) fn fixed_step(greatest: f32) -> f32 {
    // A little more than the greatest, so that what is up to the next power of two fits. Rows of all but nothing have the
    // least step whose inverse is a number.
    let step = (greatest * (1.004 / 4_194_304.0)).max(LEAST_STEP);
    f32::from_bits(step.to_bits() & 0x7f80_0000) + greatest * 0.0
}

/// 2⁻¹²⁰
const LEAST_STEP: f32 = 7.523_164e-37;

/// `x / step` as three signed digits of 8 bits, in the three lower bytes from the lowest on; the fourth is 0. `inverse` is `1 / step`.
#[inline(always)]
pub(super) fn digits(x: f32, inverse: f32) -> u32 {
    let bits = (x * inverse).to_bits();
    // At 2²³ and above, an f32 has no bits for fractions: the sum is rounded to an integer, which its lower 23 bits are.
    let magnitude = (f32::from_bits(bits & 0x7fff_ffff) + 8_388_608.0).to_bits() & 0x007f_ffff;
    let sign = (bits as i32 >> 31) as u32;
    let integer = (magnitude ^ sign).wrapping_sub(sign);
    // 128 more in every digit makes digits without a sign, and a carry where there would have been a borrow.
    integer.wrapping_add(0x0080_8080) ^ 0x0080_8080
}

/// The greatest magnitude of a row; NaN or an infinity where a value is.
#[inline(always)]
fn greatest<T: Element>(row: &[T]) -> f32 {
    let (mut most, mut nothing) = ([0f32; 16], [0f32; 16]);
    let (whole, rest) = row.as_chunks::<16>();
    for chunk in whole {
        for l in 0..16 {
            let x = chunk[l].load().abs();
            most[l] = if x > most[l] { x } else { most[l] };
            nothing[l] += x * 0.0;
        }
    }
    for x in rest {
        let x = x.load().abs();
        (most[0], nothing[0]) = (most[0].max(x), nothing[0] + x * 0.0);
    }
    // A NaN where any value was not finite.
    most.into_iter().fold(0.0, f32::max) + nothing.iter().sum::<f32>()
}

/// The steps of up to 32 rows of the matrix `[.., depth]`, and of [`Scheme::Int8`] the sums of their integers.
pub(super) fn steps_of(scheme: Scheme, values: &[f32], depth: usize) -> ([f32; EDGE], [f32; EDGE]) {
    let (mut steps, mut totals) = ([0.0; EDGE], [0.0; EDGE]);
    for (r, row) in values.chunks_exact(depth).take(EDGE).enumerate() {
        if let Scheme::Fixed(_) = scheme {
            steps[r] = fixed_step(greatest(row));
        } else {
            let greatest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
            steps[r] = greatest / 127.0;
            totals[r] = row.iter().map(|x| integer(*x, steps[r])).sum();
        }
    }
    (steps, totals)
}

/// The whole multiple of `width` nearest to x.
#[inline(always)]
pub(super) fn integer(x: f32, width: f32) -> f32 {
    if width > 0.0 {
        (x / width).round()
    } else {
        0.0
    }
}

/// A chunk of a row of floats as bytes: the values themselves, or rounded.
#[inline(always)]
fn f32_bytes<T: Element>(values: &[T; 16]) -> [u8; CHUNK] {
    let mut bits = [0u32; 16];
    for (bits, x) in bits.iter_mut().zip(values) {
        *bits = x.load().to_bits().to_le();
    }
    bytemuck::cast(bits)
}

#[inline(always)]
fn bf16_bytes<T: Element>(values: &[T; 32]) -> [u8; CHUNK] {
    let mut bits = [0u16; 32];
    for (bits, x) in bits.iter_mut().zip(values) {
        *bits = half::bf16::store(x.load()).to_bits().to_le();
    }
    bytemuck::cast(bits)
}

/// A chunk of each digit, the highest first.
#[inline(always)]
fn fixed_bytes<T: Element>(values: &[T; CHUNK], inverse: f32) -> [[u8; CHUNK]; DIGITS] {
    let mut all = [0u32; CHUNK];
    for i in 0..CHUNK {
        all[i] = digits(values[i].load(), inverse);
    }
    let mut bytes = [[0; CHUNK]; DIGITS];
    for i in 0..CHUNK {
        bytes[0][i] = (all[i] >> 16) as u8;
    }
    for i in 0..CHUNK {
        bytes[1][i] = (all[i] >> 8) as u8;
    }
    for i in 0..CHUNK {
        bytes[2][i] = all[i] as u8;
    }
    bytes
}

/// Chunk `chunk` of the first 16 rows of `values` `[.., depth]`, or as many as there are, into the lines of a panel; `steps` are
/// those of the rows.
#[inline(always)]
pub(super) fn pack_rows(
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
            Scheme::F32(_) => place(lines, r, f32_bytes::<f32>(&chunk_of(row, chunk))),
            Scheme::Bf16(_) => place(lines, r, bf16_bytes::<f32>(&chunk_of(row, chunk))),
            Scheme::Fixed(_) => {
                let bytes = fixed_bytes::<f32>(&chunk_of(row, chunk), 1.0 / steps[r]);
                place(lines, r, bytes[plane]);
            }
            Scheme::Int8(_) => {
                let mut bytes = [0; CHUNK];
                for (byte, x) in bytes.iter_mut().zip(chunk_of::<CHUNK>(row, chunk)) {
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
pub(super) fn pack_columns(
    scheme: Scheme,
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
            Scheme::Bf16(_) => {
                let even = columns_of(values, n, first, 2 * group);
                let odd = columns_of(values, n, first, 2 * group + 1);
                let mut pairs = [0.0; 32];
                for i in 0..16 {
                    (pairs[2 * i], pairs[2 * i + 1]) = (even[i], odd[i]);
                }
                bf16_bytes(&pairs)
            }
            Scheme::Fixed(_) | Scheme::Int8(_) => unreachable!("small matrices are of floats"),
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
fn chunk_of<const N: usize>(row: &[f32], chunk: usize) -> [f32; N] {
    let rest = &row[row.len().min(chunk * N)..];
    match rest.first_chunk() {
        Some(whole) => *whole,
        None => {
            let mut values = [0.0; N];
            values[..rest.len()].copy_from_slice(rest);
            values
        }
    }
}

/// The least value of each row (0 where digits have signs) and the width of a step, zeros where a scheme does not ask for them.
#[inline(always)]
pub(super) fn find_ranges<T: Element>(
    scheme: Scheme,
    x: &[T],
    depth: usize,
    ranges: &mut Vec<(f32, f32)>,
) {
    ranges.clear();
    let rows = x.chunks_exact(depth);
    match scheme {
        Scheme::F32(_) | Scheme::Bf16(_) => return ranges.resize(x.len() / depth, (0.0, 0.0)),
        Scheme::Fixed(_) => return ranges.extend(rows.map(|row| (0.0, fixed_step(greatest(row))))),
        Scheme::Int8(_) => {}
    }
    ranges.extend(rows.map(|row| {
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
pub(super) fn encode_left<T: Element>(
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
    let m = x.len() / depth;
    for r in m..m.next_multiple_of(EDGE) {
        let lines = encoded.chunks_exact_mut(plane);
        for line in
            lines.flat_map(|lines| lines[rows.line(r)..].iter_mut().step_by(LINES).take(group))
        {
            *line = Line::ZERO;
        }
    }
    match scheme {
        Scheme::F32(_) => rows.each(
            #[inline(always)]
            |_, at, values| encoded[at].0 = f32_bytes(values),
        ),
        Scheme::Bf16(_) => rows.each(
            #[inline(always)]
            |_, at, values| encoded[at].0 = bf16_bytes(values),
        ),
        Scheme::Fixed(_) => rows.each(
            #[inline(always)]
            |r, at, values| {
                let inverse = ranges.get(r).map_or(0.0, |(_, step)| 1.0 / step);
                for (digit, bytes) in fixed_bytes(values, inverse).into_iter().enumerate() {
                    encoded[digit * plane + at].0 = bytes;
                }
            },
        ),
        Scheme::Int8(_) => rows.each(
            #[inline(always)]
            |r, at, values: &[T; CHUNK]| {
                let (least, width) = ranges.get(r).copied().unwrap_or_default();
                let factor = if width > 0.0 { 1.0 / width } else { 0.0 };
                for (byte, x) in encoded[at].0.iter_mut().zip(values) {
                    // From 0 to 255 up to rounding; adding 2²³ leaves no room for a fraction.
                    let q = ((x.load() - least) * factor).clamp(0.0, 255.0) + 8_388_608.0;
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
    /// The line where the first of a row's chunks belongs.
    #[inline(always)]
    fn line(&self, r: usize) -> usize {
        r / EDGE * self.group * LINES + r % EDGE
    }

    /// Calls `put` with the row, the line where a chunk belongs and the chunk's N values, zeros where the row ends.
    #[inline(always)]
    fn each<const N: usize>(&self, mut put: impl FnMut(usize, usize, &[T; N])) {
        for (r, row) in self.x.chunks_exact(self.depth).enumerate() {
            let (whole, rest) = row.as_chunks::<N>();
            for c in 0..self.group {
                let at = self.line(r) + c * LINES;
                match whole.get(self.first + c) {
                    Some(values) => put(r, at, values),
                    None => {
                        let mut values = [T::store(0.0); N];
                        values[..rest.len()].copy_from_slice(rest);
                        put(r, at, &values);
                    }
                }
            }
        }
    }
}
