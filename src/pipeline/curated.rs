//! Decisions -> the curated set, from the inputs read again.

use std::path::Path;

use super::progress::{Context, Stage};
use super::run::Run;
use super::set::{Samples, read_scores};
use crate::error::{Error, Result};
use crate::read::{self, Inputs};
use crate::store::run_file::WriteRequest;
use crate::store::{RunDir, Table};
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
            scores.push(samples.spread(&read_scores(&self.dirs(), &samples, &score.name)?));
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
        Ok(crate::digest::hex(&hash.finalize()))
    }
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
