//! The rows that an op on the device works on, and how they come to it: in place, gathered, or uploaded block by block where the
//! matrix is larger than the device's memory. The results are the same bytes either way.

use std::ops::Range;

use super::launch::Backend;
use super::margin::Bounds;
use super::matrix::{
    DeviceMatrix, Precision, all_half, exact_stride, gather, prepare, stride_of, to_half,
};
use super::values::{allocate, download, upload, upload_to};
use crate::ops::rows::Rows;
use crate::{Error, Result};
use rayon::prelude::*;

/// How much an op may take at a time. Changes speed and memory, never a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Device memory for the blocks of rows that are not in place, in bytes; none: three quarters of what is free.
    pub block_bytes: Option<usize>,
    /// Candidates that device memory is set aside for, 16 bytes each. More than these are found in parts. Default 2^23.
    pub candidates: usize,
    /// Pairs held in host memory, 32 bytes each: a band of rows with more is done again in halves. Default 2^23.
    pub pairs: usize,
    /// Rows of a band at most: after each the caller is told. Default 32,768.
    pub band: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            block_bytes: None,
            candidates: 1 << 23,
            pairs: 1 << 23,
            band: 1 << 15,
        }
    }
}

/// Rows of a matrix on the device, or of one in host memory that is streamed to it. As in [`Rows`], a *position* counts along the view
/// and a *row* is the number in the matrix.
pub struct View<'a, 'b, B: Backend> {
    backend: &'b B,
    source: Source<'a, 'b, B>,
    precision: Precision,
}

enum Source<'a, 'b, B: Backend> {
    Resident(&'a DeviceMatrix<'b, B>, Option<&'a [u64]>),
    Streamed(Rows<'a>),
}

impl<B: Backend> Clone for View<'_, '_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for View<'_, '_, B> {}
impl<B: Backend> Clone for Source<'_, '_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Source<'_, '_, B> {}

/// Consecutive positions of a view on the device.
pub(crate) struct Block<B: Backend> {
    pub(crate) part: Part,
    /// What the addresses point into, where it is not the matrix itself.
    _memory: Vec<B::Buffer>,
}

/// Addresses of consecutive positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// `[rows, stride]` f16.
    pub(crate) half: u64,
    /// Exact values, through `ids` if that is not 0.
    pub(crate) exact: u64,
    pub(crate) ids: u64,
    pub(crate) rows: usize,
    /// The position of the first row in the view.
    pub(crate) first: usize,
    stride: usize,
    pub(crate) exact_stride: usize,
    precision: Precision,
}

impl Part {
    /// Some of the rows, counted from the part's own first.
    pub(crate) fn slice(&self, rows: Range<usize>) -> Part {
        let bytes = |values: usize, each: usize| (values * each) as u64;
        let mut part = *self;
        part.half += bytes(rows.start * self.stride, 2);
        if self.ids == 0 {
            let each = match self.precision {
                Precision::Half => 2,
                Precision::Single => 4,
            };
            part.exact += bytes(rows.start * self.exact_stride, each);
        } else {
            part.ids += bytes(rows.start, 8);
        }
        part.first += rows.start;
        part.rows = rows.len();
        part
    }
}

impl<'a, 'b, B: Backend> View<'a, 'b, B> {
    /// All rows of a matrix.
    pub fn all(matrix: &'a DeviceMatrix<'b, B>) -> Self {
        View {
            backend: matrix.backend(),
            source: Source::Resident(matrix, None),
            precision: matrix.precision(),
        }
    }

    /// The rows that `index` lists, in its order.
    ///
    /// # Errors
    /// [`Error::Shape`] when a number in `index` is not a row.
    pub fn select(matrix: &'a DeviceMatrix<'b, B>, index: &'a [u64]) -> Result<Self> {
        let n = matrix.len() as u64;
        if let Some(row) = index.iter().find(|&&row| row >= n) {
            return Err(Error::shape(
                "rows on the device",
                format!("row numbers below {n}"),
                format!("row {row}"),
            ));
        }
        Ok(View {
            backend: matrix.backend(),
            source: Source::Resident(matrix, Some(index)),
            precision: matrix.precision(),
        })
    }

    /// Rows in host memory, uploaded block by block whenever an op needs them.
    pub fn streamed(backend: &'b B, rows: Rows<'a>) -> Self {
        let half = (0..rows.len())
            .into_par_iter()
            .all(|p| all_half(rows.values(p)));
        View {
            backend,
            source: Source::Streamed(rows),
            precision: if half {
                Precision::Half
            } else {
                Precision::Single
            },
        }
    }

    /// The positions that `index` lists, ascending or not, as a view of their rows. `rows` gets the row numbers.
    pub(crate) fn reselect<'c>(&self, index: &[u64], rows: &'c mut Vec<u64>) -> View<'c, 'b, B>
    where
        'a: 'c,
    {
        rows.extend(index.iter().map(|&p| self.row_at(p as usize)));
        let source = match self.source {
            Source::Resident(matrix, _) => Source::Resident(matrix, Some(rows)),
            Source::Streamed(all) => Source::Streamed(
                all.select(rows)
                    .expect("the rows of a view are rows of its matrix"),
            ),
        };
        View {
            backend: self.backend,
            source,
            precision: self.precision,
        }
    }

    /// The number of positions n.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Resident(_, Some(index)) => index.len(),
            Source::Resident(matrix, None) => matrix.len(),
            Source::Streamed(rows) => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of values d in a row.
    pub fn d(&self) -> usize {
        match &self.source {
            Source::Resident(matrix, _) => matrix.d(),
            Source::Streamed(rows) => rows.d(),
        }
    }

    /// The row number at a position.
    pub fn row_at(&self, position: usize) -> u64 {
        match &self.source {
            Source::Resident(_, Some(index)) => index[position],
            Source::Resident(_, None) => position as u64,
            Source::Streamed(rows) => rows.row_at(position),
        }
    }

    /// The matrix on the device, unless the rows are streamed.
    pub(crate) fn resident(&self) -> Option<&'a DeviceMatrix<'b, B>> {
        match self.source {
            Source::Resident(matrix, _) => Some(matrix),
            Source::Streamed(_) => None,
        }
    }

    /// The rows in host memory, where they are streamed.
    pub(crate) fn in_host_memory(&self) -> Option<Rows<'a>> {
        match self.source {
            Source::Streamed(rows) => Some(rows),
            Source::Resident(..) => None,
        }
    }

    pub(crate) fn backend(&self) -> &'b B {
        self.backend
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn stride(&self) -> usize {
        stride_of(self.d())
    }

    /// Positions that a block may have when `blocks` of them are in memory at a time; at least 1, and few enough to be counted in
    /// 31 bits.
    pub(crate) fn block_rows(&self, budget: &Budget, blocks: usize) -> Result<usize> {
        let all = self.len().clamp(1, i32::MAX as usize);
        let each = match (&self.source, self.precision) {
            (Source::Resident(_, None), _) => return Ok(all),
            (Source::Resident(_, Some(_)), _) => self.stride() * 2 + 8,
            (Source::Streamed(_), Precision::Half) => self.stride() * 2,
            (Source::Streamed(_), Precision::Single) => self.stride() * 2 + self.d() * 4,
        };
        let bytes = match budget.block_bytes {
            Some(bytes) => bytes,
            None => self.backend.free_bytes()? / 4 * 3,
        };
        Ok((bytes / (blocks * each)).clamp(1, all))
    }

    /// Consecutive positions on the device.
    pub(crate) fn block(&self, positions: Range<usize>) -> Result<Block<B>> {
        self.block_with_bounds(positions, None)
    }

    fn block_with_bounds(
        &self,
        positions: Range<usize>,
        bounds: Option<&B::Buffer>,
    ) -> Result<Block<B>> {
        let (backend, d, stride) = (self.backend, self.d(), self.stride());
        let mut part = Part {
            half: 0,
            exact: 0,
            ids: 0,
            rows: positions.len(),
            first: positions.start,
            stride,
            exact_stride: exact_stride(self.precision, d),
            precision: self.precision,
        };
        let mut memory = Vec::new();
        match &self.source {
            Source::Resident(matrix, None) => {
                part.half = matrix.half_at(positions.start);
                part.exact = matrix.exact_at(positions.start);
            }
            Source::Resident(matrix, Some(index)) => {
                let ids: Vec<i64> = index[positions].iter().map(|&row| row as i64).collect();
                let ids = upload(backend, &ids)?;
                let half = allocate::<B, half::f16>(backend, part.rows * stride)?;
                (part.ids, part.half) = (backend.address(&ids), backend.address(&half));
                part.exact = matrix.exact_at(0);
                gather(
                    backend,
                    matrix.half_at(0),
                    part.ids,
                    part.rows,
                    stride,
                    part.half,
                )?;
                memory = vec![ids, half];
            }
            Source::Streamed(rows) => {
                let mut scratch = Vec::new();
                let values = rows.tile(positions, &mut scratch);
                let own_bounds;
                let bounds = match bounds {
                    Some(bounds) => bounds,
                    None => {
                        own_bounds = upload(backend, &[0u64; 2])?;
                        &own_bounds
                    }
                };
                let mut half = allocate::<B, half::f16>(backend, part.rows * stride)?;
                part.half = backend.address(&half);
                if self.precision == Precision::Half && d == stride {
                    upload_to(backend, &to_half(values), &mut half)?;
                    part.exact = part.half;
                    prepare(
                        backend,
                        self.precision,
                        part.half,
                        part.rows,
                        d,
                        0,
                        0,
                        bounds,
                    )?;
                    memory.push(half);
                } else {
                    let given = match self.precision {
                        Precision::Half => upload(backend, &to_half(values))?,
                        Precision::Single => upload(backend, values)?,
                    };
                    let from = backend.address(&given);
                    prepare(
                        backend,
                        self.precision,
                        from,
                        part.rows,
                        d,
                        part.half,
                        0,
                        bounds,
                    )?;
                    part.exact = match self.precision {
                        Precision::Half => part.half,
                        Precision::Single => from,
                    };
                    memory.extend([half, given]);
                }
            }
        }
        Ok(Block {
            part,
            _memory: memory,
        })
    }

    /// What is known of all rows: for a streamed view after a pass over them.
    pub(crate) fn bounds(&self, budget: &Budget) -> Result<Bounds> {
        match &self.source {
            Source::Resident(matrix, _) => matrix.bounds(),
            Source::Streamed(rows) => {
                let bounds = upload(self.backend, &[0u64; 2])?;
                let step = self.block_rows(budget, 1)?;
                for start in (0..rows.len()).step_by(step) {
                    let positions = start..(start + step).min(rows.len());
                    self.block_with_bounds(positions, Some(&bounds))?;
                }
                let bits = download::<B, u64>(self.backend, &bounds, 2)?;
                Bounds::from_bits([bits[0], bits[1]])
            }
        }
    }
}
