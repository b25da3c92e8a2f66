//! What the CPU twins have in common: element types, access to a tensor's slice, dispatch over the dtype.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor, WithDType};
use half::{bf16, f16};

use crate::error::{Error, Result};

/// An element that is stored in its own precision and computed with in f32.
pub(crate) trait Element: WithDType + Send + Sync {
    fn load(self) -> f32;
    fn store(value: f32) -> Self;
    /// The elements of a storage of this type.
    fn elements(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Element for f32 {
    fn elements(storage: &mut CpuStorage) -> Option<&mut [f32]> {
        match storage {
            CpuStorage::F32(values) => Some(values),
            _ => None,
        }
    }
    fn load(self) -> f32 {
        self
    }
    fn store(value: f32) -> f32 {
        value
    }
}

impl Element for f16 {
    fn elements(storage: &mut CpuStorage) -> Option<&mut [f16]> {
        match storage {
            CpuStorage::F16(values) => Some(values),
            _ => None,
        }
    }
    fn load(self) -> f32 {
        self.to_f32()
    }
    fn store(value: f32) -> f16 {
        f16::from_f32(value)
    }
}

impl Element for bf16 {
    fn elements(storage: &mut CpuStorage) -> Option<&mut [bf16]> {
        match storage {
            CpuStorage::BF16(values) => Some(values),
            _ => None,
        }
    }
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// To nearest, ties to even; without a branch, so that loops over it vectorise.
    fn store(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        let bits = if value.is_nan() {
            bits | 0x40_0000
        } else {
            rounded
        };
        bf16::from_bits((bits >> 16) as u16)
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

/// A CPU tensor whose elements `write` sets, all of them: in the memory of `spare` where that is of the shape and type and
/// contiguous, so that a forward pass need not ask the system for memory at every op. Whoever gives a spare tensor away
/// must not look at it any more, under any of its clones.
pub(crate) fn written<T: Element>(
    spare: Option<Tensor>,
    shape: &[usize],
    write: impl FnOnce(&mut [T]) -> Result<()>,
) -> Result<Tensor> {
    let fits = |t: &Tensor| {
        t.dims() == shape && t.dtype() == T::DTYPE && t.device().is_cpu() && t.is_contiguous()
    };
    match spare.filter(fits) {
        Some(tensor) => {
            update::<T>(&tensor, write)?;
            Ok(tensor)
        }
        None => {
            let mut data = vec![T::store(0.0); shape.iter().product()];
            write(&mut data)?;
            self::tensor(data, shape)
        }
    }
}

/// Changes the elements of a contiguous CPU tensor where they lie.
pub(crate) fn update<T: Element>(
    tensor: &Tensor,
    change: impl FnOnce(&mut [T]) -> Result<()>,
) -> Result<()> {
    struct Change<F>(Cell<Option<F>>, Cell<Result<()>>);
    impl<F: FnOnce(&mut CpuStorage, &Layout) -> Result<()>> InplaceOp1 for Change<F> {
        fn name(&self) -> &'static str {
            "update"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            if let Some(change) = self.0.take() {
                self.1.set(change(storage, layout));
            }
            Ok(())
        }
    }
    let expected = || {
        Error::shape(
            "update",
            format!("contiguous {:?} on the CPU", T::DTYPE),
            format!("{tensor:?}"),
        )
    };
    let change = Change(
        Cell::new(Some(|storage: &mut CpuStorage, layout: &Layout| {
            let (start, end) = layout.contiguous_offsets().ok_or_else(expected)?;
            change(&mut T::elements(storage).ok_or_else(expected)?[start..end])
        })),
        Cell::new(Ok(())),
    );
    tensor.inplace_op1(&change)?;
    change.1.into_inner()
}

/// The values of a small tensor (a bias, a norm's scale) in f32.
pub(crate) fn parameters(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
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

/// Calls a generic function with the element types of a residual stream, which is f32 or of the other type, and of what is made of
/// it: `by_dtypes!(op, stream, dtype, S, T => expression)`.
macro_rules! by_dtypes {
    ($op:expr, $stream:expr, $dtype:expr, $s:ident, $t:ident => $body:expr) => {
        match ($stream, $dtype) {
            (candle_core::DType::F32, dtype) => {
                type $s = f32;
                $crate::ops::element::by_dtype!($op, dtype, $t => $body)
            }
            (candle_core::DType::F16, candle_core::DType::F16) => {
                type $s = half::f16;
                type $t = half::f16;
                $body
            }
            (candle_core::DType::BF16, candle_core::DType::BF16) => {
                type $s = half::bf16;
                type $t = half::bf16;
                $body
            }
            (stream, _) => Err($crate::ops::element::unsupported($op, stream)),
        }
    };
}
pub(crate) use by_dtypes;

/// The largest |a - b|, for tests that hold an op to its composed twin.
#[cfg(test)]
pub(crate) fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}
