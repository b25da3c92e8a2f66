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

/// [`dot`] of one row with four others, faster than four times one: the sums of one dot product wait for each other.
pub(crate) fn dots(a: &[f32], b: [&[f32]; 4]) -> [f64; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, which is all that the function asks for.
            return unsafe { dots_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { dots_avx2(a, b) };
        }
    }
    reduce_four(a, b, |x, y| x * y)
}

/// [`squared_distance`] of one row to four others.
pub(crate) fn squared_distances(a: &[f32], b: [&[f32]; 4]) -> [f64; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, which is all that the function asks for.
            return unsafe { squared_distances_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { squared_distances_avx2(a, b) };
        }
    }
    reduce_four(a, b, |x, y| (x - y) * (x - y))
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dots_avx512(a: &[f32], b: [&[f32]; 4]) -> [f64; 4] {
    reduce_four(a, b, |x, y| x * y)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2(a: &[f32], b: [&[f32]; 4]) -> [f64; 4] {
    reduce_four(a, b, |x, y| x * y)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn squared_distances_avx512(a: &[f32], b: [&[f32]; 4]) -> [f64; 4] {
    reduce_four(a, b, |x, y| (x - y) * (x - y))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn squared_distances_avx2(a: &[f32], b: [&[f32]; 4]) -> [f64; 4] {
    reduce_four(a, b, |x, y| (x - y) * (x - y))
}

/// [`reduce`] of `a` with each of `b`, side by side.
#[inline(always)]
fn reduce_four(a: &[f32], b: [&[f32]; 4], term: impl Fn(f64, f64) -> f64) -> [f64; 4] {
    for b in b {
        assert_eq!(a.len(), b.len(), "rows of the same length");
    }
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let blocks = b.map(|b| &b.as_chunks::<LANES>().0[..a_blocks.len()]);
    let mut lanes = [[0.0f64; LANES]; 4];
    for (i, x) in a_blocks.iter().enumerate() {
        for (lanes, blocks) in lanes.iter_mut().zip(&blocks) {
            let y = &blocks[i];
            for lane in 0..LANES {
                lanes[lane] += term(f64::from(x[lane]), f64::from(y[lane]));
            }
        }
    }
    for (lanes, b) in lanes.iter_mut().zip(b) {
        let rest = &b[a.len() - a_rest.len()..];
        for (lane, (&x, &y)) in lanes.iter_mut().zip(a_rest.iter().zip(rest)) {
            *lane += term(f64::from(x), f64::from(y));
        }
    }
    lanes.map(fold)
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
    fold(lanes)
}

/// Adds the lanes pairwise.
#[inline(always)]
fn fold(mut lanes: [f64; LANES]) -> f64 {
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
            let c: Vec<f32> = (0..d).map(|i| (i as f32 * 1.3).sin()).collect();
            let four = [&a[..], &b, &c, &a];
            assert_eq!(
                dots(&b, four).map(f64::to_bits),
                four.map(|y| dot(&b, y).to_bits())
            );
            let distances = squared_distances(&b, four).map(f64::to_bits);
            assert_eq!(distances, four.map(|y| squared_distance(&b, y).to_bits()));
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
