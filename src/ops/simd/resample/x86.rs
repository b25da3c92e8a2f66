//! The passes themselves. See [`super`] for how the numbers lie.

use std::arch::x86_64::*;

use pulp::cast;

use super::{CHANNELS, FRACTION_BITS, REGISTER, Rows, Taps};

/// Where a sum begins, so that cutting its fractional bits rounds.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

/// Outputs of a register: five of three channels.
const GATHERED: usize = 5;

/// Taps that a step of [`Single`] takes.
const SPREAD: usize = 16;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Register([u8; REGISTER]);

/// A weight as `low + 256 * (middle + 256 * high)`, all three from -128 to 127; none where it is too large for that.
fn digits(weight: i32) -> Option<[u8; 3]> {
    let low = weight as i8;
    let rest = (weight - i32::from(low)) >> 8;
    let middle = rest as i8;
    let high = i8::try_from((rest - i32::from(middle)) >> 8).ok()?;
    Some([low as u8, middle as u8, high as u8])
}

/// Where a read that wants the bytes from `wanted` on begins, so that it ends inside the row.
fn begin(wanted: usize, length: usize) -> usize {
    wanted.min(length - REGISTER)
}

/// A register's worth of bytes.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> __m512i {
    let bytes: [u8; REGISTER] = *bytes[at..].first_chunk().expect("reads end inside a row");
    cast(bytes)
}

/// A plan in which each register holds all channels of [`GATHERED`] neighbouring outputs, four taps a step.
pub(super) struct Gathered {
    steps: Vec<Step>,
    /// Steps for each [`GATHERED`] outputs.
    depth: usize,
    outputs: usize,
}

struct Step {
    /// Which byte of what is read goes where.
    pick: Register,
    /// The digits of the weights, low first.
    digits: [Register; 3],
    /// First byte that is read.
    begin: usize,
}

impl Gathered {
    /// None where the taps of neighbouring outputs lie too far apart.
    pub(super) fn new(length: usize, taps: Taps) -> Option<Gathered> {
        let depth = taps.stride.div_ceil(4);
        let mut steps = Vec::with_capacity(taps.reach.len().div_ceil(GATHERED) * depth);
        let blocks = taps.reach.chunks(GATHERED);
        for (block, values) in blocks.zip(taps.values.chunks(GATHERED * taps.stride)) {
            for first in (0..depth * 4).step_by(4) {
                let begin = begin((block[0].0 + first) * CHANNELS, length);
                let mut step = Step {
                    pick: Register([0; REGISTER]),
                    digits: [Register([0; REGISTER]); 3],
                    begin,
                };
                let outputs = block.iter().zip(values.chunks_exact(taps.stride));
                for (output, (&(start, count), values)) in outputs.enumerate() {
                    let taps = values.iter().enumerate().take(count);
                    for (tap, &weight) in taps.skip(first).take(4) {
                        let parts = digits(weight)?;
                        for channel in 0..CHANNELS {
                            let byte = (start + tap) * CHANNELS + channel - begin;
                            let lane = 4 * (output * CHANNELS + channel) + tap - first;
                            if byte >= REGISTER {
                                return None;
                            }
                            step.pick.0[lane] = byte as u8;
                            for (digits, part) in step.digits.iter_mut().zip(parts) {
                                digits.0[lane] = part;
                            }
                        }
                    }
                }
                steps.push(step);
            }
        }
        Some(Gathered {
            steps,
            depth,
            outputs: taps.reach.len(),
        })
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub(super) fn across_gathered(rows: Rows, plan: &Gathered, out: &mut [u8]) {
    const BYTES: usize = GATHERED * CHANNELS;
    for (y, out) in out.chunks_exact_mut(plan.outputs * CHANNELS).enumerate() {
        let row = rows.row(y);
        // Apart, so that the copies of whole blocks have a length that the compiler knows.
        let (blocks, rest) = out.as_chunks_mut::<BYTES>();
        let (whole, last) = plan.steps.split_at(blocks.len() * plan.depth);
        for (out, steps) in blocks.iter_mut().zip(whole.chunks_exact(plan.depth)) {
            out.copy_from_slice(&gathered(row, steps)[..BYTES]);
        }
        if !last.is_empty() {
            rest.copy_from_slice(&gathered(row, last)[..rest.len()]);
        }
    }
}

/// The bytes of [`GATHERED`] outputs, and one more that does not count.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn gathered(row: &[u8], steps: &[Step]) -> [u8; 16] {
    let mut sums = [
        _mm512_set1_epi32(HALF),
        _mm512_setzero_si512(),
        _mm512_setzero_si512(),
    ];
    for step in steps {
        let pixels = load(row, step.begin);
        let pixels = _mm512_permutexvar_epi8(cast(step.pick.0), pixels);
        for (sum, digits) in sums.iter_mut().zip(&step.digits) {
            *sum = _mm512_dpbusd_epi32(*sum, pixels, cast(digits.0));
        }
    }
    let values = _mm512_max_epi32(joined(sums), _mm512_setzero_si512());
    cast(_mm512_cvtusepi32_epi8(values))
}

/// The values of sums in three parts.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined([low, middle, high]: [__m512i; 3]) -> __m512i {
    let upper = _mm512_add_epi32(
        _mm512_slli_epi32::<16>(high),
        _mm512_slli_epi32::<8>(middle),
    );
    _mm512_srai_epi32::<FRACTION_BITS>(_mm512_add_epi32(upper, low))
}

/// A plan in which each register holds [`SPREAD`] taps of one output, a quarter of it for each channel: for large reductions.
pub(super) struct Single<'a> {
    reach: &'a [(usize, usize)],
    /// `depth` groups of taps for each output: three digits of each of 16 weights.
    digits: Vec<[[u8; SPREAD]; 3]>,
    depth: usize,
}

impl<'a> Single<'a> {
    /// None where a weight is too large.
    pub(super) fn new(taps: Taps<'a>) -> Option<Single<'a>> {
        let depth = taps.stride.div_ceil(SPREAD);
        let mut all = Vec::with_capacity(taps.reach.len() * depth);
        for values in taps.values.chunks_exact(taps.stride) {
            for values in values.chunks(SPREAD) {
                let mut group = [[0; SPREAD]; 3];
                for (tap, &weight) in values.iter().enumerate() {
                    for (digits, part) in group.iter_mut().zip(digits(weight)?) {
                        digits[tap] = part;
                    }
                }
                all.push(group);
            }
        }
        Some(Single {
            reach: taps.reach,
            digits: all,
            depth,
        })
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub(super) fn across_single(rows: Rows, plan: &Single, out: &mut [u8]) {
    // Four groups of four taps of one channel in each quarter; what the last quarter holds does not count.
    let pick: [u8; REGISTER] = std::array::from_fn(|i| (i % SPREAD * CHANNELS + i / SPREAD) as u8);
    let pick: __m512i = cast(pick);
    let channels = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    for (y, out) in out
        .chunks_exact_mut(plan.reach.len() * CHANNELS)
        .enumerate()
    {
        let row = rows.row(y);
        let (outputs, _) = out.as_chunks_mut::<CHANNELS>();
        let groups = plan.digits.chunks_exact(plan.depth);
        for ((out, &(first, count)), groups) in outputs.iter_mut().zip(plan.reach).zip(groups) {
            let mut sums = [_mm512_setzero_si512(); 3];
            for (i, digits) in groups[..count.div_ceil(SPREAD)].iter().enumerate() {
                let wanted = (first + i * SPREAD) * CHANNELS;
                let begin = begin(wanted, row.len());
                // Beyond the row only weights of zero are met, so it does not matter which bytes they meet.
                let pick = _mm512_add_epi8(pick, _mm512_set1_epi8((wanted - begin) as i8));
                let pixels = _mm512_permutexvar_epi8(pick, load(row, begin));
                for (sum, digits) in sums.iter_mut().zip(digits) {
                    let digits = _mm512_broadcast_i32x4(cast(*digits));
                    *sum = _mm512_dpbusd_epi32(*sum, pixels, digits);
                }
            }
            let [low, middle, high] = sums;
            let sum = _mm512_add_epi32(
                _mm512_add_epi32(
                    _mm512_slli_epi32::<16>(high),
                    _mm512_slli_epi32::<8>(middle),
                ),
                low,
            );
            let sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32::<0b01_00_11_10>(sum));
            let sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32::<0b10_11_00_01>(sum));
            let sum = _mm512_castsi512_si128(_mm512_permutexvar_epi32(channels, sum));
            let sum = _mm_add_epi32(sum, _mm_set1_epi32(HALF));
            let values = _mm_srai_epi32::<{ FRACTION_BITS as i32 }>(sum);
            let values = _mm_packs_epi32(values, values);
            let values: [u8; 16] = cast(_mm_packus_epi16(values, values));
            *out = [values[0], values[1], values[2]];
        }
    }
}

/// For each output the digits of its weights, four taps a word.
pub(super) fn four_by_four(taps: Taps) -> Option<Vec<[i32; 3]>> {
    let depth = taps.stride.div_ceil(4);
    let mut words = Vec::with_capacity(taps.reach.len() * depth);
    for values in taps.values.chunks_exact(taps.stride) {
        for values in values.chunks(4) {
            let mut word = [[0; 4]; 3];
            for (tap, &weight) in values.iter().enumerate() {
                for (word, part) in word.iter_mut().zip(digits(weight)?) {
                    word[tap] = part;
                }
            }
            words.push(word.map(i32::from_le_bytes));
        }
    }
    Some(words)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn down(rows: Rows, taps: Taps, digits: &[[i32; 3]], out: &mut [u8]) {
    let depth = taps.stride.div_ceil(4);
    let outputs = out.chunks_exact_mut(rows.length).zip(taps.reach);
    for ((out, &(first, count)), words) in outputs.zip(digits.chunks_exact(depth)) {
        let words = &words[..count.div_ceil(4)];
        for at in (0..rows.length).step_by(REGISTER) {
            let at = begin(at, rows.length);
            let mut sums = [[_mm512_setzero_si512(); 3]; 4];
            for (i, word) in words.iter().enumerate() {
                // Past the taps the last row again, under weights of zero.
                let row = |tap: usize| load(rows.row(first + (4 * i + tap).min(count - 1)), at);
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
                let (above, below) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
                let columns = [
                    _mm512_unpacklo_epi16(ab, cd),
                    _mm512_unpackhi_epi16(ab, cd),
                    _mm512_unpacklo_epi16(above, below),
                    _mm512_unpackhi_epi16(above, below),
                ];
                for (sums, columns) in sums.iter_mut().zip(columns) {
                    for (sum, &digits) in sums.iter_mut().zip(word) {
                        *sum = _mm512_dpbusd_epi32(*sum, columns, _mm512_set1_epi32(digits));
                    }
                }
            }
            let [a, b, c, d] = sums.map(|mut sums| {
                sums[0] = _mm512_add_epi32(sums[0], _mm512_set1_epi32(HALF));
                joined(sums)
            });
            // Packing keeps to quarters of a register just as unpacking does, so the columns are in order again.
            let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let bytes: [u8; REGISTER] = cast(bytes);
            out[at..at + REGISTER].copy_from_slice(&bytes);
        }
    }
}
