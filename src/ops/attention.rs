//! Multi-head self-attention without a mask, from the fused QKV product to the heads' joined output.

use candle_core::Tensor;
use rayon::prelude::*;

use super::activation::exp;
use super::cuda::tensors;
use super::element::{Element, by_dtype, parameters, with_slice, written};
use super::packed::{Packed, Scheme, Scratch, set_each, with_scratch};
use super::precision::scheme_for_attention;
use super::simd::blocks::EDGE;
use super::simd::widest::widest;
use crate::error::{Error, Result};

/// `softmax(q kᵀ / √d_h) v` for every head: qkv `[n, t, 3w]`, bias `[3w]` (added to qkv first), result `[n, t, w]`, on a CPU in
/// the memory of `spare` where that fits.
///
/// The last axis of qkv holds all queries, then all keys, then all values; head i of `heads` owns columns `i·d_h..(i+1)·d_h` of
/// each, with `d_h = w / heads`. The t x t matrix is never in memory: 32 of its rows are, per thread. Each image is the
/// work of one thread.
///
/// # Errors
/// [`Error::Shape`] where qkv is not `[n, t, 3w]` with w a multiple of `heads`, or the bias not `[3w]`.
pub fn attention(
    qkv: &Tensor,
    bias: &Tensor,
    heads: usize,
    spare: Option<Tensor>,
) -> Result<Tensor> {
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
    let bias = parameters(bias)?;
    let scheme = scheme_for_attention(qkv.dtype());
    by_dtype!(op, qkv.dtype(), T => with_slice::<T, _>(op, qkv, |qkv| {
        written::<T>(spare, &[n, t, width], |out| {
            all_heads(scheme, qkv, &bias, t, heads, out);
            Ok(())
        })
    })?)
}

/// One head of one image, and the memory for it. Tokens are padded with zeros to a multiple of [`EDGE`].
struct Head {
    t: usize,
    /// d_h
    dims: usize,
    /// `[EDGE, d_h]`, divided by √d_h
    queries: Vec<f32>,
    /// `[t padded, d_h]`: keys, then values
    tokens: Vec<f32>,
    keys: Packed,
    /// As rows of the matrix: `[d_h, t padded]`
    values: Packed,
    /// `[EDGE, t padded]`: rows of the t x t matrix
    scores: Vec<f32>,
    /// What each row of scores adds up to.
    totals: [f32; EDGE],
}

fn all_heads<T: Element>(
    scheme: Scheme,
    qkv: &[T],
    bias: &[f32],
    t: usize,
    heads: usize,
    out: &mut [T],
) {
    let width = bias.len() / 3;
    let dims = width / heads;
    let padded = t.next_multiple_of(EDGE);
    let images = out.par_chunks_mut((t * width).max(1));
    images
        .zip(qkv.par_chunks((t * 3 * width).max(1)))
        .for_each_init(
            || Head {
                t,
                dims,
                queries: vec![0.0; EDGE * dims],
                tokens: vec![0.0; padded * dims],
                keys: Packed::empty(scheme),
                values: Packed::empty(scheme),
                scores: vec![0.0; EDGE * padded],
                totals: [0.0; EDGE],
            },
            |head, (out, qkv)| {
                for first in (0..width).step_by(dims) {
                    with_scratch(|scratch| {
                        widest(
                            #[inline(always)]
                            || head.run(qkv, bias, first, width, scratch, out),
                        )
                    });
                }
            },
        );
}

impl Head {
    /// The head whose columns begin at `first`: qkv of an image `[t, 3w]` -> its columns of out `[t, w]`.
    #[inline(always)]
    fn run<T: Element>(
        &mut self,
        qkv: &[T],
        bias: &[f32],
        first: usize,
        width: usize,
        scratch: &mut Scratch,
        out: &mut [T],
    ) {
        let (t, dims) = (self.t, self.dims);
        let padded = t.next_multiple_of(EDGE);
        let scale = 1.0 / (dims as f32).sqrt();
        self.gather(qkv, bias, width + first, width);
        self.keys.refill(&self.tokens, dims);
        self.gather(qkv, bias, 2 * width + first, width);
        self.values.refill_transposed(&self.tokens, dims);
        let blocks = qkv
            .chunks(3 * width * EDGE)
            .zip(out.chunks_mut(width * EDGE));
        for (tokens, out) in blocks {
            let rows = out.len() / width;
            let queries = &mut self.queries[..rows * dims];
            let columns = first..first + dims;
            for (to, token) in queries
                .chunks_exact_mut(dims)
                .zip(tokens.chunks_exact(3 * width))
            {
                biased(&token[columns.clone()], &bias[columns.clone()], scale, to);
            }
            let scores = &mut self.scores[..rows * padded];
            self.keys.multiply(
                queries,
                scratch,
                #[inline(always)]
                |row, column, sums| scores[row * padded + column..][..EDGE].copy_from_slice(sums),
            );
            for (row, total) in scores.chunks_exact_mut(padded).zip(&mut self.totals) {
                let (row, rest) = row.split_at_mut(t);
                *total = exponentials(row);
                rest.fill(0.0);
            }
            let totals = &self.totals;
            self.values.multiply(
                scores,
                scratch,
                #[inline(always)]
                |row, column, sums| {
                    let end = row * width + first + dims;
                    let out = &mut out[row * width + first + column..end];
                    let share = 1.0 / totals[row];
                    set_each(
                        out,
                        #[inline(always)]
                        |i, _| sums[i] * share,
                    );
                },
            );
        }
    }

    /// `dims` columns of every token, from the column `first` on, with their bias.
    #[inline(always)]
    fn gather<T: Element>(&mut self, qkv: &[T], bias: &[f32], first: usize, width: usize) {
        let columns = first..first + self.dims;
        for (to, token) in self
            .tokens
            .chunks_exact_mut(self.dims)
            .zip(qkv.chunks_exact(3 * width))
        {
            biased(&token[columns.clone()], &bias[columns.clone()], 1.0, to);
        }
    }
}

#[inline(always)]
fn biased<T: Element>(x: &[T], bias: &[f32], scale: f32, out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<16>();
    let at = whole.len() * 16;
    let from = x.as_chunks::<16>().0.iter().zip(bias.as_chunks::<16>().0);
    for (out, (x, bias)) in whole.iter_mut().zip(from) {
        let mut sums = [0.0; 16];
        for i in 0..16 {
            sums[i] = (x[i].load() + bias[i]) * scale;
        }
        *out = sums;
    }
    for ((out, x), bias) in rest.iter_mut().zip(&x[at..]).zip(&bias[at..]) {
        *out = (x.load() + bias) * scale;
    }
}

/// `e^(x - the greatest x)` of a row, and their sum. A row with a NaN becomes one of NaN.
#[inline(always)]
fn exponentials(row: &mut [f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            most[i] = if chunk[i] > most[i] {
                chunk[i]
            } else {
                most[i]
            };
        }
    }
    let most = most
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let mut totals = [0f32; 16];
    let (chunks, rest) = row.as_chunks_mut::<16>();
    for chunk in chunks {
        let mut values = [0.0; 16];
        for i in 0..16 {
            values[i] = exp(chunk[i] - most);
            totals[i] += values[i];
        }
        *chunk = values;
    }
    for x in rest {
        *x = exp(*x - most);
        totals[0] += *x;
    }
    totals.iter().sum()
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
            let got = attention(&qkv, &bias, heads, None).unwrap();
            let difference = max_difference(&got, &composed(&qkv, &bias, heads));
            assert!(
                difference < 2e-5,
                "n {n}, t {t}, {heads} heads of {head_dim}: {difference}"
            );
        }
    }

    #[test]
    fn every_scheme_gives_the_same_attention() {
        let (n, t, heads, head_dim) = (2, 70, 2, 24);
        let qkv = Tensor::randn(0f32, 1.5, (n, t, 3 * heads * head_dim), &Device::Cpu).unwrap();
        let bias = Tensor::randn(0f32, 1.0, 3 * heads * head_dim, &Device::Cpu).unwrap();
        let expected = composed(&qkv, &bias, heads);
        let bias = parameters(&bias).unwrap();
        let mut schemes: Vec<(Scheme, f32)> =
            Scheme::plain_f32().into_iter().map(|s| (s, 2e-5)).collect();
        schemes.extend(Scheme::bf16().map(|s| (s, 5e-2)));
        for (scheme, bound) in schemes {
            let mut out = vec![0.0; n * t * heads * head_dim];
            with_slice::<f32, _>("test", &qkv, |qkv| {
                all_heads(scheme, qkv, &bias, t, heads, &mut out)
            })
            .unwrap();
            let got = Tensor::from_vec(out, (n, t, heads * head_dim), &Device::Cpu).unwrap();
            let difference = max_difference(&got, &expected);
            assert!(difference < bound, "{scheme:?}: {difference}");
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let qkv = Tensor::full(30f32, (1, 3, 12), &Device::Cpu).unwrap();
        let bias = Tensor::zeros(12, candle_core::DType::F32, &Device::Cpu).unwrap();
        let out = attention(&qkv, &bias, 1, None)
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
        assert!(attention(&qkv, &bias, 3, None).is_err());
    }
}
