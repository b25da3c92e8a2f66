//! What the CPU twins have in common: element types, access to a tensor's slice, dispatch over the dtype.

use candle_core::{DType, Device, Storage, Tensor, WithDType};
use half::{bf16, f16};

use crate::error::{Error, Result};

/// An element that is stored in its own precision and computed with in f32.
pub(crate) trait Element: WithDType + Send + Sync {
    fn load(self) -> f32;
    fn store(value: f32) -> Self;
}

impl Element for f32 {
    fn load(self) -> f32 {
        self
    }
    fn store(value: f32) -> f32 {
        value
    }
}

impl Element for f16 {
    fn load(self) -> f32 {
        self.to_f32()
    }
    fn store(value: f32) -> f16 {
        f16::from_f32(value)
    }
}

impl Element for bf16 {
    fn load(self) -> f32 {
        self.to_f32()
    }
    fn store(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
}

/// Calls `f` with the elements of a contiguous CPU tensor.
pub(crate) fn with_slice<T: WithDType, R>(
    op: &'static str,
    tensor: &Tensor,
    f: impl FnOnce(&[T]) -> R,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(Error::shape(
            op,
            "a tensor on the CPU",
            format!("{:?}", tensor.device().location()),
        ));
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::shape(
            op,
            "a contiguous tensor",
            format!("strides {:?}", layout.stride()),
        ));
    };
    Ok(f(&storage.as_slice::<T>()?[start..end]))
}

/// A CPU tensor from its elements.
pub(crate) fn tensor<T: WithDType>(data: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

/// The refusal of a dtype that an op has no twin for.
pub(crate) fn unsupported(op: &'static str, dtype: DType) -> Error {
    Error::shape(op, "f32, f16 or bf16", format!("{dtype:?}"))
}

/// Calls a generic function with the element type of a dtype: `by_dtype!(op, dtype, T => expression)`.
macro_rules! by_dtype {
    ($op:expr, $dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F16 => {
                type $t = half::f16;
                $body
            }
            candle_core::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            other => Err($crate::ops::element::unsupported($op, other)),
        }
    };
}
pub(crate) use by_dtype;

/// The largest |a - b|, for tests that hold an op to its composed twin.
#[cfg(test)]
pub(crate) fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}
