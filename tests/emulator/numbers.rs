//! Element types, inputs and comparisons that the kernels' tests share.

use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// An element that is stored in its own precision and computed with in f32.
pub(crate) trait Number: WithDType + Default + std::fmt::Debug {
    const NAME: &'static str;
    /// Half of the distance of 1 to the next larger number: the relative error of one rounding.
    const ROUNDING: f64;
    /// Half of the distance between the smallest numbers: the absolute error of rounding a tiny one.
    const SMALLEST: f64;
    fn load(self) -> f32;
    fn store(value: f32) -> Self;
}

macro_rules! number {
    ($t:ty, $name:literal, $rounding:expr, $smallest:expr, $load:expr, $store:expr) => {
        impl Number for $t {
            const NAME: &'static str = $name;
            const ROUNDING: f64 = $rounding;
            const SMALLEST: f64 = $smallest;
            fn load(self) -> f32 {
                $load(self)
            }
            fn store(value: f32) -> $t {
                $store(value)
            }
        }
    };
}
number!(f32, "f32", 5.97e-8, 1e-45, |x| x, |x| x);
number!(f16, "f16", 4.89e-4, 3e-8, f16::to_f32, f16::from_f32);
number!(bf16, "bf16", 3.91e-3, 1e-40, bf16::to_f32, bf16::from_f32);

/// Sizes that are no multiple of anything a kernel likes: one, and on either side of a warp, a block, four blocks.
pub(crate) const ODD: [usize; 5] = [1, 31, 33, 257, 1025];

/// Every pair of odd sizes, with a third beside it that also meets every first and every second one: a pairwise covering set.
pub(crate) fn odd_sizes() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..25).map(|at| (ODD[at / 5], ODD[at % 5], ODD[(at / 5 + at) % 5]))
}

/// Numbers in -2..2, the same for a seed.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-2.0..2.0)).collect()
}

/// The same, each rounded to T.
pub(crate) fn rounded<T: Number>(values: &[f32]) -> Vec<T> {
    values.iter().map(|x| <T as Number>::store(*x)).collect()
}

/// In f64, exactly.
pub(crate) fn widened<T: Number>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.load())).collect()
}

/// For the CPU twins that take tensors.
pub(crate) fn tensor<T: Number>(values: &[T], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

/// The elements of a tensor.
pub(crate) fn values<T: Number>(tensor: &Tensor) -> Vec<T> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that all elements are equal to the bit (a NaN in either fails).
pub(crate) fn same_bits<T: Number>(what: &str, got: &[T], expected: &[T]) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.load().to_bits() == expected.load().to_bits() && !got.load().is_nan();
        assert!(
            same,
            "{what}, element {i}: got {got:?}, expected {expected:?}"
        );
    }
}

/// Asserts |got - expected| <= bound(expected) for every element; NaNs fail.
pub(crate) fn assert_close<T: Number>(
    what: &str,
    got: &[T],
    expected: &[f64],
    bound: impl Fn(usize, f64) -> f64,
) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got.load()) - expected).abs();
        let bound = bound(i, *expected);
        assert!(
            error <= bound,
            "{what}, element {i}: got {got:?}, expected {expected}, off by {error:e}, allowed {bound:e}"
        );
    }
}
