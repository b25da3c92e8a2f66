//! Centroids that the user gives, and those of a run.

use std::path::Path;

use crate::atomic;
use crate::clip::weights::Weights;
use crate::error::{Error, Result};
use crate::read::read_matrix;

/// The key in the header of a run's own centroids: XXH3 of 128 bits over their values.
pub(super) const CHECKSUM: &str = "clipsift.xxh3_128";

/// Centroids `[k, d]` from a `.npy`, or from a safetensors file with a tensor `centroids`, such as a run's own.
///
/// # Errors
/// [`Error::Usage`] for another shape; [`Error::Damaged`] where the checksum of a run's own differs; [`Error::Input`] or [`Error::Model`] for a file that is none of these.
pub(super) fn read_centroids(path: &Path, d: usize) -> Result<Vec<f32>> {
    let unfit = |shape: &[usize]| {
        Error::usage(format!(
            "{}: centroids are {shape:?}, the embeddings ask for [k, {d}]",
            path.display()
        ))
    };
    if path.extension().is_some_and(|e| e == "npy") {
        let (k, width, centroids) = read_matrix(path)?;
        return match (k, width) {
            (1.., width) if width == d => Ok(centroids),
            _ => Err(unfit(&[k, width])),
        };
    }
    let weights = Weights::open_file(path)?;
    let shape = weights
        .shape("centroids")
        .ok_or_else(|| Error::usage(format!("{}: has no tensor centroids", path.display())))?;
    match shape[..] {
        [k, width] if width == d && k > 0 => {
            let centroids: Vec<f32> = weights.get("centroids", &shape)?.flatten_all()?.to_vec1()?;
            let sum = || atomic::checksum_of_bytes(bytemuck::cast_slice(&centroids));
            match weights.metadata(CHECKSUM) {
                Some(stored) if stored != sum() => {
                    Err(Error::damaged(path, "its checksum differs"))
                }
                _ => Ok(centroids),
            }
        }
        _ => Err(unfit(&shape)),
    }
}
