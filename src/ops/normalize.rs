//! Rows to unit length, with a guard: what cannot be normalised becomes a zero row that the caller is told of, never a NaN.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::cuda::tensors;
use super::dot;
use crate::error::Result;

/// Divides each row of `data` `[n, d]` by its Euclidean length (accumulated in f64, the quotient rounded to f32 once).
///
/// Returns the numbers of the bad rows, ascending: those that are zero or hold a NaN or an infinity. They are set to zero.
/// Rows that are tiny or huge but finite come out as proper unit rows.
///
/// # Panics
/// When `d` is 0 or `data` is not a whole number of rows.
pub fn normalize_rows(data: &mut [f32], d: usize) -> Vec<usize> {
    assert!(
        d > 0 && data.len().is_multiple_of(d),
        "{} values are not rows of {d}",
        data.len()
    );
    data.par_chunks_exact_mut(d)
        .enumerate()
        .filter_map(|(row, values)| {
            let length = dot::cosine(values, values).sqrt();
            if length > 0.0 && length.is_finite() {
                for x in values {
                    *x = (f64::from(*x) / length) as f32;
                }
                None
            } else {
                values.fill(0.0);
                Some(row)
            }
        })
        .collect()
}

/// The rows of a tensor `[n, d]` to unit length, rounded to `dtype` (f32 or f16), and u8 `[n]`: 1 for a bad row, which is zero then. On
/// CUDA nothing is waited for; the bits are those of the CPU.
///
/// # Errors
/// [`crate::Error::Shape`] where x is not `[n, d]`.
pub fn normalize_tensor(x: &Tensor, dtype: DType) -> Result<(Tensor, Tensor)> {
    let (n, d) = x.dims2()?;
    if x.device().is_cuda() {
        return tensors::normalize(x, dtype);
    }
    let mut rows = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut bad = vec![0u8; n];
    normalize_rows(&mut rows, d)
        .into_iter()
        .for_each(|row| bad[row] = 1);
    let rows = Tensor::from_vec(rows, (n, d), x.device())?.to_dtype(dtype)?;
    Ok((rows, Tensor::from_vec(bad, n, x.device())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_unit_rows_and_bad_ones_are_zeroed_and_named() {
        let mut data = vec![
            3.0,
            4.0,
            0.0,
            0.0,
            f32::NAN,
            1.0,
            f32::INFINITY,
            1.0,
            1e-42,
            0.0,
            3e38,
            -3e38,
        ];
        assert_eq!(normalize_rows(&mut data, 2), [1, 2, 3]);
        let half = 0.5f32.sqrt();
        assert_eq!(
            data,
            [
                0.6, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, half, -half
            ]
        );
    }

    #[test]
    fn no_rows_are_no_rows() {
        assert!(normalize_rows(&mut [], 4).is_empty());
    }
}
