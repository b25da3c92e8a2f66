//! A run directory with embeddings in it, or several taken as one set: what is open, and the scores.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::embed::{Cut, Embedded, embed};
use super::progress::{Context, Stage};
use crate::atomic;
use crate::clip::Embedder;
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::heads::Scorer;
use crate::manifest;
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
    /// Samples in the curated set.
    pub kept: u64,
    /// Whether decisions were made; without them everything but `read` and `bad` is 0.
    pub decided: bool,
}

/// A run directory, or several taken as one set.
#[derive(Debug)]
pub struct Run {
    pub(super) home: RunDir,
    members: Vec<RunDir>,
    pub(super) file: RunFile,
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
            home,
            members,
            file,
        };
        if run.is_set() && run.file.members_sha256 != Some(digest_of(&run.members)?) {
            return Err(Error::usage(format!(
                "the runs that {} is a set of have changed; clipsift dedup {} --out {0} decides anew",
                path.display(),
                run.file.members.join(" ")
            )));
        }
        if !run.is_set() && !run.file.embedded {
            return Err(Error::usage(format!(
                "{} is not complete; repeat the command that began it, it goes on where it stopped",
                path.display()
            )));
        }
        Ok(run)
    }

    /// Takes several runs as one set, in their order, with its own directory for what is decided.
    ///
    /// # Errors
    /// [`Error::Usage`] where they were not made alike: model, precision, scores and thresholds.
    pub fn union(paths: &[&Path], home: &Path) -> Result<Run> {
        let runs = paths
            .iter()
            .map(|path| Run::open(path))
            .collect::<Result<Vec<_>>>()?;
        let first = runs
            .first()
            .ok_or_else(|| Error::usage("no run was named"))?;
        runs.iter().try_for_each(|run| run.check_alike(first))?;
        let (scores, thresholds) = (first.file.scores.clone(), first.file.thresholds.clone());
        let paths = runs
            .iter()
            .map(|run| absolute(run.home.root()))
            .collect::<Result<Vec<_>>>()?;
        let members: Vec<RunDir> = runs.into_iter().map(|run| run.home).collect();

        let home = RunDir::create(home)?;
        let earlier = home.read_run_file()?.unwrap_or_default();
        if earlier.embed.is_some() {
            return Err(Error::usage(format!(
                "{} holds a run of its own; give a new --out",
                home.root().display()
            )));
        }
        let digest = Some(digest_of(&members)?);
        let file = if earlier.members == paths && earlier.members_sha256 == digest {
            RunFile {
                scores,
                thresholds,
                ..earlier
            }
        } else {
            home.clear()?;
            RunFile {
                members: paths,
                members_sha256: digest,
                scores,
                thresholds,
                ..RunFile::default()
            }
        };
        Ok(Run {
            home,
            members,
            file,
        })
    }

    /// # Errors
    /// [`Error::Usage`] where the run cannot be of one set with another.
    fn check_alike(&self, other: &Run) -> Result<()> {
        let model = |run: &Run| {
            let embed = run.file.embed.as_ref();
            embed.map(|e| (e.fingerprint.clone(), e.dims, e.dtype.clone()))
        };
        let id_type = |run: &Run| run.file.embed.as_ref().map(|e| e.id_type);
        let path = self.home.root().display();
        let difference = if self.is_set() {
            return Err(Error::usage(format!(
                "{path} is itself a set of runs; name its members"
            )));
        } else if model(self) != model(other) {
            "model or precision"
        } else if id_type(self) != id_type(other) {
            "type of ids"
        } else if self.file.scores != other.file.scores {
            "scores; clipsift score on each with the same heads makes them alike"
        } else if self.file.thresholds != other.file.thresholds {
            "thresholds; clipsift filter on each makes them alike"
        } else {
            return Ok(());
        };
        let other = other.home.root().display();
        Err(Error::usage(format!(
            "{path} and {other} differ in their {difference}"
        )))
    }

    /// Takes over a directory that has just been embedded into.
    pub(super) fn over(home: RunDir, file: RunFile) -> Run {
        Run {
            home,
            members: Vec::new(),
            file,
        }
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
        let embedded = embed(&self.home, inputs, embedder, cut, context)?;
        self.took(Stage::Embed, embedded.seconds);
        self.file.embedded = true;
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

    fn is_set(&self) -> bool {
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
        };
        match self.file.scores.iter_mut().find(|s| s.name == name) {
            Some(known) if *known == request => {}
            Some(known) => {
                *known = request;
                self.home.remove(&format!("scores/{name}"))?;
                self.home.remove("decisions.parquet")?;
                if let Some(dedup) = &mut self.file.dedup {
                    // Matches may have been ranked by the other head's score.
                    dedup.keep = None;
                }
            }
            None => self.file.scores.push(request),
        }
        // Before the first part, so that a cut-off run does not mistake another head's parts for these.
        self.save()?;
        self.home.prepare(Table::Scores(name))?;
        let mut running = context.begin(Stage::Score, None);
        for part in 0..self.home.parts() {
            let path = self.home.part(Table::Scores(name), part);
            if path.is_file() {
                continue;
            }
            let embeddings = self.home.read_embeddings(part)?;
            let scores = scorer.score(&embeddings.rows, d)?;
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
        self.save()
    }

    /// Replaces the thresholds.
    ///
    /// # Errors
    /// [`Error::Usage`] where one names a score that the run does not have.
    pub fn set_thresholds(&mut self, thresholds: Vec<Threshold>) -> Result<()> {
        for threshold in &thresholds {
            if !self.file.scores.iter().any(|s| s.name == threshold.score) {
                let known: Vec<_> = self.file.scores.iter().map(|s| s.name.as_str()).collect();
                let has = if known.is_empty() {
                    "no scores".into()
                } else {
                    known.join(", ")
                };
                return Err(Error::usage(format!(
                    "a threshold on {}, but the run has {has}; add it with clipsift score RUN --head {}=...",
                    threshold.score, threshold.score
                )));
            }
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
        let fixed = ["read", "bad", "corrupt", "kept", "duplicate"];
        for (name, n) in &self.file.counts {
            if !fixed.contains(&name.as_str()) && !below.iter().any(|(known, _)| known == name) {
                below.push((name.clone(), *n));
            }
        }
        Ok(Summary {
            read: count("read"),
            bad: count("bad"),
            below,
            duplicates: count("duplicate"),
            kept: count("kept"),
            decided: self.home.path("decisions.parquet").is_file(),
        })
    }

    pub(super) fn took(&mut self, stage: Stage, seconds: f64) {
        *self.file.seconds.entry(stage.as_str().into()).or_default() += seconds;
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

/// sha256 over what the rows of some runs depend on: the samples, the model, the heads.
fn digest_of(members: &[RunDir]) -> Result<String> {
    let mut hash = Sha256::new();
    for dir in members {
        let file = dir.read_run_file()?.unwrap_or_default();
        if let Some(embed) = file.embed {
            hash.update(embed.fingerprint);
            if embed.imported {
                // Of images the samples have a sha256 each.
                embed.content.iter().for_each(|line| hash.update(line));
            }
        }
        file.scores
            .iter()
            .for_each(|s| hash.update(format!("{}={}", s.name, s.fingerprint)));
        for part in 0..dir.parts() {
            let path = dir.part(Table::Samples, part);
            hash.update(std::fs::read(&path).map_err(Error::io("read", &path))?);
        }
    }
    Ok(hex(&hash.finalize()))
}

fn absolute(path: &Path) -> Result<String> {
    Ok(path
        .canonicalize()
        .map_err(Error::io("find", path))?
        .display()
        .to_string())
}
