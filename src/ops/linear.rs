//! The matrix product of the tower's linear layers.

use candle_core::{D, Tensor};

use crate::error::{Error, Result};

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
    let mut shape = x.dims().to_vec();
    *shape.last_mut().unwrap_or(&mut 0) = out;
    let rows = x.elem_count() / inner.max(1);
    Ok(x.reshape((rows, inner))?
        .matmul(&weight.t()?)?
        .reshape(shape)?)
}
