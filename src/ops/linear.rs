//! The tower's linear layers: the matrix product alone, and with what follows it.

use candle_core::{D, Tensor};

use super::activation::{Activation, bias_activation};
use super::cuda::tensors;
use super::layer_norm::{LayerNorm, add_layer_norm, layer_norm};
use crate::error::{Error, Result};

/// A linear layer, as of PyTorch.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Tensor,
}

/// `x · weightᵀ`: x `[n, t, in]` or `[n, in]`, weight `[out, in]` (the layout of PyTorch's `Linear`), result `[n, t, out]` or
/// `[n, out]`.
///
/// The bias is left to the op that follows ([`crate::ops::bias_activation`], [`crate::ops::add_layer_norm`],
/// [`crate::ops::attention()`]), which reads the product anyway. One GEMM over all rows at once, accumulated in f32.
///
/// # Errors
/// [`Error::Shape`] where the inner sizes differ.
pub fn matmul_t(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let inner = x.dim(D::Minus1)?;
    let (out, expected) = weight.dims2()?;
    if inner != expected {
        return Err(Error::shape(
            "matmul_t",
            format!("[.., {expected}]"),
            format!("{:?}", x.dims()),
        ));
    }
    if x.device().is_cuda() {
        return tensors::matmul_t(x, weight);
    }
    let mut shape = x.dims().to_vec();
    *shape.last_mut().unwrap_or(&mut 0) = out;
    let rows = x.elem_count() / inner.max(1);
    Ok(x.reshape((rows, inner))?
        .matmul(&weight.t()?)?
        .reshape(shape)?)
}

/// `sum = residual + x · weightᵀ + bias`, `normed = LayerNorm(sum)`: x `[.., in]`, residual, sum and normed `[.., out]`.
///
/// On a CPU the bias and the residual are added where the norm reads the product, and the norm reads the sum before it is
/// rounded; on CUDA the product adds them before its one rounding.
///
/// # Errors
/// [`Error::Shape`] where shapes differ.
pub fn linear_add_norm(
    x: &Tensor,
    linear: &Linear,
    residual: &Tensor,
    norm: &LayerNorm,
) -> Result<(Tensor, Tensor)> {
    if x.device().is_cuda() {
        let sum = tensors::linear_add(x, linear, residual)?;
        let normed = layer_norm(&sum, norm)?;
        return Ok((sum, normed));
    }
    let product = matmul_t(x, &linear.weight)?;
    add_layer_norm(residual, &product, &linear.bias, norm)
}

/// `activation(x · weightᵀ + bias)`: x `[.., in]`, result `[.., out]`.
///
/// # Errors
/// [`Error::Shape`] where shapes differ.
pub fn linear_activation(x: &Tensor, linear: &Linear, activation: Activation) -> Result<Tensor> {
    let product = matmul_t(x, &linear.weight)?;
    if x.device().is_cuda() {
        return tensors::bias_activation_in_place(product, &linear.bias, activation);
    }
    bias_activation(&product, &linear.bias, activation)
}
