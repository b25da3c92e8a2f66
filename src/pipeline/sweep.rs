//! What other values of eps would remove, from the stored pairs; nothing is changed.

use super::duplicates;
use super::run::Run;
use crate::dedup::decide::{Keep, Removal};
use crate::error::{Error, Result};
use crate::sample::Reason;

/// What one eps would do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Swept {
    /// The eps.
    pub eps: f64,
    /// Duplicates there would be.
    pub duplicates: u64,
    /// Samples that would be kept.
    pub kept: u64,
}

impl Run {
    /// What each eps would remove of the samples that pass the thresholds, in the order of preference and by the removal that
    /// were decided with last.
    ///
    /// # Errors
    /// [`Error::Usage`] where no pairs are stored, not all, or not down to an eps.
    pub fn sweep(&self, eps: &[f64]) -> Result<Vec<Swept>> {
        let root = self.root().display();
        let decide = self.file.decide.as_ref();
        let Some(decide) = decide.filter(|decide| decide.eps.is_some()) else {
            return Err(Error::usage(format!(
                "{root} has no pairs yet; clipsift dedup {root} finds them"
            )));
        };
        let (found, pair_files) = self.found()?;
        if let Some(eps) = eps.iter().find(|eps| !(0.0..=found.floor).contains(*eps)) {
            return Err(Error::usage(format!(
                "--sweep {eps}: pairs of {root} are stored for an eps from 0 to {}; clipsift dedup {root} --floor {eps} finds more",
                found.floor
            )));
        }
        let complete = self.file.complete_to.unwrap_or(f64::INFINITY);
        if let Some(eps) = eps.iter().find(|eps| **eps > complete) {
            return Err(Error::usage(format!(
                "--sweep {eps}: some rows of {root} have so many pairs that all are stored for an eps up to {complete} only; clipsift dedup {root} --eps {eps} compares again"
            )));
        }
        let damaged = |reason: String| Error::run(self.root(), reason);
        let keep: Keep = decide.keep.parse().map_err(damaged)?;
        let removal: Removal = decide.removal.parse().map_err(damaged)?;
        let samples = self.samples()?;
        let mut passes = Vec::with_capacity(samples.ids.len());
        for decision in self.each_decision()? {
            passes.push(matches!(decision?.reason, Reason::Kept | Reason::Duplicate));
        }
        if passes.len() != samples.ids.len() {
            return Err(damaged(
                "the decisions are not those of the samples; clipsift dedup makes them anew".into(),
            ));
        }
        let survivors: Vec<bool> = samples.good.iter().map(|at| passes[*at]).collect();
        let passing = survivors.iter().filter(|passes| **passes).count() as u64;
        let order = duplicates::order(&self.home, &self.dirs(), &samples, &keep, decide.seed)?;
        eps.iter()
            .map(|&eps| {
                let fallen =
                    self.fallen_within(&samples, &survivors, pair_files, &order, eps, removal)?;
                let duplicates = fallen.iter().flatten().count() as u64;
                Ok(Swept {
                    eps,
                    duplicates,
                    kept: passing - duplicates,
                })
            })
            .collect()
    }
}
