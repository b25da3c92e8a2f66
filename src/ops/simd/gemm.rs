//! The f32 matrix product of the `gemm` crate behind checked slices. It picks the widest kernel that the processor has, so
//! its last bits differ between machines and block shapes: whatever it finds is only a candidate, see [`error_bound`].

/// Unit roundoff of f32.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// `out[i * n + j] = sum over l of a[i * d + l] * b[j * d + l]`: every row of `a` `[m, d]` against every row of `b` `[n, d]`,
/// on the calling thread. `out` is `[m, n]` and is overwritten.
pub(crate) fn rows_by_rows(a: &[f32], b: &[f32], d: usize, out: &mut [f32]) {
    assert!(
        d > 0 && a.len().is_multiple_of(d) && b.len().is_multiple_of(d),
        "rows of {d} values, got {} and {} values",
        a.len(),
        b.len()
    );
    let (m, n) = (a.len() / d, b.len() / d);
    assert_eq!(out.len(), m * n, "an output of [{m}, {n}]");
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the asserts above make `a` exactly [m, d], `b` exactly [n, d] and `out` exactly [m, n], all row-major and
    // contiguous, which is what the strides say (b is read as its transpose: row stride 1, column stride d). A slice is at
    // most isize::MAX bytes, so the strides fit. `out` is borrowed mutably, hence does not overlap the inputs; it is written
    // and not read (`read_dst` false), and the product runs on this thread alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            d,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            d as isize,
            b.as_ptr(),
            d as isize,
            1,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// How far an element of [`rows_by_rows`] can lie from the exact dot product of its two rows, given the product of their
/// lengths (or an upper bound of it).
///
/// A sum of d products in f32 is off by at most `gamma_d * sum |a_l b_l|`, with `gamma_d = d u / (1 - d u)` and
/// `u = 2^-24`, in *any* order of summation and with or without fused multiply-add (Higham, Accuracy and Stability of
/// Numerical Algorithms, 3.1), and `sum |a_l b_l| <= |a| |b|` (Cauchy-Schwarz). Two more roundings are granted for what is
/// done with the element, 1 % covers the lengths being computed themselves, and the last term is for products that fall
/// below the normal range. The f64 dot product that candidates are re-scored with is off by 2^29 times less; the 1 % covers
/// it too.
pub(crate) fn error_bound(d: usize, lengths: f64) -> f64 {
    let du = (d + 2) as f64 * UNIT;
    // Beyond d of 8 million the bound means nothing; everything is then a candidate, slow but right.
    let gamma = if du < 0.5 {
        du / (1.0 - du)
    } else {
        f64::INFINITY
    };
    if lengths == 0.0 {
        return 0.0;
    }
    1.01 * gamma * lengths + d as f64 * f64::from(f32::MIN_POSITIVE)
}

/// The greatest f32 that is at most `x`: a threshold in f32 that drops nothing which the one in f64 keeps.
pub(crate) fn round_down(x: f64) -> f32 {
    let y = x as f32;
    if f64::from(y) > x { y.next_down() } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dot;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    #[test]
    fn every_product_lies_within_the_stated_bound() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for d in [1, 2, 3, 7, 16, 100, 512, 768, 1024] {
            for scale in [1.0f32, 1e-3, 40.0] {
                let (m, n) = (33, 21);
                // All of one sign, and of mixed magnitudes: the sums that round worst.
                let mut draw = |count: usize| -> Vec<f32> {
                    (0..count)
                        .map(|_| {
                            let x = (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
                            if rng.next_u32().is_multiple_of(4) {
                                scale * x * 1e-3
                            } else {
                                scale * x
                            }
                        })
                        .collect()
                };
                let (a, b) = (draw(m * d), draw(n * d));
                let mut out = vec![0.0; m * n];
                rows_by_rows(&a, &b, d, &mut out);
                for (i, x) in a.chunks_exact(d).enumerate() {
                    for (j, y) in b.chunks_exact(d).enumerate() {
                        let exact = dot::cosine(x, y);
                        let lengths = (dot::cosine(x, x) * dot::cosine(y, y)).sqrt();
                        let off = (f64::from(out[i * n + j]) - exact).abs();
                        let bound = error_bound(d, lengths);
                        assert!(off <= bound, "d {d}: off by {off:e}, bound {bound:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_threshold_is_never_rounded_up() {
        for x in [0.98, 0.9, -0.1, 0.1, 1.0, 0.0, -1.0 / 3.0] {
            let y = f64::from(round_down(x));
            assert!(y <= x && x - y < 1e-7, "{x}: {y}");
        }
    }
}
