//! How duplicates are asked for.

use std::path::PathBuf;

use super::against::check_against;
use super::clusters::Clusters;
use super::decide::no_sizes;
use super::duplicates::Mode;
use super::import::IMPORTED;
use crate::dedup::decide::{Keep, Removal};
use crate::dedup::kmeans;
use crate::error::{Error, Result};
use crate::read::embeddings::Embeddings;

/// How duplicates are found and decided.
///
/// # Memory
///
/// Of n rows of d dims, with k clusters fitted to a fraction f of the rows, at most
///
/// ```text
/// 300 n                        ids, labels, orders, matches and decisions; of pairs, names to rows
/// + 4 f n d                    the sample that k-means is fitted to, where f < 1
/// + 16 k d                     centroids and their sums (56 k d with k-means||)
/// + 80 (pairs within eps)      the graph that is decided on; identical rows are no pairs here
/// + min(4 n d, 512 MiB)        the matrix; a larger one is mapped from a scratch file and takes one part
/// + 0.75 GiB                   blocks of pairs on their way to files, tiles, parts
/// ```
///
/// bytes, for ids of about 16 letters. Mapped pages come on top as far as the system has room for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Dedup {
    /// How to look.
    pub mode: Mode,
    /// A pair is a duplicate when cosine >= 1 - eps; none for the model's default.
    pub eps: Option<f64>,
    /// Pairs are stored down to cosine 1 - floor; none for 4 x eps, or for 0.5 where that is less and eps itself is not more.
    pub floor: Option<f64>,
    /// How clusters are made.
    pub clusters: Clusters,
    /// Order of preference; none for largest among images and first among embeddings that others made.
    pub keep: Option<Keep>,
    /// What a row falls to.
    pub removal: Removal,
    /// Seed of every random choice.
    pub seed: u64,
    /// Rows whose true neighbours are looked for among all rows, for the recall of a semantic search; none for no audit.
    pub audit: Option<usize>,
    /// Runs of earlier sets: what they kept wins, is never dropped and never compared with each other. Nothing in them changes.
    pub against: Vec<PathBuf>,
    /// Rows on each side of a tile of cosines: memory and speed, never the result.
    pub tile: usize,
    /// Bytes of embeddings that are held in memory while duplicates are looked for; more are unpacked into a scratch file in
    /// the run directory and mapped. None: 512 MiB or a quarter of the memory that is free, whichever is less. Never changes
    /// the result.
    pub held: Option<u64>,
    /// Pairs beyond eps that are stored for a row, the nearest, where it has more of them with later rows. Never changes a
    /// decision: an eps for which pairs are missing compares again.
    pub row_pairs: usize,
}

impl Default for Dedup {
    fn default() -> Dedup {
        Dedup {
            mode: Mode::Auto,
            eps: None,
            floor: None,
            clusters: Clusters::default(),
            keep: None,
            removal: Removal::Group,
            seed: 42,
            audit: None,
            against: Vec::new(),
            tile: crate::ops::tile::TILE,
            held: None,
            row_pairs: super::pairs::ROW_PAIRS,
        }
    }
}

impl Dedup {
    /// Sets the order of preference.
    pub fn keep(self, keep: Keep) -> Dedup {
        Dedup {
            keep: Some(keep),
            ..self
        }
    }

    /// Sets what a row falls to.
    pub fn removal(self, removal: Removal) -> Dedup {
        Dedup { removal, ..self }
    }

    /// Sets how far down pairs are stored, for a larger eps later.
    pub fn floor(self, floor: f64) -> Dedup {
        Dedup {
            floor: Some(floor),
            ..self
        }
    }

    /// Sets how clusters are made.
    pub fn clusters(self, clusters: Clusters) -> Dedup {
        Dedup { clusters, ..self }
    }

    /// Decides against what an earlier run kept: new samples fall to it and to each other. For several earlier runs call it
    /// several times.
    pub fn against(mut self, run: impl Into<PathBuf>) -> Dedup {
        self.against.push(run.into());
        self
    }

    /// Audits a semantic search with that many rows, see [`crate::dedup::audit`]; `Run::file` has the result. Where `auto`
    /// comes to an exact search there is nothing to audit.
    pub fn audit(self, rows: usize) -> Dedup {
        Dedup {
            audit: Some(rows),
            ..self
        }
    }

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
        self.clusters.check()?;
        range("eps", self.eps)?;
        range("floor", self.floor)?;
        if let (Some(eps), Some(floor)) = (self.eps, self.floor)
            && floor < eps
        {
            return Err(Error::usage(format!(
                "--floor {floor} is below --eps {eps}; pairs are stored down to the floor"
            )));
        }
        if self.tile == 0 {
            return Err(Error::usage("--tile 0: give at least 1"));
        }
        if self.audit == Some(0) {
            return Err(Error::usage("--audit 0: give at least 1"));
        }
        if self.mode == Mode::Off && !self.against.is_empty() {
            return Err(Error::usage(
                "--against finds duplicates of an earlier set; leave it out with --dedup off",
            ));
        }
        let clusterless = matches!(self.mode, Mode::Exact | Mode::Off);
        if clusterless && self.clusters.asked_for() {
            return Err(Error::usage(
                "--clusters and --centroids are for --dedup semantic; leave them out, or the other mode",
            ));
        }
        if clusterless && self.audit.is_some() {
            return Err(Error::usage(
                "--audit is for --dedup semantic: it says what clusters lost, and an exact search loses nothing",
            ));
        }
        match &self.keep {
            Some(keep @ (Keep::Hard | Keep::Easy)) if clusterless => Err(Error::usage(format!(
                "--keep {keep} needs clusters; use --dedup semantic, or another order"
            ))),
            _ => Ok(()),
        }
    }
}

impl Dedup {
    /// What can be known to be wrong with a request before embeddings made by others are taken in.
    ///
    /// # Errors
    /// [`Error::Usage`] for an order by size, earlier sets or centroids that do not fit, or more clusters than rows.
    pub fn check_for(&self, files: &Embeddings) -> Result<()> {
        self.check()?;
        if self.keep == Some(Keep::Largest) {
            return Err(no_sizes());
        }
        check_against(&self.against, IMPORTED, files.dims(), files.id_type())?;
        if self.clusters.given(files.dims())?.is_some() || !self.against.is_empty() {
            // Clusters are of the rows of earlier sets as well.
            return Ok(());
        }
        match self.clusters.clusters {
            Some(clusters) if clusters as u64 > files.rows() && files.rows() > 0 => {
                let rows = files.rows() as usize;
                Err(kmeans::Error::TooFewRows { clusters, rows }.into())
            }
            _ => Ok(()),
        }
    }
}

/// Duplicates among every pair of the set: `Exact::within(0.02).keep(Keep::Largest)`.
pub enum Exact {}

impl Exact {
    /// Two samples are duplicates when cosine >= 1 - eps.
    pub fn within(eps: f64) -> Dedup {
        Dedup {
            mode: Mode::Exact,
            eps: Some(eps),
            ..Dedup::default()
        }
    }
}

/// Duplicates inside clusters: `Semantic::within(0.02)`.
pub enum Semantic {}

impl Semantic {
    /// Two samples of a cluster are duplicates when cosine >= 1 - eps.
    pub fn within(eps: f64) -> Dedup {
        Dedup {
            mode: Mode::Semantic,
            eps: Some(eps),
            ..Dedup::default()
        }
    }
}
