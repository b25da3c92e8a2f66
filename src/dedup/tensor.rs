//! Candle tensors as rows.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// The values of a tensor `[n, d]` of f32, f16 or bf16, row by row, and d. They are copied, from whatever device they are on.
///
/// # Errors
/// [`Error::Shape`] for another shape or type; [`Error::Tensor`] where the device fails.
pub(super) fn rows_of(tensor: &Tensor) -> Result<(Vec<f32>, usize)> {
    let floats = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
    let d = match *tensor.dims() {
        [_, d] if d > 0 && floats => d,
        _ => return Err(unfit(tensor)),
    };
    let rows = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok((rows.flatten_all()?.to_vec1()?, d))
}

fn unfit(tensor: &Tensor) -> Error {
    let got = format!("{:?} of {:?}", tensor.dims(), tensor.dtype());
    Error::shape(
        "rows of a tensor",
        "[n, d] of f32, f16 or bf16, d at least 1",
        got,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_of_every_type_and_layout() {
        let values = [1.0f32, 0.5, -2.0, 0.0, 3.0, 0.25];
        let tensor = Tensor::new(&values, &Device::Cpu).unwrap();
        let tensor = tensor.reshape((3, 2)).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let tensor = tensor.to_dtype(dtype).unwrap();
            assert_eq!(rows_of(&tensor).unwrap(), (values.to_vec(), 2), "{dtype:?}");
            let (turned, d) = rows_of(&tensor.t().unwrap()).unwrap();
            assert_eq!((d, &turned[..3]), (3, &[1.0, -2.0, 3.0][..]));
            let (none, d) = rows_of(&tensor.narrow(0, 1, 0).unwrap()).unwrap();
            assert_eq!((none.len(), d), (0, 2));
        }
        for wrong in [
            tensor.flatten_all().unwrap(),
            tensor.reshape((1, 3, 2)).unwrap(),
            tensor.to_dtype(DType::U8).unwrap(),
            tensor.narrow(1, 0, 0).unwrap(),
        ] {
            let words = rows_of(&wrong).unwrap_err().to_string();
            assert!(words.contains("[n, d] of f32, f16 or bf16"), "{words}");
        }
    }
}
