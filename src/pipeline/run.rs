//! A run directory with embeddings in it: scores, duplicates, decisions and the curated set from what is stored.

use std::collections::BTreeMap;
use std::path::Path;

use super::duplicates::{self, Clusters, Mode, Plan};
use super::embed::{Cut, Embedded, embed};
use super::progress::{Context, Stage};
use super::set::{Samples, read_scores};
use crate::atomic;
use crate::clip::Embedder;
use crate::dedup::decide::{Keep, PairGraph, Removal};
use crate::error::{Error, Result};
use crate::heads::Scorer;
use crate::manifest;
use crate::read::{self, Inputs};
use crate::sample::{Decision, Reason};
use crate::store::run_file::{DecideRequest, RunFile, ScoreRequest, Threshold, WriteRequest};
use crate::store::tables::{self, DecisionRow, SampleRow};
use crate::store::{RunDir, Table};
use crate::write::{Kept, Layout, Options, Writer, parse_sha256};

/// How duplicates are found and decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Dedup {
    /// How to look.
    pub mode: Mode,
    /// A pair is a duplicate when cosine >= 1 - eps; none for the model's default.
    pub eps: Option<f64>,
    /// Pairs are stored down to cosine 1 - floor; none for 4 x eps.
    pub floor: Option<f64>,
    /// How clusters are made.
    pub clusters: Clusters,
    /// Order of preference.
    pub keep: Keep,
    /// What a row falls to.
    pub removal: Removal,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Default for Dedup {
    fn default() -> Dedup {
        Dedup {
            mode: Mode::Auto,
            eps: None,
            floor: None,
            clusters: Clusters::default(),
            keep: Keep::Largest,
            removal: Removal::Group,
            seed: 42,
        }
    }
}

impl Dedup {
    /// No looking for duplicates.
    pub fn off() -> Dedup {
        Dedup {
            mode: Mode::Off,
            ..Dedup::default()
        }
    }

    /// # Errors
    /// [`Error::Usage`] for what contradicts itself, whatever the data.
    pub fn check(&self) -> Result<()> {
        let range = |name: &str, value: Option<f64>| match value {
            Some(x) if !(0.0..=2.0).contains(&x) => Err(Error::usage(format!(
                "--{name} {x}: give a number in 0..=2"
            ))),
            _ => Ok(()),
        };
        range("eps", self.eps)?;
        range("floor", self.floor)?;
        if let (Some(eps), Some(floor)) = (self.eps, self.floor) {
            if floor < eps {
                return Err(Error::usage(format!(
                    "--floor {floor} is below --eps {eps}; pairs are stored down to the floor"
                )));
            }
        }
        if self.mode == Mode::Exact && matches!(self.keep, Keep::Hard | Keep::Easy) {
            return Err(Error::usage(format!(
                "--keep {} needs clusters; use --dedup semantic, or another order",
                self.keep
            )));
        }
        Ok(())
    }
}

/// How the curated set is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Shards {
    /// None: tar for tars and parquet, list for files.
    pub layout: Option<Layout>,
    /// Samples a shard.
    pub shard_size: usize,
}

impl Default for Shards {
    fn default() -> Shards {
        Shards {
            layout: None,
            shard_size: Options::default().shard_size,
        }
    }
}

impl Shards {
    /// WebDataset tars of `shard_size` samples.
    pub fn of(shard_size: usize) -> Shards {
        Shards {
            layout: Some(Layout::Tar),
            shard_size,
        }
    }

    /// Another layout.
    pub fn layout(layout: Layout) -> Shards {
        Shards {
            layout: Some(layout),
            ..Shards::default()
        }
    }
}

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
    home: RunDir,
    members: Vec<RunDir>,
    file: RunFile,
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
        if run.file.members.is_empty() && !run.file.embedded {
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
        let model = |run: &Run| {
            run.file
                .embed
                .as_ref()
                .map(|e| (e.fingerprint.clone(), e.dims, e.dtype.clone()))
        };
        for run in &runs {
            let path = run.home.root().display();
            let differs = |what: &str| {
                Err(Error::usage(format!(
                    "{path} and {} differ in their {what}",
                    first.home.root().display()
                )))
            };
            if !run.file.members.is_empty() {
                return Err(Error::usage(format!(
                    "{path} is itself a set of runs; name its members"
                )));
            }
            if model(run) != model(first) {
                return differs("model or precision");
            }
            if run.file.scores != first.file.scores {
                return differs("scores; run clipsift score on each with the same heads");
            }
            if run.file.thresholds != first.file.thresholds {
                return differs("thresholds; give them to dedup");
            }
        }
        let dir = RunDir::create(home)?;
        let members = runs
            .iter()
            .map(|run| absolute(run.home.root()))
            .collect::<Result<Vec<_>>>()?;
        let mut file = dir.read_run_file()?.unwrap_or_default();
        if file.members != members {
            if file.embed.is_some() && file.members.is_empty() {
                return Err(Error::usage(format!(
                    "{} holds a run of its own; give a new --out",
                    home.display()
                )));
            }
            file = RunFile {
                members,
                ..RunFile::default()
            };
            dir.clear()?;
        }
        file.embed = None;
        (file.scores, file.thresholds) = (first.file.scores.clone(), first.file.thresholds.clone());
        Ok(Run {
            home: dir,
            members: runs.into_iter().map(|run| run.home).collect(),
            file,
        })
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

    fn dirs(&self) -> Vec<&RunDir> {
        if self.members.is_empty() {
            vec![&self.home]
        } else {
            self.members.iter().collect()
        }
    }

    fn is_set(&self) -> bool {
        !self.members.is_empty()
    }

    /// d, and the default eps of the model, of the first member where there are several.
    fn model(&self) -> Result<(usize, f64)> {
        let of = |file: &RunFile| {
            file.embed
                .as_ref()
                .map(|embed| (embed.dims, embed.default_eps))
        };
        let known = match self.members.first() {
            None => of(&self.file),
            Some(member) => member.read_run_file()?.as_ref().and_then(of),
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
        Ok(self.model()?.0)
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
            atomic::write_parquet(&path, &tables::scores_to_batch(&embeddings.ids, &scores)?)?;
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
        let eps = match dedup.eps {
            Some(eps) => eps,
            None => self.model()?.1,
        };
        if let Keep::Best { score, .. } = &dedup.keep {
            self.check_has_score(score)?;
        }
        let decide = |eps| DecideRequest {
            eps,
            keep: dedup.keep.to_string(),
            removal: dedup.removal.to_string(),
            seed: dedup.seed,
        };
        if dedup.mode == Mode::Off {
            self.home.remove("clusters")?;
            self.home.remove("duplicates")?;
            self.file.dedup = None;
            self.file.decide = Some(decide(None));
            return self.decide(filters, context);
        }
        let samples = Samples::read(&self.dirs())?;
        let d = self.dims()?;
        let floor = dedup.floor.unwrap_or((4.0 * eps).min(2.0));
        if floor < eps {
            return Err(Error::usage(format!(
                "--floor {floor} is below the eps of {eps}; pairs are stored down to the floor"
            )));
        }
        let plan = Plan {
            mode: dedup.mode,
            floor,
            clusters: &dedup.clusters,
            keep: &dedup.keep,
            seed: dedup.seed,
        };
        let mode = plan.settle(samples.len(), d, context);
        let mut request = plan.request(mode, samples.len())?;
        if let Some(stored) = self
            .file
            .dedup
            .as_ref()
            .filter(|stored| dedup.floor.is_none() && stored.floor >= eps)
        {
            // A floor that nobody asked for need not be the one that the pairs were stored to.
            request.floor = stored.floor;
        }
        if self.file.dedup.as_ref() != Some(&request) {
            // While the folder is being made, run.json does not claim that it is there.
            self.file.dedup = None;
            self.save()?;
            let plan = Plan {
                floor: request.floor,
                ..plan
            };
            let seconds =
                duplicates::find(&self.home, &self.dirs(), &samples, d, mode, &plan, context)?;
            self.took(Stage::Dedup, seconds);
            self.file.dedup = Some(request);
        }
        self.file.decide = Some(decide(Some(eps)));
        self.decide_over(samples, filters, context)
    }

    fn check_has_score(&self, name: &str) -> Result<()> {
        if self.file.scores.iter().any(|s| s.name == name) {
            return Ok(());
        }
        Err(Error::usage(format!(
            "--keep best:{name}: the run has no score {name}; add it with --head {name}=..."
        )))
    }

    /// Makes `decisions.parquet` and `duplicates/removed.parquet` from what is stored: thresholds and filters first, then
    /// duplicates among the survivors.
    ///
    /// # Errors
    /// [`Error::Run`] where a table is damaged.
    pub fn decide(&mut self, filters: &[Filter], context: Context) -> Result<Summary> {
        let samples = Samples::read(&self.dirs())?;
        self.decide_over(samples, filters, context)
    }

    fn decide_over(
        &mut self,
        samples: Samples,
        filters: &[Filter],
        context: Context,
    ) -> Result<Summary> {
        let running = context.begin(Stage::Decide, Some(samples.rows.len() as u64));
        let mut scores = Vec::new();
        for score in &self.file.scores {
            scores.push((
                score.name.clone(),
                read_scores(&self.dirs(), &samples, &score.name)?,
            ));
        }
        let failed: Vec<Option<&str>> = (0..samples.len())
            .map(|row| first_failure(&self.file.thresholds, filters, &samples, &scores, row))
            .collect();
        let survivors: Vec<bool> = failed.iter().map(Option::is_none).collect();
        let fallen = match (&self.file.dedup, &self.file.decide) {
            (
                Some(_),
                Some(DecideRequest {
                    eps: Some(eps),
                    keep,
                    removal,
                    seed,
                }),
            ) => {
                let keep: Keep = keep
                    .parse()
                    .map_err(|e: String| Error::run(self.home.root(), e))?;
                let removal: Removal = removal
                    .parse()
                    .map_err(|e: String| Error::run(self.home.root(), e))?;
                let order = duplicates::order(&self.home, &self.dirs(), &samples, &keep, *seed)?;
                let mut graph = PairGraph::new(samples.len(), *eps)?;
                duplicates::read_pairs(&self.home, &samples, |pairs| Ok(graph.add(pairs)?))?;
                graph.decide(&survivors, &[], &order, removal)?
            }
            _ => vec![None; samples.len()],
        };

        let id = |row: u64| samples.sample(row as usize).id.clone();
        let mut rows: Vec<DecisionRow> = samples
            .rows
            .iter()
            .map(|sample| DecisionRow {
                id: sample.id.clone(),
                reason: Reason::Corrupt.as_str().into(),
                duplicate_of: None,
            })
            .collect();
        let mut removed = Vec::new();
        for (row, at) in samples.good.iter().enumerate() {
            rows[*at].reason = match (failed[row], fallen[row]) {
                (Some(name), _) => name.into(),
                (None, Some(other)) => {
                    rows[*at].duplicate_of = Some(id(other.row));
                    removed.push((row, other));
                    Reason::Duplicate.as_str().into()
                }
                (None, None) => Reason::Kept.as_str().into(),
            };
        }
        if self.file.dedup.is_some() {
            let rows: Vec<_> = removed
                .iter()
                .map(|(row, other)| {
                    (
                        samples.sample(*row).id.as_str(),
                        samples.sample(other.row as usize).id.as_str(),
                        other.cosine,
                    )
                })
                .collect();
            let table = tables::matched_to_batch(["id", "kept_id", "cosine"], &rows)?;
            atomic::write_parquet(self.home.path("duplicates/removed.parquet"), &table)?;
        }
        let columns: Vec<_> = scores
            .into_iter()
            .map(|(name, values)| (name, spread(&samples, &values)))
            .collect();
        atomic::write_parquet(
            self.home.path("decisions.parquet"),
            &tables::decisions_to_batch(&rows, &columns)?,
        )?;
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
        let rows = tables::decisions_from_batch(&atomic::read_parquet(&path)?)
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

    /// Writes the curated set into `to` (`RUN/curated` where none), reading the inputs again as `run.json` names them. Every
    /// byte written is checked against the sha256 that the sample had when it was embedded.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are no decisions, or the layout cannot hold the samples; [`Error::Input`] where an input has
    /// changed or is gone.
    pub fn write(&mut self, shards: &Shards, to: Option<&Path>, context: Context) -> Result<()> {
        let inputs = self
            .dirs()
            .into_iter()
            .map(reopen)
            .collect::<Result<Vec<_>>>()?;
        let inputs: Vec<&Inputs> = inputs.iter().collect();
        self.write_from(&inputs, shards, to, false, context)
    }

    /// [`Run::write`] from inputs that are open already, one for each member.
    pub(super) fn write_from(
        &mut self,
        inputs: &[&Inputs],
        shards: &Shards,
        to: Option<&Path>,
        overwrite: bool,
        context: Context,
    ) -> Result<()> {
        let decisions = self.decisions()?;
        let packed = inputs.iter().any(|i| i.kind() == read::Kind::Packed);
        let layout = shards
            .layout
            .unwrap_or(if packed { Layout::Tar } else { Layout::List });
        let kept = decisions.iter().filter(|d| d.keep()).count() as u64;
        let mut running = context.begin(Stage::Write, Some(kept));
        let samples = Samples::read(&self.dirs())?;
        let mut scores = Vec::new();
        for score in &self.file.scores {
            scores.push(spread(
                &samples,
                &read_scores(&self.dirs(), &samples, &score.name)?,
            ));
        }
        let options = Options {
            shard_size: shards.shard_size,
            scores: self.file.scores.iter().map(|s| s.name.clone()).collect(),
            fingerprint: self.write_fingerprint()?,
            overwrite,
            inputs: inputs.iter().flat_map(|i| i.paths()).collect(),
        };
        let folder = to.map_or_else(|| self.home.path("curated"), Path::to_path_buf);
        let mut writer = Writer::create(&folder, layout, options)?;
        let mut at = 0;
        for sample in inputs.iter().flat_map(|i| i.samples()) {
            let (Some(row), Some(decision)) = (samples.rows.get(at), decisions.get(at)) else {
                break;
            };
            if row.id != sample.id || decision.id != sample.id {
                let reason = format!(
                    "{} stands where {} was when the run was made; run again with --overwrite",
                    sample.id, row.id
                );
                return Err(Error::input(sample.source.to_string(), reason));
            }
            if decision.keep() {
                let sha256 = parse_sha256(&row.sha256).ok_or_else(|| {
                    Error::run(
                        self.home.root(),
                        format!("samples/ has no sha256 for {}", row.id),
                    )
                })?;
                let values: Vec<f32> = scores.iter().map(|s| s[at].unwrap_or(f32::NAN)).collect();
                let (width, height) = (row.width, row.height);
                writer.push(Kept {
                    sample: &sample,
                    sha256,
                    width,
                    height,
                    format: &row.format,
                    scores: &values,
                })?;
                running.advance(1)?;
            }
            at += 1;
        }
        if at < decisions.len() {
            let reason = format!(
                "ends before {}, which was there when the run was made",
                decisions[at].id
            );
            return Err(Error::input(samples.rows[at].source.clone(), reason));
        }
        writer.finish()?;
        self.took(Stage::Write, running.finish());
        if to.is_none() {
            self.file.write = Some(WriteRequest {
                layout: layout.to_string(),
                shard_size: shards.shard_size,
            });
        }
        self.save()
    }

    /// What the curated set depends on: the tables of decisions and samples.
    fn write_fingerprint(&self) -> Result<String> {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        let decisions = self.home.path("decisions.parquet");
        hash.update(std::fs::read(&decisions).map_err(Error::io("read", &decisions))?);
        for dir in self.dirs() {
            for part in 0..dir.parts() {
                let path = dir.part(Table::Samples, part);
                hash.update(std::fs::read(&path).map_err(Error::io("read", &path))?);
            }
        }
        Ok(crate::clip::weights::hex(&hash.finalize()))
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

/// Values of good rows -> one for each sample, none for bad ones.
fn spread(samples: &Samples, values: &[f32]) -> Vec<Option<f32>> {
    let mut all = vec![None; samples.rows.len()];
    samples
        .good
        .iter()
        .zip(values)
        .for_each(|(at, value)| all[*at] = Some(*value));
    all
}

/// Opens a run's inputs again, as its `run.json` names them.
fn reopen(dir: &RunDir) -> Result<Inputs> {
    let file = dir.read_run_file()?.unwrap_or_default();
    let embed = file
        .embed
        .ok_or_else(|| Error::run(dir.root(), "run.json does not name the inputs"))?;
    let stdin = dir.path("stdin.txt");
    let stdin = match std::fs::read_to_string(&stdin) {
        Ok(text) => Some(text.lines().map(String::from).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Error::io("read", stdin)(e)),
    };
    let options = read::Options {
        id_column: embed.id_column,
        stdin,
        ..read::Options::default()
    };
    let inputs = Inputs::open(&embed.inputs, &options)?;
    match embed.partition {
        Some(partition) => inputs.partition(partition.parse()?),
        None => Ok(inputs),
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

fn absolute(path: &Path) -> Result<String> {
    Ok(path
        .canonicalize()
        .map_err(Error::io("find", path))?
        .display()
        .to_string())
}
