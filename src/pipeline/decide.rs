//! Thresholds, filters and pairs -> decisions: `decisions.parquet` and `duplicates/removed.parquet`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::against::Against;
use super::copies::{Copies, Sums};
use super::decisions::{self, Decided};
use super::dedup::Dedup;
use super::duplicates::{self, Mode, Plan};
use super::matrix::Matrix;
use super::pairs;
use super::progress::{Context, Stage};
use super::report::REPORT;
use super::resident::Placed;
use super::run::{Run, Summary};
use super::set::{Samples, read_scores, sample_rows};
use crate::atomic;
use crate::dedup::decide::{DuplicateOf, Keep, PairGraph, Removal};
use crate::error::{Error, Result};
use crate::store::RunDir;
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
        let dropped = self.file.dedup.iter().flat_map(|found| &found.against);
        for earlier in dropped.filter(|_| dedup.against.is_empty()) {
            let earlier = &earlier.run;
            context.note(&format!(
                "dedup: decided before against {earlier}, now without; --against {earlier} keeps it"
            ));
        }
        if dedup.mode == Mode::Off {
            self.forget_duplicates()?;
            self.file.decide = Some(decide(None));
            return self.decide(filters, context);
        }
        let against = self.open_against(&dedup.against, &embed)?;
        let mut samples = Samples::read(&self.dirs())?;
        samples.earlier = against.rows(samples.id_type)?;
        let d = embed.dims;
        let floor = dedup.floor.unwrap_or_else(|| usual_floor(eps));
        if floor < eps {
            return Err(Error::usage(format!(
                "--floor {floor} is below the eps of {eps}; pairs are stored down to the floor"
            )));
        }
        let mut plan = Plan {
            mode: dedup.mode,
            eps,
            floor,
            clusters: &dedup.clusters,
            keep: &keep,
            seed: dedup.seed,
            tile: dedup.tile,
            held: dedup.held,
            on_card: self.device.candle().is_cuda(),
            row_pairs: dedup.row_pairs,
        };
        let mode = plan.settle(samples.len(), against.len(), d, context);
        if let Some(stored) = &self.file.dedup
            && dedup.floor.is_none()
            && stored.floor >= eps
        {
            // A floor that nobody asked for need not be the one that the pairs were stored to.
            plan.floor = stored.floor;
        }
        let request = DedupRequest {
            against: against.requests(),
            ..plan.request(mode, samples.all(), d)?
        };
        let stored = self.stored_search(&samples, &request, mode, eps, d, context)?;
        if stored.as_ref() != Some(&request) {
            let begun = Instant::now();
            match stored {
                Some(stored) if stored.serves(&request) => {
                    let on = (&self.device, self.resident.as_deref());
                    let dirs = self.dirs();
                    let sets = (&samples, &against);
                    duplicates::match_anew(&self.home, &dirs, sets, d, &plan, on, context)?;
                }
                _ => {
                    let sets = (&samples, &against);
                    self.find_duplicates(sets, d, mode, &plan, &request, context)?;
                }
            }
            self.took(Stage::Dedup, begun.elapsed().as_secs_f64());
        }
        self.file.dedup = Some(request);
        self.file.decide = Some(decide(Some(eps)));
        let wanted = self.audit_wanted(dedup, mode, eps, context)?;
        let all = std::mem::replace(&mut samples.earlier, self.stored_earlier()?);
        let summary = self.decide_over(&samples, filters, context)?;
        if let Some(params) = wanted {
            samples.earlier = all;
            self.audit(&samples, &against, d, &params, dedup.held, context)?;
        }
        Ok(summary)
    }

    /// The search whose results are stored, as far as they hold and serve for this eps. What does not hold is said.
    fn stored_search(
        &self,
        samples: &Samples,
        request: &DedupRequest,
        mode: Mode,
        eps: f64,
        d: usize,
        context: Context,
    ) -> Result<Option<DedupRequest>> {
        let complete = self.file.complete_to.is_none_or(|complete| eps <= complete);
        let stored = self.file.dedup.clone().zip(self.file.pair_files);
        let Some((mut stored, files)) = stored.filter(|_| complete) else {
            return Ok(None);
        };
        if !stored.serves(request) {
            // It is found anew whatever the state of the files.
            return Ok(Some(stored));
        }
        let against = !request.against.is_empty();
        if let Some(trouble) = duplicates::trouble(&self.home, files, samples, mode, against, d)? {
            context.note(&format!("{trouble}; the duplicates are found anew"));
            return Ok(None);
        }
        if let Some(trouble) = duplicates::matches_trouble(&self.home, samples, mode)? {
            context.note(&format!("{trouble}; it is made anew"));
            stored.keep = None;
        }
        Ok(Some(stored))
    }

    /// Finds clusters and pairs; what was there stays until all that can be wrong with the request is known.
    fn find_duplicates(
        &mut self,
        (samples, against): (&Samples, &Against),
        d: usize,
        mode: Mode,
        plan: &Plan,
        request: &DedupRequest,
        context: Context,
    ) -> Result<()> {
        let matrix = Matrix::read(
            &self.home,
            &self.dirs(),
            samples,
            against,
            d,
            plan.held,
            context,
        )?;
        let known = self.file.clusters.as_ref();
        let known = known.filter(|known| known.against == request.against);
        let stored = match (&request.clusters, known) {
            (Some(wanted), Some(known)) if *wanted == known.request => {
                duplicates::stored_clusters(&self.home, samples, &matrix, d)
            }
            _ => None,
        };
        let keep_clusters = stored.is_some();
        let rows = (&matrix[..], samples.len(), d);
        let (on, resident) = (self.device.clone(), self.resident.clone());
        let placed = Placed::of(&on, resident.as_deref(), &matrix, d)?;
        let device = placed.on_device();
        let begun = Instant::now();
        let search = duplicates::Search::begin(rows, mode, plan, stored, device, context)?;
        // Parts of the stage, whose whole also has the reading of the embeddings in it.
        if mode == Mode::Semantic && !keep_clusters {
            self.took_for("kmeans", begun.elapsed().as_secs_f64());
        }
        let copies = Copies::find(&self.dirs(), samples, against, &matrix, d)?;
        if keep_clusters {
            self.forget_pairs()?;
        } else {
            self.forget_duplicates()?;
            self.file.clusters = search.store_clusters(&self.home, samples, request)?;
            // A search that is cut off goes on from them.
            self.save()?;
        }
        let begun = Instant::now();
        let (written, used) =
            search.store(&self.home, &self.dirs(), samples, plan, &copies, context)?;
        if samples.is_against() {
            duplicates::store_earlier(&self.home, samples.id_type, against, &used)?;
        }
        self.file.pair_files = Some(written.files);
        self.file.complete_to = written.complete_to;
        self.took_for("pairs", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Clears `duplicates/`, after `run.json` has ceased to claim that pairs are there.
    fn forget_pairs(&mut self) -> Result<()> {
        self.file.dedup = None;
        self.file.pair_files = None;
        self.file.complete_to = None;
        self.file.audit = None;
        self.save()?;
        self.home.clear_pairs()
    }

    /// Clears `clusters/` and `duplicates/`, after `run.json` has ceased to claim that they are there.
    fn forget_duplicates(&mut self) -> Result<()> {
        self.file.clusters = None;
        self.forget_pairs()?;
        self.home.clear_duplicates()
    }

    /// The order asked for, or the default.
    fn order_of_preference(&self, dedup: &Dedup, imported: bool) -> Result<Keep> {
        match &dedup.keep {
            None if imported => Ok(Keep::First),
            None => Ok(Keep::Largest),
            Some(Keep::Largest) if imported => Err(no_sizes()),
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
        let samples = self.samples()?;
        self.decide_over(&samples, filters, context)
    }

    fn decide_over(
        &mut self,
        samples: &Samples,
        filters: &[Filter],
        context: Context,
    ) -> Result<Summary> {
        let mut running = context.begin(Stage::Decide, Some(samples.ids.len() as u64));
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
        let failed = failures(
            &self.file.thresholds,
            filters,
            &self.dirs(),
            &scores,
            samples,
        )?;
        let survivors: Vec<bool> = failed.iter().map(Option::is_none).collect();
        let fallen = self.fallen(samples, &survivors)?;
        running.advance(samples.ids.len() as u64)?;
        let before = decisions::fingerprint(&self.home);
        let sums = match fallen.iter().any(Option::is_some) {
            true => Sums::read(&self.dirs(), samples, &self.earlier_samples()?)?,
            false => Sums::default(),
        };
        let decided = Decided {
            sums: &sums,
            failed: &failed,
            fallen: &fallen,
            scores: &scores,
        };
        let counts = decisions::write(&self.home, samples, &decided, self.file.dedup.is_some())?;
        if before != decisions::fingerprint(&self.home) {
            // The set in curated/, if there is one, is not that of these decisions any more.
            self.file.write = None;
        }
        self.count(samples.ids.len(), counts, filters);
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
        self.fallen_within(samples, survivors, pair_files, &order, *eps, removal)
    }

    /// What each good row falls to at an eps, earlier sets first in the order.
    pub(super) fn fallen_within(
        &self,
        samples: &Samples,
        survivors: &[bool],
        pair_files: usize,
        order: &[u64],
        eps: f64,
        removal: Removal,
    ) -> Result<Vec<Option<DuplicateOf>>> {
        let (n, all) = (samples.len(), samples.all());
        let mut graph = PairGraph::new(all, eps)?;
        pairs::read_pairs(&self.home, samples, pair_files, |pairs| {
            Ok(graph.add(pairs)?)
        })?;
        let earlier: Vec<bool> = (0..all).map(|row| row >= n).collect();
        let mut survivors = survivors.to_vec();
        survivors.resize(all, true);
        let order: Vec<u64> = (n as u64..all as u64)
            .chain(order.iter().copied())
            .collect();
        let mut fallen = graph.decide(&survivors, &earlier, &order, removal)?;
        fallen.truncate(n);
        Ok(fallen)
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

    fn count(&mut self, read: usize, reasons: BTreeMap<String, u64>, filters: &[Filter]) {
        let thresholds = self.file.thresholds.iter().map(|t| t.score.as_str());
        let names = thresholds.chain(filters.iter().map(|f| f.0.as_str()));
        let mut counts: BTreeMap<String, u64> = names
            .chain(["kept", "corrupt", "duplicate"])
            .map(|name| (name.into(), 0))
            .collect();
        counts.extend(reasons);
        counts.insert("read".into(), read as u64);
        counts.insert("bad".into(), counts["corrupt"]);
        self.file.counts = counts;
    }
}

pub(super) fn no_sizes() -> Error {
    Error::usage(
        "--keep largest: embeddings without images have no sizes; use first, random, hard, easy or best:NAME",
    )
}

/// The floor of an eps where none was asked for: four times as far, so that a larger eps can be tried on what is stored. But no further
/// than 0.5, from where on merely similar images would fill the store.
fn usual_floor(eps: f64) -> f64 {
    (4.0 * eps).min(eps.max(0.5))
}

/// For each good row the first threshold, in the order of the request, and then the first filter that it fails.
fn failures<'a>(
    thresholds: &'a [Threshold],
    filters: &'a [Filter],
    dirs: &[&RunDir],
    scores: &[(String, Vec<f32>)],
    samples: &Samples,
) -> Result<Vec<Option<&'a str>>> {
    let value = |name: &str, row: usize| {
        let found = scores.iter().find(|(known, _)| known == name);
        found.map_or(f32::NAN, |(_, values)| values[row])
    };
    let below = |row: usize| thresholds.iter().find(|t| !t.keeps(value(&t.score, row)));
    let mut failed: Vec<Option<&str>> = (0..samples.len())
        .map(|row| below(row).map(|t| t.score.as_str()))
        .collect();
    if filters.is_empty() {
        return Ok(failed);
    }
    let rows = sample_rows(dirs).filter(|row| row.as_ref().map_or(true, SampleRow::good));
    for (row, sample) in rows.enumerate() {
        let candidate = Candidate {
            sample: &sample?,
            scores,
            row,
        };
        if failed[row].is_none() {
            let fails = filters.iter().find(|(_, keep)| !keep(&candidate));
            failed[row] = fails.map(|(name, _)| name.as_str());
        }
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_eps_but_stays_among_similar_images() {
        for (eps, floor) in [
            (0.0, 0.0),
            (0.02, 0.08),
            (0.125, 0.5),
            (0.3, 0.5),
            (0.7, 0.7),
            (2.0, 2.0),
        ] {
            assert_eq!(usual_floor(eps), floor);
        }
    }
}
