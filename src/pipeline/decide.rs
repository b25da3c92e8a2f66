//! Thresholds, filters and pairs -> decisions: `decisions.parquet` and `duplicates/removed.parquet`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::dedup::Dedup;
use super::duplicates::{self, Mode, Plan};
use super::matrix::Matrix;
use super::pairs;
use super::progress::{Context, Stage};
use super::report::REPORT;
use super::run::{Run, Summary};
use super::set::{Samples, read_scores};
use crate::atomic;
use crate::dedup::decide::{DuplicateOf, Keep, PairGraph, Removal};
use crate::error::{Error, Result};
use crate::sample::{Decision, Reason};
use crate::store::findings::{self, DecisionRow};
use crate::store::ids::IdType;
use crate::store::run_file::{DecideRequest, DedupRequest, Threshold};
use crate::store::tables::SampleRow;

/// What is known of a good sample when it is decided about; what [`crate::Pipeline::keep_if`] is shown.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// The sample's row in `samples/`.
    pub sample: &'a SampleRow,
    scores: &'a [(String, Vec<f32>)],
    row: usize,
}

impl Candidate<'_> {
    /// A score by name; NaN where there is none of that name.
    pub fn score(&self, name: &str) -> f32 {
        self.scores
            .iter()
            .find(|(n, _)| n == name)
            .map_or(f32::NAN, |(_, values)| values[self.row])
    }
}

/// A caller's own test: its name, which is the reason of those that fail it, and the test.
pub type Filter = (String, Box<dyn Fn(&Candidate) -> bool + Send + Sync>);

impl Run {
    /// Finds duplicates where that is not done yet for this request, and decides.
    ///
    /// Clusters and pairs are kept as long as they serve: another eps within the floor, other thresholds, another order or
    /// removal only decide anew.
    ///
    /// # Errors
    /// [`Error::Usage`] for a request that contradicts itself or the run.
    pub fn dedup(
        &mut self,
        dedup: &Dedup,
        filters: &[Filter],
        context: Context,
    ) -> Result<Summary> {
        dedup.check()?;
        let embed = self.embed_request()?;
        let keep = self.order_of_preference(dedup, embed.imported)?;
        let eps = dedup.eps.unwrap_or(embed.default_eps);
        if embed.imported && dedup.eps.is_none() && dedup.mode != Mode::Off {
            context.note(&format!(
                "dedup: eps {eps}, for want of a model that is known; --eps X gives another"
            ));
        }
        let decide = |eps| DecideRequest {
            eps,
            keep: keep.to_string(),
            removal: dedup.removal.to_string(),
            seed: dedup.seed,
        };
        if dedup.mode == Mode::Off {
            self.forget_duplicates()?;
            self.file.decide = Some(decide(None));
            return self.decide(filters, context);
        }
        let samples = Samples::read(&self.dirs())?;
        let d = embed.dims;
        let floor = dedup.floor.unwrap_or((4.0 * eps).min(2.0));
        if floor < eps {
            return Err(Error::usage(format!(
                "--floor {floor} is below the eps of {eps}; pairs are stored down to the floor"
            )));
        }
        let mut plan = Plan {
            mode: dedup.mode,
            floor,
            clusters: &dedup.clusters,
            keep: &keep,
            seed: dedup.seed,
            tile: dedup.tile,
            held: dedup.held,
        };
        let mode = plan.settle(samples.len(), d, context);
        if let Some(stored) = &self.file.dedup
            && dedup.floor.is_none()
            && stored.floor >= eps
        {
            // A floor that nobody asked for need not be the one that the pairs were stored to.
            plan.floor = stored.floor;
        }
        let request = plan.request(mode, samples.len(), d)?;
        let parts = samples.part_sizes.len();
        let stored = self.file.dedup.clone().filter(|_| {
            let files = self.file.pair_files;
            files.is_some_and(|files| duplicates::all_there(&self.home, files, parts, mode))
        });
        if stored.as_ref() != Some(&request) {
            let begun = Instant::now();
            match stored {
                Some(stored) if stored.serves(&request) => {
                    duplicates::match_anew(&self.home, &self.dirs(), &samples, d, &plan)?;
                }
                _ => self.find_duplicates(&samples, d, mode, &plan, context)?,
            }
            self.took(Stage::Dedup, begun.elapsed().as_secs_f64());
        }
        self.file.dedup = Some(request);
        self.file.decide = Some(decide(Some(eps)));
        let wanted = self.audit_wanted(dedup, mode, eps, context)?;
        let summary = self.decide_over(&samples, filters, context)?;
        if let Some(params) = wanted {
            self.audit(&samples, d, &params, dedup.held, context)?;
        }
        Ok(summary)
    }

    /// Finds clusters and pairs; what was there stays until all that can be wrong with the request is known.
    fn find_duplicates(
        &mut self,
        samples: &Samples,
        d: usize,
        mode: Mode,
        plan: &Plan,
        context: Context,
    ) -> Result<()> {
        let matrix = Matrix::read(&self.home, &self.dirs(), samples, d, plan.held)?;
        let search = duplicates::Search::begin(&matrix, d, mode, plan, context)?;
        self.forget_duplicates()?;
        let files = search.store(&self.home, &self.dirs(), samples, plan, context)?;
        self.file.pair_files = Some(files);
        Ok(())
    }

    /// Clears `clusters/` and `duplicates/`, after `run.json` has ceased to claim that they are there.
    fn forget_duplicates(&mut self) -> Result<()> {
        self.file.dedup = None;
        self.file.pair_files = None;
        self.file.audit = None;
        self.save()?;
        self.home.clear_duplicates()
    }

    /// The order asked for, or the default.
    fn order_of_preference(&self, dedup: &Dedup, imported: bool) -> Result<Keep> {
        match &dedup.keep {
            None if imported => Ok(Keep::First),
            None => Ok(Keep::Largest),
            Some(Keep::Largest) if imported => Err(Error::usage(
                "--keep largest: embeddings without images have no sizes; use first, random, hard, easy or best:NAME",
            )),
            Some(Keep::Best { score: name, .. })
                if !self.file.scores.iter().any(|s| s.name == *name) =>
            {
                Err(Error::usage(format!(
                    "--keep best:{name}: the run has no score {name}; add it with --head {name}=..."
                )))
            }
            Some(keep) => Ok(keep.clone()),
        }
    }

    /// Makes `decisions.parquet` and `duplicates/removed.parquet` from what is stored: thresholds and filters first, then
    /// duplicates among the survivors.
    ///
    /// # Errors
    /// [`Error::Run`] where a table is damaged.
    pub fn decide(&mut self, filters: &[Filter], context: Context) -> Result<Summary> {
        let samples = Samples::read(&self.dirs())?;
        self.decide_over(&samples, filters, context)
    }

    fn decide_over(
        &mut self,
        samples: &Samples,
        filters: &[Filter],
        context: Context,
    ) -> Result<Summary> {
        let mut running = context.begin(Stage::Decide, Some(samples.rows.len() as u64));
        atomic::remove_file(self.home.path(REPORT))?;
        let mut scores = Vec::new();
        for score in &self.file.scores {
            if !score.complete {
                return Err(Error::usage(format!(
                    "score {0} is not complete; clipsift score {1} --head {0}=... goes on with it",
                    score.name,
                    self.home.root().display()
                )));
            }
            let values = read_scores(&self.dirs(), samples, &score.name)?;
            scores.push((score.name.clone(), values));
        }
        let failed: Vec<Option<&str>> = (0..samples.len())
            .map(|row| first_failure(&self.file.thresholds, filters, samples, &scores, row))
            .collect();
        let survivors: Vec<bool> = failed.iter().map(Option::is_none).collect();
        let fallen = self.fallen(samples, &survivors)?;

        let id = |row: usize| samples.sample(row).id.as_str();
        let mut rows: Vec<DecisionRow> = samples.rows.iter().map(corrupt).collect();
        let mut removed = Vec::new();
        for (row, at) in samples.good.iter().enumerate() {
            let reason = match (failed[row], fallen[row]) {
                (Some(name), _) => name,
                (None, Some(kept)) => {
                    rows[*at].duplicate_of = Some(id(kept.row as usize).into());
                    removed.push((id(row), id(kept.row as usize), kept.cosine));
                    Reason::Duplicate.as_str()
                }
                (None, None) => Reason::Kept.as_str(),
            };
            rows[*at].reason = reason.into();
        }
        let columns: Vec<_> = scores
            .iter()
            .map(|(name, values)| (name.clone(), samples.spread(values)))
            .collect();
        running.advance(rows.len() as u64)?;
        self.store_decisions(samples.id_type, &rows, &columns, &removed)?;
        self.count(&rows, filters);
        self.took(Stage::Decide, running.finish());
        self.save()?;
        let mut summary = self.summary()?;
        // `run.json` knows the order of the thresholds only.
        summary.below.sort_by_key(|(name, _)| {
            let threshold = self.file.thresholds.iter().any(|t| t.score == *name);
            let filter = filters.iter().position(|(filter, _)| filter == name);
            filter.filter(|_| !threshold)
        });
        Ok(summary)
    }

    /// What each good row falls to, by the stored pairs; none where duplicates are not looked for.
    pub(super) fn fallen(
        &self,
        samples: &Samples,
        survivors: &[bool],
    ) -> Result<Vec<Option<DuplicateOf>>> {
        let Some(DecideRequest {
            eps: Some(eps),
            keep,
            removal,
            seed,
        }) = &self.file.decide
        else {
            return Ok(vec![None; samples.len()]);
        };
        let (_, pair_files) = self.found()?;
        let damaged = |reason: String| Error::run(self.home.root(), reason);
        let keep: Keep = keep.parse().map_err(damaged)?;
        let removal: Removal = removal.parse().map_err(damaged)?;
        let order = duplicates::order(&self.home, &self.dirs(), samples, &keep, *seed)?;
        let mut graph = PairGraph::new(samples.len(), *eps)?;
        pairs::read_pairs(&self.home, samples, pair_files, |pairs| {
            Ok(graph.add(pairs)?)
        })?;
        Ok(graph.decide(survivors, &[], &order, removal)?)
    }

    /// How the stored pairs were found, and the number of their files.
    ///
    /// # Errors
    /// [`Error::Usage`] where duplicates are not found yet, or not all.
    pub(super) fn found(&self) -> Result<(&DedupRequest, usize)> {
        let found = self.file.dedup.as_ref().zip(self.file.pair_files);
        found.ok_or_else(|| {
            Error::usage(format!(
                "the duplicates of {0} are not complete; clipsift dedup {0} finds them",
                self.home.root().display()
            ))
        })
    }

    fn store_decisions(
        &mut self,
        kind: IdType,
        rows: &[DecisionRow],
        scores: &[(String, Vec<Option<f32>>)],
        removed: &[(&str, &str, f64)],
    ) -> Result<()> {
        if self.file.dedup.is_some() {
            let table = findings::matched_to_batch(kind, ["id", "kept_id", "cosine"], removed)?;
            atomic::write_parquet(self.home.path("duplicates/removed.parquet"), &table)?;
        }
        let path = self.home.path("decisions.parquet");
        let before = std::fs::read(&path).ok();
        atomic::write_parquet(&path, &findings::decisions_to_batch(kind, rows, scores)?)?;
        if before != std::fs::read(&path).ok() {
            // The set in curated/, if there is one, is not that of these decisions any more.
            self.file.write = None;
        }
        Ok(())
    }

    fn count(&mut self, rows: &[DecisionRow], filters: &[Filter]) {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let names = self
            .file
            .thresholds
            .iter()
            .map(|t| t.score.as_str())
            .chain(filters.iter().map(|f| f.0.as_str()));
        for name in names.chain(["kept", "corrupt", "duplicate"]) {
            counts.insert(name.into(), 0);
        }
        for row in rows {
            *counts.entry(row.reason.clone()).or_default() += 1;
        }
        counts.insert("read".into(), rows.len() as u64);
        counts.insert("bad".into(), counts["corrupt"]);
        self.file.counts = counts;
    }

    /// The decisions, in read order.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are none yet.
    pub fn decisions(&self) -> Result<Vec<Decision>> {
        let path = self.home.path("decisions.parquet");
        if !path.is_file() {
            let root = self.home.root().display();
            return Err(Error::usage(format!(
                "{root} has no decisions yet; clipsift dedup {root} or clipsift filter {root} makes them"
            )));
        }
        let rows = findings::decisions_from_batch(&atomic::read_parquet(&path)?)
            .map_err(|reason| Error::run(&path, reason))?;
        Ok(rows
            .into_iter()
            .map(|row| Decision {
                reason: match row.reason.as_str() {
                    "kept" => Reason::Kept,
                    "corrupt" => Reason::Corrupt,
                    "duplicate" => Reason::Duplicate,
                    score => Reason::Score(score.into()),
                },
                id: row.id,
                duplicate_of: row.duplicate_of,
            })
            .collect())
    }
}

/// The decision about a bad sample, which a good one's takes the place of.
fn corrupt(sample: &SampleRow) -> DecisionRow {
    DecisionRow {
        id: sample.id.clone(),
        reason: Reason::Corrupt.as_str().into(),
        duplicate_of: None,
    }
}

/// The first threshold, in the order of the request, and then the first filter that a good row fails.
fn first_failure<'a>(
    thresholds: &'a [Threshold],
    filters: &'a [Filter],
    samples: &Samples,
    scores: &[(String, Vec<f32>)],
    row: usize,
) -> Option<&'a str> {
    let candidate = Candidate {
        sample: samples.sample(row),
        scores,
        row,
    };
    let below = thresholds
        .iter()
        .find(|t| !t.keeps(candidate.score(&t.score)))
        .map(|t| t.score.as_str());
    below.or_else(|| {
        filters
            .iter()
            .find(|(_, keep)| !keep(&candidate))
            .map(|(name, _)| name.as_str())
    })
}
