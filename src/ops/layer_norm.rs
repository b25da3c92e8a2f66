//! LayerNorm over the last dimension, alone and with the residual addition before it in the same pass.

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::cuda::tensors;
use super::element::{Element, by_dtype, tensor, with_slice};
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

/// LayerNorm of each row of x `[.., w]`.
///
/// # Errors
/// [`Error::Shape`] where the last dimension of x is not that of the norm.
pub fn layer_norm(x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
    check("layer_norm", x, &[&norm.weight, &norm.bias])?;
    if x.device().is_cuda() {
        return tensors::layer_norm(x, norm);
    }
    by_dtype!("layer_norm", x.dtype(), T => {
        let width = norm.weight.elem_count();
        let out = with_slice::<T, _>("layer_norm", x, |x| {
            with_norm::<T, _>(norm, |scale| {
                let mut out = vec![T::store(0.0); x.len()];
                out.par_chunks_mut(width).zip(x.par_chunks(width)).for_each_init(
                    || vec![0f32; width],
                    |row, (out, x)| {
                        row.iter_mut().zip(x).for_each(|(row, x)| *row = x.load());
                        scale.normalize(row, out);
                    },
                );
                out
            })
        })??;
        tensor(out, x.dims())
    })
}

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
    by_dtype!("add_layer_norm", x.dtype(), T => {
        let op = "add_layer_norm";
        let (sum, normed) = with_slice::<T, _>(op, residual, |residual| {
            with_slice::<T, _>(op, x, |x| {
                with_slice::<T, _>(op, bias, |bias| with_norm::<T, _>(norm, |scale| add_rows(residual, x, bias, scale)))
            })
        })????;
        Ok((tensor(sum, x.dims())?, tensor(normed, x.dims())?))
    })
}

fn add_rows<T: Element>(residual: &[T], x: &[T], bias: &[T], scale: &Scale<T>) -> (Vec<T>, Vec<T>) {
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
                    row[i] = residual[i].load() + (x[i].load() + bias[i].load());
                    sum[i] = T::store(row[i]);
                }
                scale.normalize(row, normed);
            },
        );
    (sum, normed)
}

/// The norm's parameters as slices.
struct Scale<'a, T> {
    weight: &'a [T],
    bias: &'a [T],
    eps: f32,
}

impl<T: Element> Scale<'_, T> {
    /// Two passes over the row, mean first, so that a large mean costs no digits of the variance.
    fn normalize(&self, row: &[f32], out: &mut [T]) {
        let width = row.len() as f32;
        let mean = lanes_sum(row, |x| x) / width;
        let variance = lanes_sum(row, |x| (x - mean) * (x - mean)) / width;
        let scale = 1.0 / (variance + self.eps).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(row).zip(self.weight).zip(self.bias) {
            *out = T::store((x - mean) * scale * weight.load() + bias.load());
        }
    }
}

/// Σ f(x) in 16 lanes, so that it vectorises and long rows lose less than a single running sum would.
fn lanes_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = row.chunks_exact(16);
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f(*x);
    }
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum()
}

fn with_norm<T: Element, R>(norm: &LayerNorm, f: impl FnOnce(&Scale<T>) -> R) -> Result<R> {
    with_slice::<T, _>("layer_norm", &norm.weight, |weight| {
        with_slice::<T, _>("layer_norm", &norm.bias, |bias| {
            f(&Scale {
                weight,
                bias,
                eps: norm.eps as f32,
            })
        })
    })?
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
                max_difference(&layer_norm(&expected_sum, &norm).unwrap(), &expected) < 1e-5,
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
        assert!(layer_norm(&random(&[2, 5]), &norm(4)).is_err());
    }
}
