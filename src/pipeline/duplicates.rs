//! Embeddings -> clusters and pairs: `clusters/` and `duplicates/`.

use std::collections::HashMap;

use super::against::{AGAINST, Against};
use super::centroids::{CHECKSUM, read_centroids};
use super::clusters::{Clusters, InitKind};
use super::copies::Copies;
use super::decisions::write_matched;
use super::matrix::Matrix;
use super::pairs::{PairFiles, Written, pairs_path};
use super::progress::{Context, Running, Stage};
use super::resident::{Placed, Resident};
use super::set::{Samples, read_clusters, read_scores, sample_rows};
use super::watch::KMeansWatch;
use crate::atomic;
use crate::dedup::OnDevice;
use crate::dedup::decide::{Keep, RankKeys, id_hash, rank};
use crate::dedup::exact::{self, ExactPairs};
use crate::dedup::kmeans::{self, Init, KMeans};
use crate::dedup::semantic::{self, SemanticDedup};
use crate::device::Device;
use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::ops::assign::assign;
use crate::ops::tile::Pair;
use crate::store::ids::IdType;
use crate::store::run_file::{ClusterRequest, Clustering, DedupRequest};
use crate::store::tables::SampleRow;
use crate::store::{RunDir, Table, findings};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

const CENTROIDS: &str = "clusters/centroids.safetensors";

const MATCHES: &str = "duplicates/matches.parquet";

/// N²d up to which every pair is compared on a CPU.
const EXACT_WORK: f64 = 1e13;
/// The same on a GPU.
const EXACT_WORK_ON_CARD: f64 = 1e16;

/// How duplicates are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Exact up to N²d of 1e13 on a CPU and 1e16 on a GPU, semantic beyond; semantic for an order that needs clusters.
    #[default]
    Auto,
    /// Every pair in the set.
    Exact,
    /// k-means, then pairs inside a cluster.
    Semantic,
    /// Not at all.
    Off,
}

/// What fixes clusters and pairs.
pub(super) struct Plan<'a> {
    pub mode: Mode,
    /// Pairs within it are all stored.
    pub eps: f64,
    pub floor: f64,
    pub clusters: &'a Clusters,
    pub keep: &'a Keep,
    pub seed: u64,
    /// Rows on each side of a tile; never changes a result.
    pub tile: usize,
    /// Whether rows are compared on a GPU.
    pub on_card: bool,
    /// Bytes of embeddings that are held in memory; none for the rule of [`Matrix::read`].
    pub held: Option<u64>,
    /// Pairs beyond eps that a row keeps.
    pub row_pairs: usize,
}

impl Plan<'_> {
    /// The mode that `auto` comes to, for n rows and m of earlier sets.
    pub(super) fn settle(&self, n: usize, m: usize, d: usize, context: Context) -> Mode {
        let needs_clusters = matches!(self.keep, Keep::Hard | Keep::Easy);
        // Each pair once: half of n² among the rows, n m with those of earlier sets.
        let work = n as f64 * (n + 2 * m) as f64 * d as f64;
        let most = match self.on_card {
            true => EXACT_WORK_ON_CARD,
            false => EXACT_WORK,
        };
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
            Mode::Auto if work <= most => {
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
            against: Vec::new(),
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
    Semantic {
        dedup: Box<SemanticDedup<'a>>,
        matrix: &'a [f32],
        /// How the fit went; none where its clusters are stored already.
        fit: Option<kmeans::Info>,
    },
}

impl<'a> Search<'a> {
    /// Checks the request against the rows `[n, d]`, of which those from `own` on are of earlier sets, and makes clusters where
    /// it is for them, or takes `stored` ones: centroids and labels.
    pub(super) fn begin(
        (matrix, own, d): (&'a [f32], usize, usize),
        mode: Mode,
        plan: &Plan,
        stored: Option<(Vec<f32>, Vec<u32>)>,
        device: Option<OnDevice<'a>>,
        context: Context,
    ) -> Result<Search<'a>> {
        if own == 0 {
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
                tile: plan.tile,
            };
            let exact = ExactPairs::new(matrix, d, params)?.against(own)?;
            return Ok(Search::Exact(match device {
                Some(device) => exact.on_device(device)?,
                None => exact,
            }));
        }
        let params = semantic::Params {
            floor: plan.floor,
            tile: plan.tile,
            ..semantic::Params::default()
        };
        let (centroids, labels, fit) = match stored {
            Some((centroids, labels)) => {
                context.note("dedup: the clusters are there already; pairs are looked for in them");
                (centroids, labels, None)
            }
            None => {
                let params = plan.kmeans_params(d)?;
                let n = matrix.len() / d;
                let mut watch = KMeansWatch::new(context, &params, n);
                let fit = KMeans::fit_on(matrix, d, &params, device, |step| watch.tell(step))?;
                watch.finish();
                (fit.centroids, fit.labels, Some(fit.info))
            }
        };
        let dedup =
            SemanticDedup::with_clusters(matrix, d, centroids, labels, params)?.against(own)?;
        let dedup = match device {
            Some(device) => dedup.on_device(device)?,
            None => dedup,
        };
        Ok(Search::Semantic {
            dedup: Box::new(dedup),
            matrix,
            fit,
        })
    }

    /// Writes clusters that are not stored yet; gives how their fit went.
    pub(super) fn store_clusters(
        &self,
        home: &RunDir,
        samples: &Samples,
        request: &DedupRequest,
    ) -> Result<Option<Clustering>> {
        let (
            Search::Semantic {
                dedup,
                matrix,
                fit: Some(fit),
            },
            Some(clusters),
        ) = (self, &request.clusters)
        else {
            return Ok(None);
        };
        write_clusters(home, samples, matrix, dedup)?;
        Ok(Some(Clustering {
            request: clusters.clone(),
            against: request.against.clone(),
            fitted_rows: fit.fitted_rows,
            inertias: fit.inertias.iter().copied().map(ten_digits).collect(),
            shifts: fit.shifts.iter().copied().map(ten_digits).collect(),
            inertia: ten_digits(fit.inertia),
            converged: fit.converged,
        }))
    }

    /// Writes pairs and matches; tells which rows of earlier sets the pairs name.
    pub(super) fn store(
        &self,
        home: &RunDir,
        dirs: &[&RunDir],
        samples: &Samples,
        plan: &Plan,
        copies: &Copies,
        context: Context,
    ) -> Result<(Written, Vec<bool>)> {
        let folder = home.path("duplicates");
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let comparisons = match self {
            Search::Empty => 0,
            Search::Exact(exact) => exact.comparisons(),
            // Once for the pairs, once for the matches.
            Search::Semantic { dedup, .. } => 2 * dedup.comparisons(),
        };
        let mut running = context.begin(Stage::Dedup, Some(comparisons));
        let mut pairs = PairFiles::new(home, samples, plan.eps, plan.row_pairs);
        let mut take = |block: &[Pair], compared: u64| {
            running.advance(compared)?;
            match block.iter().any(|pair| copies.has(pair)) {
                false => pairs.take(block),
                true => {
                    let rest = block.iter().filter(|pair| !copies.has(pair));
                    pairs.take(&rest.copied().collect::<Vec<_>>())
                }
            }
        };
        match self {
            Search::Empty => {}
            Search::Exact(exact) => {
                exact.for_each_told(&mut take)?;
            }
            Search::Semantic { dedup, .. } => {
                dedup.for_each_told(&mut take)?;
                write_matches(home, dirs, samples, dedup, plan, &mut running)?;
            }
        }
        pairs.take(&copies.pairs)?;
        let (written, used) = pairs.finish()?;
        running.finish();
        context.note(&format!("dedup: {} pairs", written.pairs));
        if let Some(complete) = written.complete_to {
            context.note(&format!(
                "dedup: rows with more than {} pairs keep the nearest beyond eps {}; for an eps up to {complete} all are there, a \
                 greater one compares again",
                plan.row_pairs, plan.eps
            ));
        }
        Ok((written, used))
    }
}

/// A number that text holds exactly, so that it is the same when it is read again.
fn ten_digits(x: f64) -> f64 {
    format!("{x:.9e}").parse().unwrap_or(x)
}

/// The stored clusters, centroids and labels of the rows `[n + m, d]`; none where they are not whole.
pub(super) fn stored_clusters(
    home: &RunDir,
    samples: &Samples,
    matrix: &[f32],
    d: usize,
) -> Option<(Vec<f32>, Vec<u32>)> {
    let centroids = read_centroids(&home.path(CENTROIDS), d).ok()?;
    let (mut labels, _) = read_clusters(home, samples).ok()?;
    let k = centroids.len() / d;
    let whole = labels.len() == samples.len() && labels.iter().all(|label| (*label as usize) < k);
    if whole && samples.all() > samples.len() {
        // Tables of clusters are of the run's own rows.
        let earlier = assign(&matrix[samples.len() * d..], d, &centroids).ok()?;
        labels.extend(earlier.labels);
    }
    whole.then_some((centroids, labels))
}

/// What is wrong with the first file of a finished search that is missing or damaged; none where all are as they were written.
///
/// # Errors
/// [`Error::Io`] where one is there and cannot be read.
pub(super) fn trouble(
    home: &RunDir,
    pair_files: usize,
    samples: &Samples,
    mode: Mode,
    against: bool,
    d: usize,
) -> Result<Option<String>> {
    let clustered = mode == Mode::Semantic && samples.len() > 0;
    let parts = 0..samples.part_sizes.len();
    let files = (0..pair_files).map(|file| pairs_path(home, file));
    let earlier = against.then(|| home.path(AGAINST));
    let clusters = parts.filter(|_| clustered);
    let clusters = clusters.map(|part| home.part(Table::Clusters, part));
    for path in files.chain(earlier).chain(clusters) {
        if let Some(trouble) = atomic::trouble(&path)? {
            return Ok(Some(format!("{}: {trouble}", path.display())));
        }
    }
    let centroids = home.path(CENTROIDS);
    match read_centroids(&centroids, d) {
        Err(error) if clustered => Ok(Some(error.to_string())),
        _ => Ok(None),
    }
}

/// What is wrong with `matches.parquet`, where there should be one.
///
/// # Errors
/// As [`trouble`].
pub(super) fn matches_trouble(
    home: &RunDir,
    samples: &Samples,
    mode: Mode,
) -> Result<Option<String>> {
    if mode != Mode::Semantic || samples.len() == 0 {
        return Ok(None);
    }
    let path = home.path(MATCHES);
    let trouble = atomic::trouble(&path)?;
    Ok(trouble.map(|trouble| format!("{}: {trouble}", path.display())))
}

/// Makes `matches.parquet` anew for another order, over the clusters that are there.
pub(super) fn match_anew(
    home: &RunDir,
    dirs: &[&RunDir],
    (samples, against): (&Samples, &Against),
    d: usize,
    plan: &Plan,
    (device, resident): (&Device, Option<&Resident>),
    context: Context,
) -> Result<()> {
    if samples.len() == 0 {
        return Ok(());
    }
    let matrix = Matrix::read(home, dirs, samples, against, d, plan.held, context)?;
    let placed = Placed::of(device, resident, &matrix, d)?;
    let centroids = read_centroids(&home.path(CENTROIDS), d)?;
    let (mut labels, _) = read_clusters(home, samples)?;
    let own = samples.len();
    if samples.all() > own {
        labels.extend(assign(&matrix[own * d..], d, &centroids)?.labels);
    }
    let params = semantic::Params {
        floor: plan.floor,
        tile: plan.tile,
        ..semantic::Params::default()
    };
    let dedup =
        SemanticDedup::with_clusters(&matrix, d, centroids, labels, params)?.against(own)?;
    let dedup = match placed.on_device() {
        Some(device) => dedup.on_device(device)?,
        None => dedup,
    };
    let mut running = context.begin(Stage::Dedup, Some(dedup.comparisons()));
    write_matches(home, dirs, samples, &dedup, plan, &mut running)?;
    running.finish();
    Ok(())
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
    let sum = atomic::checksum_of_bytes(&bytes);
    let metadata = HashMap::from([(CHECKSUM.to_string(), sum)]);
    let file = safetensors::serialize([("centroids", view)], Some(metadata))
        .map_err(|e| Error::shape("centroids", format!("[{k}, {d}]"), e.to_string()))?;
    atomic::write(home.path(CENTROIDS), |out| {
        std::io::Write::write_all(out, &file)
    })?;

    let cosine = kmeans::cosine_dist_to_cent(matrix, d, &kmeans.centroids, &kmeans.labels)?;
    let l2 = kmeans::l2_dist_to_cent(matrix, d, &kmeans.centroids, &kmeans.labels)?;
    let mut first = 0;
    for (part, size) in samples.part_sizes.iter().enumerate() {
        let rows = first..first + size;
        let ids: Vec<&str> = rows.clone().map(|row| samples.id(row)).collect();
        let table = findings::clusters_to_batch(
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
    running: &mut Running,
) -> Result<()> {
    let order = order(home, dirs, samples, plan.keep, plan.seed)?;
    let earlier = samples.len() as u64..samples.all() as u64;
    let ranked: Vec<u64> = earlier.chain(order.iter().copied()).collect();
    let running = Mutex::new(running);
    let matches = dedup.matches_told(&ranked, |more| {
        // What a thread leaves that panicked here is a count.
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        running.advance(more)
    })?;
    let rows = order.iter().map(|row| {
        let found = &matches[*row as usize];
        (*row as usize, found.row as usize, found.cosine)
    });
    let path = home.path(MATCHES);
    let names = ["id", "max_id", "cosine_sim_score", "max_run"];
    write_matched(path, samples, names, rows, |batch, _| Ok(batch))
}

/// Keeps what is known of the rows of earlier sets that pairs name, so that decisions are made anew without these sets.
pub(super) fn store_earlier(
    home: &RunDir,
    kind: IdType,
    against: &Against,
    used: &[bool],
) -> Result<()> {
    let mut rows = Vec::new();
    against.for_each_sample(|number, run, place, sample| {
        if used.get(number) == Some(&true) {
            rows.push((run.to_string(), place, sample));
        }
        Ok(())
    })?;
    let rows: Vec<_> = rows
        .iter()
        .map(|(run, place, row)| (run.as_str(), *place, row.clone()))
        .collect();
    atomic::write_parquet(
        home.path(AGAINST),
        &findings::earlier_to_batch(kind, &rows)?,
    )
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
    let (mut pixels, mut bytes) = (Vec::new(), Vec::new());
    if *keep == Keep::Largest {
        for row in sample_rows(dirs).filter(|row| row.as_ref().map_or(true, SampleRow::good)) {
            let row = row?;
            pixels.push(u64::from(row.width) * u64::from(row.height));
            bytes.push(row.bytes);
        }
    }
    let id_hash: Vec<u64> = match keep {
        Keep::Random => (0..n).map(|row| id_hash(samples.id(row))).collect(),
        _ => Vec::new(),
    };
    let id_rank = match keep {
        Keep::First => Vec::new(),
        _ => id_rank(samples),
    };
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
            id_hash: &id_hash,
            pixels: &pixels,
            bytes: &bytes,
            cosine_dist_to_cent: &distances,
            scores: &scores,
            seed,
        },
    )?)
}

/// The place of each good row's id among all of them.
fn id_rank(samples: &Samples) -> Vec<u64> {
    let mut by_id: Vec<usize> = (0..samples.len()).collect();
    by_id.par_sort_unstable_by_key(|row| samples.id_type.sort_key(samples.id(*row)));
    let mut id_rank = vec![0; samples.len()];
    for (rank, row) in by_id.into_iter().enumerate() {
        id_rank[row] = rank as u64;
    }
    id_rank
}
