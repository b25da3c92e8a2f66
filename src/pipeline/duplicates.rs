//! Embeddings -> clusters and pairs: `clusters/` and `duplicates/`.

use std::path::PathBuf;

use super::progress::{Context, Stage};
use super::set::{Samples, read_clusters, read_embeddings, read_scores};
use crate::atomic;
use crate::clip::weights::Weights;
use crate::dedup::decide::{Keep, RankKeys, id_hash, rank};
use crate::dedup::exact::{self, ExactPairs};
use crate::dedup::kmeans::{self, Init, KMeans};
use crate::dedup::semantic::{self, SemanticDedup};
use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::ops::tile::Pair;
use crate::store::run_file::{ClusterRequest, DedupRequest};
use crate::store::{RunDir, Table, tables};

/// Pairs in a file of `duplicates/`.
const PAIRS_A_FILE: usize = 1 << 20;

const CENTROIDS: &str = "clusters/centroids.safetensors";

/// N²d up to which every pair is compared on a CPU.
const EXACT_WORK: f64 = 1e13;

/// How duplicates are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Exact up to N²d of 1e13, semantic beyond; semantic for an order that needs clusters.
    #[default]
    Auto,
    /// Every pair in the set.
    Exact,
    /// k-means, then pairs inside a cluster.
    Semantic,
    /// Not at all.
    Off,
}

/// How clusters are made, for [`Mode::Semantic`].
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters {
    /// k; none for clusters of about 1,000 rows.
    pub clusters: Option<usize>,
    /// How the first centroids are chosen.
    pub init: InitKind,
    /// A safetensors file with a tensor `centroids` `[k, d]` to begin from.
    pub centroids: Option<PathBuf>,
    /// Most iterations.
    pub iterations: usize,
    /// The squared shift of all centroids that ends the fit.
    pub tol: f64,
    /// The part of the rows that the fit sees, above 0 and up to 1.
    pub fit_fraction: f64,
    /// Fits to choose the best of.
    pub restarts: usize,
}

impl Clusters {
    /// # Errors
    /// [`Error::Usage`] for what can never be fitted.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::usage(text));
        if self.clusters == Some(0) {
            return wrong("--clusters 0: give at least 1, or auto".into());
        }
        if self.restarts == 0 {
            return wrong("--restarts 0: give at least 1".into());
        }
        if !(self.tol >= 0.0 && self.tol.is_finite()) {
            return wrong(format!("--tol {}: give a number of at least 0", self.tol));
        }
        if !(self.fit_fraction > 0.0 && self.fit_fraction <= 1.0) {
            let fraction = self.fit_fraction;
            return wrong(format!(
                "--fit-fraction {fraction}: give a number above 0 and up to 1"
            ));
        }
        Ok(())
    }

    /// The given centroids `[k, d]`, checked against the embeddings' d; none where none are given.
    ///
    /// # Errors
    /// [`Error::Usage`] where they do not fit.
    pub(super) fn given(&self, d: usize) -> Result<Option<Vec<f32>>> {
        let given = self
            .centroids
            .as_ref()
            .map(|path| read_centroids(path, d))
            .transpose()?;
        match (&given, self.clusters) {
            (Some(rows), Some(k)) if rows.len() != k * d => Err(Error::usage(format!(
                "--clusters {k}, but --centroids holds {}; leave --clusters out",
                rows.len() / d
            ))),
            _ => Ok(given),
        }
    }

    /// Whether clusters were asked for by number or by centroids.
    pub(super) fn asked_for(&self) -> bool {
        self.clusters.is_some() || self.centroids.is_some()
    }
}

impl Default for Clusters {
    fn default() -> Clusters {
        let kmeans = kmeans::Params::default();
        Clusters {
            clusters: None,
            init: InitKind::KMeansPlusPlus,
            centroids: None,
            iterations: kmeans.max_iterations,
            tol: kmeans.tolerance,
            fit_fraction: kmeans.fit_fraction,
            restarts: kmeans.restarts,
        }
    }
}

/// A way to choose the first centroids; see [`Init`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitKind {
    /// k-means++
    #[default]
    KMeansPlusPlus,
    /// k-means||
    KMeansParallel,
    /// Rows drawn at random.
    Random,
}

impl InitKind {
    /// As the command line has it.
    pub fn as_str(self) -> &'static str {
        match self {
            InitKind::KMeansPlusPlus => "k-means++",
            InitKind::KMeansParallel => "kmeans-parallel",
            InitKind::Random => "random",
        }
    }
}

/// What fixes clusters and pairs.
pub(super) struct Plan<'a> {
    pub mode: Mode,
    pub floor: f64,
    pub clusters: &'a Clusters,
    pub keep: &'a Keep,
    pub seed: u64,
}

impl Plan<'_> {
    /// The mode that `auto` comes to.
    pub(super) fn settle(&self, n: usize, d: usize, context: Context) -> Mode {
        let needs_clusters = matches!(self.keep, Keep::Hard | Keep::Easy);
        let work = (n as f64).powi(2) * d as f64;
        match self.mode {
            Mode::Auto if needs_clusters => {
                context.note(&format!(
                    "dedup: semantic, because --keep {} needs clusters",
                    self.keep
                ));
                Mode::Semantic
            }
            Mode::Auto if self.clusters.asked_for() => {
                context.note("dedup: semantic, because clusters were asked for");
                Mode::Semantic
            }
            Mode::Auto if work <= EXACT_WORK => {
                context.note(&format!(
                    "dedup: exact, {n} rows of {d} are few enough to compare every pair"
                ));
                Mode::Exact
            }
            Mode::Auto => {
                context.note(&format!(
                    "dedup: semantic, {n} rows of {d} are many; --dedup exact compares every pair"
                ));
                Mode::Semantic
            }
            mode => mode,
        }
    }

    /// As it goes into `run.json`.
    pub(super) fn request(&self, mode: Mode, n: usize, d: usize) -> Result<DedupRequest> {
        let semantic = mode == Mode::Semantic;
        let clusters = match semantic {
            true => Some(self.cluster_request(n, d)?),
            false => None,
        };
        Ok(DedupRequest {
            mode: if semantic { "semantic" } else { "exact" }.into(),
            floor: self.floor,
            clusters,
            keep: semantic.then(|| self.keep.to_string()),
        })
    }

    fn cluster_request(&self, n: usize, d: usize) -> Result<ClusterRequest> {
        let c = self.clusters;
        let given = c.given(d)?;
        let k = given.as_ref().map(|rows| rows.len() / d).or(c.clusters);
        let bytes =
            |rows: &Vec<f32>| -> Vec<u8> { rows.iter().flat_map(|x| x.to_le_bytes()).collect() };
        Ok(ClusterRequest {
            clusters: k.unwrap_or_else(|| kmeans::clusters_auto(n)),
            init: c.init.as_str().into(),
            centroids: given.as_ref().map(|rows| sha256_hex(bytes(rows))),
            iterations: c.iterations,
            tol: c.tol,
            fit_fraction: c.fit_fraction,
            restarts: c.restarts,
            seed: self.seed,
        })
    }

    fn kmeans_params(&self, d: usize) -> Result<kmeans::Params> {
        let c = self.clusters;
        let init = match (c.given(d)?, c.init) {
            (Some(rows), _) => Init::Given(rows),
            (None, InitKind::KMeansPlusPlus) => Init::KMeansPlusPlus,
            (None, InitKind::KMeansParallel) => Init::KMeansParallel,
            (None, InitKind::Random) => Init::Random,
        };
        Ok(kmeans::Params {
            clusters: c.clusters,
            init,
            max_iterations: c.iterations,
            tolerance: c.tol,
            seed: self.seed,
            fit_fraction: c.fit_fraction,
            restarts: c.restarts,
        })
    }
}

/// A search whose request is known to be good; a semantic one is clustered already.
pub(super) enum Search<'a> {
    /// No row at all.
    Empty,
    Exact(ExactPairs<'a>),
    Semantic(Box<SemanticDedup<'a>>, &'a [f32]),
}

impl<'a> Search<'a> {
    /// Checks the request against the rows `[n, d]` and makes clusters where it is for them.
    pub(super) fn begin(
        matrix: &'a [f32],
        d: usize,
        mode: Mode,
        plan: &Plan,
        context: Context,
    ) -> Result<Search<'a>> {
        if matrix.is_empty() {
            return Ok(Search::Empty);
        }
        if plan.floor > 0.5 {
            context.note(&format!(
                "dedup: pairs down to cosine {:.3} are stored, which may be very many; --floor says how far down",
                1.0 - plan.floor
            ));
        }
        if mode == Mode::Exact {
            let params = exact::Params {
                floor: plan.floor,
                ..exact::Params::default()
            };
            return Ok(Search::Exact(ExactPairs::new(matrix, d, params)?));
        }
        let params = semantic::Params {
            floor: plan.floor,
            ..semantic::Params::default()
        };
        let fit = KMeans::fit_watched(matrix, d, &plan.kmeans_params(d)?, |_| context.check())?;
        let dedup = SemanticDedup::with_clusters(matrix, d, fit.centroids, fit.labels, params)?;
        Ok(Search::Semantic(Box::new(dedup), matrix))
    }

    /// Writes clusters, pairs and matches; gives the number of files of pairs.
    pub(super) fn store(
        &self,
        home: &RunDir,
        dirs: &[&RunDir],
        samples: &Samples,
        plan: &Plan,
        context: Context,
    ) -> Result<usize> {
        let folder = home.path("duplicates");
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let mut running = context.begin(Stage::Dedup, None);
        let mut pairs = PairFiles {
            home,
            samples,
            held: Vec::new(),
            files: 0,
        };
        let mut take = |block: &[Pair]| {
            running.advance(block.len() as u64)?;
            pairs.take(block)
        };
        match self {
            Search::Empty => {}
            Search::Exact(exact) => {
                exact.for_each(&mut take)?;
            }
            Search::Semantic(dedup, matrix) => {
                write_clusters(home, samples, matrix, dedup)?;
                dedup.for_each(&mut take)?;
                write_matches(home, dirs, samples, dedup, plan)?;
            }
        }
        let files = pairs.finish()?;
        running.finish();
        Ok(files)
    }
}

/// Whether every file that a finished search leaves is there.
pub(super) fn all_there(home: &RunDir, pair_files: usize, parts: usize, mode: Mode) -> bool {
    let pairs = (0..pair_files).all(|file| pairs_path(home, file).is_file());
    let clusters = || (0..parts).all(|part| home.part(Table::Clusters, part).is_file());
    pairs && (mode == Mode::Exact || clusters())
}

fn pairs_path(home: &RunDir, file: usize) -> PathBuf {
    home.path(&format!("duplicates/pairs-{file:05}.parquet"))
}

/// Makes `matches.parquet` anew for another order, over the clusters that are there.
pub(super) fn match_anew(
    home: &RunDir,
    dirs: &[&RunDir],
    samples: &Samples,
    d: usize,
    plan: &Plan,
) -> Result<()> {
    if samples.len() == 0 {
        return Ok(());
    }
    let matrix = read_embeddings(dirs, samples, d)?;
    let centroids = read_centroids(&home.path(CENTROIDS), d)?;
    let (labels, _) = read_clusters(home, samples)?;
    let params = semantic::Params {
        floor: plan.floor,
        ..semantic::Params::default()
    };
    let dedup = SemanticDedup::with_clusters(&matrix, d, centroids, labels, params)?;
    write_matches(home, dirs, samples, &dedup, plan)
}

/// Centroids `[k, d]` from a safetensors file with a tensor `centroids`, such as a run's own.
fn read_centroids(path: &std::path::Path, d: usize) -> Result<Vec<f32>> {
    let weights = Weights::open_file(path)?;
    let shape = weights
        .shape("centroids")
        .ok_or_else(|| Error::usage(format!("{}: has no tensor centroids", path.display())))?;
    match shape[..] {
        [k, width] if width == d && k > 0 => {
            Ok(weights.get("centroids", &shape)?.flatten_all()?.to_vec1()?)
        }
        _ => Err(Error::usage(format!(
            "{}: centroids are {shape:?}, the embeddings ask for [k, {d}]",
            path.display()
        ))),
    }
}

fn write_clusters(
    home: &RunDir,
    samples: &Samples,
    matrix: &[f32],
    dedup: &SemanticDedup,
) -> Result<()> {
    home.prepare(Table::Clusters)?;
    let kmeans = dedup.kmeans();
    let (k, d) = (kmeans.clusters(), kmeans.d);
    let bytes: Vec<u8> = kmeans
        .centroids
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![k, d], &bytes)
        .map_err(|e| Error::shape("centroids", format!("[{k}, {d}]"), e.to_string()))?;
    let file = safetensors::serialize([("centroids", view)], None)
        .map_err(|e| Error::shape("centroids", format!("[{k}, {d}]"), e.to_string()))?;
    atomic::write(home.path(CENTROIDS), |out| {
        std::io::Write::write_all(out, &file)
    })?;

    let cosine = kmeans::cosine_dist_to_cent(matrix, d, &kmeans.centroids, &kmeans.labels)?;
    let l2 = kmeans::l2_dist_to_cent(matrix, d, &kmeans.centroids, &kmeans.labels)?;
    let mut first = 0;
    for (part, size) in samples.part_sizes.iter().enumerate() {
        let rows = first..first + size;
        let ids: Vec<&str> = rows
            .clone()
            .map(|row| samples.sample(row).id.as_str())
            .collect();
        let table = tables::clusters_to_batch(
            &ids,
            &kmeans.labels[rows.clone()],
            &cosine[rows.clone()],
            &l2[rows],
        )?;
        atomic::write_parquet(home.part(Table::Clusters, part), &table)?;
        first += size;
    }
    Ok(())
}

fn write_matches(
    home: &RunDir,
    dirs: &[&RunDir],
    samples: &Samples,
    dedup: &SemanticDedup,
    plan: &Plan,
) -> Result<()> {
    let order = order(home, dirs, samples, plan.keep, plan.seed)?;
    let matches = dedup.matches(&order)?;
    let id = |row: u64| samples.sample(row as usize).id.as_str();
    let rows: Vec<_> = order
        .iter()
        .map(|row| (*row, &matches[*row as usize]))
        .map(|(row, m)| (id(row), id(m.row), m.cosine))
        .collect();
    let table = tables::matched_to_batch(["id", "max_id", "cosine_sim_score"], &rows)?;
    atomic::write_parquet(home.path("duplicates/matches.parquet"), &table)
}

/// Good rows in order of preference.
///
/// # Errors
/// [`Error::Usage`] where the order needs clusters or a score that are not there.
pub(super) fn order(
    home: &RunDir,
    dirs: &[&RunDir],
    samples: &Samples,
    keep: &Keep,
    seed: u64,
) -> Result<Vec<u64>> {
    let n = samples.len();
    let rows = || (0..n).map(|row| samples.sample(row));
    let mut by_id: Vec<usize> = (0..n).collect();
    by_id.sort_unstable_by_key(|row| &samples.sample(*row).id);
    let mut id_rank = vec![0; n];
    by_id
        .iter()
        .enumerate()
        .for_each(|(rank, row)| id_rank[*row] = rank as u64);
    let hashes: Vec<u64> = rows().map(|row| id_hash(&row.id)).collect();
    let pixels: Vec<u64> = rows()
        .map(|row| u64::from(row.width) * u64::from(row.height))
        .collect();
    let bytes: Vec<u64> = rows().map(|row| row.bytes).collect();
    let distances = match keep {
        Keep::Hard | Keep::Easy => read_clusters(home, samples)?.1,
        _ => Vec::new(),
    };
    let score = match keep {
        Keep::Best { score, .. } => Some((score.as_str(), read_scores(dirs, samples, score)?)),
        _ => None,
    };
    let scores: Vec<(&str, &[f32])> = score
        .iter()
        .map(|(name, values)| (*name, values.as_slice()))
        .collect();
    Ok(rank(
        keep,
        &RankKeys {
            rows: n,
            id_rank: &id_rank,
            id_hash: &hashes,
            pixels: &pixels,
            bytes: &bytes,
            cosine_dist_to_cent: &distances,
            scores: &scores,
            seed,
        },
    )?)
}

/// Writes pairs in files of [`PAIRS_A_FILE`].
struct PairFiles<'a> {
    home: &'a RunDir,
    samples: &'a Samples,
    held: Vec<Pair>,
    files: usize,
}

impl PairFiles<'_> {
    fn take(&mut self, block: &[Pair]) -> Result<()> {
        for pair in block {
            self.held.push(*pair);
            if self.held.len() == PAIRS_A_FILE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is held, the first file even when it is empty; gives the number of files.
    fn finish(mut self) -> Result<usize> {
        if self.files == 0 || !self.held.is_empty() {
            self.flush()?;
        }
        Ok(self.files)
    }

    fn flush(&mut self) -> Result<()> {
        let id = |row: u64| self.samples.sample(row as usize).id.as_str();
        let a: Vec<_> = self.held.iter().map(|p| id(p.a)).collect();
        let b: Vec<_> = self.held.iter().map(|p| id(p.b)).collect();
        let cosine: Vec<_> = self.held.iter().map(|p| p.cosine).collect();
        let identical: Vec<_> = self.held.iter().map(|p| p.identical).collect();
        let table = tables::pairs_to_batch(&a, &b, &cosine, &identical)?;
        atomic::write_parquet(pairs_path(self.home, self.files), &table)?;
        self.files += 1;
        self.held.clear();
        Ok(())
    }
}

/// Calls `each` with the stored pairs, file by file, as row numbers.
///
/// # Errors
/// [`Error::Run`] where a file is missing or damaged, or names an id that is not in the set.
pub(super) fn read_pairs(
    home: &RunDir,
    samples: &Samples,
    files: usize,
    mut each: impl FnMut(&[Pair]) -> Result<()>,
) -> Result<()> {
    let rows = samples.by_id();
    for file in 0..files {
        let path = pairs_path(home, file);
        if !path.is_file() {
            let root = home.root().display();
            let reason = format!("is not there; clipsift dedup {root} finds the pairs again");
            return Err(Error::run(&path, reason));
        }
        let mut block = Vec::new();
        tables::for_each_pair(&atomic::read_parquet(&path)?, |a, b, cosine, identical| {
            let row = |id: &str| {
                let row = rows.get(id).copied();
                row.ok_or_else(|| format!("names {id}, which is not in the set"))
            };
            block.push(Pair {
                a: row(a)?,
                b: row(b)?,
                cosine,
                identical,
            });
            Ok(())
        })
        .map_err(|reason| Error::run(&path, reason))?;
        each(&block)?;
    }
    Ok(())
}
