//! Launches of `kernels/layer_norm.cu`: the device's [`layer_norm`](crate::ops::layer_norm()) and
//! [`add_layer_norm`](crate::ops::add_layer_norm).

use candle_core::DType;

use super::{Arg, Launch, check};
use crate::error::{Error, Result};

/// Elements of a row that a warp's lanes take at a time.
const CHUNK: usize = 256;
/// Shared memory that a block may have without asking for more.
const SHARED_BYTES: usize = 48 << 10;

/// Scale, shift and epsilon on the device.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// `[w]` of the op's dtype.
    pub weight: u64,
    /// `[w]` of the op's dtype.
    pub bias: u64,
    /// Added to the variance.
    pub eps: f32,
}

/// Rows in and out of a [`layer_norm`].
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// `[n, w]` of `x_dtype`.
    pub x: u64,
    /// Of x: `dtype`, or f32.
    pub x_dtype: DType,
    /// `[n, w]` of `dtype`; may be x where both dtypes are one.
    pub out: u64,
    /// Of out, weight and bias: f32, f16 or bf16.
    pub dtype: DType,
    /// Rows.
    pub n: usize,
    /// Their width.
    pub w: usize,
}

/// What comes into the stream, and the stream, of an [`add_layer_norm`].
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// `[n, w]` of `stream_dtype`.
    pub residual: u64,
    /// residual + x + add: `[n, w]` of `stream_dtype`; may be residual.
    pub sum: u64,
    /// Of residual and sum: the rows' `dtype`, or f32.
    pub stream_dtype: DType,
    /// `[n, w]` of `dtype`.
    pub x: u64,
    /// `[w]` of `dtype`: the bias of the layer that gave x.
    pub add: u64,
    /// The norm of the sum: `[n, w]` of `dtype`.
    pub out: u64,
    /// Of x, add, out, weight and bias: f32, f16 or bf16.
    pub dtype: DType,
    /// Rows.
    pub n: usize,
    /// Their width.
    pub w: usize,
}

/// LayerNorm of each row: `(x - mean) / sqrt(variance + eps) · weight + bias`, in f32.
///
/// # Errors
/// [`Error::Shape`] where n is 0, not 1 <= w <= 12,288, an address is none, or there is no kernel for the dtypes.
pub fn layer_norm(rows: &Rows, norm: &Norm) -> Result<Launch> {
    const OP: &str = "layer_norm on the device";
    let function = match (rows.x_dtype, rows.dtype) {
        (DType::F32, DType::F32) => "layer_norm_f32_f32",
        (DType::F32, DType::F16) => "layer_norm_f32_f16",
        (DType::F32, DType::BF16) => "layer_norm_f32_bf16",
        (DType::F16, DType::F16) => "layer_norm_f16_f16",
        (DType::BF16, DType::BF16) => "layer_norm_bf16_bf16",
        (x, out) => return check::no_kernel(OP, &[x, out]),
    };
    let (outer, inner) = (rows.x_dtype.size_in_bytes(), rows.dtype.size_in_bytes());
    let args = vec![
        check::address(OP, "x", rows.x, outer)?,
        check::address(OP, "weight", norm.weight, inner)?,
        check::address(OP, "bias", norm.bias, inner)?,
        check::address(OP, "out", rows.out, inner)?,
    ];
    finish(OP, function, args, (rows.n, rows.w), norm.eps)
}

/// `sum = residual + (x + add)` and the LayerNorm of the sum, which is read before it is rounded.
///
/// # Errors
/// As [`layer_norm`].
pub fn add_layer_norm(rows: &Stream, norm: &Norm) -> Result<Launch> {
    const OP: &str = "add_layer_norm on the device";
    let function = match (rows.stream_dtype, rows.dtype) {
        (DType::F32, DType::F32) => "add_layer_norm_f32_f32",
        (DType::F32, DType::F16) => "add_layer_norm_f32_f16",
        (DType::F32, DType::BF16) => "add_layer_norm_f32_bf16",
        (DType::F16, DType::F16) => "add_layer_norm_f16_f16",
        (DType::BF16, DType::BF16) => "add_layer_norm_bf16_bf16",
        (stream, x) => return check::no_kernel(OP, &[stream, x]),
    };
    let (outer, inner) = (
        rows.stream_dtype.size_in_bytes(),
        rows.dtype.size_in_bytes(),
    );
    let args = vec![
        check::address(OP, "residual", rows.residual, outer)?,
        check::address(OP, "x", rows.x, inner)?,
        check::address(OP, "add", rows.add, inner)?,
        check::address(OP, "weight", norm.weight, inner)?,
        check::address(OP, "bias", norm.bias, inner)?,
        check::address(OP, "sum", rows.sum, outer)?,
        check::address(OP, "out", rows.out, inner)?,
    ];
    finish(OP, function, args, (rows.n, rows.w), norm.eps)
}

fn finish(
    op: &'static str,
    function: &'static str,
    mut args: Vec<Arg>,
    (n, w): (usize, usize),
    eps: f32,
) -> Result<Launch> {
    check::extent(op, &[n, w])?;
    let row_bytes = w.div_ceil(CHUNK) * CHUNK * 4;
    let warps = (SHARED_BYTES / row_bytes.max(1)).min(4);
    if warps == 0 {
        let widest = SHARED_BYTES / 4;
        return Err(Error::shape(
            op,
            format!("rows of at most {widest}"),
            w.to_string(),
        ));
    }
    args.extend([
        Arg::I64(check::size(op, "n", n)?),
        Arg::I64(check::size(op, "w", w)?),
        Arg::F32(eps),
    ]);
    Ok(Launch {
        module: "layer_norm",
        function,
        grid: [check::blocks(op, n, warps)?, 1, 1],
        block: [32 * warps as u32, 1, 1],
        shared_bytes: (warps * row_bytes) as u32,
        args,
    })
}
