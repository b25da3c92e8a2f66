//! k-means as its user sees it: bars for the choice of the first centroids and for the fit, and a line for each iteration.

use super::progress::{Context, Running, Stage};
use crate::dedup::kmeans::{Params, Step};
use crate::error::Result;

/// Turns the steps of a fit into events.
pub(super) struct KMeansWatch<'a> {
    context: Context<'a>,
    /// Most iterations of a restart, and rows compared in one restart.
    iterations: usize,
    rows: u64,
    /// The stage under way, with what is done of it.
    running: Option<(Running<'a>, u64)>,
}

impl<'a> KMeansWatch<'a> {
    /// Of a fit to `n` rows.
    pub(super) fn new(context: Context<'a>, params: &Params, n: usize) -> Self {
        let fitted = params.fitted_rows(n, params.clusters.unwrap_or(0));
        let last = if fitted < n { n } else { 0 };
        KMeansWatch {
            context,
            iterations: params.max_iterations,
            rows: fitted as u64 * (params.max_iterations as u64 + 1) + last as u64,
            running: None,
        }
    }

    /// Takes a step.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`] where the work is to end.
    pub(super) fn tell(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Seeded { done, of } => {
                let before = self.stage(Stage::Seed, of);
                self.advance(done.saturating_sub(before))
            }
            Step::Assigned { rows } => {
                self.stage(Stage::KMeans, self.rows);
                self.advance(rows)
            }
            Step::Iterated(progress) => {
                let restart = match progress.restart {
                    0 => String::new(),
                    restart => format!("restart {restart}, "),
                };
                self.context.note(&format!(
                    "k-means: {restart}iteration {} of at most {}: inertia {:.6}, shift {:.3e}",
                    progress.iteration, self.iterations, progress.inertia, progress.shift
                ));
                self.context.check()
            }
        }
    }

    /// Makes `stage` the one under way; gives what is done of it.
    fn stage(&mut self, stage: Stage, total: u64) -> u64 {
        match &self.running {
            Some((running, done)) if running.stage() == stage => *done,
            _ => {
                self.finish();
                self.running = Some((self.context.begin(stage, Some(total)), 0));
                0
            }
        }
    }

    fn advance(&mut self, more: u64) -> Result<()> {
        match &mut self.running {
            Some((running, done)) => {
                *done += more;
                running.advance(more)
            }
            None => Ok(()),
        }
    }

    /// The stage under way is over.
    pub(super) fn finish(&mut self) {
        if let Some((running, _)) = self.running.take() {
            running.finish();
        }
    }
}
