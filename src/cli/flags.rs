//! Flags as typed -> the library's own types.

use clap::ArgMatches;
use clap::parser::ValueSource;
use clipsift::clip::hub::Transfer;
use clipsift::pipeline::{Clusters, Dedup, Import, InitKind, Mode, Shards};
use clipsift::read::embeddings::Columns;
use clipsift::store::run_file::{Bound, Threshold};
use clipsift::{Error, Head, Result, manifest};

use super::args::{DedupFlags, DedupMode, HeadFlags, ImportFlags, Init, WriteFlags};
use super::terminal::Terminal;

/// Thresholds in the order typed, whichever flags they came from.
#[derive(Debug, Default)]
pub(crate) struct Thresholds(pub Vec<Threshold>);

impl Thresholds {
    pub(crate) fn from_matches(matches: &ArgMatches) -> Result<Thresholds> {
        let mut found: Vec<(usize, Threshold)> = Vec::new();
        for (flag, score, bound) in [
            ("min_aesthetic", "aesthetic", Bound::Min as fn(f64) -> Bound),
            ("max_nsfw", "nsfw", Bound::Max),
        ] {
            if let Ok(Some(x)) = matches.try_get_one::<f64>(flag) {
                let index = matches.index_of(flag).unwrap_or(0);
                found.push((index, threshold(score, *x, bound)?));
            }
        }
        for (flag, bound) in [("min", Bound::Min as fn(f64) -> Bound), ("max", Bound::Max)] {
            // Commands without thresholds do not know the flag.
            let typed = matches.try_contains_id(flag).unwrap_or(false)
                && matches.value_source(flag) == Some(ValueSource::CommandLine);
            if !typed {
                continue;
            }
            let values = matches.get_many::<String>(flag).into_iter().flatten();
            for (index, text) in matches.indices_of(flag).into_iter().flatten().zip(values) {
                let (name, x) = text.split_once('=').ok_or_else(|| wrong(flag, text))?;
                let x = x.parse().map_err(|_| wrong(flag, text))?;
                found.push((index, threshold(name, x, bound)?));
            }
        }
        found.sort_by_key(|(index, _)| *index);
        Ok(Thresholds(
            found.into_iter().map(|(_, threshold)| threshold).collect(),
        ))
    }
}

fn wrong(flag: &str, text: &str) -> Error {
    Error::usage(format!(
        "--{flag} {text}: give NAME=NUMBER, such as --{flag} aesthetic=5"
    ))
}

fn threshold(score: &str, x: f64, bound: fn(f64) -> Bound) -> Result<Threshold> {
    let threshold = Threshold {
        score: score.into(),
        bound: bound(x),
    };
    threshold.check()?;
    Ok(threshold)
}

/// Loads the heads that were asked for, for embeddings of d dims, in the order aesthetic, nsfw, others.
pub(crate) fn heads(
    flags: &HeadFlags,
    model: &str,
    d: usize,
    terminal: &Terminal,
) -> Result<Vec<(String, Head)>> {
    let load = |spec: &str| {
        let watch = |transfer: &Transfer| terminal.transfer(transfer);
        let pulled = Head::pull(spec, &watch);
        terminal.no_more_transfers();
        pulled.and_then(|_| Head::load(spec))
    };
    let mut heads = Vec::new();
    for (name, spec) in [("aesthetic", &flags.aesthetic), ("nsfw", &flags.nsfw)] {
        let Some(spec) = spec else { continue };
        let head = if spec.is_empty() {
            let entry = manifest::default_head(name, d).ok_or_else(|| {
                Error::usage(format!(
                    "no {name} head is known for the {d} dims of {model}; use --model openai/clip-vit-large-patch14, or name a head: --{name}=FILE"
                ))
            })?;
            load(&entry.name)?
        } else {
            load(spec)?
        };
        heads.push((name.to_string(), head));
    }
    for text in &flags.heads {
        let (name, spec) = text
            .split_once('=')
            .filter(|(name, spec)| !name.is_empty() && !spec.is_empty())
            .ok_or_else(|| {
                Error::usage(format!(
                    "--head {text}: give NAME=SPEC, such as --head mine=head.safetensors"
                ))
            })?;
        heads.push((name.to_string(), load(spec)?));
    }
    Ok(heads)
}

/// What can be known to be wrong with thresholds before a head is loaded.
pub(crate) fn check_thresholds(flags: &HeadFlags, thresholds: &Thresholds) -> Result<()> {
    let named = |score: &str| {
        (score == "aesthetic" && flags.aesthetic.is_some())
            || (score == "nsfw" && flags.nsfw.is_some())
            || flags
                .heads
                .iter()
                .any(|h| h.split_once('=').is_some_and(|(name, _)| name == score))
    };
    match thresholds.0.iter().find(|t| !named(&t.score)) {
        None => Ok(()),
        Some(t) => {
            let flag = match t.score.as_str() {
                "aesthetic" | "nsfw" => format!("--{}", t.score),
                name => format!("--head {name}=SPEC"),
            };
            Err(Error::usage(format!(
                "a threshold on {}, but no head makes that score; add {flag}",
                t.score
            )))
        }
    }
}

impl DedupFlags {
    pub(crate) fn to_dedup(&self) -> Result<Dedup> {
        let clusters = match self.clusters.as_str() {
            "auto" => None,
            text => Some(text.parse().ok().filter(|k| *k > 0).ok_or_else(|| {
                Error::usage(format!("--clusters {text}: give a number or auto"))
            })?),
        };
        let dedup = Dedup {
            mode: match self.dedup {
                DedupMode::Auto => Mode::Auto,
                DedupMode::Exact => Mode::Exact,
                DedupMode::Semantic => Mode::Semantic,
                DedupMode::Off => Mode::Off,
            },
            eps: self.eps,
            floor: self.floor,
            clusters: Clusters {
                clusters,
                init: match self.init {
                    Init::KMeansPlusPlus => InitKind::KMeansPlusPlus,
                    Init::KmeansParallel => InitKind::KMeansParallel,
                    Init::Random => InitKind::Random,
                },
                centroids: self.centroids.clone(),
                iterations: self.iterations,
                tol: self.tol,
                fit_fraction: self.fit_fraction,
                restarts: self.restarts,
            },
            keep: self.keep.clone(),
            removal: self.removal,
            seed: self.seed,
            audit: self.audit,
            against: self.against.clone(),
            tile: self.tile,
            held: self.held,
            row_pairs: self.row_pairs,
        };
        dedup.check()?;
        Ok(dedup)
    }
}

impl ImportFlags {
    pub(crate) fn to_import(&self) -> Import {
        Import {
            columns: Columns {
                id: self.id_column.clone(),
                embedding: self.embedding_column.clone(),
            },
            part_size: self.part_size,
            overwrite: self.overwrite,
        }
    }

    /// What is of no use with run directories.
    pub(crate) fn check_unused(&self) -> Result<()> {
        if self.id_column.is_some() || self.embedding_column.is_some() || self.overwrite {
            return Err(Error::usage(
                "--id-column, --embedding-column and --overwrite are for embeddings that others made, not for run directories",
            ));
        }
        Ok(())
    }
}

impl WriteFlags {
    pub(crate) fn to_shards(&self) -> Result<Shards> {
        if self.shard_size == 0 {
            return Err(Error::usage("--shard-size 0: give at least 1"));
        }
        Ok(Shards {
            layout: self.layout,
            shard_size: self.shard_size,
        })
    }
}
