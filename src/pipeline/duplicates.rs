//! Embeddings -> clusters and pairs: `clusters/` and `duplicates/`.

use std::path::PathBuf;

use super::centroids::read_centroids;
use super::pairs::PairFiles;
use super::progress::{Context, Stage};
use super::set::{Samples, read_clusters, read_embeddings, read_scores};
use crate::atomic;
use crate::dedup::decide::{Keep, RankKeys, id_hash, rank};
use crate::dedup::exact::{self, ExactPairs};
use crate::dedup::kmeans::{self, Init};
use crate::dedup::semantic::{self, SemanticDedup};
use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::ops::tile::Pair;
use crate::store::run_file::{ClusterRequest, DedupRequest};
use crate::store::{RunDir, Table, tables};

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
    /// A safetensors or `.npy` file with centroids `[k, d]` to begin from.
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
    /// Rows on each side of a tile; never changes a result.
    pub tile: usize,
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
        let clusters = if semantic {
            Some(self.cluster_request(n, d)?)
        } else {
            None
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
        let digest = |path: &PathBuf| -> Result<String> {
            Ok(sha256_hex(
                std::fs::read(path).map_err(Error::io("read", path))?,
            ))
        };
        let clusters = match (c.clusters, &c.centroids) {
            (Some(k), _) => k,
            (None, Some(path)) => read_centroids(path, d)?.len() / d,
            (None, None) => kmeans::clusters_auto(n),
        };
        Ok(ClusterRequest {
            clusters,
            init: c.init.as_str().into(),
            centroids: c.centroids.as_ref().map(digest).transpose()?,
            iterations: c.iterations,
            tol: c.tol,
            fit_fraction: c.fit_fraction,
            seed: self.seed,
        })
    }
}

/// Makes `clusters/` and `duplicates/` anew; gives the seconds it took.
pub(super) fn find(
    home: &RunDir,
    dirs: &[&RunDir],
    samples: &Samples,
    d: usize,
    mode: Mode,
    plan: &Plan,
    context: Context,
) -> Result<f64> {
    home.remove("clusters")?;
    home.remove("duplicates")?;
    let folder = home.path("duplicates");
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let mut running = context.begin(Stage::Dedup, None);
    let matrix = read_embeddings(dirs, samples, d)?;
    context.check()?;
    let mut pairs = PairFiles::new(home, samples);
    let mut take = |block: &[Pair]| {
        running.advance(block.len() as u64)?;
        pairs.take(block)
    };
    if samples.len() == 0 {
        // Nothing to compare; an empty table says that it was looked for.
    } else if mode == Mode::Exact {
        let params = exact::Params {
            floor: plan.floor,
            tile: plan.tile,
        };
        ExactPairs::new(&matrix, d, params)?.for_each(&mut take)?;
    } else {
        let params = semantic::Params {
            kmeans: kmeans_params(plan, d)?,
            floor: plan.floor,
            tile: plan.tile,
        };
        let dedup = SemanticDedup::fit(&matrix, d, params)?;
        write_clusters(home, samples, &matrix, &dedup)?;
        dedup.for_each(&mut take)?;
        write_matches(home, dirs, samples, &dedup, plan)?;
    }
    pairs.finish()?;
    Ok(running.finish())
}

/// Makes `matches.parquet` anew for another order, over the clusters that are there; gives the seconds it took.
pub(super) fn match_anew(
    home: &RunDir,
    dirs: &[&RunDir],
    samples: &Samples,
    d: usize,
    plan: &Plan,
    context: Context,
) -> Result<f64> {
    let running = context.begin(Stage::Dedup, None);
    if samples.len() > 0 {
        let matrix = read_embeddings(dirs, samples, d)?;
        let centroids = read_centroids(&home.path(CENTROIDS), d)?;
        let (labels, _) = read_clusters(home, samples)?;
        let params = semantic::Params {
            floor: plan.floor,
            tile: plan.tile,
            ..semantic::Params::default()
        };
        let dedup = SemanticDedup::with_clusters(&matrix, d, centroids, labels, params)?;
        write_matches(home, dirs, samples, &dedup, plan)?;
    }
    Ok(running.finish())
}

fn kmeans_params(plan: &Plan, d: usize) -> Result<kmeans::Params> {
    let c = plan.clusters;
    let init = match (&c.centroids, c.init) {
        (Some(path), _) => Init::Given(read_centroids(path, d)?),
        (None, InitKind::KMeansPlusPlus) => Init::KMeansPlusPlus,
        (None, InitKind::KMeansParallel) => Init::KMeansParallel,
        (None, InitKind::Random) => Init::Random,
    };
    Ok(kmeans::Params {
        clusters: c.clusters,
        init,
        max_iterations: c.iterations,
        tolerance: c.tol,
        seed: plan.seed,
        fit_fraction: c.fit_fraction,
        restarts: c.restarts,
    })
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
            samples.id_type,
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
    let table =
        tables::matched_to_batch(samples.id_type, ["id", "max_id", "cosine_sim_score"], &rows)?;
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
    if n == 0 {
        return Ok(Vec::new());
    }
    let rows = || (0..n).map(|row| samples.sample(row));
    let mut by_id: Vec<usize> = (0..n).collect();
    let keys: Vec<_> = rows()
        .map(|row| samples.id_type.sort_key(&row.id))
        .collect();
    by_id.sort_unstable_by_key(|row| keys[*row]);
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
