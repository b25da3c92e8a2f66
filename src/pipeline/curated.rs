//! Decisions -> the curated set, from the inputs read again.

use std::path::Path;

use super::progress::{Context, Stage};
use super::run::Run;
use super::set::{Samples, read_scores, sample_rows};
use crate::digest::sha256_file;
use crate::error::{Error, Result};
use crate::read::{self, Inputs};
use crate::store::RunDir;
use crate::store::run_file::WriteRequest;
use crate::write::{Kept, Layout, Options, Writer, parse_sha256};

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

impl Shards {
    /// The layout that the inputs come to.
    fn settle(&self, inputs: &[&Inputs]) -> Layout {
        let packed = inputs.iter().any(|i| i.kind() == read::Kind::Packed);
        self.layout.unwrap_or(match packed {
            true => Layout::Tar,
            false => Layout::List,
        })
    }

    /// Asks, before any work is done, whether a set of this layout can be written to `target`.
    ///
    /// # Errors
    /// [`Error::Usage`] where the layout cannot hold what the inputs give, or `target` would be read as input.
    pub(super) fn check(&self, inputs: &[&Inputs], target: &Path) -> Result<()> {
        if self.shard_size == 0 {
            return Err(Error::usage("a shard holds at least one sample, not 0"));
        }
        match self.settle(inputs) {
            Layout::List if inputs.iter().any(|i| i.kind() == read::Kind::Packed) => {
                Err(Error::usage(
                    "a list names files, and images in a tar or parquet have none of their own; write tar or folder instead",
                ))
            }
            Layout::List => {
                let mut samples = inputs.iter().flat_map(|i| i.samples());
                samples.try_for_each(|sample| match sample.problem {
                    Some(_) => Ok(()),
                    None => Layout::List.accepts(&sample),
                })
            }
            Layout::Folder => check_not_read(inputs, target),
            Layout::Tar | Layout::None => Ok(()),
        }
    }
}

/// # Errors
/// [`Error::Usage`] where a folder of images is to be written into a folder that is read.
fn check_not_read(inputs: &[&Inputs], target: &Path) -> Result<()> {
    let target = std::path::absolute(target).map_err(Error::io("find", target))?;
    // The part of the path that is there already, which may go through links.
    let there = target.ancestors().find_map(|path| path.canonicalize().ok());
    let read = inputs.iter().flat_map(|i| i.paths()).find(|path| {
        path.is_dir()
            && path
                .canonicalize()
                .is_ok_and(|path| there.iter().any(|there| there.starts_with(&path)))
    });
    match read {
        None => Ok(()),
        Some(path) => Err(Error::usage(format!(
            "{} lies in the input {}, and would be read as part of it; write to another place, or tar",
            target.display(),
            path.display()
        ))),
    }
}

impl Run {
    /// Writes the curated set into `to` (`RUN/curated` where none), reading the inputs again as `run.json` names them. Every
    /// byte written is checked against the sha256 that the sample had when it was embedded.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are no decisions, or the layout cannot hold the samples; [`Error::Input`] where an input has
    /// changed or is gone.
    pub fn write(&mut self, shards: &Shards, to: Option<&Path>, context: Context) -> Result<()> {
        if self.embed_request()?.imported {
            return Err(Error::usage(format!(
                "{} holds embeddings without images, so there is nothing to write; what is kept stands in {}",
                self.root().display(),
                self.home.path("decisions.parquet").display()
            )));
        }
        self.mend_decisions(context)?;
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
        let folder = to.map_or_else(|| self.home.path("curated"), Path::to_path_buf);
        shards.check(inputs, &folder)?;
        let mut decisions = self.each_decision()?;
        let layout = shards.settle(inputs);
        let mut running = context.begin(Stage::Write, self.file.counts.get("kept").copied());
        let samples = Samples::read(&self.dirs())?;
        let mut scores = Vec::new();
        for score in &self.file.scores {
            scores.push(read_scores(&self.dirs(), &samples, &score.name)?);
        }
        let options = Options {
            shard_size: shards.shard_size,
            scores: self.file.scores.iter().map(|s| s.name.clone()).collect(),
            fingerprint: self.write_fingerprint()?,
            overwrite,
            inputs: inputs.iter().flat_map(|i| i.paths()).collect(),
        };
        let mut writer = Writer::create(&folder, layout, options)?;
        let dirs = self.dirs();
        let mut rows = sample_rows(&dirs);
        let mut good = 0..samples.len();
        drop(samples);
        for sample in inputs.iter().flat_map(|i| i.samples()) {
            let (Some(row), Some(decision)) = (rows.next(), decisions.next()) else {
                break;
            };
            let (row, decision) = (row?, decision?);
            let at = if row.good() { good.next() } else { None };
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
                let value = |scores: &Vec<f32>| at.map_or(f32::NAN, |at| scores[at]);
                let values: Vec<f32> = scores.iter().map(value).collect();
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
        }
        if let Some(row) = rows.next() {
            let row = row?;
            let reason = format!(
                "ends before {}, which was there when the run was made",
                row.id
            );
            return Err(Error::input(row.source, reason));
        }
        drop(rows);
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
        hash.update(sha256_file(&decisions).map_err(Error::io("read", &decisions))?);
        for dir in self.dirs() {
            dir.hash_samples(&mut hash)?;
        }
        Ok(crate::digest::hex(&hash.finalize()))
    }
}

/// Opens a run's inputs again, as its `run.json` names them.
pub(super) fn reopen(dir: &RunDir) -> Result<Inputs> {
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
    let inputs = Inputs::open(&embed.inputs, &options).map_err(|error| match error {
        Error::Input { input, reason } if Path::new(&input).is_relative() => Error::Input {
            input,
            reason: format!("{reason}; run.json names the inputs as they were written, so call this from the folder in which the run was made"),
        },
        other => other,
    })?;
    match embed.partition {
        Some(partition) => inputs.partition(partition.parse()?),
        None => Ok(inputs),
    }
}
