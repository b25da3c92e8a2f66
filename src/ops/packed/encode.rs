//! Values to bytes: rows of x as strips, rows or columns of a matrix as panels. All is inlined into loops of the widest vectors.

use super::scheme::{PARTS, Scheme};
use crate::ops::element::Element;
use crate::ops::simd::blocks::{CHUNK, EDGE, LINES, Line};

/// The three bf16 whose sum a finite f32 is: the nearest, the nearest to what is left, and the rest.
#[inline(always)]
pub(super) fn split(x: f32) -> [half::bf16; PARTS] {
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
pub(super) fn integer(x: f32, width: f32) -> f32 {
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
pub(super) fn pack_columns(
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
pub(super) fn find_ranges<T: Element>(
    scheme: Scheme,
    x: &[T],
    depth: usize,
    ranges: &mut Vec<(f32, f32)>,
) {
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
