//! What clustering lost: the true neighbours of some rows, found by comparing them with all rows, against the pairs that a
//! search found.
//!
//! # What recall means here
//!
//! Rows are drawn at random. Of a row that has true neighbours (rows within eps, identical ones among them) the *share found* is
//! the part of them that the search relates to it. Recall is the mean share over the rows that have a neighbour: a figure by
//! rows, so that one huge group of copies weighs no more than its rows do. A row with all its neighbours in another cluster
//! counts 0, a row that lost one of four counts .75. Rows without neighbours say nothing and are left out.
//!
//! The interval is Wilson's for a proportion. For shares it is a little too wide, never too narrow, since numbers between 0 and
//! 1 vary at most as much as zeros and ones of the same mean do. Where every row was drawn nothing is left to chance, and the
//! interval is the recall itself.
//!
//! # Example
//! ```
//! use clipsift::dedup::audit::{Audit, Params};
//! use clipsift::dedup::semantic::{self, SemanticDedup};
//! // Four rows within eps of each other, which the clusters cut in two.
//! let rows = [1.0, 0.0, 0.9999, 0.0141, 0.9996, 0.0283, 0.9991, 0.0424];
//! let (centroids, labels) = (vec![1.0, 0.0, 0.0, 1.0], vec![0, 0, 1, 1]);
//! let semantic = SemanticDedup::with_clusters(&rows, 2, centroids, labels, semantic::Params::default())?;
//! let (pairs, _) = semantic.collect()?;
//! let audit = Audit::search(&rows, 2, &Params { rows: 4, eps: 0.01, ..Params::default() })?;
//! let (audited, info) = audit.check(&pairs, &semantic.kmeans().labels)?;
//! assert_eq!((audited[0].neighbours, audited[0].found), (3, 1));
//! assert_eq!(info.recall, Some(1.0 / 3.0));
//! assert_eq!((info.neighbours, info.found), (12, 4));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::exact::{Pair, check_unit};
use super::seeding::{choose, random};
use crate::ops::identical::first_identical;
use crate::ops::neighbours::neighbours_of;
use crate::ops::rows::Rows;
use crate::ops::tile;

/// The stream of random numbers that audits draw from; k-means takes the low ones.
const STREAM: u64 = u64::MAX;

/// The standard normal distribution's 97.5 % point.
const Z: f64 = 1.959_963_984_540_054;

/// What to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Rows to draw, without replacement; all where there are fewer. Default 1000.
    pub rows: usize,
    /// Two rows are neighbours when their cosine is at least `1 - eps`, or when they are identical; between 0 and 2. Default
    /// 0.02.
    pub eps: f64,
    /// What random numbers start from. Default 42.
    pub seed: u64,
    /// Rows on each side of a tile; changes speed and memory, never the result. Default 512.
    pub tile: usize,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            rows: 1000,
            eps: 0.02,
            seed: 42,
            tile: tile::TILE,
        }
    }
}

/// A row that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Row number.
    pub row: u64,
    /// Its cluster.
    pub cluster: u32,
    /// Its true neighbours.
    pub neighbours: u64,
    /// Those of them that the search relates to it.
    pub found: u64,
}

impl Audited {
    /// The part of its neighbours that was found; none where it has none.
    pub fn share(&self) -> Option<f64> {
        (self.neighbours > 0).then(|| self.found as f64 / self.neighbours as f64)
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    /// Rows drawn.
    pub audited: u64,
    /// Those with at least one true neighbour.
    pub with_neighbours: u64,
    /// The mean share found over these; none where there are none.
    pub recall: Option<f64>,
    /// The ends of its 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Rows with neighbours of which none was found.
    pub lost: u64,
    /// Rows with neighbours of which some were found and some not.
    pub cut: u64,
    /// True neighbours, summed over the rows.
    pub neighbours: u64,
    /// Found ones, summed over the rows.
    pub found: u64,
    /// Clusters that lost something, the one that lost most (rows, weighed by the share they lost) first; the lower number on a
    /// tie.
    pub worst: Vec<Worst>,
}

/// A cluster whose rows have neighbours that were not found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worst {
    /// Its number.
    pub cluster: u32,
    /// Its audited rows that have a true neighbour.
    pub audited: u64,
    /// Those of them that lost a neighbour.
    pub missed: u64,
    /// The mean share found over its rows.
    pub recall: f64,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `eps` is not between 0 and 2.
    #[error("an eps of {0}: expected a number from 0 (cosine 1) to 2 (cosine -1)")]
    Eps(f64),
    /// `rows` or `tile` is 0.
    #[error("{0} of 0: expected at least 1")]
    Zero(&'static str),
    /// A pair or a label that does not belong to the rows.
    #[error("{0}: expected those of the rows that were searched")]
    Foreign(String),
    /// Rows that are not unit rows.
    #[error(transparent)]
    Rows(#[from] super::exact::Error),
    /// Shapes that do not fit.
    #[error(transparent)]
    Other(#[from] crate::Error),
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Eps(_) | Error::Zero(_) => crate::Error::usage(error.to_string()),
            Error::Foreign(got) => {
                crate::Error::shape("audit", "pairs and labels of the rows", got)
            }
            Error::Rows(error) => error.into(),
            Error::Other(error) => error,
        }
    }
}

/// Rows drawn at random and their true neighbours, to be held against pairs: all of them go to [`Audit::link`], then all of
/// them again to [`Audit::mark`]; [`Audit::check`] is both for pairs that are in memory.
///
/// Memory: 32 bytes a row, 32 bytes for each true neighbour of a drawn row (identical rows count once), and that of
/// [`neighbours_of`]. Time: `N n d`.
#[derive(Clone, Debug)]
pub struct Audit {
    threshold: f64,
    /// Rows that may be drawn.
    own: usize,
    /// Row numbers, ascending.
    drawn: Vec<u64>,
    /// For each row the one that stands for those with its bits.
    stands: Vec<u64>,
    /// For each row that stands for others how many they are, itself included.
    sizes: Vec<u64>,
    /// True neighbours among the rows that stand for others: (of a drawn one, another, found), ascending.
    near: Vec<(u64, u64, bool)>,
    /// Rows that pairs call identical, as [`super::decide::PairGraph`] has them.
    parent: Vec<u64>,
    /// (class, class, place in `near`), ascending, once all pairs were linked.
    keys: Vec<(u64, u64, usize)>,
    keyed: bool,
}

impl Audit {
    /// Draws from `rows` `[n, d]`, unit rows, and finds the neighbours of what was drawn among all of them.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn search(rows: &[f32], d: usize, params: &Params) -> Result<Audit, Error> {
        let rows = Rows::all(rows, d)?;
        check_unit(rows)?;
        Audit::search_among(rows, rows.len(), params, |_| Ok(()))
    }

    /// [`Audit::search`] in a view, drawing from its first `own` positions. `progress` is told how many rows are done.
    pub(crate) fn search_among(
        rows: Rows,
        own: usize,
        params: &Params,
        mut progress: impl FnMut(u64) -> crate::Result<()>,
    ) -> Result<Audit, Error> {
        if !(0.0..=2.0).contains(&params.eps) {
            return Err(Error::Eps(params.eps));
        }
        for (what, value) in [("rows", params.rows), ("tile", params.tile)] {
            if value == 0 {
                return Err(Error::Zero(what));
            }
        }
        let mut drawn = choose(own, params.rows.min(own), &mut random(params.seed, STREAM));
        drawn.sort_unstable();
        let first = first_identical(rows);
        let n = rows.matrix_rows() as usize;
        let (mut stands, mut sizes): (Vec<u64>, _) = ((0..n as u64).collect(), vec![0_u64; n]);
        for (position, &f) in first.iter().enumerate() {
            let standing = rows.row_at(f as usize);
            stands[rows.row_at(position) as usize] = standing;
            sizes[standing as usize] += 1;
        }
        let distinct: Vec<u64> = (0..rows.len())
            .filter(|&p| first[p] == p as u64)
            .map(|p| rows.row_at(p))
            .collect();
        let mut asked: Vec<u64> = drawn
            .iter()
            .map(|&p| rows.row_at(first[p] as usize))
            .collect();
        drop(first);
        asked.sort_unstable();
        asked.dedup();
        let (left, right) = (rows.select(&asked)?, rows.select(&distinct)?);
        let threshold = 1.0 - params.eps;
        let mut near = Vec::new();
        neighbours_of(left, right, threshold, params.tile, |positions, block| {
            let pairs = block.iter().map(|n| (asked[n.left], distinct[n.right]));
            near.extend(pairs.filter(|(a, b)| a != b).map(|(a, b)| (a, b, false)));
            progress(positions.len() as u64)
        })?;
        near.sort_unstable();
        Ok(Audit {
            threshold,
            own,
            drawn: drawn.into_iter().map(|p| rows.row_at(p)).collect(),
            stands,
            sizes,
            near,
            parent: (0..n as u64).collect(),
            keys: Vec::new(),
            keyed: false,
        })
    }

    /// Takes in which rows a block of pairs calls identical.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a pair of other rows.
    pub fn link(&mut self, pairs: &[Pair]) -> Result<(), Error> {
        for pair in pairs.iter().filter(|pair| pair.identical) {
            self.own_pair(pair)?;
            let (a, b) = (self.class(pair.a), self.class(pair.b));
            self.parent[a.max(b) as usize] = a.min(b);
        }
        Ok(())
    }

    /// Marks the neighbours that a block of pairs has, once all pairs were linked.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a pair of other rows.
    pub fn mark(&mut self, pairs: &[Pair]) -> Result<(), Error> {
        if !self.keyed {
            for at in 0..self.near.len() {
                let (a, b, _) = self.near[at];
                let (a, b) = (self.class(a), self.class(b));
                self.near[at].2 = a == b;
                self.keys.push((a, b, at));
            }
            self.keys.sort_unstable();
            self.keyed = true;
        }
        for pair in pairs {
            self.own_pair(pair)?;
            if pair.identical || pair.cosine < self.threshold {
                continue;
            }
            let (a, b) = (self.class(pair.a), self.class(pair.b));
            for (a, b) in [(a, b), (b, a)] {
                let from = self.keys.partition_point(|key| (key.0, key.1) < (a, b));
                for &(_, _, at) in self.keys[from..]
                    .iter()
                    .take_while(|key| (key.0, key.1) == (a, b))
                {
                    self.near[at].2 = true;
                }
            }
        }
        Ok(())
    }

    fn own_pair(&self, pair: &Pair) -> Result<(), Error> {
        let n = self.parent.len() as u64;
        if pair.a >= n || pair.b >= n {
            return Err(Error::Foreign(format!("the pair ({}, {})", pair.a, pair.b)));
        }
        Ok(())
    }

    /// The lowest row of those that pairs call identical to a row.
    fn class(&mut self, mut row: u64) -> u64 {
        while self.parent[row as usize] != row {
            let above = self.parent[row as usize];
            self.parent[row as usize] = self.parent[above as usize];
            row = self.parent[row as usize];
        }
        row
    }

    /// Each drawn row, ascending, and what they come to. `labels`: the clusters of all rows that could be drawn.
    ///
    /// # Errors
    /// [`Error::Foreign`] for labels of another number of rows.
    pub fn finish(mut self, labels: &[u32]) -> Result<(Vec<Audited>, Info), Error> {
        if labels.len() != self.own {
            return Err(Error::Foreign(format!("{} labels", labels.len())));
        }
        // Makes the keys where there was no pair at all.
        self.mark(&[])?;
        // Rows of the same bits that pairs call identical too: counted where rows with these bits were drawn.
        let mut alike: std::collections::BTreeMap<(u64, u64), u64> =
            std::collections::BTreeMap::new();
        for &row in &self.drawn {
            let standing = self.stands[row as usize];
            if self.sizes[standing as usize] > 1 {
                alike.insert((standing, u64::MAX), 0);
            }
        }
        for row in 0..self.stands.len() as u64 {
            let standing = self.stands[row as usize];
            if self.sizes[standing as usize] > 1 && alike.contains_key(&(standing, u64::MAX)) {
                *alike.entry((standing, self.class(row))).or_default() += 1;
            }
        }
        let mut audited = Vec::with_capacity(self.drawn.len());
        for row in std::mem::take(&mut self.drawn) {
            let standing = self.stands[row as usize];
            let mut neighbours = self.sizes[standing as usize] - 1;
            let linked = alike.get(&(standing, self.class(row)));
            let mut found = linked.map_or(0, |rows| rows - 1);
            let from = self.near.partition_point(|near| near.0 < standing);
            for &(_, other, marked) in self.near[from..]
                .iter()
                .take_while(|near| near.0 == standing)
            {
                let rows = self.sizes[other as usize];
                neighbours += rows;
                found += if marked { rows } else { 0 };
            }
            let cluster = labels[row as usize];
            audited.push(Audited {
                row,
                cluster,
                neighbours,
                found,
            });
        }
        let info = Info::of(&audited, self.own);
        Ok((audited, info))
    }

    /// [`Audit::link`], [`Audit::mark`] and [`Audit::finish`] for pairs that are in memory.
    ///
    /// # Errors
    /// [`Error::Foreign`] for pairs or labels of other rows.
    pub fn check(mut self, pairs: &[Pair], labels: &[u32]) -> Result<(Vec<Audited>, Info), Error> {
        self.link(pairs)?;
        self.mark(pairs)?;
        self.finish(labels)
    }
}

impl Info {
    /// Of rows drawn from `n`.
    fn of(audited: &[Audited], n: usize) -> Info {
        let mut info = Info {
            audited: audited.len() as u64,
            ..Info::default()
        };
        let mut sum = 0.0;
        let mut clusters: std::collections::BTreeMap<u32, (u64, u64, f64)> = Default::default();
        for row in audited {
            let Some(share) = row.share() else { continue };
            sum += share;
            info.with_neighbours += 1;
            info.neighbours += row.neighbours;
            info.found += row.found;
            info.lost += u64::from(row.found == 0);
            info.cut += u64::from(row.found > 0 && row.found < row.neighbours);
            let cluster = clusters.entry(row.cluster).or_default();
            cluster.0 += 1;
            cluster.1 += u64::from(row.found < row.neighbours);
            cluster.2 += share;
        }
        if info.with_neighbours > 0 {
            let recall = sum / info.with_neighbours as f64;
            info.recall = Some(recall);
            info.interval = Some(match audited.len() == n {
                true => (recall, recall),
                false => wilson(recall, info.with_neighbours),
            });
        }
        let mut worst: Vec<(f64, Worst)> = clusters
            .into_iter()
            .filter(|(_, (_, missed, _))| *missed > 0)
            .map(|(cluster, (audited, missed, sum))| {
                let recall = sum / audited as f64;
                let lost = audited as f64 - sum;
                let worst = Worst {
                    cluster,
                    audited,
                    missed,
                    recall,
                };
                (lost, worst)
            })
            .collect();
        // Stable, and clusters ascend.
        worst.sort_by(|a, b| b.0.total_cmp(&a.0));
        info.worst = worst.into_iter().map(|(_, worst)| worst).collect();
        info
    }
}

/// Wilson's 95 % interval for a proportion `p` of `n` (E. B. Wilson, 1927).
fn wilson(p: f64, n: u64) -> (f64, f64) {
    let (n, z2) = (n as f64, Z * Z);
    let middle = p + z2 / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // Rounding must not push an end past p where p is 0 or 1.
    let low = ((middle - reach) / scale).clamp(0.0, p);
    (low, ((middle + reach) / scale).clamp(p, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::exact::{self, ExactPairs};

    #[test]
    fn the_interval_is_wilsons() {
        // scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        for (k, n, low, high) in [
            (8, 10, 0.490_162_47, 0.943_317_82),
            (0, 20, 0.0, 0.161_125_16),
            (95, 100, 0.888_249_53, 0.978_456_32),
        ] {
            let got = wilson(f64::from(k) / n as f64, n);
            assert!(
                (got.0 - low).abs() < 1e-6 && (got.1 - high).abs() < 1e-6,
                "{got:?}"
            );
        }
        assert_eq!(wilson(1.0, 5).1, 1.0);
    }

    /// Unit rows at angles of hundredths of a radian.
    fn at(angles: &[i32]) -> Vec<f32> {
        let rows = angles.iter().map(|a| f64::from(*a) / 100.0);
        rows.flat_map(|a| [a.cos() as f32, a.sin() as f32])
            .collect()
    }

    #[test]
    fn every_pair_found_is_a_recall_of_one_with_copies_and_without() {
        let rows = at(&[0, 1, 0, 50, 51, 0, 90, 51]);
        let params = exact::Params {
            floor: 0.001,
            ..exact::Params::default()
        };
        let (pairs, _) = ExactPairs::new(&rows, 2, params)
            .unwrap()
            .collect()
            .unwrap();
        for n in [1, 3, 8, 100] {
            let params = Params {
                rows: n,
                eps: 0.001,
                ..Params::default()
            };
            let audit = Audit::search(&rows, 2, &params).unwrap();
            let (audited, info) = audit.check(&pairs, &[0; 8]).unwrap();
            assert_eq!(audited.len(), n.min(8));
            assert!(audited.is_sorted_by(|a, b| a.row < b.row));
            assert_eq!(info.found, info.neighbours);
            assert!(info.worst.is_empty());
            if n >= 8 {
                let neighbours: Vec<u64> = audited.iter().map(|a| a.neighbours).collect();
                assert_eq!(neighbours, [3, 3, 3, 2, 2, 3, 0, 2]);
                assert_eq!((info.recall, info.interval), (Some(1.0), Some((1.0, 1.0))));
                assert_eq!(info.with_neighbours, 7);
            }
        }
    }

    #[test]
    fn what_pairs_lack_is_missed_by_rows_and_named_by_cluster() {
        // Rows 0, 1 and 2 are near each other, 3 and 4 are; 2 and 4 lie in clusters of their own.
        let rows = at(&[0, 1, 2, 50, 51]);
        let pair = Pair {
            a: 0,
            b: 1,
            cosine: 0.999_95,
            identical: false,
        };
        let params = Params {
            eps: 0.001,
            ..Params::default()
        };
        let audit = Audit::search(&rows, 2, &params).unwrap();
        let (audited, info) = audit.clone().check(&[pair], &[7, 7, 8, 3, 9]).unwrap();
        let found: Vec<_> = audited.iter().map(|a| (a.neighbours, a.found)).collect();
        assert_eq!(found, [(2, 1), (2, 1), (2, 0), (1, 0), (1, 0)]);
        assert_eq!((info.recall, info.lost, info.cut), (Some(0.2), 3, 2));
        let worst: Vec<_> = info
            .worst
            .iter()
            .map(|w| (w.cluster, w.audited, w.missed, w.recall))
            .collect();
        assert_eq!(
            worst,
            [
                (3, 1, 1, 0.0),
                (7, 2, 2, 0.5),
                (8, 1, 1, 0.0),
                (9, 1, 1, 0.0)
            ]
        );
        // A pair that is stored but farther apart than eps does not count.
        let far = Pair {
            cosine: 0.99,
            ..pair
        };
        let (_, info) = audit.clone().check(&[far], &[7; 5]).unwrap();
        assert_eq!(info.found, 0);
        // Rows called identical, as files of the same bytes are, have each other's neighbours.
        let same = Pair {
            a: 1,
            b: 2,
            identical: true,
            ..pair
        };
        let (audited, _) = audit.clone().check(&[pair, same], &[7; 5]).unwrap();
        assert_eq!(audited[2].found, 2);
        assert!(
            audit
                .clone()
                .check(&[Pair { b: 5, ..pair }], &[7; 5])
                .is_err()
        );
        assert!(audit.check(&[pair], &[7; 4]).is_err());
    }

    #[test]
    fn what_cannot_be_audited_is_refused_and_nothing_has_no_recall() {
        let refused = |params: Params| {
            Audit::search(&[1.0, 0.0], 2, &params)
                .unwrap_err()
                .to_string()
        };
        assert!(
            refused(Params {
                rows: 0,
                ..Params::default()
            })
            .contains("rows of 0")
        );
        assert!(
            refused(Params {
                eps: f64::NAN,
                ..Params::default()
            })
            .contains("eps of NaN")
        );
        assert!(Audit::search(&[f32::NAN, 0.0], 2, &Params::default()).is_err());
        for rows in [&[][..], &[1.0, 0.0]] {
            let audit = Audit::search(rows, 2, &Params::default()).unwrap();
            let (_, info) = audit.check(&[], &vec![0; rows.len() / 2]).unwrap();
            assert_eq!((info.recall, info.interval), (None, None));
        }
    }
}
