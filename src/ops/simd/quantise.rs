//! A row to integers of 8 bits, with what was lost: compiled for the vector widths that a processor may have.

/// Values that are taken at once.
const LANES: usize = 32;

/// What [`quantise`] made of a row `x` and its `centre` m.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Quantised {
    /// `x - m` is about `scale * q`.
    pub scale: f32,
    /// At least the length of `x - m - scale * q`.
    pub error: f32,
    /// At least the length of `scale * q`.
    pub length: f32,
    /// The sum of q.
    pub sum: i32,
    /// `m.x`, in f32.
    pub shift: f32,
}

/// Rounds `x - centre` `[d]` to whole multiples `q`, from -127 to 127, of a 127th of its largest magnitude. `out` takes them as
/// bytes, zeros after the d-th; `scratch` is `out.len()` values, a multiple of 32.
///
/// With `u = 2^-24`: the subtraction, `scale * q` and the difference of the two are each off by at most u of themselves, so the
/// true error is longer than the computed one by at most `u (|x - m| + |scale q| + |e|)`, elementwise and hence in length;
/// the sum of squares is off by at most `d + 8` times u of itself. Squares below the normal range are lost, at most 2^-126
/// each, and so are tiny values of `scale q`.
pub(crate) fn quantise(
    x: &[f32],
    centre: &[f32],
    scratch: &mut [f32],
    out: &mut [u8],
) -> Quantised {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: the processor has AVX-512F and BW, which is all that the function asks for.
            return unsafe { avx512(x, centre, scratch, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { avx2(x, centre, scratch, out) };
        }
    }
    row(x, centre, scratch, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn avx512(x: &[f32], centre: &[f32], scratch: &mut [f32], out: &mut [u8]) -> Quantised {
    row(x, centre, scratch, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(x: &[f32], centre: &[f32], scratch: &mut [f32], out: &mut [u8]) -> Quantised {
    row(x, centre, scratch, out)
}

#[inline(always)]
fn row(x: &[f32], centre: &[f32], scratch: &mut [f32], out: &mut [u8]) -> Quantised {
    /// Adding 1.5 * 2^23 leaves no room for a fraction: the sum is rounded to nearest, and its low byte is the integer.
    const ROUND: f32 = 12_582_912.0;
    const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
    let d = x.len();
    assert!(centre.len() == d && scratch.len() == out.len() && d <= out.len());
    assert!(out.len().is_multiple_of(LANES));
    let (mut peak, mut shift) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (values, values_rest) = x.as_chunks::<LANES>();
    let (means, means_rest) = centre.as_chunks::<LANES>();
    let (parts, parts_rest) = scratch.split_at_mut(values.len() * LANES);
    for ((x, m), t) in values
        .iter()
        .zip(means)
        .zip(parts.as_chunks_mut::<LANES>().0)
    {
        for l in 0..LANES {
            let away = x[l] - m[l];
            t[l] = away;
            shift[l] += x[l] * m[l];
            let size = away.abs();
            peak[l] = if size > peak[l] { size } else { peak[l] };
        }
    }
    parts_rest.fill(0.0);
    for (l, (x, m)) in values_rest.iter().zip(means_rest).enumerate() {
        parts_rest[l] = x - m;
        shift[l] += x * m;
        peak[l] = peak[l].max((x - m).abs());
    }
    let peak = peak.into_iter().fold(0.0, f32::max);
    // So small that 127 / peak is not finite: all is error.
    let (scale, factor) = if peak > 1e-35 {
        (peak / 127.0, 127.0 / peak)
    } else {
        (0.0, 0.0)
    };
    let (mut lost, mut squares, mut sums) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    for (t, out) in scratch
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<LANES>().0)
    {
        for l in 0..LANES {
            let rounded = t[l] * factor + ROUND;
            out[l] = rounded.to_bits() as u8;
            let q = rounded - ROUND;
            let e = t[l] - q * scale;
            lost[l] += e * e;
            squares[l] += q * q;
            sums[l] += q;
        }
    }
    let total = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum::<f64>();
    let slop = 1.0 + (d + 8) as f64 * UNIT;
    let length = f64::from(scale) * total(squares).sqrt() * slop;
    let lost = total(lost).sqrt() * slop;
    let tiny = (d as f64).sqrt() * 2.0 * f64::from(f32::MIN_POSITIVE).sqrt();
    let error = lost + 4.0 * UNIT * (length + lost) + tiny;
    Quantised {
        scale,
        error: (error as f32).next_up(),
        length: (length as f32).next_up(),
        sum: total(sums) as i32,
        shift: total(shift) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_lost_is_never_more_than_stated(
            d in 1usize..70,
            scale in prop::sample::select(vec![1.0f32, 1e-42, 1e-30, 1e-20, 1e15]),
            outlier in prop::sample::select(vec![0.0f32, 1.0, 1e6]),
            centred in any::<bool>(),
            values in prop::collection::vec(-1.0f32..1.0, 140),
        ) {
            let mut x: Vec<f32> = values[..d].iter().map(|v| v * scale).collect();
            x[0] += outlier * scale;
            let centre: Vec<f32> = values[70..70 + d].iter().map(|v| if centred { v * scale } else { 0.0 }).collect();
            let depth = d.next_multiple_of(64);
            let (mut scratch, mut out) = (vec![f32::NAN; depth], vec![1u8; depth]);
            let got = quantise(&x, &centre, &mut scratch, &mut out);
            prop_assert!(out[d..].iter().all(|&q| q == 0));
            let exact = |l: usize| f64::from(x[l]) - f64::from(centre[l]);
            let near = |l: usize| f64::from(got.scale) * f64::from(out[l] as i8);
            let error = (0..d).map(|l| (exact(l) - near(l)).powi(2)).sum::<f64>().sqrt();
            let length = (0..d).map(|l| near(l).powi(2)).sum::<f64>().sqrt();
            prop_assert!(error <= f64::from(got.error), "error {error:e}, stated {:e}", got.error);
            prop_assert!(length <= f64::from(got.length), "length {length:e}, stated {:e}", got.length);
            prop_assert_eq!(got.sum, out.iter().map(|&q| i32::from(q as i8)).sum::<i32>());
            // And not much less is stated: half a step for each value, where squares are in the normal range.
            let peak = (0..d).map(|l| exact(l).abs()).fold(0.0, f64::max);
            if scale == 1.0 {
                prop_assert!(f64::from(got.error) <= (peak / 253.0) * (d as f64).sqrt() + 1e-5 * peak);
            }
            let portable = row(&x, &centre, &mut scratch, &mut vec![0; depth]);
            prop_assert_eq!(portable, got);
        }
    }
}
