//! How clusters are asked for.

use std::path::PathBuf;

use super::centroids::read_centroids;
use crate::dedup::kmeans;
use crate::error::{Error, Result};

/// How clusters are made, for [`super::Mode::Semantic`].
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters {
    /// k; none for clusters of about 1,000 rows.
    pub clusters: Option<usize>,
    /// How the first centroids are chosen.
    pub init: InitKind,
    /// Centroids `[k, d]` to begin from: a `.npy`, or a safetensors file with a tensor `centroids`.
    pub centroids: Option<PathBuf>,
    /// Most iterations.
    pub iterations: usize,
    /// The squared shift of all centroids that ends the fit.
    pub tol: f64,
    /// The part of the rows that the fit sees, above 0 and up to 1.
    pub fit_fraction: f64,
    /// Fits to choose the best of.
    pub restarts: usize,
}

impl Clusters {
    /// # Errors
    /// [`Error::Usage`] for what can never be fitted.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::usage(text));
        if self.clusters == Some(0) {
            return wrong("--clusters 0: give at least 1, or auto".into());
        }
        if self.restarts == 0 {
            return wrong("--restarts 0: give at least 1".into());
        }
        if !(self.tol >= 0.0 && self.tol.is_finite()) {
            return wrong(format!("--tol {}: give a number of at least 0", self.tol));
        }
        if !(self.fit_fraction > 0.0 && self.fit_fraction <= 1.0) {
            let fraction = self.fit_fraction;
            return wrong(format!(
                "--fit-fraction {fraction}: give a number above 0 and up to 1"
            ));
        }
        Ok(())
    }

    /// The given centroids `[k, d]`, checked against the embeddings' d; none where none are given.
    ///
    /// # Errors
    /// [`Error::Usage`] where they do not fit.
    pub(super) fn given(&self, d: usize) -> Result<Option<Vec<f32>>> {
        let given = self
            .centroids
            .as_ref()
            .map(|path| read_centroids(path, d))
            .transpose()?;
        match (&given, self.clusters) {
            (Some(rows), Some(k)) if rows.len() != k * d => Err(Error::usage(format!(
                "--clusters {k}, but --centroids holds {}; leave --clusters out",
                rows.len() / d
            ))),
            _ => Ok(given),
        }
    }

    /// Whether clusters were asked for by number or by centroids.
    pub(super) fn asked_for(&self) -> bool {
        self.clusters.is_some() || self.centroids.is_some()
    }
}

impl Default for Clusters {
    fn default() -> Clusters {
        let kmeans = kmeans::Params::default();
        Clusters {
            clusters: None,
            init: InitKind::KMeansPlusPlus,
            centroids: None,
            iterations: kmeans.max_iterations,
            tol: kmeans.tolerance,
            fit_fraction: kmeans.fit_fraction,
            restarts: kmeans.restarts,
        }
    }
}

/// A way to choose the first centroids; see [`kmeans::Init`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitKind {
    /// k-means++
    #[default]
    KMeansPlusPlus,
    /// k-means||
    KMeansParallel,
    /// Rows drawn at random.
    Random,
}

impl InitKind {
    /// As the command line has it.
    pub fn as_str(self) -> &'static str {
        match self {
            InitKind::KMeansPlusPlus => "k-means++",
            InitKind::KMeansParallel => "kmeans-parallel",
            InitKind::Random => "random",
        }
    }
}
