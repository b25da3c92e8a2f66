//! A run directory with embeddings in it, or several taken as one set: what is open, and the scores.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::embed::{Cut, Embedded, embed};
use super::progress::{Context, Stage};
use super::report::REPORT;
use super::resident::Resident;
use super::union::digest_of;
use crate::atomic;
use crate::clip::Embedder;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::heads::Scorer;
use crate::manifest;
use crate::ops::cuda::transfers::{self, Purpose};
use crate::read::Inputs;
use crate::store::run_file::{EmbedRequest, RunFile, ScoreRequest, Threshold};
use crate::store::{RunDir, Table, tables};

/// The counts at the end of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Samples read.
    pub read: u64,
    /// Samples that could not be read, decoded or embedded.
    pub bad: u64,
    /// Samples outside a threshold or failing a filter, by its name, in the order of the request.
    pub below: Vec<(String, u64)>,
    /// Duplicates of kept samples.
    pub duplicates: u64,
    /// Those of them whose file is the same, byte for byte.
    pub copies: u64,
    /// Those of them that fell to a sample of an earlier set.
    pub earlier: u64,
    /// Samples in the curated set.
    pub kept: u64,
    /// Images embedded a second, where any were embedded now.
    pub images_per_second: Option<f64>,
    /// Whether decisions were made; without them everything but `read` and `bad` is 0.
    pub decided: bool,
}

/// What is counted besides thresholds and a caller's own tests.
pub(super) const FIXED_COUNTS: [&str; 7] = [
    "read",
    "bad",
    "corrupt",
    "kept",
    "duplicate",
    "copies",
    "earlier",
];

/// A run directory, or several taken as one set.
#[derive(Debug)]
pub struct Run {
    pub(super) home: RunDir,
    pub(super) members: Vec<RunDir>,
    pub(super) file: RunFile,
    /// Where rows are scored and compared.
    pub(super) device: Device,
    /// All good rows, where they are in the device's memory.
    pub(super) resident: Option<Arc<Resident>>,
}

impl Run {
    /// Opens a run whose samples are embedded.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is not a run or not complete.
    pub fn open(path: &Path) -> Result<Run> {
        let home = RunDir::open(path)?;
        let file = home.read_run_file()?.unwrap_or_default();
        let members = file
            .members
            .iter()
            .map(|member| RunDir::open(Path::new(member)))
            .collect::<Result<Vec<_>>>()?;
        let run = Run {
            members,
            ..Run::over(home, file)
        };
        if run.is_set() && run.file.members_sha256 != Some(digest_of(&run.members)?) {
            return Err(Error::usage(format!(
                "the runs that {} is a set of have changed; clipsift dedup {} --out {0} decides anew",
                path.display(),
                run.file.members.join(" ")
            )));
        }
        if !run.is_set() && run.file.parts != Some(run.home.parts()) {
            let part = run.home.parts();
            return Err(Error::usage(format!(
                "{} is not complete, part {part} is not there; repeat the command that began it, it goes on where it stopped",
                path.display()
            )));
        }
        Ok(run)
    }

    /// Takes over a directory that has just been embedded into.
    pub(super) fn over(home: RunDir, file: RunFile) -> Run {
        Run {
            home,
            members: Vec::new(),
            file,
            device: Device::cpu(),
            resident: None,
        }
    }

    /// Scores and compares rows on this device from now on; on the CPU without this call.
    pub fn on_device(mut self, device: &Device) -> Run {
        self.device = device.clone();
        self.resident = None;
        self
    }

    /// Embeds what is not embedded yet.
    pub(super) fn embed(
        &mut self,
        inputs: &Inputs,
        embedder: &dyn Embedder,
        cut: &Cut,
        context: Context,
    ) -> Result<Embedded> {
        self.save()?;
        if let Some(device) = embedder.device() {
            self.device = device.clone();
        }
        let mut embedded = embed(&self.home, inputs, embedder, cut, context)?;
        self.resident = embedded.resident.take().map(Arc::new);
        self.took(Stage::Embed, embedded.seconds);
        self.file.parts = Some(self.home.parts());
        self.file.counts.insert("read".into(), embedded.read);
        self.file.counts.insert("bad".into(), embedded.bad);
        self.save()?;
        Ok(embedded)
    }

    /// The run's own directory.
    pub fn root(&self) -> &Path {
        self.home.root()
    }

    /// What `run.json` says.
    pub fn file(&self) -> &RunFile {
        &self.file
    }

    pub(super) fn dirs(&self) -> Vec<&RunDir> {
        if self.members.is_empty() {
            vec![&self.home]
        } else {
            self.members.iter().collect()
        }
    }

    pub(super) fn is_set(&self) -> bool {
        !self.members.is_empty()
    }

    /// What fixes the parts; of the first member where there are several.
    pub(super) fn embed_request(&self) -> Result<EmbedRequest> {
        let known = match self.members.first() {
            None => self.file.embed.clone(),
            Some(member) => member.read_run_file()?.and_then(|file| file.embed),
        };
        known.ok_or_else(|| {
            Error::run(
                self.home.root(),
                "run.json does not say which model made the embeddings",
            )
        })
    }

    /// d: dims of the stored embeddings.
    ///
    /// # Errors
    /// [`Error::Run`] where `run.json` does not say.
    pub fn dims(&self) -> Result<usize> {
        Ok(self.embed_request()?.dims)
    }

    /// Scores all stored embeddings; parts that have the score of the same head already are passed over. Another head under
    /// the same name takes its place.
    ///
    /// # Errors
    /// [`Error::Model`] where the head does not take the embeddings; [`Error::Usage`] for a name that cannot be a column.
    pub fn score(&mut self, name: &str, scorer: &dyn Scorer, context: Context) -> Result<()> {
        check_score_name(name)?;
        if self.is_set() {
            return Err(Error::usage(format!(
                "{} is a set of runs; score each of them",
                self.home.root().display()
            )));
        }
        let d = self.dims()?;
        check_dims(name, scorer, d)?;
        let request = ScoreRequest {
            name: name.into(),
            fingerprint: scorer.fingerprint(),
            complete: false,
        };
        let at = self.file.scores.iter().position(|s| s.name == name);
        let known = at.is_some_and(|at| self.file.scores[at].fingerprint == request.fingerprint);
        let at = at.unwrap_or(self.file.scores.len());
        if !known {
            match self.file.scores.get_mut(at) {
                Some(other) => *other = request,
                None => self.file.scores.push(request),
            }
            if let Some(dedup) = &mut self.file.dedup {
                // Matches may have been ranked by another head's score.
                dedup.keep = None;
            }
        }
        // It does not show this score, or another head's.
        atomic::remove_file(self.home.path(REPORT))?;
        // Before the first part, so that a cut-off run does not mistake another head's parts for these.
        self.save()?;
        if !known {
            self.home.clear_scores(name)?;
            atomic::remove_file(self.home.path("decisions.parquet"))?;
        }
        self.home.prepare(Table::Scores(name))?;
        let count = |name: &str| self.file.counts.get(name).copied();
        let good = count("read").zip(count("bad"));
        let good = good.map(|(read, bad)| read.saturating_sub(bad));
        let mut running = context.begin(Stage::Score, good);
        let mut first = 0;
        for part in 0..self.home.parts() {
            let path = self.home.part(Table::Scores(name), part);
            let standing = path.is_file()
                && match self.home.trouble(Table::Scores(name), part)? {
                    None => true,
                    Some(trouble) => {
                        context.note(&format!("{}: {trouble}; it is made anew", path.display()));
                        false
                    }
                };
            if standing && self.resident.is_none() {
                running.pass(self.home.read_scores(name, part)?.len() as u64)?;
                continue;
            }
            let embeddings = self.home.read_embeddings(part)?;
            let rows = first..first + embeddings.ids.len();
            first = rows.end;
            if standing {
                running.pass(rows.len() as u64)?;
                continue;
            }
            let scores = self.score_rows(scorer, &embeddings.rows, rows, d)?;
            if scores.len() != embeddings.ids.len() {
                let got = format!("{} scores", scores.len());
                return Err(Error::shape(
                    "score",
                    format!("{} scores", embeddings.ids.len()),
                    got,
                ));
            }
            atomic::write_parquet(
                &path,
                &tables::scores_to_batch(embeddings.id_type, &embeddings.ids, &scores)?,
            )?;
            running.advance(scores.len() as u64)?;
        }
        self.took(Stage::Score, running.finish());
        self.file.scores[at].complete = true;
        self.save()
    }

    /// The scores of a part's rows: on the device where it and the scorer can, from the rows that are there already if they are. `at`
    /// says which they are of all rows of the run.
    fn score_rows(
        &self,
        scorer: &dyn Scorer,
        rows: &[f32],
        at: std::ops::Range<usize>,
        d: usize,
    ) -> Result<Vec<f32>> {
        let device = self.device.candle();
        if device.is_cuda() && !rows.is_empty() {
            let on_device = match &self.resident {
                Some(resident) => resident.rows(at)?,
                None => {
                    transfers::during(Purpose::Rows, || transfers::count_up(size_of_val(rows)));
                    Tensor::from_slice(rows, (rows.len() / d, d), device)?
                }
            };
            if let Some(scores) = scorer.score_on_device(&on_device)? {
                return Ok(scores);
            }
        }
        scorer.score(rows, d)
    }

    /// Drops the scores that are not among `names`, and puts the others in that order.
    pub(super) fn only_scores(&mut self, names: &[&str]) -> Result<()> {
        let (keep, drop): (Vec<_>, Vec<_>) = std::mem::take(&mut self.file.scores)
            .into_iter()
            .partition(|score| names.contains(&score.name.as_str()));
        self.file.scores = keep;
        self.file
            .scores
            .sort_by_key(|score| names.iter().position(|name| *name == score.name));
        self.save()?;
        drop.iter()
            .try_for_each(|score| self.home.clear_scores(&score.name))
    }

    /// Replaces the thresholds. Where they are others, earlier decisions are dropped: [`Run::decide`] makes them anew.
    ///
    /// # Errors
    /// [`Error::Usage`] where one names a score that the run does not have.
    pub fn set_thresholds(&mut self, thresholds: Vec<Threshold>) -> Result<()> {
        for threshold in &thresholds {
            threshold.check()?;
            if !self.file.scores.iter().any(|s| s.name == threshold.score) {
                let known: Vec<_> = self.file.scores.iter().map(|s| s.name.as_str()).collect();
                let has = match known.is_empty() {
                    true => "no scores".into(),
                    false => known.join(", "),
                };
                return Err(Error::usage(format!(
                    "a threshold on {0}, but the run has {has}; add it with clipsift score RUN --head {0}=...",
                    threshold.score
                )));
            }
        }
        if self.file.thresholds != thresholds {
            // They were made by other thresholds; nothing is to be written by them.
            atomic::remove_file(self.home.path("decisions.parquet"))?;
            atomic::remove_file(self.home.path(REPORT))?;
        }
        self.file.thresholds = thresholds;
        self.save()
    }

    /// The counts so far.
    ///
    /// # Errors
    /// [`Error::Run`] where a table is damaged.
    pub fn summary(&self) -> Result<Summary> {
        let count = |name: &str| self.file.counts.get(name).copied().unwrap_or(0);
        let mut below: Vec<(String, u64)> = Vec::new();
        for threshold in &self.file.thresholds {
            if !below.iter().any(|(name, _)| *name == threshold.score) {
                below.push((threshold.score.clone(), count(&threshold.score)));
            }
        }
        for (name, n) in &self.file.counts {
            if !FIXED_COUNTS.contains(&name.as_str())
                && !below.iter().any(|(known, _)| known == name)
            {
                below.push((name.clone(), *n));
            }
        }
        Ok(Summary {
            read: count("read"),
            bad: count("bad"),
            below,
            duplicates: count("duplicate"),
            copies: count("copies"),
            earlier: count("earlier"),
            kept: count("kept"),
            images_per_second: None,
            decided: self.home.path("decisions.parquet").is_file(),
        })
    }

    pub(super) fn took(&mut self, stage: Stage, seconds: f64) {
        self.took_for(stage.as_str(), seconds);
    }

    /// [`RunFile::seconds`](crate::store::run_file::RunFile::seconds) of a part of a stage.
    pub(super) fn took_for(&mut self, part: &str, seconds: f64) {
        *self.file.seconds.entry(part.into()).or_default() += seconds;
    }

    pub(super) fn save(&mut self) -> Result<()> {
        self.file.clipsift = env!("CARGO_PKG_VERSION").into();
        self.home.write_run_file(&self.file)
    }
}

/// # Errors
/// [`Error::Usage`] for a name that cannot be a folder, a column and a reason.
pub fn check_score_name(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let taken = [
        "id",
        "keep",
        "reason",
        "duplicate_of",
        "duplicate_of_run",
        "copies",
        "earlier",
        "kept",
        "corrupt",
        "duplicate",
        "read",
        "bad",
    ]
    .contains(&name);
    if !plain || taken {
        return Err(Error::usage(format!(
            "{name:?} cannot name a score; letters, digits, _ and - can, and the words of decisions.parquet are taken"
        )));
    }
    Ok(())
}

/// # Errors
/// [`Error::Model`] where a scorer does not take d dims.
pub fn check_dims(name: &str, scorer: &dyn Scorer, d: usize) -> Result<()> {
    match scorer.dims() {
        Some(takes) if takes != d => {
            let fits: Vec<_> = manifest::manifest()
                .models
                .iter()
                .filter(|m| m.d == takes)
                .map(|m| m.name.as_str())
                .collect();
            let advice = if fits.is_empty() {
                String::new()
            } else {
                format!("; models of {takes} dims: {}", fits.join(", "))
            };
            Err(Error::usage(format!(
                "head {name} takes embeddings of {takes} dims, the model gives {d}{advice}"
            )))
        }
        _ => Ok(()),
    }
}
