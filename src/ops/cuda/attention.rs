//! The launch of `attention.cu`.

use candle_core::DType;

use super::launch::{Arg, Launch};
use crate::{Error, Result};

/// Head dimensions that the tensor-core kernels are compiled for.
pub const HEAD_DIMS: [usize; 3] = [32, 64, 80];

/// The largest head dimension of the plain kernels.
pub const LARGEST_HEAD_DIM: usize = 128;

/// Addresses in device memory of what attention reads and writes, all in one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    /// `[n, t, 3w]`: the fused product *without* bias; a multiple of 16.
    pub qkv: u64,
    /// `[3w]`
    pub bias: u64,
    /// `[n, t, w]`
    pub out: u64,
}

/// [`crate::ops::attention()`] of n images with t tokens, `heads` heads of `head_dim` values each (w is their product), as one launch;
/// none where there is nothing to compute.
///
/// f16 and bf16 with a head dimension of [`HEAD_DIMS`] go to the tensor cores; f32, and any other head dimension up to
/// [`LARGEST_HEAD_DIM`], to a plain kernel.
///
/// # Errors
/// [`Error::Shape`] for another dtype or a larger head, no heads, or more blocks than a grid holds.
pub fn attention(
    operands: Operands,
    dtype: DType,
    n: usize,
    t: usize,
    heads: usize,
    head_dim: usize,
) -> Result<Option<Launch>> {
    let refused = |got: String| {
        Error::shape(
            "attention on CUDA",
            format!("f32, f16 or bf16, heads of 1 to {LARGEST_HEAD_DIM}, fewer than 2^31 blocks"),
            got,
        )
    };
    if heads == 0 || !(1..=LARGEST_HEAD_DIM).contains(&head_dim) {
        return Err(refused(format!("{heads} heads of {head_dim}")));
    }
    let (function, queries, threads) = match (dtype, head_dim) {
        (DType::F16, 32) => ("attention_f16_32", 64, 128),
        (DType::F16, 64) => ("attention_f16_64", 64, 128),
        (DType::F16, 80) => ("attention_f16_80", 64, 128),
        (DType::BF16, 32) => ("attention_bf16_32", 64, 128),
        (DType::BF16, 64) => ("attention_bf16_64", 64, 128),
        (DType::BF16, 80) => ("attention_bf16_80", 64, 128),
        (DType::F32, _) => ("attention_plain_f32", 8, 256),
        (DType::F16, _) => ("attention_plain_f16", 8, 256),
        (DType::BF16, _) => ("attention_plain_bf16", 8, 256),
        (other, _) => return Err(refused(format!("{other:?}"))),
    };
    let blocks = n as u128 * heads as u128 * t.div_ceil(queries) as u128;
    if blocks >= 1 << 31 || t >= 1 << 31 || heads >= 1 << 31 {
        return Err(refused(format!("{n} images of {t} tokens, {heads} heads")));
    }
    if blocks == 0 {
        return Ok(None);
    }
    let mut args = vec![
        Arg::Pointer(operands.qkv),
        Arg::Pointer(operands.bias),
        Arg::Pointer(operands.out),
        Arg::I32(t as i32),
        Arg::I32(heads as i32),
    ];
    if function.starts_with("attention_plain") {
        args.push(Arg::I32(head_dim as i32));
    }
    Ok(Some(Launch {
        module: "attention",
        function,
        grid: [blocks as u32, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        args,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERANDS: Operands = Operands {
        qkv: 256,
        bias: 512,
        out: 1024,
    };

    #[test]
    fn the_tensor_core_kernel_is_taken_where_there_is_one() {
        let name = |dtype, head_dim| {
            let launch = attention(OPERANDS, dtype, 2, 257, 3, head_dim)
                .unwrap()
                .unwrap();
            (launch.function, launch.grid[0], launch.args.len())
        };
        assert_eq!(name(DType::F16, 64), ("attention_f16_64", 30, 5));
        assert_eq!(name(DType::BF16, 80), ("attention_bf16_80", 30, 5));
        assert_eq!(name(DType::F16, 16), ("attention_plain_f16", 198, 6));
        assert_eq!(name(DType::F32, 64), ("attention_plain_f32", 198, 6));
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        let refused = |dtype, n, heads, head_dim| {
            attention(OPERANDS, dtype, n, 257, heads, head_dim).is_err()
        };
        assert!(refused(DType::F16, 1, 1, 129));
        assert!(refused(DType::F16, 1, 0, 64));
        assert!(refused(DType::F64, 1, 1, 64));
        assert!(refused(DType::F16, 1 << 31, 1, 64));
        assert_eq!(
            attention(OPERANDS, DType::F16, 0, 257, 1, 64).unwrap(),
            None
        );
    }
}
