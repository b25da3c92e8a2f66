//! A matrix of rows, or some of its rows in some order, as the duplicate engine's kernels read it.

use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// n rows of d values: all rows of a matrix, or those that an index lists, in its order. A *position* counts along the view;
/// a *row* is the number in the matrix. Nothing is copied until a tile is gathered.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    d: usize,
    index: Option<&'a [u64]>,
}

impl<'a> Rows<'a> {
    /// All rows of `data` `[n, d]`, row-major.
    ///
    /// # Errors
    /// [`Error::Shape`] when `d` is 0 or does not divide the number of values.
    pub fn all(data: &'a [f32], d: usize) -> Result<Self> {
        if d == 0 || !data.len().is_multiple_of(d) {
            return Err(Error::shape(
                "rows",
                format!("a whole number of rows of d = {d} values, d at least 1"),
                format!("{} values", data.len()),
            ));
        }
        Ok(Rows {
            data,
            d,
            index: None,
        })
    }

    /// The same matrix, seen through `index`: position `p` is row `index[p]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when a number in `index` is not a row.
    pub fn select<'b>(&self, index: &'b [u64]) -> Result<Rows<'b>>
    where
        'a: 'b,
    {
        let n = self.matrix_rows();
        match index.iter().find(|&&row| row >= n) {
            Some(row) => Err(Error::shape(
                "rows",
                format!("row numbers below {n}"),
                format!("row {row}"),
            )),
            None => Ok(Rows {
                data: self.data,
                d: self.d,
                index: Some(index),
            }),
        }
    }

    /// The first `n` positions, or all where there are fewer.
    pub(crate) fn first(&self, n: usize) -> Rows<'a> {
        let index = self.index.map(|index| &index[..n.min(index.len())]);
        let rows = match index {
            Some(_) => self.data.len(),
            None => (n * self.d).min(self.data.len()),
        };
        Rows {
            data: &self.data[..rows],
            d: self.d,
            index,
        }
    }

    /// The number of positions n.
    pub fn len(&self) -> usize {
        match self.index {
            Some(index) => index.len(),
            None => self.data.len() / self.d,
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of values d in a row.
    pub fn d(&self) -> usize {
        self.d
    }

    /// The number of rows of the matrix behind the view.
    pub fn matrix_rows(&self) -> u64 {
        (self.data.len() / self.d) as u64
    }

    /// The row number at a position.
    pub fn row_at(&self, position: usize) -> u64 {
        match self.index {
            Some(index) => index[position],
            None => position as u64,
        }
    }

    /// The values at a position.
    pub fn values(&self, position: usize) -> &'a [f32] {
        let row = self.row_at(position) as usize;
        &self.data[row * self.d..(row + 1) * self.d]
    }

    /// The values of consecutive positions, contiguous: in place where the view is the matrix, else copied to `scratch`.
    pub(crate) fn tile<'s>(&self, positions: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self.index {
            None => &self.data[positions.start * self.d..positions.end * self.d],
            Some(_) => {
                self.gather(positions, scratch);
                scratch
            }
        }
    }

    /// Copies the values at the given positions to `scratch`, in that order.
    pub(crate) fn gather(
        &self,
        positions: impl IntoIterator<Item = usize>,
        scratch: &mut Vec<f32>,
    ) {
        scratch.clear();
        for position in positions {
            scratch.extend_from_slice(self.values(position));
        }
    }

    /// The squared lengths of all rows, by the canonical dot product, reduced to the greatest. Not finite when a value is not.
    pub(crate) fn max_squared_length(&self) -> f64 {
        (0..self.len())
            .into_par_iter()
            .map(|p| super::dot::cosine(self.values(p), self.values(p)))
            // f64::max ignores a NaN; this one must not.
            .reduce(|| 0.0, |x, y| if x.is_nan() || x > y { x } else { y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_reads_the_rows_its_index_lists() {
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let all = Rows::all(&data, 2).unwrap();
        assert_eq!((all.len(), all.d(), all.row_at(2)), (3, 2, 2));
        let some = all.select(&[2, 0, 2]).unwrap();
        assert_eq!((some.len(), some.values(1)), (3, &data[0..2]));
        let mut scratch = Vec::new();
        assert_eq!(some.tile(0..2, &mut scratch), [5.0, 6.0, 1.0, 2.0]);
        assert_eq!(all.tile(1..2, &mut scratch), [3.0, 4.0]);
        assert!(all.select(&[3]).is_err());
        assert!(Rows::all(&data, 4).is_err());
        assert!(Rows::all(&data, 0).is_err());
    }
}
