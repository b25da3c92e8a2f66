//! The horizontal pass in AVX2: one output pixel after the other, four taps at a time.
//!
//! Safe code: `pulp` hands out the instructions together with the proof that the processor has them.

use std::arch::x86_64::{__m128i, __m256i};
use std::ops::Range;

use pulp::cast;
use pulp::x86::V3;

use super::CHANNELS;
use super::passes::{HALF, Tile};
use super::weights::Weights;
use crate::ops::simd::resample::FRACTION_BITS;

/// Source pixels that are taken at once.
const GROUP: usize = 4;

/// Bytes that are read for them: a whole register, of which the last four do not count.
const READ: usize = 16;

/// Products are of 16 bits, so a weight goes as `high * 2^LOW_BITS + low`, both of which fit.
const LOW_BITS: i32 = 11;

/// Two 16-bit halves of the weights of a group: high, low. Each is laid out as `SPREAD` lays out the pixels.
type Pair = [[i16; 16]; 2];

/// Bytes of four RGB pixels to `r0 r1 g0 g1 b0 b1 - -` and `r2 r3 g2 g3 b2 b3 - -` of 16 bits.
const SPREAD: [i8; 32] = [
    0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
    6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
];

/// [`super::passes::resize_width`] for processors with AVX2; false for the others.
pub(super) fn resize_width(
    tile: Tile,
    rows: Range<usize>,
    weights: &Weights,
    resized: &mut [u8],
) -> bool {
    let Some(v3) = V3::try_new() else {
        return false;
    };
    let needed = weights.needed();
    let groups = weights.stride.div_ceil(GROUP);
    let pairs = pairs(weights, groups);
    let starts: Vec<usize> = weights
        .taps
        .iter()
        .map(|&(first, _)| (first - needed.start) * CHANNELS)
        .collect();

    let stride = weights.len() * CHANNELS;
    // One row with room behind it, for what the last groups read under zero weights.
    let mut padded = vec![0; needed.len() * CHANNELS + groups * GROUP * CHANNELS + READ];
    for (y, out) in rows.zip(resized.chunks_exact_mut(stride)) {
        let pixels = &tile.row(y, needed.start)[..needed.len() * CHANNELS];
        padded[..pixels.len()].copy_from_slice(pixels);
        let row = Row {
            v3,
            padded: &padded,
            starts: &starts,
            pairs: &pairs,
            groups,
            out,
        };
        v3.vectorize(row);
    }
    true
}

/// The weights of each output position in whole groups.
fn pairs(weights: &Weights, groups: usize) -> Vec<Pair> {
    let mut pairs = vec![[[0; 16]; 2]; groups * weights.len()];
    for (pairs, weights) in pairs.chunks_exact_mut(groups).zip(weights.rows()) {
        for (pair, weights) in pairs.iter_mut().zip(weights.chunks(GROUP)) {
            for (tap, &weight) in weights.iter().enumerate() {
                let first = tap / 2 * 8 + tap % 2;
                for lane in [first, first + 2, first + 4] {
                    pair[0][lane] = (weight >> LOW_BITS) as i16;
                    pair[1][lane] = (weight & ((1 << LOW_BITS) - 1)) as i16;
                }
            }
        }
    }
    pairs
}

/// One row's work.
struct Row<'a> {
    v3: V3,
    padded: &'a [u8],
    starts: &'a [usize],
    pairs: &'a [Pair],
    groups: usize,
    out: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let V3 {
            sse2, avx, avx2, ..
        } = self.v3;
        let spread: __m256i = cast(SPREAD);
        // In one half alone, since the halves are added in the end.
        let half: __m256i = cast([HALF, HALF, HALF, HALF, 0, 0, 0, 0]);
        let (out, _) = self.out.as_chunks_mut::<CHANNELS>();
        let pairs = self.pairs.chunks_exact(self.groups);
        for ((out, &start), pairs) in out.iter_mut().zip(self.starts).zip(pairs) {
            let mut high = avx._mm256_setzero_si256();
            let mut low = half;
            let mut rest = &self.padded[start..];
            for pair in pairs {
                let Some(bytes) = rest.first_chunk::<READ>() else {
                    break;
                };
                let bytes: __m128i = cast(*bytes);
                let pixels =
                    avx2._mm256_shuffle_epi8(avx2._mm256_broadcastsi128_si256(bytes), spread);
                high = avx2._mm256_add_epi32(high, avx2._mm256_madd_epi16(pixels, cast(pair[0])));
                low = avx2._mm256_add_epi32(low, avx2._mm256_madd_epi16(pixels, cast(pair[1])));
                rest = &rest[GROUP * CHANNELS..];
            }
            let sums = avx2._mm256_add_epi32(avx2._mm256_slli_epi32::<LOW_BITS>(high), low);
            let sum = sse2._mm_add_epi32(
                avx._mm256_castsi256_si128(sums),
                avx2._mm256_extracti128_si256::<1>(sums),
            );
            let values = sse2._mm_srai_epi32::<{ FRACTION_BITS as i32 }>(sum);
            let values = sse2._mm_packs_epi32(values, values);
            let values: [u8; 16] = cast(sse2._mm_packus_epi16(values, values));
            *out = [values[0], values[1], values[2]];
        }
    }
}
