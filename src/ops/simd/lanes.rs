//! The sixteen f64 lanes of [`crate::ops::dot`], compiled for the vector widths that a processor may have.
//!
//! Every version is the same Rust code and gives the same bits: a lane adds the same terms in the same order however many
//! lanes a register holds, and Rust never fuses a multiplication with an addition by itself.

const LANES: usize = 16;

/// The sum of products.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, which is all that the function asks for.
            return unsafe { dot_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { dot_avx2(a, b) };
        }
    }
    reduce(a, b, |x, y| x * y)
}

/// The sum of squared differences.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, which is all that the function asks for.
            return unsafe { squared_distance_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { squared_distance_avx2(a, b) };
        }
    }
    reduce(a, b, |x, y| (x - y) * (x - y))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dot_avx512(a: &[f32], b: &[f32]) -> f64 {
    reduce(a, b, |x, y| x * y)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f64 {
    reduce(a, b, |x, y| x * y)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn squared_distance_avx512(a: &[f32], b: &[f32]) -> f64 {
    reduce(a, b, |x, y| (x - y) * (x - y))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn squared_distance_avx2(a: &[f32], b: &[f32]) -> f64 {
    reduce(a, b, |x, y| (x - y) * (x - y))
}

#[inline(always)]
fn reduce(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    assert_eq!(a.len(), b.len(), "two rows of the same length");
    let mut lanes = [0.0f64; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += term(f64::from(x[lane]), f64::from(y[lane]));
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += term(f64::from(x), f64::from(y));
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_width_gives_the_same_bits() {
        for d in [0, 1, 15, 16, 17, 100, 512, 769] {
            let a: Vec<f32> = (0..d).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..d).map(|i| (i as f32 * 0.73).cos()).collect();
            let dots = reduce(&a, &b, |x, y| x * y).to_bits();
            let distances = reduce(&a, &b, |x, y| (x - y) * (x - y)).to_bits();
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                let got = unsafe { (dot_avx2(&a, &b), squared_distance_avx2(&a, &b)) };
                assert_eq!((got.0.to_bits(), got.1.to_bits()), (dots, distances));
            }
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has AVX-512F.
                let got = unsafe { (dot_avx512(&a, &b), squared_distance_avx512(&a, &b)) };
                assert_eq!((got.0.to_bits(), got.1.to_bits()), (dots, distances));
            }
        }
    }
}
