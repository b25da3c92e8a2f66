//! Launches of `kernels/activation.cu`: the device's [`bias_activation`](crate::ops::bias_activation) and
//! [`add_bias`](crate::ops::add_bias), in place.

use candle_core::DType;

use super::{Arg, Launch, check};
use crate::error::Result;
use crate::ops::Activation;

const OP: &str = "bias_activation on the device";

/// The rows that a [`bias_activation`] changes.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// `[n, w]` of `dtype`, in place.
    pub x: u64,
    /// `[w]` of `dtype`.
    pub bias: u64,
    /// f32, f16 or bf16.
    pub dtype: DType,
    /// Rows.
    pub n: usize,
    /// Their width.
    pub w: usize,
}

/// `x = activation(x + bias)`, or `x + bias` without one, in f32.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where n or w is 0 or too large, an address is none, or the dtype is another.
pub fn bias_activation(rows: &Rows, activation: Option<Activation>) -> Result<Launch> {
    use Activation::{Gelu, QuickGelu};
    let function = match (activation, rows.dtype) {
        (None, DType::F32) => "add_bias_f32",
        (None, DType::F16) => "add_bias_f16",
        (None, DType::BF16) => "add_bias_bf16",
        (Some(QuickGelu), DType::F32) => "bias_quick_gelu_f32",
        (Some(QuickGelu), DType::F16) => "bias_quick_gelu_f16",
        (Some(QuickGelu), DType::BF16) => "bias_quick_gelu_bf16",
        (Some(Gelu), DType::F32) => "bias_gelu_f32",
        (Some(Gelu), DType::F16) => "bias_gelu_f16",
        (Some(Gelu), DType::BF16) => "bias_gelu_bf16",
        (_, other) => return check::no_kernel(OP, &[other]),
    };
    check::extent(OP, &[rows.n, rows.w])?;
    let element = rows.dtype.size_in_bytes();
    Ok(Launch {
        module: "activation",
        function,
        grid: [check::blocks(OP, rows.n * rows.w.div_ceil(8), 256)?, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            check::address(OP, "x", rows.x, element)?,
            check::address(OP, "bias", rows.bias, element)?,
            Arg::I64(check::size(OP, "n", rows.n)?),
            Arg::I64(check::size(OP, "w", rows.w)?),
        ],
    })
}
