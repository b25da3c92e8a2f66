//! Centroids that the user gives, and those of a run.

use std::path::Path;

use crate::clip::weights::Weights;
use crate::error::{Error, Result};
use crate::read::read_matrix;

/// Centroids `[k, d]` from a `.npy`, or from a safetensors file with a tensor `centroids`, such as a run's own.
///
/// # Errors
/// [`Error::Usage`] for another shape; [`Error::Input`] or [`Error::Model`] for a file that is none of these.
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
            Ok(weights.get("centroids", &shape)?.flatten_all()?.to_vec1()?)
        }
        _ => Err(unfit(&shape)),
    }
}
