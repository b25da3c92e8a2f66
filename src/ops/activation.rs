//! Bias, and bias + activation, in one pass over the product of a linear layer.

use candle_core::{D, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cuda::tensors;
use super::element::{Element, by_dtype, tensor, with_slice};
use crate::error::{Error, Result};

/// The activation of a tower's MLP, by the names of Hugging Face's `hidden_act`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`, as OpenAI's CLIP has it.
    QuickGelu,
    /// `x · Φ(x)` with the exact normal distribution function, as PyTorch's `GELU()` has it.
    Gelu,
}

impl Activation {
    /// The function itself, in f32.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::QuickGelu => x / (1.0 + exp(-1.702 * x)),
            Activation::Gelu => {
                let tail = upper_tail(x.abs());
                x * if x > 0.0 { 1.0 - tail } else { tail }
            }
        }
    }
}

/// `1 - Φ(x)` of the normal distribution for x >= 0, to 1e-7: Abramowitz and Stegun 7.1.26 for erfc(x / √2) / 2, without a branch
/// so that loops over it vectorise.
#[inline(always)]
fn upper_tail(x: f32) -> f32 {
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    0.5 * p * t * exp(-z * z)
}

/// eˣ in f32 to 2 ulp, without a branch in the loop so that it vectorises: x = m·ln 2 + r with |r| <= ln 2 / 2, then a
/// degree-6 polynomial for eʳ (Taylor's coefficients are good enough at this width) and m into the exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    // Rounded to an integer, which then stands in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let m = shifted - 12_582_912.0;
    let r = (x - m * LN_2_HIGH) - m * LN_2_LOW;
    let mut p = 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `activation(x + bias)`: x `[.., w]`, bias `[w]`.
///
/// # Errors
/// [`Error::Shape`] where the last dimension of x is not the bias's.
pub fn bias_activation(x: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    check("bias_activation", x, bias)?;
    if x.device().is_cuda() {
        return tensors::bias_activation(x, bias, Some(activation));
    }
    by_dtype!("bias_activation", x.dtype(), T => match activation {
        Activation::QuickGelu => rows::<T>(x, bias, |x| Activation::QuickGelu.apply(x)),
        Activation::Gelu => rows::<T>(x, bias, |x| Activation::Gelu.apply(x)),
    })
}

/// `x + bias`: x `[.., w]`, bias `[w]`.
///
/// # Errors
/// [`Error::Shape`] where the last dimension of x is not the bias's.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    check("add_bias", x, bias)?;
    if x.device().is_cuda() {
        return tensors::bias_activation(x, bias, None);
    }
    by_dtype!("add_bias", x.dtype(), T => rows::<T>(x, bias, |x| x))
}

fn check(op: &'static str, x: &Tensor, bias: &Tensor) -> Result<()> {
    let width = x.dim(D::Minus1)?;
    if bias.dims() != [width] {
        return Err(Error::shape(
            op,
            format!("a bias of [{width}]"),
            format!("{:?}", bias.dims()),
        ));
    }
    Ok(())
}

fn rows<T: Element>(x: &Tensor, bias: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let width = bias.elem_count();
    let out = with_slice::<T, _>("bias_activation", x, |x| {
        with_slice::<T, _>("bias_activation", bias, |bias| {
            let mut out = vec![T::store(0.0); x.len()];
            out.par_chunks_mut(width)
                .zip(x.par_chunks(width))
                .for_each(|(out, x)| {
                    for ((out, x), bias) in out.iter_mut().zip(x).zip(bias) {
                        *out = T::store(f(x.load() + bias.load()));
                    }
                });
            out
        })
    })??;
    tensor(out, x.dims())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_of_the_exact_value() {
        for i in -8_700..8_800 {
            let x = i as f32 / 100.0 + 0.001;
            let exact = f64::from(x.clamp(-87.0, 88.0)).exp();
            let error = ((f64::from(exp(x)) - exact) / exact).abs();
            assert!(error < 2.4e-7, "exp({x}): relative error {error:e}");
        }
    }

    #[test]
    fn activations_have_their_known_values() {
        for (x, quick, gelu) in [
            (0.0, 0.0, 0.0),
            (1.0, 0.845_796, 0.841_345),
            (-2.0, -0.064_346, -0.045_500),
        ] {
            assert!(
                (Activation::QuickGelu.apply(x) - quick).abs() < 1e-5,
                "quick_gelu({x})"
            );
            assert!((Activation::Gelu.apply(x) - gelu).abs() < 1e-5, "gelu({x})");
        }
    }

    #[test]
    fn a_bias_of_the_wrong_width_is_refused() {
        let x = tensor(vec![0f32; 6], &[2, 3]).unwrap();
        let bias = tensor(vec![0f32; 2], &[2]).unwrap();
        let message = bias_activation(&x, &bias, Activation::Gelu)
            .unwrap_err()
            .to_string();
        assert!(message.contains("bias of [3]"), "{message}");
    }
}
