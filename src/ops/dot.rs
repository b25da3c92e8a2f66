//! The canonical dot product and squared distance: what every stored cosine and distance is computed with.
//!
//! Both accumulate in f64 in sixteen lanes: element `i` goes to lane `i % 16`, lanes are filled in ascending `i`, and the
//! lanes are added pairwise (0 + 8, 1 + 9, ..., then 0 + 4, ... down to one). The product of two f32 values is exact in f64, so
//! a fused multiply-add gives the same bits; only the order counts, and it depends on the length alone. Tiles, threads,
//! instruction sets and devices therefore agree on every bit, and swapping the operands changes nothing.

use super::simd::lanes;

/// The dot product of two rows of the same length; their cosine, as rows are unit rows already.
///
/// Rows that were rounded to f32 are unit rows only to about 6e-8, so the cosine of a row with itself can come out as
/// 0.99999994 or 1.0000001. It is not clamped.
///
/// # Panics
/// When the lengths differ.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    lanes::dot(a, b)
}

/// `|a - b|^2`, by the differences (so that equal rows are at exactly 0).
///
/// # Panics
/// When the lengths differ.
pub fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    lanes::squared_distance(a, b)
}

/// [`cosine`] of `a` with each of `others`, in their order.
pub(crate) fn cosines<'r>(
    a: &[f32],
    others: impl Iterator<Item = &'r [f32]>,
    visit: impl FnMut(f64),
) {
    by_four(others, |b| lanes::dots(a, b), |b| lanes::dot(a, b), visit);
}

/// [`squared_distance`] of `a` to each of `others`, in their order.
pub(crate) fn squared_distances<'r>(
    a: &[f32],
    others: impl Iterator<Item = &'r [f32]>,
    visit: impl FnMut(f64),
) {
    by_four(
        others,
        |b| lanes::squared_distances(a, b),
        |b| lanes::squared_distance(a, b),
        visit,
    );
}

fn by_four<'r>(
    mut others: impl Iterator<Item = &'r [f32]>,
    four: impl Fn([&[f32]; 4]) -> [f64; 4],
    one: impl Fn(&[f32]) -> f64,
    mut visit: impl FnMut(f64),
) {
    loop {
        let next = [others.next(), others.next(), others.next(), others.next()];
        if let [Some(b0), Some(b1), Some(b2), Some(b3)] = next {
            four([b0, b1, b2, b3]).into_iter().for_each(&mut visit);
        } else {
            return next.into_iter().flatten().map(one).for_each(visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_integers_come_out_exactly_at_every_length() {
        for d in 0..70 {
            let a: Vec<f32> = (0..d).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..d).map(|i| (i % 5) as f32 - 2.0).collect();
            let dot: i64 = (0..d).map(|i| i * (i % 5 - 2)).sum();
            let distance: i64 = (0..d).map(|i| (i - (i % 5 - 2)).pow(2)).sum();
            assert_eq!(cosine(&a, &b), dot as f64);
            assert_eq!(squared_distance(&a, &b), distance as f64);
        }
    }

    #[test]
    fn the_order_of_summation_is_the_documented_one() {
        let a: Vec<f32> = (0..75).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        let b: Vec<f32> = (0..75).map(|i| (i as f32).sin()).collect();
        let mut lanes = [0.0f64; 16];
        for i in 0..75 {
            lanes[i % 16] += f64::from(a[i]) * f64::from(b[i]);
        }
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        assert_eq!(cosine(&a, &b).to_bits(), lanes[0].to_bits());
        assert_eq!(cosine(&b, &a).to_bits(), lanes[0].to_bits());
    }
}
