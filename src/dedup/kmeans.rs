//! k-means: Lloyd's iterations from k-means++, k-means||, random or given centroids.
//!
//! Everything is decided in canonical f64 arithmetic of a fixed order ([`crate::ops`]) and random numbers depend on the seed
//! alone, so the same rows and [`Params`] give the same bytes for any number of threads.
//!
//! # Example
//! ```
//! use clipsift::dedup::kmeans::{KMeans, Params};
//! let rows = [1.0, 0.0, 0.8, 0.6, 0.0, 1.0, 0.0, 1.0];
//! let fit = KMeans::fit(&rows, 2, &Params { clusters: Some(2), ..Params::default() })?;
//! assert_eq!(fit.labels[0], fit.labels[1]);
//! assert_eq!(fit.labels[2], fit.labels[3]);
//! assert_ne!(fit.labels[0], fit.labels[2]);
//! assert!(fit.info.converged);
//! # Ok::<(), clipsift::dedup::kmeans::Error>(())
//! ```
//!
//! A candle tensor does as well:
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use clipsift::dedup::kmeans::{KMeans, Params};
//! let rows = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [0.0, 1.0]], &Device::Cpu)?.to_dtype(DType::F16)?;
//! let fit = KMeans::fit_tensor(&rows, &Params { clusters: Some(2), ..Params::default() })?;
//! assert_eq!((fit.d, fit.labels[1] == fit.labels[2]), (2, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::on_device::{Lloyd, OnDevice};
use super::seeding::{choose, gather, parallel, plus_plus, random};
use super::tensor::rows_of;
use crate::ops::accumulate::{Groups, accumulate};
use crate::ops::assign::{Assignment, assign};
use crate::ops::cuda::{Backend, CudaBackend};
use crate::ops::dot;
use crate::ops::identical::same_bits;
use crate::ops::rows::Rows;
use candle_core::Tensor;
use rayon::prelude::*;
use std::borrow::Cow;

/// Where the centroids start.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Init {
    /// k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a row drawn with probability proportional to its
    /// squared distance from the nearest one so far. k passes over the rows.
    #[default]
    KMeansPlusPlus,
    /// k-means|| (Bahmani et al. 2012): five passes draw about 2 k rows each in the same way, and k-means++ chooses among
    /// these, weighted by the rows they are nearest to. For many clusters; what the reference system uses.
    KMeansParallel,
    /// k different rows, all equally likely.
    Random,
    /// These, `[k, d]`. `restarts` then count for nothing.
    Given(Vec<f32>),
}

/// How to fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// The number of clusters k; none: [`clusters_auto`], or as many as are given.
    pub clusters: Option<usize>,
    /// Where the centroids start. Default k-means++.
    pub init: Init,
    /// Iterations at most. Default 300. With 0 the first centroids are the last, and rows are only labelled.
    pub max_iterations: usize,
    /// Iterations end when the squared distances that the centroids moved, summed over all of them, fall under this: an
    /// absolute number, not relative to the spread of the rows, as the reference system has it. Default 1e-4. Iterations also
    /// end when nothing moves.
    pub tolerance: f64,
    /// What random numbers start from. Default 42.
    pub seed: u64,
    /// The fraction of the rows that the centroids are fitted to, above 0 and up to 1: a sample without replacement, never
    /// fewer than k rows. All rows are labelled. Default 1.
    pub fit_fraction: f64,
    /// How many times to start over; the fit of least inertia wins, the earliest on a tie. Default 1.
    pub restarts: usize,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            clusters: None,
            init: Init::default(),
            max_iterations: 300,
            tolerance: 1e-4,
            seed: 42,
            fit_fraction: 1.0,
            restarts: 1,
        }
    }
}

impl Params {
    /// Rows that the centroids are fitted to, of `n`.
    pub(crate) fn fitted_rows(&self, n: usize, clusters: usize) -> usize {
        let wanted = (n as f64 * self.fit_fraction).round() as usize;
        wanted.max(clusters).min(n)
    }
}

/// How the fit went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    /// Iterations made.
    pub iterations: usize,
    /// For each iteration the inertia: the sum of squared distances of the fitted rows to the nearest of the centroids that
    /// the iteration began with.
    pub inertias: Vec<f64>,
    /// For each iteration the squared distance that the centroids moved, summed over them.
    pub shifts: Vec<f64>,
    /// Whether the last shift fell under the tolerance.
    pub converged: bool,
    /// The inertia of the fitted rows at the final centroids.
    pub inertia: f64,
    /// Rows that the centroids were fitted to.
    pub fitted_rows: usize,
    /// The restart that won, from 0.
    pub restart: usize,
}

/// Why k-means cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More clusters than rows.
    #[error(
        "{clusters} clusters of {rows} rows: ask for at most as many clusters as there are rows"
    )]
    TooFewRows {
        /// k.
        clusters: usize,
        /// n.
        rows: usize,
    },
    /// A parameter outside its range.
    #[error("{name} is {value}: expected {expected}")]
    Param {
        /// Its name in [`Params`].
        name: &'static str,
        /// What was given.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A row holds a NaN or an infinity.
    #[error("row {row} is not finite: leave such rows out")]
    NotFinite {
        /// Row number.
        row: usize,
    },
    /// Shapes that do not fit, or the watcher's error.
    #[error(transparent)]
    Other(#[from] crate::Error),
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Other(error) => error,
            Error::NotFinite { row } => crate::Error::shape(
                "k-means",
                "finite rows (leave others out)",
                format!("row {row} with a NaN or an infinity"),
            ),
            error => crate::Error::usage(error.to_string()),
        }
    }
}

/// The number of clusters for n rows where none is asked for: one for each thousand, rounded, at least 1.
pub fn clusters_auto(n: usize) -> usize {
    ((n + 500) / 1000).max(1)
}

/// Centroids, and the rows' labels.
#[derive(Clone, Debug, PartialEq)]
pub struct KMeans {
    /// d.
    pub d: usize,
    /// `[k, d]`: means of rows, *not* normalised to unit length.
    pub centroids: Vec<f32>,
    /// `[n]`: the nearest centroid of each row, the lowest number on a tie.
    pub labels: Vec<u32>,
    /// How the fit went.
    pub info: Info,
}

/// What a watcher is told after each iteration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The restart, from 0.
    pub restart: usize,
    /// Iterations made in it.
    pub iteration: usize,
    /// The inertia at the centroids that the iteration began with.
    pub inertia: f64,
    /// The squared distance that the centroids moved, summed over them.
    pub shift: f64,
}

/// What a watcher of [`KMeans::fit_told`] is told, at most about a second of work apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// First centroids are being chosen: a part of that work is done. It may end early.
    Seeded {
        /// Done so far.
        done: u64,
        /// All of it.
        of: u64,
    },
    /// So many more rows have been compared with all centroids: those that are fitted once an iteration and once at the end, and
    /// with a fit fraction below 1 all rows once more.
    Assigned {
        /// Rows, since it was last told.
        rows: u64,
    },
    /// An iteration is over.
    Iterated(Progress),
}

/// A watcher: its error ends the work and is returned.
pub(super) type Tell<'a> = dyn FnMut(Step) -> crate::Result<()> + 'a;

impl KMeans {
    /// Fits centroids to `rows` `[n, d]` and labels all rows. The metric is Euclidean; rows need be finite, not of unit length.
    ///
    /// A cluster that becomes empty takes over the row farthest from its own centroid (the lowest number on a tie; not the only
    /// row of its cluster, none at distance 0, and no row twice). Where there are fewer different rows than clusters, some
    /// clusters stay empty.
    ///
    /// Memory beyond the rows: 44 bytes a row, `16 k d` bytes, and about 2 MB a thread; with a fit fraction f below 1 also a
    /// copy of the sample, `4 f n d` bytes; with [`Init::KMeansParallel`] also `40 k d` bytes; with [`Init::KMeansPlusPlus`], while
    /// it chooses, also `f n (d + 100)` bytes, 512 MiB at most, for the rows in 8 bits, where the processor multiplies these.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn fit(rows: &[f32], d: usize, params: &Params) -> Result<KMeans, Error> {
        Self::fit_watched(rows, d, params, |_| Ok(()))
    }

    /// [`KMeans::fit`] over a tensor `[n, d]` of f32, f16 or bf16, whose values are copied.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn fit_tensor(rows: &Tensor, params: &Params) -> Result<KMeans, Error> {
        let (rows, d) = rows_of(rows)?;
        KMeans::fit(&rows, d, params)
    }

    /// [`KMeans::fit`], telling `watch` of each iteration; its error ends the fit and is returned.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn fit_watched(
        rows: &[f32],
        d: usize,
        params: &Params,
        mut watch: impl FnMut(&Progress) -> crate::Result<()>,
    ) -> Result<KMeans, Error> {
        Self::fit_told(rows, d, params, |step| match step {
            Step::Iterated(progress) => watch(&progress),
            _ => Ok(()),
        })
    }

    /// [`KMeans::fit`], telling `tell` of every step, also inside an iteration; its error ends the fit and is returned.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn fit_told(
        rows: &[f32],
        d: usize,
        params: &Params,
        tell: impl FnMut(Step) -> crate::Result<()>,
    ) -> Result<KMeans, Error> {
        Self::fit_on::<CudaBackend>(rows, d, params, None, tell)
    }

    /// [`KMeans::fit_told`] with the assignments, and the sums where all rows are there, made on a device that has the rows too, or to
    /// which they are streamed: the same bytes. The first centroids are drawn on the CPU.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Other`] where the device holds another number of rows, and those of the device.
    pub fn fit_on<B: Backend>(
        rows: &[f32],
        d: usize,
        params: &Params,
        device: Option<OnDevice<B>>,
        mut tell: impl FnMut(Step) -> crate::Result<()>,
    ) -> Result<KMeans, Error> {
        let all = Rows::all(rows, d)?;
        let n = all.len();
        let k = check(rows, d, params)?;
        let fitted = params.fitted_rows(n, k);
        let mut picked = Vec::new();
        let sample: Cow<[f32]> = if fitted < n {
            picked = choose(n, fitted, &mut random(params.seed, 0));
            picked.sort_unstable();
            Cow::Owned(gather(rows, d, &picked))
        } else {
            Cow::Borrowed(rows)
        };
        let picked: Vec<u64> = picked.into_iter().map(|row| row as u64).collect();
        let mut lloyd = match device {
            None => None,
            Some(device) => {
                device.fits(all)?;
                let sample = (fitted < n).then_some(picked.as_slice());
                Some(Lloyd::new(device, all, sample, k)?)
            }
        };
        let restarts = match params.init {
            Init::Given(_) => 1,
            _ => params.restarts,
        };
        let mut best: Option<(KMeans, Assignment)> = None;
        for restart in 0..restarts {
            let fit = fit_once(&sample, d, k, params, restart, &mut lloyd, &mut tell)?;
            if best
                .as_ref()
                .is_none_or(|(b, _)| fit.0.info.inertia < b.info.inertia)
            {
                best = Some(fit);
            }
        }
        let (mut fit, assignment) = best.expect("restarts were checked to be at least 1");
        fit.labels = match sample {
            Cow::Borrowed(_) => assignment.labels,
            Cow::Owned(_) => match &mut lloyd {
                Some(lloyd) => {
                    let labels = lloyd.assign_all(&fit.centroids)?.labels;
                    tell(Step::Assigned { rows: n as u64 })?;
                    labels
                }
                None => assign_told(rows, d, &fit.centroids, &mut tell)?.labels,
            },
        };
        Ok(fit)
    }

    /// The number of clusters k.
    pub fn clusters(&self) -> usize {
        self.centroids.len() / self.d
    }
}

/// The Euclidean distance of each row of `rows` `[n, d]` to its centroid, as it is: `[n]`.
///
/// # Errors
/// [`crate::Error::Shape`] when `centroids` are not `[k, d]` with every label below k, or the labels are not n.
pub fn l2_dist_to_cent(
    rows: &[f32],
    d: usize,
    centroids: &[f32],
    labels: &[u32],
) -> crate::Result<Vec<f32>> {
    check_labels(rows, d, centroids, labels)?;
    Ok(rows
        .par_chunks_exact(d)
        .zip(labels)
        .map(|(x, &label)| {
            let c = &centroids[label as usize * d..(label as usize + 1) * d];
            dot::squared_distance(x, c).sqrt() as f32
        })
        .collect())
}

/// `1 - x.(c / |c|)` for each unit row of `rows` `[n, d]` and its centroid: `[n]`. A centroid of length 0 has no direction: 1.
///
/// # Errors
/// As [`l2_dist_to_cent`].
pub fn cosine_dist_to_cent(
    rows: &[f32],
    d: usize,
    centroids: &[f32],
    labels: &[u32],
) -> crate::Result<Vec<f32>> {
    check_labels(rows, d, centroids, labels)?;
    let lengths: Vec<f64> = centroids
        .chunks_exact(d)
        .map(|c| dot::cosine(c, c).sqrt())
        .collect();
    Ok(rows
        .par_chunks_exact(d)
        .zip(labels)
        .map(|(x, &label)| {
            let label = label as usize;
            if lengths[label] == 0.0 {
                return 1.0;
            }
            let c = &centroids[label * d..(label + 1) * d];
            (1.0 - dot::cosine(x, c) / lengths[label]) as f32
        })
        .collect())
}

/// That `labels` has a number below k for each row.
pub(super) fn check_labels(
    rows: &[f32],
    d: usize,
    centroids: &[f32],
    labels: &[u32],
) -> crate::Result<()> {
    let (n, k) = (Rows::all(rows, d)?.len(), Rows::all(centroids, d)?.len());
    if labels.len() != n {
        return Err(crate::Error::shape(
            "labels",
            format!("{n} labels, one for each row"),
            format!("{}", labels.len()),
        ));
    }
    match labels.iter().find(|&&label| label as usize >= k) {
        None => Ok(()),
        Some(label) => Err(crate::Error::shape(
            "labels",
            format!("labels below {k}, the number of centroids"),
            format!("{label}"),
        )),
    }
}

/// Checks the request; the number of clusters.
fn check(rows: &[f32], d: usize, params: &Params) -> Result<usize, Error> {
    let n = rows.len() / d;
    let refuse = |name, value: String, expected: &str| {
        Err(Error::Param {
            name,
            value,
            expected: expected.to_string(),
        })
    };
    let given = match &params.init {
        Init::Given(centroids) => {
            let k = Rows::all(centroids, d)?.len();
            if params.clusters.is_some_and(|clusters| clusters != k) {
                return refuse(
                    "clusters",
                    format!("{}", params.clusters.unwrap_or(0)),
                    &format!("{k}, the number of given centroids"),
                );
            }
            if let Some(j) = centroids.chunks_exact(d).position(|c| !finite(c)) {
                return refuse(
                    "init",
                    format!("centroid {j} with a NaN or an infinity"),
                    "finite centroids",
                );
            }
            Some(k)
        }
        _ => None,
    };
    let k = given
        .or(params.clusters)
        .unwrap_or_else(|| clusters_auto(n));
    if k == 0 || u32::try_from(k).is_err() {
        return refuse("clusters", k.to_string(), "a number from 1 to 4294967295");
    }
    // Given centroids that only label rows need not be rows themselves.
    if k > n && !(given.is_some() && params.max_iterations == 0) {
        return Err(Error::TooFewRows {
            clusters: k,
            rows: n,
        });
    }
    if params.tolerance.is_nan() || params.tolerance < 0.0 {
        return refuse("tolerance", params.tolerance.to_string(), "0 or more");
    }
    if !(params.fit_fraction > 0.0 && params.fit_fraction <= 1.0) {
        return refuse(
            "fit_fraction",
            params.fit_fraction.to_string(),
            "above 0 and at most 1",
        );
    }
    if params.restarts == 0 {
        return refuse("restarts", "0".to_string(), "at least 1");
    }
    match rows.par_chunks_exact(d).position_first(|x| !finite(x)) {
        Some(row) => Err(Error::NotFinite { row }),
        None => Ok(k),
    }
}

fn finite(values: &[f32]) -> bool {
    values.iter().all(|x| x.is_finite())
}

/// One start to its end, on the device where there is one. The labels are left in the assignment, which is of the final centroids.
fn fit_once<B: Backend>(
    rows: &[f32],
    d: usize,
    k: usize,
    params: &Params,
    restart: usize,
    lloyd: &mut Option<Lloyd<B>>,
    tell: &mut Tell,
) -> Result<(KMeans, Assignment), Error> {
    let mut rng = random(params.seed, 1 + restart as u64);
    let n = rows.len() / d;
    let mut centroids = match &params.init {
        Init::Given(centroids) => centroids.clone(),
        Init::Random => gather(rows, d, &choose(n, k, &mut rng)),
        Init::KMeansPlusPlus => gather(rows, d, &plus_plus(rows, d, None, k, &mut rng, tell)?),
        Init::KMeansParallel => parallel(rows, d, k, &mut rng, tell)?,
    };
    let mut info = Info {
        restart,
        fitted_rows: n,
        ..Info::default()
    };
    while info.iterations < params.max_iterations && !info.converged {
        let mut assignment = assign_on(lloyd, rows, d, &centroids, tell)?;
        let inertia = assignment.inertia();
        mend(rows, d, &mut assignment, k);
        let sums = match lloyd {
            Some(lloyd) => lloyd.sums(&assignment.labels)?,
            None => None,
        };
        let (next, shift) = update(rows, d, &assignment.labels, &centroids, sums)?;
        centroids = next;
        info.iterations += 1;
        info.inertias.push(inertia);
        info.shifts.push(shift);
        info.converged = shift < params.tolerance || shift == 0.0;
        tell(Step::Iterated(Progress {
            restart,
            iteration: info.iterations,
            inertia,
            shift,
        }))?;
    }
    let assignment = assign_on(lloyd, rows, d, &centroids, tell)?;
    info.inertia = assignment.inertia();
    let fit = KMeans {
        d,
        centroids,
        labels: Vec::new(),
        info,
    };
    Ok((fit, assignment))
}

/// [`assign_told`], or the same on the device.
fn assign_on<B: Backend>(
    lloyd: &mut Option<Lloyd<B>>,
    rows: &[f32],
    d: usize,
    centroids: &[f32],
    tell: &mut Tell,
) -> crate::Result<Assignment> {
    let Some(lloyd) = lloyd else {
        return assign_told(rows, d, centroids, tell);
    };
    let assignment = lloyd.assign(centroids)?;
    tell(Step::Assigned {
        rows: (rows.len() / d) as u64,
    })?;
    Ok(assignment)
}

/// [`assign`] in slabs of rows, telling of each; the same bytes.
fn assign_told(
    rows: &[f32],
    d: usize,
    centroids: &[f32],
    tell: &mut Tell,
) -> crate::Result<Assignment> {
    let slab = slab_of(centroids.len());
    let mut whole: Option<Assignment> = None;
    for rows in rows.chunks(slab * d) {
        let part = assign(rows, d, centroids)?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                whole.labels.extend(part.labels);
                whole.squared_distances.extend(part.squared_distances);
            }
        }
        tell(Step::Assigned {
            rows: (rows.len() / d) as u64,
        })?;
    }
    whole.map_or_else(|| assign(rows, d, centroids), Ok)
}

/// Rows that are compared with `values` values of centroids between two looks at the watcher: some 2^36 operations.
pub(super) fn slab_of(values: usize) -> usize {
    ((1 << 35) / values.max(1)).next_multiple_of(4096).max(4096)
}

/// The means of the rows of each label, and the summed squared distance to where the centroids were. An empty cluster's
/// centroid stays. `sums` f64 `[k, d]` are those of the rows of each label, where they are known.
fn update(
    rows: &[f32],
    d: usize,
    labels: &[u32],
    centroids: &[f32],
    sums: Option<Vec<f64>>,
) -> Result<(Vec<f32>, f64), Error> {
    let groups = Groups::new(labels, centroids.len() / d)?;
    let sums = match sums {
        Some(sums) => sums,
        None => accumulate(rows, d, &groups)?,
    };
    let mut next = centroids.to_vec();
    for (label, (mean, sum)) in next
        .chunks_exact_mut(d)
        .zip(sums.chunks_exact(d))
        .enumerate()
    {
        let count = groups.rows_of(label).len();
        if count > 0 {
            for (x, total) in mean.iter_mut().zip(sum) {
                *x = (total / count as f64) as f32;
            }
        }
    }
    let shift = next
        .chunks_exact(d)
        .zip(centroids.chunks_exact(d))
        .map(|(x, y)| dot::squared_distance(x, y))
        .sum();
    Ok((next, shift))
}

/// Gives each empty cluster a row: the one farthest from its own centroid, and so on.
fn mend(rows: &[f32], d: usize, assignment: &mut Assignment, k: usize) {
    let mut counts = vec![0u64; k];
    for &label in &assignment.labels {
        counts[label as usize] += 1;
    }
    let empty: Vec<usize> = (0..k).filter(|&j| counts[j] == 0).collect();
    if empty.is_empty() {
        return;
    }
    let distances = &assignment.squared_distances;
    let mut far: Vec<usize> = (0..distances.len())
        .filter(|&row| distances[row] > 0.0)
        .collect();
    far.par_sort_unstable_by(|&a, &b| distances[b].total_cmp(&distances[a]).then(a.cmp(&b)));
    let mut far = far.into_iter();
    let mut taken: Vec<usize> = Vec::new();
    let values = |row: usize| &rows[row * d..(row + 1) * d];
    for cluster in empty {
        let row = far.find(|&row| {
            counts[assignment.labels[row] as usize] > 1
                && !taken.iter().any(|&t| same_bits(values(t), values(row)))
        });
        let Some(row) = row else { return };
        counts[assignment.labels[row] as usize] -= 1;
        counts[cluster] += 1;
        assignment.labels[row] = cluster as u32;
        taken.push(row);
    }
}

#[cfg(test)]
mod tests;
