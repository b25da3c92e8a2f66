//! Multi-head self-attention without a mask, from the fused QKV product to the heads' joined output.

use candle_core::Tensor;
use pulp::Arch;
use rayon::prelude::*;

use super::activation::exp;
use super::cuda::tensors;
use super::element::{Element, by_dtype, tensor, with_slice};
use crate::error::{Error, Result};

/// `softmax(q kᵀ / √d_h) v` for every head: qkv `[n, t, 3w]`, bias `[3w]` (added to qkv first), result `[n, t, w]`.
///
/// The last axis of qkv holds all queries, then all keys, then all values; head i of `heads` owns columns `i·d_h..(i+1)·d_h` of
/// each, with `d_h = w / heads`. The t x t matrix is never in memory: one row of it is, per thread. Each of the n·h heads is the
/// work of one thread.
///
/// # Errors
/// [`Error::Shape`] where qkv is not `[n, t, 3w]` with w a multiple of `heads`, or the bias not `[3w]`.
pub fn attention(qkv: &Tensor, bias: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, t, width3) = qkv.dims3()?;
    let width = width3 / 3;
    if heads == 0 || width3 % (3 * heads) != 0 || bias.dims() != [width3] {
        let got = format!("{:?}, bias {:?}, {heads} heads", qkv.dims(), bias.dims());
        return Err(Error::shape(
            "attention",
            "[n, t, 3w], bias [3w], w a multiple of the heads",
            got,
        ));
    }
    if qkv.device().is_cuda() {
        return tensors::attention(qkv, bias, heads);
    }
    let op = "attention";
    by_dtype!(op, qkv.dtype(), T => {
        let joined = with_slice::<T, _>(op, qkv, |qkv| {
            with_slice::<T, _>(op, bias, |bias| all_heads(qkv, bias, n, t, heads, width / heads))
        })??;
        tensor(joined, &[n, t, width])
    })
}

/// Buffers of one thread: one head of one image.
struct Scratch {
    /// `[d_h, t]`
    keys: Vec<f32>,
    /// `[t, d_h]`
    values: Vec<f32>,
    /// `[d_h]`, already divided by √d_h
    query: Vec<f32>,
    /// `[t]`: a row of the t x t matrix
    scores: Vec<f32>,
    /// `[d_h]`
    output: Vec<f32>,
}

fn all_heads<T: Element>(
    qkv: &[T],
    bias: &[T],
    n: usize,
    t: usize,
    heads: usize,
    head_dim: usize,
) -> Vec<T> {
    let width = heads * head_dim;
    let arch = Arch::new();
    let mut by_head = vec![T::store(0.0); n * t * width];
    by_head
        .par_chunks_mut((t * head_dim).max(1))
        .enumerate()
        .for_each_init(
            || Scratch {
                keys: vec![0.0; head_dim * t],
                values: vec![0.0; t * head_dim],
                query: vec![0.0; head_dim],
                scores: vec![0.0; t],
                output: vec![0.0; head_dim],
            },
            |scratch, (index, out)| {
                let (image, head) = (index / heads, index % heads);
                let tokens = &qkv[image * t * 3 * width..][..t * 3 * width];
                arch.dispatch(|| one_head(tokens, bias, head, head_dim, width, scratch, out));
            },
        );
    join(&by_head, t, heads, head_dim)
}

#[inline(always)]
fn one_head<T: Element>(
    tokens: &[T],
    bias: &[T],
    head: usize,
    head_dim: usize,
    width: usize,
    scratch: &mut Scratch,
    out: &mut [T],
) {
    let Scratch {
        keys,
        values,
        query,
        scores,
        output,
    } = scratch;
    let t = scores.len();
    let columns =
        |part: usize| part * width + head * head_dim..part * width + (head + 1) * head_dim;
    for (j, token) in tokens.chunks_exact(3 * width).enumerate() {
        for (i, (x, b)) in token[columns(1)].iter().zip(&bias[columns(1)]).enumerate() {
            keys[i * t + j] = x.load() + b.load();
        }
        for (i, (x, b)) in token[columns(2)].iter().zip(&bias[columns(2)]).enumerate() {
            values[j * head_dim + i] = x.load() + b.load();
        }
    }
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (token, out) in tokens
        .chunks_exact(3 * width)
        .zip(out.chunks_exact_mut(head_dim))
    {
        for ((q, x), b) in query
            .iter_mut()
            .zip(&token[columns(0)])
            .zip(&bias[columns(0)])
        {
            *q = (x.load() + b.load()) * scale;
        }
        scores.fill(0.0);
        for (q, keys) in query.iter().zip(keys.chunks_exact(t)) {
            scores.iter_mut().zip(keys).for_each(|(s, k)| *s += q * k);
        }
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|s| *s = exp(*s - max));
        let total: f32 = scores.iter().sum();
        output.fill(0.0);
        for (s, values) in scores.iter().zip(values.chunks_exact(head_dim)) {
            output.iter_mut().zip(values).for_each(|(o, v)| *o += s * v);
        }
        out.iter_mut()
            .zip(output.iter())
            .for_each(|(out, o)| *out = T::store(o / total));
    }
}

/// `[n, h, t, d_h]` -> `[n, t, h·d_h]`.
fn join<T: Element>(by_head: &[T], t: usize, heads: usize, head_dim: usize) -> Vec<T> {
    let width = heads * head_dim;
    let mut joined = vec![T::store(0.0); by_head.len()];
    joined
        .par_chunks_mut(width.max(1))
        .enumerate()
        .for_each(|(token, out)| {
            let (image, j) = (token / t, token % t);
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                out.copy_from_slice(
                    &by_head[((image * heads + head) * t + j) * head_dim..][..head_dim],
                );
            }
        });
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::element::max_difference;
    use candle_core::{D, Device};

    /// The same by whole matrices.
    fn composed(qkv: &Tensor, bias: &Tensor, heads: usize) -> Tensor {
        let (n, t, width3) = qkv.dims3().unwrap();
        let (width, head_dim) = (width3 / 3, width3 / 3 / heads);
        let qkv = qkv
            .broadcast_add(bias)
            .unwrap()
            .reshape((n, t, 3, heads, head_dim))
            .unwrap();
        let part = |i: usize| {
            qkv.narrow(2, i, 1)
                .unwrap()
                .squeeze(2)
                .unwrap()
                .transpose(1, 2)
                .unwrap()
                .contiguous()
                .unwrap()
        };
        let scores =
            (part(0).matmul(&part(1).t().unwrap()).unwrap() / (head_dim as f64).sqrt()).unwrap();
        let weights = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
        weights
            .matmul(&part(2))
            .unwrap()
            .transpose(1, 2)
            .unwrap()
            .reshape((n, t, width))
            .unwrap()
    }

    #[test]
    fn attention_equals_its_composed_twin_at_odd_sizes() {
        for (n, t, heads, head_dim) in [
            (1, 1, 1, 1),
            (2, 5, 3, 16),
            (1, 50, 2, 64),
            (3, 17, 1, 80),
            (1, 257, 2, 33),
        ] {
            let qkv = Tensor::randn(0f32, 1.5, (n, t, 3 * heads * head_dim), &Device::Cpu).unwrap();
            let bias = Tensor::randn(0f32, 1.0, 3 * heads * head_dim, &Device::Cpu).unwrap();
            let got = attention(&qkv, &bias, heads).unwrap();
            let difference = max_difference(&got, &composed(&qkv, &bias, heads));
            assert!(
                difference < 2e-5,
                "n {n}, t {t}, {heads} heads of {head_dim}: {difference}"
            );
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let qkv = Tensor::full(30f32, (1, 3, 12), &Device::Cpu).unwrap();
        let bias = Tensor::zeros(12, candle_core::DType::F32, &Device::Cpu).unwrap();
        let out = attention(&qkv, &bias, 1)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert!(out.iter().all(|x| (x - 30.0).abs() < 1e-3), "{out:?}");
    }

    #[test]
    fn a_width_that_heads_do_not_divide_is_refused() {
        let qkv = Tensor::zeros((1, 2, 12), candle_core::DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::zeros(12, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(attention(&qkv, &bias, 3).is_err());
    }
}
