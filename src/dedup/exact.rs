//! Every pair in the set: all rows against all rows, in tiles.
//!
//! # Example
//! ```
//! use clipsift::dedup::exact::{ExactPairs, Params};
//! // Four unit rows of two values; the first and the last are the same.
//! let rows = [1.0, 0.0, 0.6, 0.8, 0.8, 0.6, 1.0, 0.0];
//! let params = Params { floor: 0.1, ..Params::default() };
//! let (pairs, info) = ExactPairs::new(&rows, 2, params)?.collect()?;
//! assert_eq!(info.distinct, 3);
//! assert_eq!((pairs[0].a, pairs[0].b, pairs[0].identical), (0, 3, true));
//! assert_eq!((pairs[1].a, pairs[1].b, pairs[1].identical), (1, 2, false));
//! assert!((pairs[1].cosine - 0.96).abs() < 1e-6);
//! # Ok::<(), clipsift::dedup::exact::Error>(())
//! ```
//!
//! A candle tensor does as well, and a set that has grown is compared with what was there before, which is not compared again:
//! ```
//! use candle_core::{Device, Tensor};
//! use clipsift::dedup::exact::{ExactPairs, Params};
//! // Two new rows, then two of an earlier set.
//! let rows = Tensor::new(&[[1f32, 0.0], [0.6, 0.8], [0.8, 0.6], [0.8, 0.6]], &Device::Cpu)?;
//! let search = ExactPairs::from_tensor(&rows, Params { floor: 0.1, ..Params::default() })?;
//! let (pairs, _) = search.against(2)?.collect()?;
//! assert_eq!((pairs.len(), pairs[0].a, pairs[0].b), (1, 1, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::on_device::{self, OnDevice};
use super::tensor::rows_of;
use crate::ops::dot;
use crate::ops::identical::{first_identical, first_identical_in};
use crate::ops::neighbours::neighbours_of;
use crate::ops::rows::Rows;
use crate::ops::tile;
use candle_core::Tensor;
use rayon::prelude::*;
use std::borrow::Cow;

pub use crate::ops::tile::Pair;

/// What to look for.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Pairs are found down to cosine `1 - floor`; between 0 and 2. Default 0.08.
    pub floor: f64,
    /// Rows on each side of a tile; changes speed and memory, never the result. Default 512.
    pub tile: usize,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            floor: 0.08,
            tile: tile::TILE,
        }
    }
}

impl Params {
    /// # Errors
    /// [`Error::Floor`], [`Error::Tile`].
    pub(super) fn check(&self) -> Result<(), Error> {
        if !(0.0..=2.0).contains(&self.floor) {
            return Err(Error::Floor(self.floor));
        }
        if self.tile == 0 {
            return Err(Error::Tile);
        }
        Ok(())
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Rows looked at.
    pub rows: u64,
    /// Rows that differ from every earlier row in some bit. Only these were compared with each other.
    pub distinct: u64,
    /// Pairs found, those of identical rows included.
    pub pairs: u64,
}

/// Why pairs cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `floor` is not between 0 and 2.
    #[error("a floor of {0}: expected a number from 0 (cosine 1) to 2 (cosine -1)")]
    Floor(f64),
    /// `tile` is 0.
    #[error("tiles of 0 rows: expected at least 1")]
    Tile,
    /// A row is not a unit row.
    #[error(
        "row {row} has length {length}, expected 1: leave rows that are zero or not finite out, normalise the others"
    )]
    NotUnit {
        /// Row number.
        row: u64,
        /// Its Euclidean length; NaN or infinite where a value is.
        length: f64,
    },
    /// An earlier set that begins after the last row.
    #[error("an earlier set from row {own} on: expected at most {rows}, the number of rows")]
    Earlier {
        /// Where it begins.
        own: usize,
        /// n.
        rows: usize,
    },
    /// Shapes that do not fit, or an error of the caller's own visitor.
    #[error(transparent)]
    Other(#[from] crate::Error),
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Earlier { own, rows } => crate::Error::shape(
                "duplicates",
                format!("an earlier set within {rows} rows"),
                format!("one from row {own} on"),
            ),
            Error::Floor(_) | Error::Tile => crate::Error::usage(error.to_string()),
            Error::NotUnit { row, length } => crate::Error::shape(
                "duplicates",
                "unit rows (leave out rows that are zero or not finite, normalise the others)",
                format!("row {row} of length {length}"),
            ),
            Error::Other(error) => error,
        }
    }
}

/// All pairs of rows with a cosine of at least `1 - floor`.
///
/// Identical rows are collapsed first: the earliest stands for its class, the others appear only in a pair with it
/// (`identical` true, whatever the floor), and the cosines are taken among the rows that stand for a class.
///
/// Memory beyond the rows: 40 bytes a row, the rounded rows of some tiles and one block of pairs, see
/// [`tile::pairs_above`]. It does not grow with the number of pairs, unless one row alone has more than 2^23.
#[derive(Clone, Debug)]
pub struct ExactPairs<'a> {
    rows: Cow<'a, [f32]>,
    d: usize,
    /// Rows before an earlier set begins.
    own: usize,
    params: Params,
    device: Option<OnDevice<'a>>,
}

impl<'a> ExactPairs<'a> {
    /// `rows` `[n, d]`: unit rows (their length may be off by half a percent, for rows that were stored in 16 bits).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(rows: &'a [f32], d: usize, params: Params) -> Result<Self, Error> {
        Self::over(Cow::Borrowed(rows), d, params)
    }

    /// [`ExactPairs::new`] over a tensor `[n, d]` of f32, f16 or bf16, whose values are copied.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_tensor(rows: &Tensor, params: Params) -> Result<ExactPairs<'static>, Error> {
        let (rows, d) = rows_of(rows)?;
        ExactPairs::over(Cow::Owned(rows), d, params)
    }

    fn over(rows: Cow<'a, [f32]>, d: usize, params: Params) -> Result<Self, Error> {
        params.check()?;
        let view = Rows::all(&rows, d)?;
        check_unit(view)?;
        let own = view.len();
        Ok(ExactPairs {
            rows,
            d,
            own,
            params,
            device: None,
        })
    }

    /// Compares on a device that has the rows too, or to which they are streamed: the same pairs. What an earlier set is compared with
    /// is compared on the CPU all the same.
    ///
    /// # Errors
    /// [`Error::Other`] where the device holds another number of rows.
    pub fn on_device(self, device: OnDevice<'a>) -> Result<Self, Error> {
        device.fits(Rows::all(&self.rows, self.d)?)?;
        Ok(ExactPairs {
            device: Some(device),
            ..self
        })
    }

    /// Takes the rows from `own` on as an earlier set: they are compared with the `own` rows before them and never with each
    /// other. Of rows of the earlier set that are identical the first stands for all; the others appear in no pair.
    ///
    /// # Errors
    /// [`Error::Earlier`].
    pub fn against(self, own: usize) -> Result<Self, Error> {
        let rows = self.rows.len() / self.d;
        match own <= rows {
            true => Ok(ExactPairs { own, ..self }),
            false => Err(Error::Earlier { own, rows }),
        }
    }

    /// Hands all pairs to `visit`, block by block, in ascending order of (a, b) throughout; those with an earlier set come after
    /// all others, in the same order. The pairs do not depend on tiles or threads; how many come at a time depends on the
    /// tile size.
    ///
    /// # Errors
    /// The first error of `visit` ends the walk.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(&[Pair]) -> crate::Result<()>,
    ) -> Result<Info, Error> {
        self.for_each_told(|pairs, _| visit(pairs))
    }

    /// The pairs of rows that [`ExactPairs::for_each_told`] compares, where all rows differ.
    pub fn comparisons(&self) -> u64 {
        let (own, rows) = (self.own as u64, (self.rows.len() / self.d) as u64);
        triangle(own) + own * (rows - own)
    }

    /// [`ExactPairs::for_each`], telling `visit` with each block how many pairs of rows were compared for it.
    ///
    /// # Errors
    /// The first error of `visit` ends the walk.
    pub fn for_each_told(
        &self,
        mut visit: impl FnMut(&[Pair], u64) -> crate::Result<()>,
    ) -> Result<Info, Error> {
        let (threshold, tile) = (1.0 - self.params.floor, self.params.tile);
        let rows = Rows::all(&self.rows, self.d)?;
        if let Some(device) = self.device
            && self.own == rows.len()
            && !rows.is_empty()
        {
            let index: Vec<u64> = (0..rows.len() as u64).collect();
            let ends = [rows.len()];
            return Ok(on_device::visit_pairs(
                device, rows, &index, &ends, threshold, visit,
            )?);
        }
        let own = rows.first(self.own);
        let mut info = visit_pairs(own, threshold, tile, &mut visit)?;
        if self.own < rows.len() {
            let earlier: Vec<u64> = (self.own as u64..rows.len() as u64).collect();
            let earlier = rows.select(&earlier)?;
            let found = visit_against(own, earlier, threshold, tile, &mut visit)?;
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
}

/// # Errors
/// [`Error::NotUnit`] for the first row whose length is not 1 within half a percent.
pub(super) fn check_unit(rows: Rows) -> Result<(), Error> {
    let bad = (0..rows.len()).into_par_iter().find_first(|&p| {
        let squared = dot::cosine(rows.values(p), rows.values(p));
        // No range contains a NaN.
        !(0.99..=1.01).contains(&squared)
    });
    match bad {
        None => Ok(()),
        Some(p) => Err(Error::NotUnit {
            row: rows.row_at(p),
            length: dot::cosine(rows.values(p), rows.values(p)).sqrt(),
        }),
    }
}

/// Pairs among `n` rows.
pub(super) fn triangle(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

/// The pairs of a view whose row numbers ascend, identical rows collapsed, in ascending order of (a, b).
pub(super) fn visit_pairs(
    rows: Rows,
    threshold: f64,
    tile: usize,
    mut visit: impl FnMut(&[Pair], u64) -> crate::Result<()>,
) -> crate::Result<Info> {
    let first = first_identical(rows);
    // The rows that stand for a class, and (first, twin) for all others, by first.
    let (mut distinct, mut twins) = (Vec::new(), Vec::new());
    for (p, &f) in first.iter().enumerate() {
        if f == p as u64 {
            distinct.push(rows.row_at(p));
        } else {
            twins.push((f as usize, p));
        }
    }
    drop(first);
    twins.par_sort_unstable();
    let mut info = Info {
        rows: rows.len() as u64,
        distinct: distinct.len() as u64,
        pairs: 0,
    };
    let compared = if twins.is_empty() {
        rows
    } else {
        rows.select(&distinct)?
    };
    let mut waiting = twins.as_slice();
    tile::pairs_above(compared, threshold, tile, |positions, pairs| {
        let last = compared.row_at(positions.end - 1);
        let here = waiting.partition_point(|&(f, _)| rows.row_at(f) <= last);
        let (now, later) = waiting.split_at(here);
        waiting = later;
        if !now.is_empty() {
            pairs.par_extend(now.par_iter().map(|&(f, p)| Pair {
                a: rows.row_at(f),
                b: rows.row_at(p),
                cosine: dot::cosine(rows.values(f), rows.values(f)),
                identical: true,
            }));
            pairs.par_sort_unstable_by_key(Pair::key);
        }
        info.pairs += pairs.len() as u64;
        let after = |position: usize| (compared.len() - position) as u64;
        let (first, end) = (after(positions.start), after(positions.end));
        // Without pairs too, so that the visitor can show progress and stop.
        visit(pairs, triangle(first) - triangle(end))
    })?;
    Ok(info)
}

/// The pairs between `own` rows and an `earlier` set, whose row numbers are greater: identical rows collapsed on both sides, in
/// ascending order of (a, b). The rows and distinct rows told are those of the earlier set.
pub(super) fn visit_against(
    own: Rows,
    earlier: Rows,
    threshold: f64,
    tile: usize,
    mut visit: impl FnMut(&[Pair], u64) -> crate::Result<()>,
) -> crate::Result<Info> {
    let distinct = |rows: Rows| -> Vec<u64> {
        let first = first_identical(rows);
        (0..rows.len())
            .filter(|&p| first[p] == p as u64)
            .map(|p| rows.row_at(p))
            .collect()
    };
    let (left, right) = (distinct(own), distinct(earlier));
    let mut info = Info {
        rows: earlier.len() as u64,
        distinct: right.len() as u64,
        pairs: 0,
    };
    let (left, right) = (own.select(&left)?, earlier.select(&right)?);
    let same = first_identical_in(left, right);
    let mut pairs: Vec<Pair> = Vec::new();
    neighbours_of(left, right, threshold, tile, |positions, near| {
        let compared = (positions.len() * right.len()) as u64;
        pairs.clear();
        let pair = |l: usize, r: usize, cosine: f64, identical: bool| Pair {
            a: left.row_at(l),
            b: right.row_at(r),
            cosine,
            identical,
        };
        pairs.extend(positions.filter_map(|l| {
            let r = same[l]?;
            let cosine = dot::cosine(left.values(l), right.values(r));
            Some(pair(l, r, cosine, true))
        }));
        let near = near
            .iter()
            .filter(|near| same[near.left] != Some(near.right));
        pairs.extend(near.map(|near| pair(near.left, near.right, near.cosine, false)));
        pairs.par_sort_unstable_by_key(Pair::key);
        info.pairs += pairs.len() as u64;
        visit(&pairs, compared)
    })?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_compared_is_refused_with_its_row() {
        let refused = |rows: &[f32], params: Params| {
            ExactPairs::new(rows, 2, params).unwrap_err().to_string()
        };
        let ok = Params::default();
        assert!(
            refused(&[1.0, 0.0, f32::NAN, 0.0], ok.clone()).starts_with("row 1 has length NaN")
        );
        assert!(refused(&[1.0, 0.0, 0.0, 0.0], ok.clone()).starts_with("row 1 has length 0"));
        assert!(refused(&[3.0, 4.0], ok.clone()).starts_with("row 0 has length 5"));
        assert!(refused(&[1.0, 0.0, 1.0], ok.clone()).contains("whole number of rows"));
        assert!(
            refused(
                &[],
                Params {
                    floor: -0.1,
                    ..ok.clone()
                }
            )
            .contains("floor of -0.1")
        );
        assert!(
            refused(
                &[],
                Params {
                    floor: f64::NAN,
                    ..ok.clone()
                }
            )
            .contains("floor")
        );
        assert!(refused(&[], Params { tile: 0, ..ok }).contains("tiles of 0"));
    }

    #[test]
    fn no_rows_have_no_pairs() {
        let (pairs, info) = ExactPairs::new(&[], 4, Params::default())
            .unwrap()
            .collect()
            .unwrap();
        assert!(pairs.is_empty());
        assert_eq!(info, Info::default());
    }

    #[test]
    fn identical_rows_are_paired_with_the_first_whatever_the_floor() {
        // A unit row whose length in f32 is a little less than 1, and a neighbour.
        let x = [0.577_350_26f32; 3];
        let rows: Vec<f32> = [x, [1.0, 0.0, 0.0], x, x].concat();
        let params = Params {
            floor: 0.0,
            ..Params::default()
        };
        let (pairs, info) = ExactPairs::new(&rows, 3, params)
            .unwrap()
            .collect()
            .unwrap();
        assert!(pairs[0].cosine < 1.0);
        let found: Vec<_> = pairs.iter().map(|p| (p.a, p.b, p.identical)).collect();
        assert_eq!(found, [(0, 2, true), (0, 3, true)]);
        assert_eq!((info.rows, info.distinct, info.pairs), (4, 2, 2));
    }

    #[test]
    fn an_error_of_the_visitor_comes_back_as_it_is() {
        let rows = [1.0, 0.0, 1.0, 0.0];
        let result = ExactPairs::new(&rows, 2, Params::default())
            .unwrap()
            .for_each(|_| Err(crate::Error::Interrupted));
        assert!(matches!(
            result,
            Err(Error::Other(crate::Error::Interrupted))
        ));
    }
}
