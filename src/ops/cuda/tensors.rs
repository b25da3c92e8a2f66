//! The tower's ops on candle tensors of a CUDA device: allocate the result, launch, hand it out. Shapes are checked by the callers
//! in `src/ops`; dtypes here.

use candle_core::{D, DType, Tensor};

use super::{Backend, CudaBackend, Gemm, activation, attention, layer_norm, normalize, preprocess};
use crate::error::{Error, Result};
use crate::ops::{Activation, LayerNorm, PixelNorm};

/// That all tensors have one dtype.
fn same_dtype(op: &'static str, tensors: &[&Tensor]) -> Result<DType> {
    let dtypes: Vec<DType> = tensors.iter().map(|t| t.dtype()).collect();
    match dtypes.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(dtypes[0]),
        false => Err(Error::shape(
            op,
            "operands of one dtype",
            format!("{dtypes:?}"),
        )),
    }
}

/// See [`crate::ops::matmul_t`].
pub(in crate::ops) fn matmul_t(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    product("matmul_t", x, weight, None, None)
}

/// `x · weightᵀ + bias + residual`, rounded once.
pub(in crate::ops) fn linear_add(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    residual: &Tensor,
) -> Result<Tensor> {
    product("linear_add_norm", x, weight, Some(bias), Some(residual))
}

fn product(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let operands: Vec<&Tensor> = [Some(x), Some(weight), bias, residual]
        .into_iter()
        .flatten()
        .collect();
    let dtype = same_dtype(op, &operands)?;
    let card = CudaBackend::of(x.device())?;
    let (n, k) = weight.dims2()?;
    // Copies without gaps, where they were needed, live until the product is on the stream.
    let (_x, x_at) = card.operand(x)?;
    let (_weight, weight_at) = card.operand(weight)?;
    let bias = bias.map(|bias| card.operand(bias)).transpose()?;
    let residual = residual
        .map(|residual| card.operand(residual))
        .transpose()?;
    let (out, out_at) = card.result(&with_last(x, n), dtype)?;
    card.gemm(&Gemm {
        m: x.elem_count() / k.max(1),
        n,
        k,
        dtype,
        x: x_at,
        weight: weight_at,
        bias: bias.as_ref().map_or(0, |(_, at)| *at),
        residual: residual.as_ref().map_or(0, |(_, at)| *at),
        out: out_at,
    })?;
    Ok(out)
}

/// The shape of x with another last dimension.
fn with_last(x: &Tensor, last: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    if let Some(end) = shape.last_mut() {
        *end = last;
    }
    shape
}

/// See [`crate::ops::normalize::normalize_tensor`].
pub(in crate::ops) fn normalize(x: &Tensor, dtype: DType) -> Result<(Tensor, Tensor)> {
    let (n, d) = x.dims2()?;
    // From bf16 to f16 by way of f32, which both are exact in.
    let x = match (x.dtype(), dtype) {
        (DType::BF16, DType::F16) | (DType::F16, DType::BF16) => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    let card = CudaBackend::of(x.device())?;
    let (x, x_at) = card.operand(&x)?;
    let (rows, rows_at) = card.result(&[n, d], dtype)?;
    let (bad, bad_at) = card.result(&[n], DType::U8)?;
    card.launch(&normalize::normalize(&normalize::Normalize {
        x: x_at,
        dtype: x.dtype(),
        out: rows_at,
        out_dtype: dtype,
        bad: bad_at,
        n,
        d,
    })?)?;
    Ok((rows, bad))
}

/// See [`crate::ops::attention()`].
pub(in crate::ops) fn attention(qkv: &Tensor, bias: &Tensor, heads: usize) -> Result<Tensor> {
    let dtype = same_dtype("attention", &[qkv, bias])?;
    let (n, t, width3) = qkv.dims3()?;
    let width = width3 / 3;
    let card = CudaBackend::of(qkv.device())?;
    let (_qkv, qkv_at) = card.operand(qkv)?;
    let (_bias, bias_at) = card.operand(bias)?;
    let (out, out_at) = card.result(&[n, t, width], dtype)?;
    let operands = attention::Operands {
        qkv: qkv_at,
        bias: bias_at,
        out: out_at,
    };
    if let Some(launch) = attention::attention(operands, dtype, n, t, heads, width / heads)? {
        card.launch(&launch)?;
    }
    Ok(out)
}

/// n and w of `[.., w]`.
fn rows_of(x: &Tensor) -> Result<(usize, usize)> {
    let w = x.dim(D::Minus1)?;
    Ok((x.elem_count() / w.max(1), w))
}

/// See [`crate::ops::patchify()`].
pub(in crate::ops) fn patchify(
    pixels: &Tensor,
    p: usize,
    norm: &PixelNorm,
    dtype: DType,
) -> Result<Tensor> {
    let (n, s, _, _) = pixels.dims4()?;
    let g = s / p;
    let card = CudaBackend::of(pixels.device())?;
    let (_pixels, pixels_at) = card.operand(pixels)?;
    let (out, out_at) = card.result(&[n, g * g, 3 * p * p], dtype)?;
    card.launch(&preprocess::preprocess(&preprocess::Preprocess {
        pixels: pixels_at,
        out: out_at,
        dtype,
        n,
        s,
        p,
        norm: *norm,
    })?)?;
    Ok(out)
}

/// See [`crate::ops::bias_activation`] and, without an activation, [`crate::ops::add_bias`].
pub(in crate::ops) fn bias_activation(
    x: &Tensor,
    bias: &Tensor,
    activation: Option<Activation>,
) -> Result<Tensor> {
    // The kernel works in place, and x may be shared.
    bias_activation_in_place(x.copy()?, bias, activation)
}

/// The same over the memory of x, which nobody else may hold.
pub(in crate::ops) fn bias_activation_in_place(
    x: Tensor,
    bias: &Tensor,
    activation: impl Into<Option<Activation>>,
) -> Result<Tensor> {
    let dtype = same_dtype("bias_activation", &[&x, bias])?;
    let (n, w) = rows_of(&x)?;
    if bias.dims() != [w] {
        let got = format!("x {:?}, bias {:?}", x.dims(), bias.dims());
        return Err(Error::shape("bias_activation", "a bias as wide as x", got));
    }
    let card = CudaBackend::of(x.device())?;
    let (x, x_at) = card.operand(&x)?;
    let (_bias, bias_at) = card.operand(bias)?;
    let rows = activation::Rows {
        x: x_at,
        bias: bias_at,
        dtype,
        n,
        w,
    };
    card.launch(&activation::bias_activation(&rows, activation.into())?)?;
    Ok(x)
}

/// See [`crate::ops::layer_norm()`].
pub(in crate::ops) fn layer_norm(x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
    let dtype = same_dtype("layer_norm", &[x, &norm.weight, &norm.bias])?;
    let (n, w) = rows_of(x)?;
    let card = CudaBackend::of(x.device())?;
    let (_x, x_at) = card.operand(x)?;
    let (_weight, weight) = card.operand(&norm.weight)?;
    let (_bias, bias) = card.operand(&norm.bias)?;
    let (out, out_at) = card.result(x.dims(), dtype)?;
    let rows = layer_norm::Rows {
        x: x_at,
        x_dtype: dtype,
        out: out_at,
        dtype,
        n,
        w,
    };
    let eps = norm.eps as f32;
    card.launch(&layer_norm::layer_norm(
        &rows,
        &layer_norm::Norm { weight, bias, eps },
    )?)?;
    Ok(out)
}

/// See [`crate::ops::add_layer_norm`].
pub(in crate::ops) fn add_layer_norm(
    residual: &Tensor,
    x: &Tensor,
    add: &Tensor,
    norm: &LayerNorm,
) -> Result<(Tensor, Tensor)> {
    let dtype = same_dtype(
        "add_layer_norm",
        &[residual, x, add, &norm.weight, &norm.bias],
    )?;
    let (n, w) = rows_of(x)?;
    let card = CudaBackend::of(x.device())?;
    let (_residual, residual) = card.operand(residual)?;
    let (_x, x_at) = card.operand(x)?;
    let (_add, add) = card.operand(add)?;
    let (_weight, weight) = card.operand(&norm.weight)?;
    let (_bias, bias) = card.operand(&norm.bias)?;
    let (sum, sum_at) = card.result(x.dims(), dtype)?;
    let (out, out_at) = card.result(x.dims(), dtype)?;
    let rows = layer_norm::Stream {
        residual,
        sum: sum_at,
        stream_dtype: dtype,
        x: x_at,
        add,
        out: out_at,
        dtype,
        n,
        w,
    };
    let eps = norm.eps as f32;
    card.launch(&layer_norm::add_layer_norm(
        &rows,
        &layer_norm::Norm { weight, bias, eps },
    )?)?;
    Ok((sum, out))
}
