//! The tower's linear layers: the matrix product alone, and with what follows it.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;

use super::activation::Activation;
use super::cuda::tensors;
use super::element::{Element, by_dtype, by_dtypes, parameters, update, with_slice, written};
use super::layer_norm::{LayerNorm, Scale, layer_norm};
use super::packed::{Packed, set_each, with_scratch};
use super::precision::Precision;
use super::simd::blocks::EDGE;
use super::simd::widest::widest;
use crate::error::{Error, Result};

/// A matrix `[out, in]` (the layout of PyTorch's `Linear`) as the device multiplies with it: on a CPU packed once for its
/// kernels in the tower's precision, on CUDA a tensor.
#[derive(Clone)]
pub struct Matrix {
    dims: (usize, usize),
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Packed(Arc<Packed>),
    OnCard(Tensor),
}

impl Matrix {
    /// From a tensor of floats on the CPU.
    ///
    /// # Errors
    /// [`Error::Shape`] where it is not a matrix; [`Error::Usage`] where this CPU lacks the precision; tensor errors.
    pub fn new(weight: &Tensor, device: &Device, precision: Precision) -> Result<Matrix> {
        let dims @ (_, depth) = weight.dims2()?;
        let inner = match device {
            Device::Cpu => {
                let weight = weight.to_dtype(DType::F32)?.contiguous()?;
                let scheme = precision.scheme()?;
                let packed = with_slice::<f32, _>("matrix", &weight, |values| {
                    Packed::new(scheme, values, depth)
                })?;
                Inner::Packed(Arc::new(packed))
            }
            _ => Inner::OnCard(weight.to_dtype(precision.dtype())?.to_device(device)?),
        };
        Ok(Matrix { dims, inner })
    }

    /// `(out, in)`
    pub fn dims(&self) -> (usize, usize) {
        self.dims
    }

    fn check(&self, op: &'static str, x: &Tensor) -> Result<Vec<usize>> {
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.dims.1 => {
                *last = self.dims.0;
                Ok(shape)
            }
            _ => Err(Error::shape(
                op,
                format!("[.., {}]", self.dims.1),
                format!("{:?}", x.dims()),
            )),
        }
    }
}

/// A linear layer, as of PyTorch.
#[derive(Clone)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Matrix,
    /// `[out]`
    pub bias: Tensor,
}

/// `x · weightᵀ`: x `[.., in]`, weight `[out, in]`, result `[.., out]` in the type of x, accumulated in f32. For small layers; a
/// tower's are packed ([`product`]).
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

/// `x · matrixᵀ`: x `[.., in]`, result `[.., out]` in the type of x, on a CPU in the memory of `spare` where that fits.
///
/// The bias is left to the op that follows ([`crate::ops::attention()`]), which reads the product anyway.
///
/// # Errors
/// [`Error::Shape`] where the inner sizes differ.
pub fn product(x: &Tensor, matrix: &Matrix, spare: Option<Tensor>) -> Result<Tensor> {
    let shape = matrix.check("product", x)?;
    match &matrix.inner {
        Inner::OnCard(weight) => tensors::matmul_t(x, weight),
        Inner::Packed(packed) => by_dtype!("product", x.dtype(), T => {
            rows::<T>(x, packed, &shape, spare, &[], #[inline(always)] |sum| sum)
        }),
    }
}

/// `activation(x · weightᵀ + bias)`: x `[.., in]`, result `[.., out]` in the type of x, on a CPU in the memory of `spare`
/// where that fits.
///
/// # Errors
/// [`Error::Shape`] where shapes differ.
pub fn linear_activation(
    x: &Tensor,
    linear: &Linear,
    activation: Activation,
    spare: Option<Tensor>,
) -> Result<Tensor> {
    let shape = linear.weight.check("linear_activation", x)?;
    check_bias("linear_activation", linear)?;
    let packed = match &linear.weight.inner {
        Inner::OnCard(weight) => {
            let product = tensors::matmul_t(x, weight)?;
            return tensors::bias_activation_in_place(product, &linear.bias, activation);
        }
        Inner::Packed(packed) => packed,
    };
    let bias = padded(&linear.bias)?;
    by_dtype!("linear_activation", x.dtype(), T => match activation {
        Activation::QuickGelu => rows::<T>(x, packed, &shape, spare, &bias, #[inline(always)] |sum| {
            Activation::QuickGelu.apply(sum)
        }),
        Activation::Gelu => rows::<T>(x, packed, &shape, spare, &bias, #[inline(always)] |sum| {
            Activation::Gelu.apply(sum)
        }),
    })
}

/// `sum = residual + x · weightᵀ + bias`, `normed = LayerNorm(sum)`: x `[.., in]`, residual, sum and normed `[.., out]`. The sum
/// is of the residual's type, normed of that of the norm's parameters.
///
/// On a CPU the sum takes the residual's memory, whoever else holds it, and normed that of `spare` where it fits: bias and
/// residual are added where the product is made, and its rows are normalised while they are near. On CUDA the product adds
/// them before its one rounding.
///
/// # Errors
/// [`Error::Shape`] where shapes differ.
pub fn linear_add_norm(
    x: &Tensor,
    linear: &Linear,
    residual: Tensor,
    norm: &LayerNorm,
    spare: Option<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let op = "linear_add_norm";
    let shape = linear.weight.check(op, x)?;
    check_bias(op, linear)?;
    if residual.dims() != shape {
        return Err(Error::shape(
            op,
            format!("a residual of {shape:?}"),
            format!("{:?}", residual.dims()),
        ));
    }
    let packed = match &linear.weight.inner {
        Inner::OnCard(weight) => {
            let sum = tensors::linear_add(x, weight, &linear.bias, &residual)?;
            let normed = layer_norm(&sum, norm, None)?;
            return Ok((sum, normed));
        }
        Inner::Packed(packed) => packed,
    };
    let (n, depth) = linear.weight.dims;
    let (bias, scale) = (padded(&linear.bias)?, Scale::new(op, norm, n)?);
    let at_once = Packed::rows_at_once(x.elem_count() / depth.max(1));
    let normed = by_dtypes!(op, residual.dtype(), x.dtype(), R, T => {
        with_slice::<T, _>(op, x, |x| written::<T>(spare, &shape, |normed| update::<R>(&residual, |sum| {
            sum.par_chunks_mut(at_once * n)
                .zip(normed.par_chunks_mut(at_once * n))
                .zip(x.par_chunks(at_once * depth))
                .for_each(|((sum, normed), x)| with_scratch(|scratch| widest(
                    #[inline(always)]
                    || {
                        packed.multiply(x, scratch, #[inline(always)] |row, column, sums| {
                            let sum = &mut sum[row * n + column..(row + 1) * n];
                            let bias = &bias[column / EDGE];
                            set_each(sum, #[inline(always)] |i, x| x.load() + (sums[i] + bias[i]));
                        });
                        scale.rows(sum, normed);
                    },
                )));
            Ok(())
        })))?
    })?;
    Ok((residual, normed))
}

fn check_bias(op: &'static str, linear: &Linear) -> Result<()> {
    let out = linear.weight.dims.0;
    match linear.bias.dims() == [out] {
        true => Ok(()),
        false => Err(Error::shape(
            op,
            format!("a bias of [{out}]"),
            format!("{:?}", linear.bias.dims()),
        )),
    }
}

/// A bias in blocks of [`EDGE`], zeros after its end.
fn padded(bias: &Tensor) -> Result<Vec<[f32; EDGE]>> {
    let mut values = parameters(bias)?;
    values.resize(values.len().next_multiple_of(EDGE), 0.0);
    Ok(values.as_chunks().0.to_vec())
}

/// `finish(sum + bias)` of every sum of a product; no bias is one of zeros.
fn rows<T: Element>(
    x: &Tensor,
    packed: &Packed,
    shape: &[usize],
    spare: Option<Tensor>,
    bias: &[[f32; EDGE]],
    finish: impl Fn(f32) -> f32 + Sync,
) -> Result<Tensor> {
    let (n, depth) = (packed.rows(), packed.depth());
    let at_once = Packed::rows_at_once(x.elem_count() / depth.max(1));
    with_slice::<T, _>("product", x, |x| {
        written::<T>(spare, shape, |out| {
            let blocks = out.par_chunks_mut((at_once * n).max(1));
            let blocks = blocks.zip(x.par_chunks((at_once * depth).max(1)));
            blocks.for_each(|(out, x)| {
                with_scratch(|scratch| {
                    widest(
                        #[inline(always)]
                        || {
                            packed.multiply(
                                x,
                                scratch,
                                #[inline(always)]
                                |row, column, sums| {
                                    let out = &mut out[row * n + column..(row + 1) * n];
                                    let bias = bias.get(column / EDGE).unwrap_or(&[0.0; EDGE]);
                                    set_each(
                                        out,
                                        #[inline(always)]
                                        |i, _| finish(sums[i] + bias[i]),
                                    );
                                },
                            );
                        },
                    )
                })
            });
            Ok(())
        })
    })?
}
