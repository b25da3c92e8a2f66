//! Pairs inside clusters: k-means first, then the rows of each cluster against each other. Near rows that k-means parts are
//! missed; in return the work falls by about the number of clusters.
//!
//! # Example
//! ```
//! use clipsift::dedup::{kmeans, semantic::{Params, SemanticDedup}};
//! let rows = [1.0, 0.0, 0.96, 0.28, 0.0, 1.0];
//! let params = Params {
//!     kmeans: kmeans::Params { clusters: Some(2), ..Default::default() },
//!     floor: 0.1,
//!     ..Params::default()
//! };
//! let semantic = SemanticDedup::fit(&rows, 2, params)?;
//! let (pairs, info) = semantic.collect()?;
//! assert_eq!((pairs.len(), pairs[0].a, pairs[0].b), (1, 0, 1));
//! assert_eq!(info.clusters, 2);
//! // In file order, row 1 has row 0 before it; the others are first in their clusters.
//! let matches = semantic.matches(&[0, 1, 2])?;
//! assert_eq!([matches[0].row, matches[1].row, matches[2].row], [0, 0, 2]);
//! # Ok::<(), clipsift::dedup::semantic::Error>(())
//! ```
//!
//! A candle tensor does as well, in half precision too:
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use clipsift::dedup::semantic::{Params, SemanticDedup};
//! let rows = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [1.0, 0.0]], &Device::Cpu)?.to_dtype(DType::BF16)?;
//! let (pairs, _) = SemanticDedup::from_tensor(&rows, Params::default())?.collect()?;
//! assert_eq!((pairs[0].a, pairs[0].b, pairs[0].identical), (0, 2, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::exact::{check_unit, triangle, visit_against, visit_pairs};
use super::kmeans::{self, KMeans, check_labels};
use super::on_device::{self, OnDevice};
use super::tensor::rows_of;
use crate::ops::accumulate::Groups;
use crate::ops::neighbours::nearest_of;
use crate::ops::rows::Rows;
use crate::ops::tile;
use candle_core::Tensor;
use rayon::prelude::*;
use std::borrow::Cow;

pub use crate::ops::tile::{Match, Pair};

/// Clusters are taken together as long as this many pairs (256 MiB) would hold all that can be found in them.
const PAIRS_HELD: u64 = 1 << 23;

/// What to look for, and how to cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// How to cluster, where the clusters are not given.
    pub kmeans: kmeans::Params,
    /// Pairs are found down to cosine `1 - floor`; between 0 and 2. Default 0.08.
    pub floor: f64,
    /// Rows on each side of a tile; changes speed and memory, never the result. Default 512.
    pub tile: usize,
}

impl Default for Params {
    fn default() -> Self {
        let super::exact::Params { floor, tile } = Default::default();
        Params {
            kmeans: kmeans::Params::default(),
            floor,
            tile,
        }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Rows looked at.
    pub rows: u64,
    /// Rows that differ from every earlier row of their cluster in some bit.
    pub distinct: u64,
    /// Pairs found, those of identical rows included.
    pub pairs: u64,
    /// Clusters with at least one row.
    pub clusters: u64,
    /// Rows of the largest cluster.
    pub largest: u64,
}

/// Why duplicates cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// k-means cannot run.
    #[error(transparent)]
    KMeans(#[from] kmeans::Error),
    /// Pairs cannot be found.
    #[error(transparent)]
    Pairs(#[from] super::exact::Error),
    /// The rank order does not name each row once.
    #[error("the rank order names {got}: expected each of the {rows} rows once")]
    Order {
        /// n.
        rows: usize,
        /// What is wrong with it.
        got: String,
    },
    /// Shapes that do not fit, or an error of the caller's own visitor.
    #[error(transparent)]
    Other(#[from] crate::Error),
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::KMeans(error) => error.into(),
            Error::Pairs(error) => error.into(),
            Error::Order { rows, got } => {
                crate::Error::shape("rank order", format!("each of the {rows} rows once"), got)
            }
            Error::Other(error) => error,
        }
    }
}

/// Rows in clusters, and the pairs inside them.
///
/// Memory beyond the rows and k-means: 8 bytes a row; for the pairs of a batch of clusters 256 MiB, with each cluster's own
/// 40 bytes a row; and the tiles of [`tile::pairs_above`].
#[derive(Clone, Debug)]
pub struct SemanticDedup<'a> {
    rows: Cow<'a, [f32]>,
    /// Rows before an earlier set begins.
    own: usize,
    groups: Groups,
    kmeans: KMeans,
    params: Params,
    device: Option<OnDevice<'a>>,
}

impl<'a> SemanticDedup<'a> {
    /// Clusters `rows` `[n, d]`, which are unit rows (their length may be off by half a percent).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn fit(rows: &'a [f32], d: usize, params: Params) -> Result<Self, Error> {
        Self::fit_over(Cow::Borrowed(rows), d, params)
    }

    /// [`SemanticDedup::fit`] over a tensor `[n, d]` of f32, f16 or bf16, whose values are copied.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_tensor(rows: &Tensor, params: Params) -> Result<SemanticDedup<'static>, Error> {
        let (rows, d) = rows_of(rows)?;
        SemanticDedup::fit_over(Cow::Owned(rows), d, params)
    }

    fn fit_over(rows: Cow<'a, [f32]>, d: usize, params: Params) -> Result<Self, Error> {
        check(&rows, d, &params)?;
        let kmeans = KMeans::fit(&rows, d, &params.kmeans)?;
        Self::over(rows, kmeans, params)
    }

    /// Takes clusters that were found before: `centroids` `[k, d]`, `labels` `[n]` below k.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn with_clusters(
        rows: &'a [f32],
        d: usize,
        centroids: Vec<f32>,
        labels: Vec<u32>,
        params: Params,
    ) -> Result<Self, Error> {
        check(rows, d, &params)?;
        check_labels(rows, d, &centroids, &labels)?;
        let kmeans = KMeans {
            d,
            centroids,
            labels,
            info: kmeans::Info::default(),
        };
        Self::over(Cow::Borrowed(rows), kmeans, params)
    }

    fn over(rows: Cow<'a, [f32]>, kmeans: KMeans, params: Params) -> Result<Self, Error> {
        let groups = Groups::new(&kmeans.labels, kmeans.clusters())?;
        Ok(SemanticDedup {
            own: rows.len() / kmeans.d,
            rows,
            groups,
            kmeans,
            params,
            device: None,
        })
    }

    /// Takes the rows from `own` on as an earlier set: clusters are of all rows, but rows of the earlier set are not compared
    /// with each other. Of those that are identical the first stands for all; the others appear in no pair.
    ///
    /// # Errors
    /// [`super::exact::Error::Earlier`].
    pub fn against(self, own: usize) -> Result<Self, Error> {
        let rows = self.kmeans.labels.len();
        match own <= rows {
            true => Ok(SemanticDedup { own, ..self }),
            false => Err(super::exact::Error::Earlier { own, rows }.into()),
        }
    }

    /// Compares on a device that has the rows too, or to which they are streamed: the same pairs and matches. What an earlier set is
    /// compared with is compared on the CPU all the same.
    ///
    /// # Errors
    /// [`Error::Other`] where the device holds another number of rows.
    pub fn on_device(self, device: OnDevice<'a>) -> Result<Self, Error> {
        device.fits(self.view()?)?;
        Ok(SemanticDedup {
            device: Some(device),
            ..self
        })
    }

    /// The device, where the rows are all compared with each other.
    fn device(&self) -> Option<OnDevice<'a>> {
        self.device.filter(|_| self.own == self.kmeans.labels.len())
    }

    fn view(&self) -> crate::Result<Rows<'_>> {
        Rows::all(&self.rows, self.kmeans.d)
    }

    /// The centroids and labels; [`kmeans::Info`] is empty where they were given.
    pub fn kmeans(&self) -> &KMeans {
        &self.kmeans
    }

    /// Hands the pairs inside clusters to `visit`: clusters in ascending order, in each the pairs in ascending order of (a, b).
    /// Identical rows are collapsed as [`super::exact::ExactPairs`] does it, inside each cluster. The pairs do not depend on
    /// tiles or threads; how many come at a time does not matter.
    ///
    /// # Errors
    /// The first error of `visit` ends the walk.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(&[Pair]) -> crate::Result<()>,
    ) -> Result<Info, Error> {
        self.for_each_told(|pairs, _| visit(pairs))
    }

    /// Pairs of rows inside clusters: the comparisons that [`SemanticDedup::for_each_told`] tells of, where all rows differ.
    pub fn comparisons(&self) -> u64 {
        (0..self.groups.len())
            .map(|cluster| self.comparisons_of(cluster))
            .sum()
    }

    fn comparisons_of(&self, cluster: usize) -> u64 {
        let all = self.groups.rows_of(cluster);
        let own = all.partition_point(|&row| row < self.own as u64);
        triangle(own as u64) + (own * (all.len() - own)) as u64
    }

    /// [`SemanticDedup::for_each`], telling `visit` with each block how many pairs of rows were compared for it.
    ///
    /// # Errors
    /// The first error of `visit` ends the walk.
    pub fn for_each_told(
        &self,
        mut visit: impl FnMut(&[Pair], u64) -> crate::Result<()>,
    ) -> Result<Info, Error> {
        let rows = self.view()?;
        let mut info = Info::default();
        if let Some(device) = self.device() {
            let (index, ends) = (&self.groups.rows, &self.groups.offsets[1..]);
            let threshold = 1.0 - self.params.floor;
            let found = on_device::visit_pairs(device, rows, index, ends, threshold, visit)?;
            (info.rows, info.distinct, info.pairs) = (found.rows, found.distinct, found.pairs);
            for cluster in 0..self.groups.len() {
                let rows = self.groups.rows_of(cluster).len() as u64;
                info.clusters += u64::from(rows > 0);
                info.largest = info.largest.max(rows);
            }
            return Ok(info);
        }
        let mut start = 0;
        while start < self.groups.len() {
            // As many clusters as surely fit; one at least.
            let (mut end, mut possible) = (start, 0);
            while end < self.groups.len() {
                let m = self.groups.rows_of(end).len() as u64;
                possible += triangle(m);
                if end > start && possible > PAIRS_HELD {
                    break;
                }
                end += 1;
            }
            if end - start == 1 {
                info.add(self.visit_cluster(rows, start, &mut visit)?);
            } else {
                let found: Vec<_> = (start..end)
                    .into_par_iter()
                    .map(|cluster| {
                        let mut pairs = Vec::new();
                        let mut compared = 0;
                        let info = self.visit_cluster(rows, cluster, |block, more| {
                            pairs.extend_from_slice(block);
                            compared += more;
                            Ok(())
                        })?;
                        Ok((pairs, compared, info))
                    })
                    .collect::<crate::Result<_>>()?;
                for (pairs, compared, found) in found {
                    info.add(found);
                    visit(&pairs, compared)?;
                }
            }
            start = end;
        }
        Ok(info)
    }

    /// The pairs of one cluster, those with the earlier set last.
    fn visit_cluster(
        &self,
        rows: Rows,
        cluster: usize,
        mut visit: impl FnMut(&[Pair], u64) -> crate::Result<()>,
    ) -> crate::Result<super::exact::Info> {
        let (threshold, tile) = (1.0 - self.params.floor, self.params.tile);
        let all = self.groups.rows_of(cluster);
        let (own, earlier) = all.split_at(all.partition_point(|&row| row < self.own as u64));
        let own = rows.select(own)?;
        let mut info = visit_pairs(own, threshold, tile, &mut visit)?;
        if !earlier.is_empty() {
            let found = visit_against(own, rows.select(earlier)?, threshold, tile, &mut visit)?;
            info.rows += found.rows;
            info.distinct += found.distinct;
            info.pairs += found.pairs;
        }
        Ok(info)
    }

    /// All pairs at once, 32 bytes each.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn collect(&self) -> Result<(Vec<Pair>, Info), Error> {
        let mut all = Vec::new();
        let info = self.for_each(|pairs| {
            all.extend_from_slice(pairs);
            Ok(())
        })?;
        Ok((all, info))
    }

    /// For each row its best match among the rows of its cluster that come before it in `order` (the n row numbers, best
    /// first): the greatest cosine, the earliest in `order` on a tie. The first row of a cluster matches itself at 0. Negative
    /// cosines stay. Rows of an earlier set come before all others, in their order, and match themselves. This is the pairwise step of the reference system (NVIDIA NeMo Curator): its `max_id` and
    /// `cosine_sim_score`. Memory: 32 bytes a row, and 48 bytes for each row of the clusters in flight.
    ///
    /// # Errors
    /// [`Error::Order`].
    pub fn matches(&self, order: &[u64]) -> Result<Vec<Match>, Error> {
        self.matches_told(order, |_| Ok(()))
    }

    /// [`SemanticDedup::matches`], telling `tell` how many more pairs of rows are being compared, of [`SemanticDedup::comparisons`] in
    /// all; its error ends the work and is returned.
    ///
    /// # Errors
    /// [`Error::Order`].
    pub fn matches_told(
        &self,
        order: &[u64],
        tell: impl Fn(u64) -> crate::Result<()> + Sync,
    ) -> Result<Vec<Match>, Error> {
        let (n, all) = (self.kmeans.labels.len(), self.view()?);
        check_order(n, order).map_err(|got| Error::Order { rows: n, got })?;
        let labels: Vec<u32> = order
            .iter()
            .map(|&row| self.kmeans.labels[row as usize])
            .collect();
        let mut ranked = Groups::new(&labels, self.groups.len())?;
        for place in &mut ranked.rows {
            *place = order[*place as usize];
        }
        let mut matches = vec![
            Match {
                row: 0,
                cosine: 0.0
            };
            n
        ];
        if let Some(device) = self.device() {
            let ends = &ranked.offsets[1..];
            tell(self.comparisons())?;
            let found = on_device::best_earlier(device, all, &ranked.rows, ends)?;
            for (&row, found) in ranked.rows.iter().zip(found) {
                matches[row as usize] = found;
            }
            return Ok(matches);
        }
        let found: Vec<Vec<Match>> = (0..ranked.len())
            .into_par_iter()
            .map(|cluster| {
                let ranked = ranked.rows_of(cluster);
                tell(self.comparisons_of(cluster))?;
                let is_own = |row: &&u64| **row < self.own as u64;
                if ranked.iter().all(|row| is_own(&row)) {
                    return Ok(tile::best_earlier(all.select(ranked)?, self.params.tile));
                }
                let (own, earlier): (Vec<u64>, Vec<u64>) = ranked.iter().partition(is_own);
                let found = self.matches_against(all.select(&own)?, all.select(&earlier)?);
                // In the order of `ranked` again.
                let mut found = found.into_iter();
                let alone = |row: u64| Match { row, cosine: 0.0 };
                let of = |row: &u64| match is_own(&row) {
                    true => found.next().unwrap_or(alone(*row)),
                    false => alone(*row),
                };
                Ok(ranked.iter().map(of).collect())
            })
            .collect::<crate::Result<_>>()?;
        for (&row, found) in ranked.rows.iter().zip(found.into_iter().flatten()) {
            matches[row as usize] = found;
        }
        Ok(matches)
    }

    /// For each of `own` its best match among an earlier set, which comes first, and the rows of `own` before it.
    fn matches_against(&self, own: Rows, earlier: Rows) -> Vec<Match> {
        let among_own = tile::best_earlier(own, self.params.tile);
        let among_earlier = nearest_of(own, earlier, self.params.tile);
        let rows = among_own.into_iter().zip(among_earlier).enumerate();
        rows.map(|(position, (mine, theirs))| match theirs {
            // The first row has no other before it.
            Some((at, cosine)) if position == 0 || cosine >= mine.cosine => Match {
                row: earlier.row_at(at),
                cosine,
            },
            _ => mine,
        })
        .collect()
    }
}

impl Info {
    fn add(&mut self, cluster: super::exact::Info) {
        self.rows += cluster.rows;
        self.distinct += cluster.distinct;
        self.pairs += cluster.pairs;
        self.clusters += u64::from(cluster.rows > 0);
        self.largest = self.largest.max(cluster.rows);
    }
}

fn check(rows: &[f32], d: usize, params: &Params) -> Result<(), Error> {
    let (floor, tile) = (params.floor, params.tile);
    super::exact::Params { floor, tile }.check()?;
    Ok(check_unit(Rows::all(rows, d)?)?)
}

/// That `order` names each row below `n` once; else what is wrong.
pub(super) fn check_order(n: usize, order: &[u64]) -> Result<(), String> {
    let mut named = vec![false; n];
    for &row in order {
        match named.get_mut(row as usize) {
            None => return Err(format!("row {row}")),
            Some(true) => return Err(format!("row {row} twice")),
            Some(seen) => *seen = true,
        }
    }
    match named.iter().position(|seen| !seen) {
        Some(row) => Err(format!("all but row {row}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_order_or_wrong_labels_are_refused() {
        let rows = [1.0, 0.0, 0.0, 1.0];
        let with = |labels: Vec<u32>| {
            SemanticDedup::with_clusters(&rows, 2, vec![1.0, 0.0], labels, Params::default())
        };
        let ok = with(vec![0, 0]).unwrap();
        let refused = |order: &[u64]| ok.matches(order).unwrap_err().to_string();
        assert!(refused(&[0]).contains("all but row 1"));
        assert!(refused(&[0, 0]).contains("row 0 twice"));
        assert!(refused(&[0, 2]).contains("row 2"));
        assert!(with(vec![0, 1]).is_err());
        assert!(with(vec![0]).is_err());
    }
}
