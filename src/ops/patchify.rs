//! 8-bit pixels -> normalised patches, laid out so that the patch embedding is one GEMM.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::cuda::tensors;
use super::element::{Element, by_dtype, with_slice, written};
use crate::error::{Error, Result};

/// What a tower subtracts and divides by, a channel (red, green, blue), on pixels scaled to 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelNorm {
    /// Subtracted.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
}

/// Pixels u8 `[n, s, s, 3]` -> patches `[n, g², 3p²]` of `dtype`, where g = s / p (a remainder of s is left out, as a
/// convolution of stride p leaves it out).
///
/// Patches go row by row; inside a patch the order is channel, row, column: that of a PyTorch convolution's weight
/// `[w, 3, p, p]` flattened to `[w, 3p²]`. A value is `(pixel / 255 - mean) / std`, from a table of 256 entries a channel. On a CPU the
/// result is in the memory of `spare` where that fits.
///
/// # Errors
/// [`Error::Shape`] where the pixels are not u8 `[n, s, s, 3]` with s >= p >= 1.
pub fn patchify(
    pixels: &Tensor,
    p: usize,
    norm: &PixelNorm,
    dtype: DType,
    spare: Option<Tensor>,
) -> Result<Tensor> {
    let (n, s) = match *pixels.dims() {
        [n, s, width, 3] if s == width && p >= 1 && s >= p && pixels.dtype() == DType::U8 => (n, s),
        _ => {
            let got = format!("{:?} {:?}", pixels.dtype(), pixels.dims());
            return Err(Error::shape(
                "patchify",
                format!("u8 [n, s, s, 3] with s >= {p}"),
                got,
            ));
        }
    };
    if pixels.device().is_cuda() {
        return tensors::patchify(pixels, p, norm, dtype);
    }
    let g = s / p;
    by_dtype!("patchify", dtype, T => {
        let tables = [0, 1, 2].map(|c| table::<T>(norm.mean[c], norm.std[c]));
        with_slice::<u8, _>("patchify", pixels, |pixels| {
            written::<T>(spare, &[n, g * g, 3 * p * p], |out| {
                out.par_chunks_mut(g * g * 3 * p * p).zip(pixels.par_chunks(s * s * 3)).for_each(|(out, image)| {
                    for (patch, out) in out.chunks_exact_mut(3 * p * p).enumerate() {
                        let (top, left) = (patch / g * p, patch % g * p);
                        for y in 0..p {
                            let line = &image[((top + y) * s + left) * 3..][..p * 3];
                            for c in 0..3 {
                                let out = &mut out[(c * p + y) * p..][..p];
                                out.iter_mut().zip(line[c..].iter().step_by(3)).for_each(|(o, v)| *o = tables[c][*v as usize]);
                            }
                        }
                    }
                });
                Ok(())
            })
        })?
    })
}

fn table<T: Element>(mean: f32, std: f32) -> Vec<T> {
    (0..256)
        .map(|v| T::store((v as f32 / 255.0 - mean) / std))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::element::max_difference;
    use candle_core::Device;

    #[test]
    fn patches_times_a_flat_weight_equal_a_convolution() {
        let norm = PixelNorm {
            mean: [0.4, 0.5, 0.6],
            std: [0.3, 0.2, 0.1],
        };
        for (n, s, p) in [(1, 4, 2), (3, 9, 3), (2, 10, 4), (1, 7, 7)] {
            let bytes: Vec<u8> = (0..n * s * s * 3).map(|i| (i * 37 % 251) as u8).collect();
            let pixels = Tensor::from_vec(bytes, (n, s, s, 3), &Device::Cpu).unwrap();
            let weight = Tensor::randn(0f32, 1.0, (5, 3, p, p), &Device::Cpu).unwrap();
            let patches = patchify(&pixels, p, &norm, DType::F32, None).unwrap();
            let got = super::super::matmul_t(&patches, &weight.flatten_from(1).unwrap()).unwrap();

            let image = (pixels
                .to_dtype(DType::F32)
                .unwrap()
                .permute((0, 3, 1, 2))
                .unwrap()
                / 255.0)
                .unwrap();
            let mean = Tensor::new(&norm.mean, &Device::Cpu)
                .unwrap()
                .reshape((1, 3, 1, 1))
                .unwrap();
            let std = Tensor::new(&norm.std, &Device::Cpu)
                .unwrap()
                .reshape((1, 3, 1, 1))
                .unwrap();
            let image = image
                .broadcast_sub(&mean)
                .unwrap()
                .broadcast_div(&std)
                .unwrap();
            let expected = image
                .conv2d(&weight, 0, p, 1, 1)
                .unwrap()
                .flatten_from(2)
                .unwrap()
                .transpose(1, 2)
                .unwrap();
            let difference = max_difference(&got, &expected);
            assert!(difference < 1e-4, "n {n}, s {s}, p {p}");
        }
    }

    #[test]
    fn pixels_of_another_shape_or_type_are_refused() {
        let norm = PixelNorm {
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        let floats = Tensor::zeros((1, 4, 4, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(patchify(&floats, 2, &norm, DType::F32, None).is_err());
        let small = Tensor::zeros((1, 4, 4, 3), DType::U8, &Device::Cpu).unwrap();
        assert!(patchify(&small, 5, &norm, DType::F32, None).is_err());
    }
}
