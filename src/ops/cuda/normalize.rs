//! Launches of `kernels/normalize.cu`: the device's [`normalize_rows`](crate::ops::normalize::normalize_rows), with its bits.

use candle_core::DType;

use super::{Launch, check};
use crate::error::Result;

const OP: &str = "normalize on the device";

/// Rows in and out of a [`normalize`].
#[derive(Clone, Copy, Debug)]
pub struct Normalize {
    /// `[n, d]` of `dtype`.
    pub x: u64,
    /// Of x: f32, f16 or bf16.
    pub dtype: DType,
    /// `[n, d]` of `out_dtype`; x itself where both dtypes are one.
    pub out: u64,
    /// f32; f16 or bf16 from f32 or from the same dtype. Rounded from the f32 row.
    pub out_dtype: DType,
    /// u8 `[n]`: 1 where a row was zero or not finite and is zero now, else 0.
    pub bad: u64,
    /// Rows.
    pub n: usize,
    /// Dims.
    pub d: usize,
}

/// Rows to unit length, as the CPU has it to the bit (before the rounding to a smaller dtype).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where n or d is 0 or too large, an address is none, or there is no kernel for the
/// dtypes.
pub fn normalize(rows: &Normalize) -> Result<Launch> {
    let Normalize {
        dtype, out_dtype, ..
    } = *rows;
    let function = match (dtype, out_dtype) {
        (DType::F32, DType::F32) => "normalize_f32_f32",
        (DType::F32, DType::F16) => "normalize_f32_f16",
        (DType::F32, DType::BF16) => "normalize_f32_bf16",
        (DType::F16, DType::F32) => "normalize_f16_f32",
        (DType::F16, DType::F16) => "normalize_f16_f16",
        (DType::BF16, DType::F32) => "normalize_bf16_f32",
        (DType::BF16, DType::BF16) => "normalize_bf16_bf16",
        _ => return check::no_kernel(OP, &[dtype, out_dtype]),
    };
    check::extent(OP, &[rows.n, rows.d])?;
    Ok(Launch {
        module: "normalize",
        function,
        grid: [check::blocks(OP, rows.n, 16)?, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            check::address(OP, "x", rows.x, dtype.size_in_bytes())?,
            check::address(OP, "out", rows.out, out_dtype.size_in_bytes())?,
            check::address(OP, "bad", rows.bad, 1)?,
            super::Arg::I64(check::size(OP, "n", rows.n)?),
            super::Arg::I64(check::size(OP, "d", rows.d)?),
        ],
    })
}
