//! How far a dot product from the tensor cores can lie from the exact one: what candidates are found with a margin of.

use crate::{Error, Result};

/// Unit roundoff of f32.
pub(crate) const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// What is known of all rows of a matrix and of their copies in f16.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// The greatest length `|x|`.
    pub longest: f64,
    /// The greatest `|x - half(x)|`: 0 where all values are f16 values.
    pub farthest: f64,
}

impl Bounds {
    /// From the bits of the greatest squares, as `matrix.cu` leaves them.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are not finite: some value is a NaN or an infinity.
    pub(crate) fn from_bits(squares: [u64; 2]) -> Result<Bounds> {
        let [longest, farthest] = squares.map(|bits| f64::from_bits(bits).sqrt());
        if longest.is_finite() && farthest.is_finite() {
            return Ok(Bounds { longest, farthest });
        }
        Err(Error::shape(
            "a matrix on the device",
            "finite values (leave out rows with others)",
            "a row with a NaN or an infinity",
        ))
    }

    /// An upper bound of the length of a copy in f16.
    fn half(&self) -> f64 {
        self.longest + self.farthest
    }
}

/// How far the product of two rows' copies in f16, summed in f32 by the tensor cores over `depth` values, can lie from the exact
/// dot product of the rows themselves.
///
/// With x = x̂ + e and y = ŷ + f, `x·y - x̂·ŷ = e·y + x̂·f`, which is at most `|e||y| + |x̂||f|`.
///
/// Products of f16 values are exact; their sums are not rounded as IEEE has it: tensor cores align the products of a block of at least
/// four and the accumulator to the greatest exponent among them and cut off what lies below 2^-23 of it, then cut the sum off in
/// the same way (Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores, 2021). A block of b products
/// so loses at most (b + 2) 2^-23 times the greatest of `sum |x̂_l ŷ_l| <= |x̂||ŷ|`, and depth / b blocks at most
/// `1.5 depth 2^-23 |x̂||ŷ|`. Granted here: `2 (depth + 16) 2^-23`, which also holds for IEEE sums in any order. 1 % covers
/// the bounds being computed themselves, and the last term products below the normal range.
pub fn product_error(depth: usize, a: Bounds, b: Bounds) -> f64 {
    let rounding = a.farthest * b.longest + a.half() * b.farthest;
    let sum = 4.0 * (depth + 16) as f64 * UNIT * a.half() * b.half();
    1.01 * (rounding + sum) + depth as f64 * f64::from(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::dot;
    use half::f16;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    /// A block of products as tensor cores add it, at their worst: everything is cut off below 2^-23 of the greatest term.
    fn add_block(sum: f32, products: &[f64]) -> f32 {
        let greatest = products
            .iter()
            .fold(f64::from(sum).abs(), |m, p| m.max(p.abs()));
        if greatest == 0.0 {
            return 0.0;
        }
        let unit = 2f64.powi(greatest.log2().floor() as i32 - 23);
        let cut = |x: f64| (x / unit).trunc() * unit;
        let total = products
            .iter()
            .fold(cut(f64::from(sum)), |t, &p| t + cut(p));
        let unit = 2f64.powi(total.abs().max(f64::MIN_POSITIVE).log2().floor() as i32 - 23);
        ((total / unit).trunc() * unit) as f32
    }

    #[test]
    fn every_sum_with_truncation_lies_within_the_stated_error() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut closest = 0f64;
        for d in [1, 31, 64, 100, 512, 768, 1024] {
            for block in [4, 8, 16] {
                for signed in [false, true] {
                    let mut draw = || -> Vec<f32> {
                        (0..d)
                            .map(|_| {
                                let x = (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
                                let scale = if rng.next_u32().is_multiple_of(4) {
                                    1e-3
                                } else {
                                    1.0
                                };
                                scale * if signed { x - 0.5 } else { x }
                            })
                            .collect()
                    };
                    let (x, y) = (draw(), draw());
                    let half = |x: &[f32]| -> Vec<f32> {
                        x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()
                    };
                    let bounds = |x: &[f32]| Bounds {
                        longest: dot::cosine(x, x).sqrt(),
                        farthest: dot::squared_distance(x, &half(x)).sqrt(),
                    };
                    let products: Vec<f64> = half(&x)
                        .iter()
                        .zip(half(&y))
                        .map(|(&a, b)| f64::from(a) * f64::from(b))
                        .collect();
                    let got = products.chunks(block).fold(0.0, add_block);
                    let off = (f64::from(got) - dot::cosine(&x, &y)).abs();
                    let allowed = product_error(d, bounds(&x), bounds(&y));
                    assert!(
                        off <= allowed,
                        "d {d}, blocks of {block}: {off:e} > {allowed:e}"
                    );
                    closest = closest.max(off / allowed);
                }
            }
        }
        // Not so generous either that everything would become a candidate.
        assert!(closest > 0.01, "{closest}");
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        assert!(Bounds::from_bits([f64::INFINITY.to_bits(), 0]).is_err());
        assert!(Bounds::from_bits([f64::NAN.to_bits(), 0]).is_err());
        let bounds = Bounds::from_bits([4f64.to_bits(), 0.25f64.to_bits()]).unwrap();
        assert_eq!((bounds.longest, bounds.farthest), (2.0, 0.5));
    }
}
