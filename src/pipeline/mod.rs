//! The stages joined: a [`Pipeline`] is put together, then run into a run directory; a [`Run`] goes on from what is stored.
//!
//! A pipeline only says which stages there are; each stage works from what the one before it stored, so that
//! `Pipeline::...::run` and the stages of [`Run`] called one after the other leave the same bytes.

mod against;
mod audit;
mod centroids;
mod clusters;
mod copies;
mod curated;
mod decide;
mod decisions;
mod dedup;
mod duplicates;
mod embed;
mod import;
mod matrix;
mod open;
mod pairs;
mod prepare;
mod progress;
mod report;
mod resident;
mod run;
mod set;
mod sweep;
mod union;
mod watch;

use std::path::Path;
use std::sync::atomic::AtomicBool;

pub use against::check_against;
pub use clusters::{Clusters, InitKind};
pub use curated::Shards;
pub use decide::{Candidate, Filter};
pub use dedup::{Dedup, Exact, Semantic};
pub use duplicates::Mode;
pub use import::{IMPORTED, Import};
pub use progress::{Context, Event, Observer, Running, Stage};
pub use run::{Run, Summary, check_dims, check_score_name};
pub use sweep::Swept;

use crate::clip::Embedder;
use crate::decode::Limits;
use crate::error::{Error, Result};
use crate::heads::Scorer;
use crate::read::{Inputs, Options, Partition, Reader};
use crate::store::RunDir;
use crate::store::ids::IdType;
use crate::store::run_file::{Bound, EmbedRequest, RunFile, Threshold};

/// The shorter edge that a JPEG keeps when it is decoded at a fraction of its size: so much more than is asked for that the
/// filter of the resize, and not the decoder, decides what is seen. Measured at 12 and 24 megapixels: at three times the edge the
/// pixels of the square differ by .3 on average and at most 17, at 1.7 times by 1.0 and 55, for a tenth of the time.
fn scaled_edge(embedder: &dyn Embedder) -> Result<u32> {
    let edge = embedder.shortest_edge().ok_or_else(|| {
        Error::usage(format!(
            "decoding at a fraction of the size: {} does not say what size it needs; leave scaled decoding off",
            embedder.name()
        ))
    })?;
    Ok(3 * edge)
}

fn without_slash(mut path: String) -> String {
    while path.len() > 1 && path.ends_with('/') {
        path.pop();
    }
    path
}

/// Samples a part by default.
pub const PART_SIZE: usize = 4096;

/// The stages of a run, put together in any order and run in the one that makes sense.
///
/// ```
/// use clipsift::{Clip, Device, Exact, Keep, Pipeline, Shards};
///
/// # let out = tempfile::tempdir()?;
/// # let out = out.path().join("run");
/// let clip = Clip::load("builtin", &Device::auto()?)?;
/// let run = Pipeline::over(["tests/data/gallery/portraits"])?
///     .embed(clip)
///     .keep_if(|candidate| candidate.sample.width >= 64)
///     .dedup(Exact::within(0.02).keep(Keep::Largest))
///     .write(Shards::of(10_000))
///     .run(&out)?;
/// println!("{} of {} kept", run.kept, run.read);
/// # assert!(run.kept > 0 && run.duplicates > 0 && run.bad == 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pipeline {
    inputs: Inputs,
    specs: Vec<String>,
    options: Options,
    partition: Option<Partition>,
    embedder: Option<Box<dyn Embedder>>,
    scorers: Vec<(String, Box<dyn Scorer>)>,
    thresholds: Vec<Threshold>,
    filters: Vec<Filter>,
    dedup: Option<Dedup>,
    write: Option<Shards>,
    report: bool,
    part_size: usize,
    batch_size: Option<usize>,
    limits: Limits,
    scaled_decode: bool,
    device: Option<String>,
    overwrite: bool,
    observer: Box<Observer<'static>>,
    stop: &'static AtomicBool,
}

impl Pipeline {
    /// Over inputs as the command line takes them: folders, images, tars (`{00000..00041}` expands), parquets, lists, `-`.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is none, or two have the same basename; [`Error::Input`] where none can be used.
    pub fn over<S: Into<String>>(inputs: impl IntoIterator<Item = S>) -> Result<Pipeline> {
        Pipeline::over_with(inputs, Options::default())
    }

    /// [`Pipeline::over`], saying how to read them.
    ///
    /// # Errors
    /// As [`Pipeline::over`].
    pub fn over_with<S: Into<String>>(
        inputs: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<Pipeline> {
        // `photos` and `photos/` are one input.
        let specs: Vec<String> = inputs
            .into_iter()
            .map(|spec| without_slash(spec.into()))
            .collect();
        let inputs = Inputs::open(&specs, &options)?;
        Ok(Pipeline::of(inputs, specs, options))
    }

    /// Over readers of one's own.
    ///
    /// # Errors
    /// As [`Inputs::from_readers`].
    pub fn over_readers(readers: Vec<Box<dyn Reader>>) -> Result<Pipeline> {
        let specs = readers
            .iter()
            .map(|reader| reader.name().to_string())
            .collect();
        Ok(Pipeline::of(
            Inputs::from_readers(readers)?,
            specs,
            Options::default(),
        ))
    }

    fn of(inputs: Inputs, specs: Vec<String>, options: Options) -> Pipeline {
        Pipeline {
            inputs,
            specs,
            options,
            partition: None,
            embedder: None,
            scorers: Vec::new(),
            thresholds: Vec::new(),
            filters: Vec::new(),
            dedup: None,
            write: None,
            report: false,
            part_size: PART_SIZE,
            batch_size: None,
            limits: Limits::default(),
            scaled_decode: false,
            device: None,
            overwrite: false,
            observer: Box::new(|_| {}),
            stop: &progress::NEVER,
        }
    }

    /// Only the I-th of N slices of the inputs.
    ///
    /// # Errors
    /// [`Error::Usage`] where I is not in 1..=N.
    pub fn partition(mut self, partition: Partition) -> Result<Pipeline> {
        self.inputs = self.inputs.partition(partition)?;
        self.partition = Some(partition);
        Ok(self)
    }

    /// What embeds: a [`crate::Clip`], or an embedder of one's own. Needed.
    pub fn embed(mut self, embedder: impl Embedder + 'static) -> Pipeline {
        self.embedder = Some(Box::new(embedder));
        self
    }

    /// A score: its name, and a [`crate::Head`] or a scorer of one's own.
    pub fn score(mut self, name: &str, scorer: impl Scorer + 'static) -> Pipeline {
        self.scorers.push((name.into(), Box::new(scorer)));
        self
    }

    /// Keeps samples whose score is at least `bound`.
    pub fn min(mut self, score: &str, bound: f64) -> Pipeline {
        self.thresholds.push(Threshold {
            score: score.into(),
            bound: Bound::Min(bound),
        });
        self
    }

    /// Keeps samples whose score is below `bound`.
    pub fn max(mut self, score: &str, bound: f64) -> Pipeline {
        self.thresholds.push(Threshold {
            score: score.into(),
            bound: Bound::Max(bound),
        });
        self
    }

    /// Keeps samples that pass a test of one's own; the reason of those that do not is `filter`. Tests come after the
    /// thresholds.
    pub fn keep_if(self, test: impl Fn(&Candidate) -> bool + Send + Sync + 'static) -> Pipeline {
        self.keep_if_named("filter", test)
    }

    /// [`Pipeline::keep_if`] with a reason of its own.
    pub fn keep_if_named(
        mut self,
        reason: &str,
        test: impl Fn(&Candidate) -> bool + Send + Sync + 'static,
    ) -> Pipeline {
        self.filters.push((reason.into(), Box::new(test)));
        self
    }

    /// Looks for duplicates among what passes; without this stage nothing is a duplicate.
    pub fn dedup(mut self, dedup: Dedup) -> Pipeline {
        self.dedup = Some(dedup);
        self
    }

    /// Writes the curated set to `RUN/curated`; without this stage the decisions are the result.
    pub fn write(mut self, shards: Shards) -> Pipeline {
        self.write = Some(shards);
        self
    }

    /// Makes `RUN/report.html` at the end, see [`Run::report`]. A partition, about which nothing is decided, has none.
    pub fn report(mut self) -> Pipeline {
        self.report = true;
        self
    }

    /// Samples a part, the unit of work, of resume and of memory: [`PART_SIZE`] by default.
    pub fn part_size(mut self, samples: usize) -> Pipeline {
        self.part_size = samples;
        self
    }

    /// Images a batch, at most; the embedder's choice by default. Batches never cross parts.
    pub fn batch_size(mut self, images: usize) -> Pipeline {
        self.batch_size = Some(images);
        self
    }

    /// What one image may cost.
    pub fn limits(mut self, limits: Limits) -> Pipeline {
        self.limits = limits;
        self
    }

    /// Decodes a JPEG at a half, a quarter or an eighth of its size where its shorter edge then still has three times the pixels that
    /// the embedder takes: faster for photographs of many megapixels, at embeddings that differ a little from those of the whole
    /// pixels ([`crate::decode::decode_scaled`]). Off by default.
    pub fn scaled_decode(mut self, scaled: bool) -> Pipeline {
        self.scaled_decode = scaled;
        self
    }

    /// The kind of device that the embedder runs on, for `run.json`, where the embedder does not say: parts of another kind are not
    /// gone on with.
    pub fn device_kind(mut self, kind: &str) -> Pipeline {
        self.device = Some(kind.into());
        self
    }

    /// Removes an earlier run of another request from the directory instead of refusing it.
    pub fn overwrite(mut self, overwrite: bool) -> Pipeline {
        self.overwrite = overwrite;
        self
    }

    /// Whom to tell what happens.
    pub fn on_event(mut self, observer: impl Fn(Event<'_>) + Send + Sync + 'static) -> Pipeline {
        self.observer = Box::new(observer);
        self
    }

    /// A switch that ends the work, [`Context::stop`] says where; what is stored stays, and the same pipeline goes on from there.
    pub fn stop_when(mut self, stop: &'static AtomicBool) -> Pipeline {
        self.stop = stop;
        self
    }

    /// Runs the stages into the directory `out`.
    ///
    /// All that can be known to be wrong is refused before the first image is decoded. A directory of the same request is gone
    /// on with: finished parts are passed over.
    ///
    /// # Errors
    /// [`Error::Usage`] for requests that contradict themselves or the directory; what the stages say.
    pub fn run(self, out: impl AsRef<Path>) -> Result<Summary> {
        let observer = &self.observer;
        let context = Context {
            observer,
            stop: self.stop,
        };
        let embedder = self
            .embedder
            .as_deref()
            .ok_or_else(|| Error::usage("a pipeline needs an embedder: Pipeline::embed"))?;
        let mut cut = embed::Cut {
            part_size: self.part_size,
            batch_size: self.batch_size.unwrap_or_else(|| embedder.batch_size()),
            limits: self.limits,
            scaled_edge: match self.scaled_decode {
                true => Some(scaled_edge(embedder)?),
                false => None,
            },
        };
        self.check(embedder, &cut)?;
        // A batch never crosses parts, so none is larger than one.
        let wanted = cut.batch_size.min(cut.part_size);
        let fits = embedder.batch_that_fits(wanted)?;
        if fits < wanted {
            cut.batch_size = fits;
            context.note(&format!(
                "batches of {fits} images: the device has not the memory for {wanted}"
            ));
        }
        if let Some(shards) = &self.write {
            shards.check(&[&self.inputs], &out.as_ref().join("curated"))?;
        }

        let (dir, file) = self.open(out.as_ref(), embedder, &cut, context)?;
        let mut run = Run::over(dir, file);
        for (input, reason) in self.inputs.unusable() {
            context.note(&format!("{input}: {reason}"));
        }
        let embedded = run.embed(&self.inputs, embedder, &cut, context)?;
        let summary = self.after_embedding(&mut run, context)?;
        let rate = embedded.made as f64 / embedded.seconds;
        Ok(Summary {
            read: embedded.read,
            bad: embedded.bad,
            images_per_second: (embedded.made > 0).then_some(rate),
            ..summary
        })
    }

    /// Scores, decisions and the curated set, as far as they were asked for.
    fn after_embedding(&self, run: &mut Run, context: Context) -> Result<Summary> {
        let deciding = self.dedup.is_some()
            || self.write.is_some()
            || self.report
            || !self.filters.is_empty()
            || !self.thresholds.is_empty();
        if deciding || !self.scorers.is_empty() {
            let names: Vec<&str> = self.scorers.iter().map(|(name, _)| name.as_str()).collect();
            run.only_scores(&names)?;
            for (name, scorer) in &self.scorers {
                run.score(name, &**scorer, context)?;
            }
            run.only_scores(&names)?;
            run.set_thresholds(self.thresholds.clone())?;
        }
        if self.partition.is_some() || !deciding {
            return Ok(Summary::default());
        }
        let off = Dedup::off();
        let dedup = self.dedup.as_ref().unwrap_or(&off);
        let summary = run.dedup(dedup, &self.filters, context)?;
        if let Some(shards) = &self.write {
            run.write_from(&[&self.inputs], shards, None, self.overwrite, context)?;
        }
        if self.report {
            run.report_from(Ok(&[&self.inputs]), context)?;
        }
        Ok(summary)
    }

    /// Everything that can be wrong before the directory is looked at.
    fn check(&self, embedder: &dyn Embedder, cut: &embed::Cut) -> Result<()> {
        for (what, size) in [("part size", cut.part_size), ("batch size", cut.batch_size)] {
            if size == 0 {
                return Err(Error::usage(format!("a {what} of 0: give at least 1")));
            }
        }
        for (i, (name, scorer)) in self.scorers.iter().enumerate() {
            check_score_name(name)?;
            check_dims(name, &**scorer, embedder.dims())?;
            if self.scorers[..i].iter().any(|(other, _)| other == name) {
                return Err(Error::usage(format!("two scores are called {name}")));
            }
        }
        let named = |name: &str| self.scorers.iter().any(|(other, _)| other == name);
        if let Some(t) = self.thresholds.iter().find(|t| !named(&t.score)) {
            return Err(Error::usage(format!(
                "a threshold on {}, but no head makes that score; add its head",
                t.score
            )));
        }
        for (name, _) in &self.filters {
            check_score_name(name)?;
        }
        self.thresholds.iter().try_for_each(Threshold::check)?;
        let Some(dedup) = &self.dedup else {
            return Ok(());
        };
        dedup.check()?;
        dedup.clusters.given(embedder.dims())?;
        let (fingerprint, d) = (embedder.fingerprint(), embedder.dims());
        check_against(&dedup.against, &fingerprint, d, IdType::String)?;
        let eps = dedup.eps.unwrap_or_else(|| embedder.default_eps());
        if let Some(floor) = dedup.floor.filter(|floor| *floor < eps) {
            return Err(Error::usage(format!(
                "--floor {floor} is below the eps of {eps}; pairs are stored down to the floor"
            )));
        }
        match &dedup.keep {
            Some(crate::dedup::decide::Keep::Best { score, .. }) if !named(score) => {
                Err(Error::usage(format!(
                    "--keep best:{score}: no head makes that score; add --head {score}=..."
                )))
            }
            _ => Ok(()),
        }
    }

    /// Opens the run directory: a new one, the same request's, or with `overwrite` one that is cleared.
    fn open(
        &self,
        out: &Path,
        embedder: &dyn Embedder,
        cut: &embed::Cut,
        context: Context,
    ) -> Result<(RunDir, RunFile)> {
        let request = EmbedRequest {
            inputs: self.specs.clone(),
            content: self.inputs.describe(),
            partition: self.partition.map(|p| p.to_string()),
            id_column: self.options.id_column.clone(),
            embedding_column: None,
            imported: false,
            id_type: IdType::String,
            model: embedder.name().into(),
            fingerprint: embedder.fingerprint(),
            dims: embedder.dims(),
            dtype: format!("{:?}", embedder.dtype()).to_lowercase(),
            device: match (&self.device, embedder.device()) {
                (Some(kind), _) => kind.clone(),
                (None, Some(device)) => device.kind().into(),
                (None, None) => "cpu".into(),
            },
            part_size: cut.part_size,
            batch_size: cut.batch_size,
            scaled_decode: self.scaled_decode,
            default_eps: embedder.default_eps(),
        };
        let inputs = self.inputs.paths();
        let (dir, file, anew) = open::open(out, request, &inputs, self.overwrite, context)?;
        if anew && let Some(lines) = self.inputs.stdin_list() {
            crate::atomic::write(dir.path("stdin.txt"), |out| {
                lines.iter().try_for_each(|line| {
                    std::io::Write::write_all(out, format!("{line}\n").as_bytes())
                })
            })?;
        }
        Ok((dir, file))
    }
}
