//! What the launch builders have in common: sizes that a kernel can be trusted with, grids, names by dtype.

use candle_core::DType;

use super::Arg;
use crate::error::{Error, Result};

/// A size as the kernels take it: at least 1.
pub(super) fn size(op: &'static str, name: &str, value: usize) -> Result<i64> {
    match i64::try_from(value) {
        Ok(size) if size >= 1 => Ok(size),
        _ => Err(Error::shape(op, format!("{name} >= 1"), value.to_string())),
    }
}

/// That a matrix of so many elements of 8 bytes at most can be addressed.
pub(super) fn extent(op: &'static str, sizes: &[usize]) -> Result<()> {
    let bytes = sizes
        .iter()
        .try_fold(8usize, |bytes, size| bytes.checked_mul(*size));
    match bytes {
        Some(bytes) if i64::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Error::shape(
            op,
            "a matrix that can be addressed",
            format!("{sizes:?}"),
        )),
    }
}

/// Blocks along x so that blocks of `each` cover `count`.
pub(super) fn blocks(op: &'static str, count: usize, each: usize) -> Result<u32> {
    match u32::try_from(count.div_ceil(each)) {
        Ok(blocks) if blocks <= i32::MAX as u32 => Ok(blocks),
        _ => Err(Error::shape(
            op,
            format!("at most {} blocks of {each}", i32::MAX),
            count.to_string(),
        )),
    }
}

/// The address of a matrix of this dtype: not null, a multiple of the element's size.
pub(super) fn address(op: &'static str, name: &str, address: u64, bytes: usize) -> Result<Arg> {
    if address == 0 || !address.is_multiple_of(bytes as u64) {
        let expected = format!("{name} at a multiple of {bytes}");
        return Err(Error::shape(op, expected, format!("{address:#x}")));
    }
    Ok(Arg::Pointer(address))
}

/// Refuses a dtype that no kernel was compiled for.
pub(super) fn no_kernel<T>(op: &'static str, dtypes: &[DType]) -> Result<T> {
    Err(Error::shape(
        op,
        "dtypes that there is a kernel for: f32, f16, bf16",
        format!("{dtypes:?}"),
    ))
}
