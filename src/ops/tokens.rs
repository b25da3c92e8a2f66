//! Patch embeddings -> the tower's tokens: the class token before them, positions added.

use candle_core::Tensor;
use rayon::prelude::*;

use super::element::{Element, by_dtype, with_slice, written};
use crate::error::{Error, Result};

/// `[class; patches + positions]`: patches `[n, g², w]`, class `[1, 1, w]` (its position added already), positions `[1, g², w]`,
/// result `[n, g² + 1, w]`, on a CPU in the memory of `spare` where that fits.
///
/// # Errors
/// [`Error::Shape`] where shapes or types differ.
pub fn tokens(
    patches: &Tensor,
    class: &Tensor,
    positions: &Tensor,
    spare: Option<Tensor>,
) -> Result<Tensor> {
    let op = "tokens";
    let (n, patch_count, width) = patches.dims3()?;
    if class.dims() != [1, 1, width] || positions.dims() != [1, patch_count, width] {
        let got = format!("class {:?}, positions {:?}", class.dims(), positions.dims());
        let expected = format!("class [1, 1, {width}], positions [1, {patch_count}, {width}]");
        return Err(Error::shape(op, expected, got));
    }
    if patches.device().is_cuda() {
        let patches = patches.broadcast_add(positions)?;
        let class = class.expand((n, 1, width))?.contiguous()?;
        return Ok(Tensor::cat(&[&class, &patches], 1)?);
    }
    by_dtype!(op, patches.dtype(), T => {
        with_slice::<T, _>(op, patches, |patches| {
            with_slice::<T, _>(op, class, |class| {
                with_slice::<T, _>(op, positions, |positions| {
                    written::<T>(spare, &[n, patch_count + 1, width], |out| {
                        let image = patch_count * width;
                        out.par_chunks_mut(image + width)
                            .zip(patches.par_chunks(image))
                            .for_each(|(out, patches)| {
                                let (first, rest) = out.split_at_mut(width);
                                first.copy_from_slice(class);
                                let sums = patches.iter().zip(positions);
                                for (out, (patch, position)) in rest.iter_mut().zip(sums) {
                                    *out = T::store(patch.load() + position.load());
                                }
                            });
                        Ok(())
                    })
                })
            })
        })???
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_class_token_comes_first_and_patches_get_their_positions() {
        for (n, g2, w) in [(1, 1, 1), (3, 4, 5), (2, 49, 32)] {
            let (patches, class, positions) =
                (random(&[n, g2, w]), random(&[1, 1, w]), random(&[1, g2, w]));
            let spare = random(&[n, g2 + 1, w]);
            let got = tokens(&patches, &class, &positions, Some(spare)).unwrap();
            let class = class.expand((n, 1, w)).unwrap();
            let patches = patches.broadcast_add(&positions).unwrap();
            let expected = Tensor::cat(&[&class, &patches], 1).unwrap();
            assert_eq!(
                got.to_vec3::<f32>().unwrap(),
                expected.to_vec3::<f32>().unwrap()
            );
        }
    }

    #[test]
    fn positions_of_another_number_of_patches_are_refused() {
        let error = tokens(
            &random(&[1, 4, 2]),
            &random(&[1, 1, 2]),
            &random(&[1, 5, 2]),
            None,
        );
        let message = error.unwrap_err().to_string();
        assert!(message.contains("positions [1, 4, 2]"), "{message}");
    }
}
