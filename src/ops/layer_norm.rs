//! LayerNorm over the last dimension, alone and with the residual addition before it in the same pass.

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::cuda::tensors;
use super::element::{Element, by_dtype, by_dtypes, parameters, tensor, with_slice, written};
use super::simd::widest::widest;
use crate::error::{Error, Result};

/// Scale, shift and epsilon of a LayerNorm: `(x - mean) / sqrt(variance + eps) · weight + bias`, biased variance.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[w]`
    pub weight: Tensor,
    /// `[w]`
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// LayerNorm of each row of x `[.., w]`, in the type of the norm's parameters, on a CPU in the memory of `spare` where that fits. x is
/// of that type or f32.
///
/// # Errors
/// [`Error::Shape`] where the last dimension of x is not that of the norm.
pub fn layer_norm(x: &Tensor, norm: &LayerNorm, spare: Option<Tensor>) -> Result<Tensor> {
    let op = "layer_norm";
    check(op, x, &[&norm.weight, &norm.bias])?;
    if x.device().is_cuda() {
        return tensors::layer_norm(x, norm);
    }
    let scale = Scale::new(op, norm, x.dim(D::Minus1)?)?;
    by_dtypes!(op, x.dtype(), norm.weight.dtype(), S, T => {
        with_slice::<S, _>(op, x, |from| written::<T>(spare, x.dims(), |to| {
            let block = ROWS * scale.width();
            to.par_chunks_mut(block)
                .zip(from.par_chunks(block))
                .for_each(|(to, from)| widest(#[inline(always)] || scale.rows(from, to)));
            Ok(())
        }))?
    })
}

/// Rows that a thread normalises at once.
const ROWS: usize = 16;

/// `sum = residual + x + bias`, `normed = LayerNorm(sum)`, in one pass: residual and x `[.., w]`, bias `[w]`.
///
/// Returns `(sum, normed)`. The norm reads the sum before it is rounded to the tensor's dtype.
///
/// # Errors
/// [`Error::Shape`] where shapes differ.
pub fn add_layer_norm(
    residual: &Tensor,
    x: &Tensor,
    bias: &Tensor,
    norm: &LayerNorm,
) -> Result<(Tensor, Tensor)> {
    check("add_layer_norm", x, &[bias, &norm.weight, &norm.bias])?;
    if residual.dims() != x.dims() {
        let got = format!("{:?} and {:?}", residual.dims(), x.dims());
        return Err(Error::shape(
            "add_layer_norm",
            "residual and x of one shape",
            got,
        ));
    }
    if x.device().is_cuda() {
        return tensors::add_layer_norm(residual, x, bias, norm);
    }
    let op = "add_layer_norm";
    let (bias, scale) = (parameters(bias)?, Scale::new(op, norm, x.dim(D::Minus1)?)?);
    by_dtype!(op, x.dtype(), T => {
        let (sum, normed) = with_slice::<T, _>(op, residual, |residual| {
            with_slice::<T, _>(op, x, |x| add_rows(residual, x, &bias, &scale))
        })??;
        Ok((tensor(sum, x.dims())?, tensor(normed, x.dims())?))
    })
}

fn add_rows<T: Element>(residual: &[T], x: &[T], bias: &[f32], scale: &Scale) -> (Vec<T>, Vec<T>) {
    let width = bias.len();
    let mut sum = vec![T::store(0.0); x.len()];
    let mut normed = vec![T::store(0.0); x.len()];
    sum.par_chunks_mut(width)
        .zip(normed.par_chunks_mut(width))
        .zip(residual.par_chunks(width).zip(x.par_chunks(width)))
        .for_each_init(
            || vec![0f32; width],
            |row, ((sum, normed), (residual, x))| {
                for i in 0..width {
                    row[i] = residual[i].load() + (x[i].load() + bias[i]);
                    sum[i] = T::store(row[i]);
                }
                scale.rows(row, normed);
            },
        );
    (sum, normed)
}

/// A norm's parameters in f32.
pub(super) struct Scale {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl Scale {
    pub(super) fn new(op: &'static str, norm: &LayerNorm, width: usize) -> Result<Scale> {
        for parameter in [&norm.weight, &norm.bias] {
            if parameter.dims() != [width] {
                let got = format!("{:?}", parameter.dims());
                return Err(Error::shape(op, format!("parameters of [{width}]"), got));
            }
        }
        Ok(Scale {
            weight: parameters(&norm.weight)?,
            bias: parameters(&norm.bias)?,
            eps: norm.eps as f32,
        })
    }

    fn width(&self) -> usize {
        self.weight.len()
    }

    /// LayerNorm of every row: two passes over it, mean first, so that a large mean costs no digits of the variance.
    #[inline(always)]
    pub(super) fn rows<S: Element, T: Element>(&self, from: &[S], to: &mut [T]) {
        let width = self.width();
        for (row, out) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
            let mean = lanes_sum(
                row,
                #[inline(always)]
                |x| x,
            ) / width as f32;
            let variance = lanes_sum(
                row,
                #[inline(always)]
                |x| (x - mean) * (x - mean),
            ) / width as f32;
            let scale = 1.0 / (variance + self.eps).sqrt();
            let parameters = self.weight.iter().zip(&self.bias);
            for ((out, x), (weight, bias)) in out.iter_mut().zip(row).zip(parameters) {
                *out = T::store((x.load() - mean) * scale * weight + bias);
            }
        }
    }
}

/// Σ f(x) in 32 lanes, so that it vectorises and long rows lose less than a single running sum would.
#[inline(always)]
fn lanes_sum<S: Element>(row: &[S], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 32];
    let (chunks, rest) = row.as_chunks::<32>();
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(x.load());
    }
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x.load());
        }
    }
    lanes.iter().sum()
}

fn check(op: &'static str, x: &Tensor, parameters: &[&Tensor]) -> Result<()> {
    let width = x.dim(D::Minus1)?;
    match parameters.iter().find(|p| p.dims() != [width]) {
        Some(p) => Err(Error::shape(
            op,
            format!("parameters of [{width}]"),
            format!("{:?}", p.dims()),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::element::max_difference;
    use candle_core::Device;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0.5f32, 2.0, shape, &Device::Cpu).unwrap()
    }

    fn norm(width: usize) -> LayerNorm {
        LayerNorm {
            weight: random(&[width]),
            bias: random(&[width]),
            eps: 1e-5,
        }
    }

    #[test]
    fn the_fused_op_equals_its_composed_twin_at_odd_sizes() {
        for (rows, width) in [(1, 1), (3, 31), (5, 33), (2, 257), (7, 768)] {
            let (residual, x, bias, norm) = (
                random(&[rows, width]),
                random(&[rows, width]),
                random(&[width]),
                norm(width),
            );
            let (sum, normed) = add_layer_norm(&residual, &x, &bias, &norm).unwrap();
            let expected_sum = (&residual + x.broadcast_add(&bias).unwrap()).unwrap();
            let mean = expected_sum.mean_keepdim(1).unwrap();
            let centred = expected_sum.broadcast_sub(&mean).unwrap();
            let variance = centred.sqr().unwrap().mean_keepdim(1).unwrap();
            let expected = centred
                .broadcast_div(&(variance + norm.eps).unwrap().sqrt().unwrap())
                .unwrap();
            let expected = expected
                .broadcast_mul(&norm.weight)
                .unwrap()
                .broadcast_add(&norm.bias)
                .unwrap();
            assert!(
                max_difference(&sum, &expected_sum) < 1e-6,
                "sum at {rows} x {width}"
            );
            assert!(
                max_difference(&normed, &expected) < 1e-5,
                "normed at {rows} x {width}"
            );
            assert!(
                max_difference(&layer_norm(&expected_sum, &norm, None).unwrap(), &expected) < 1e-5,
                "alone at {rows} x {width}"
            );
        }
    }

    #[test]
    fn shapes_that_differ_are_refused() {
        let message = add_layer_norm(&random(&[2, 4]), &random(&[3, 4]), &random(&[4]), &norm(4))
            .unwrap_err()
            .to_string();
        assert!(message.contains("[2, 4] and [3, 4]"), "{message}");
        assert!(layer_norm(&random(&[2, 5]), &norm(4), None).is_err());
    }
}
