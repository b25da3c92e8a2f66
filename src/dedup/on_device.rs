//! The duplicate engine's three searches over rows that a GPU holds, or that are streamed to it: the same results as on the CPU, bit
//! for bit, because every decision there is made by the same canonical arithmetic.
//!
//! Written over [`Backend`], so that the emulator of the tests runs it too.

use std::ops::Range;

use rayon::prelude::*;

use super::exact;
use crate::error::Result;
use crate::ops::assign::Assignment;
use crate::ops::cuda::accumulate::{self, Accumulator};
use crate::ops::cuda::identical::first_identical;
use crate::ops::cuda::matrix::Precision;
use crate::ops::cuda::transfers::{self, Purpose};
use crate::ops::cuda::{Backend, Budget, CudaBackend, DeviceMatrix, View, assign, tile};
use crate::ops::dot;
use crate::ops::rows::Rows;
use crate::ops::tile::{Match, Pair};
use candle_core::DType;

/// Where rows in host memory are on a device.
pub enum OnDevice<'a, B: Backend = CudaBackend> {
    /// All of them, in the same order.
    Resident(&'a DeviceMatrix<'a, B>),
    /// Nowhere yet: they are more than it holds, and go up in blocks when an op needs them.
    Streamed(&'a B),
}

impl<B: Backend> Clone for OnDevice<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for OnDevice<'_, B> {}

impl<B: Backend> std::fmt::Debug for OnDevice<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            OnDevice::Resident(_) => "Resident",
            OnDevice::Streamed(_) => "Streamed",
        })
    }
}

impl<'a, B: Backend> OnDevice<'a, B> {
    fn backend(&self) -> &'a B {
        match self {
            OnDevice::Resident(matrix) => matrix.backend(),
            OnDevice::Streamed(backend) => backend,
        }
    }

    /// The rows that `index` lists, of the rows `host` `[n, d]` that these are twins of.
    fn select<'v>(&self, host: Rows<'v>, index: &'v [u64]) -> Result<View<'v, 'v, B>>
    where
        'a: 'v,
    {
        let ascending = || index.iter().enumerate().all(|(at, row)| *row == at as u64);
        if index.len() == host.len() && ascending() {
            return Ok(self.all(host));
        }
        match *self {
            OnDevice::Resident(matrix) => View::select(matrix, index),
            OnDevice::Streamed(backend) => Ok(View::streamed(backend, host.select(index)?)),
        }
    }

    fn all<'v>(&self, host: Rows<'v>) -> View<'v, 'v, B>
    where
        'a: 'v,
    {
        match *self {
            OnDevice::Resident(matrix) => View::all(matrix),
            OnDevice::Streamed(backend) => View::streamed(backend, host),
        }
    }

    /// Whether the rows on the device are those in host memory, as far as their number tells.
    pub(super) fn fits(&self, host: Rows) -> Result<()> {
        match self {
            OnDevice::Resident(matrix) if (matrix.len(), matrix.d()) != (host.len(), host.d()) => {
                Err(crate::Error::shape(
                    "duplicates on a device",
                    format!("[{}, {}] rows on the device", host.len(), host.d()),
                    format!("[{}, {}]", matrix.len(), matrix.d()),
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Pairs inside groups: `index` lists the rows group after group, ascending inside each; `ends` are the groups' ends in it. What
/// [`exact::ExactPairs`] finds in each group, one group after the other; with each block the pairs of rows compared for it.
///
/// Memory beyond the rows: 64 bytes a row, and the budget's of [`tile::pairs_above_in_groups`].
///
/// # Errors
/// [`crate::Error::Shape`] for indices or groups that are none; those of the device, and the first of `visit`.
pub fn visit_pairs<B: Backend>(
    device: OnDevice<B>,
    host: Rows,
    index: &[u64],
    ends: &[usize],
    threshold: f64,
    mut visit: impl FnMut(&[Pair], u64) -> Result<()>,
) -> Result<exact::Info> {
    let budget = Budget::default();
    let first = transfers::during(Purpose::Rows, || {
        first_identical(device.select(host, index)?, ends, &budget)
    })?;
    // Of those that stand for a class the places in `index`; (first, twin) of all others, by first.
    let (mut distinct, mut twins) = (Vec::new(), Vec::new());
    for (place, &f) in first.iter().enumerate() {
        match f == place as u64 {
            true => distinct.push(place),
            false => twins.push((f as usize, place)),
        }
    }
    drop(first);
    twins.par_sort_unstable();
    let mut info = exact::Info {
        rows: index.len() as u64,
        distinct: distinct.len() as u64,
        pairs: 0,
    };
    let rows: Vec<u64> = distinct.iter().map(|&place| index[place]).collect();
    let distinct_ends: Vec<usize> = ends
        .iter()
        .map(|&end| distinct.partition_point(|&place| place < end))
        .collect();
    let place_of = match twins.is_empty() {
        true => Vec::new(),
        false => inverse(index),
    };
    let mut waiting = twins.as_slice();
    let mut block = |positions: Range<usize>, pairs: &mut Vec<Pair>| -> Result<()> {
        let last = distinct[positions.end - 1];
        let (now, later) = waiting.split_at(waiting.partition_point(|&(f, _)| f <= last));
        waiting = later;
        if !now.is_empty() {
            pairs.par_extend(now.par_iter().map(|&(f, twin)| {
                let row = host.values(index[f] as usize);
                Pair {
                    a: index[f],
                    b: index[twin],
                    cosine: dot::cosine(row, row),
                    identical: true,
                }
            }));
            // Groups one after the other, which their places tell.
            pairs.par_sort_unstable_by_key(|pair| (place_of[pair.a as usize], pair.b));
        }
        info.pairs += pairs.len() as u64;
        visit(pairs, compared(&distinct_ends, positions))
    };
    transfers::during(Purpose::Rows, || {
        let view = device.select(host, &rows)?;
        tile::pairs_above_in_groups(view, &distinct_ends, threshold, &budget, &mut block)
    })?;
    Ok(info)
}

/// For each row its place in the index; rows that it does not list have none.
fn inverse(index: &[u64]) -> Vec<u64> {
    let rows = index.iter().max().map_or(0, |last| *last as usize + 1);
    let mut places = vec![u64::MAX; rows];
    for (place, &row) in index.iter().enumerate() {
        places[row as usize] = place as u64;
    }
    places
}

/// Pairs of each position of a range with the later ones of its group.
fn compared(ends: &[usize], positions: Range<usize>) -> u64 {
    let mut pairs = 0;
    let mut start = positions.start;
    let mut group = ends.partition_point(|&end| end <= start);
    while start < positions.end && group < ends.len() {
        let end = ends[group];
        let here = end.min(positions.end);
        let later = |position: usize| exact::triangle((end - position) as u64);
        pairs += later(start) - later(here);
        start = here;
        group += 1;
    }
    pairs
}

/// For each entry of `index`, group after group, its best match among the entries before it in its group: what
/// [`crate::ops::tile::best_earlier`] finds in each.
///
/// # Errors
/// [`crate::Error::Shape`] for indices or groups that are none; those of the device.
pub fn best_earlier<B: Backend>(
    device: OnDevice<B>,
    host: Rows,
    index: &[u64],
    ends: &[usize],
) -> Result<Vec<Match>> {
    transfers::during(Purpose::Rows, || {
        tile::best_earlier(device.select(host, index)?, ends, &Budget::default())
    })
}

/// What Lloyd's iterations need, over rows on a device: assignments, and the sums of the rows of each label.
pub(super) struct Lloyd<'a, B: Backend> {
    device: OnDevice<'a, B>,
    host: Rows<'a>,
    /// The rows that are fitted, where they are not all.
    sample: Option<&'a [u64]>,
    centroids: DeviceMatrix<'a, B>,
    sums: Option<Sums<B>>,
}

/// Memory for sums by label over all rows of a resident matrix.
struct Sums<B: Backend> {
    accumulator: Accumulator<B>,
    labels: B::Buffer,
    /// f64 `[k, d]`
    sums: B::Buffer,
    /// i64 `[k]`
    counts: B::Buffer,
}

impl<'a, B: Backend> Lloyd<'a, B> {
    /// For k centroids over all rows, or those of a sample.
    pub(super) fn new(
        device: OnDevice<'a, B>,
        host: Rows<'a>,
        sample: Option<&'a [u64]>,
        k: usize,
    ) -> Result<Self> {
        let (backend, d) = (device.backend(), host.d());
        let sums = match (device, sample) {
            (OnDevice::Resident(matrix), None) => Some(Sums {
                accumulator: Accumulator::new(backend, matrix.len(), d, k)?,
                labels: backend.allocate(4 * matrix.len())?,
                sums: backend.allocate(8 * k * d)?,
                counts: backend.allocate(8 * k)?,
            }),
            _ => None,
        };
        Ok(Lloyd {
            device,
            host,
            sample,
            centroids: DeviceMatrix::with_capacity(backend, k, d, Precision::Single)?,
            sums,
        })
    }

    /// What [`crate::ops::assign::assign`] gives for the fitted rows.
    pub(super) fn assign(&mut self, centroids: &[f32]) -> Result<Assignment> {
        self.take(centroids)?;
        match self.sample {
            None => self.run(self.device.all(self.host)),
            Some(sample) => self.run(self.device.select(self.host, sample)?),
        }
    }

    /// The same for all rows, fitted or not.
    pub(super) fn assign_all(&mut self, centroids: &[f32]) -> Result<Assignment> {
        self.take(centroids)?;
        self.run(self.device.all(self.host))
    }

    fn take(&mut self, centroids: &[f32]) -> Result<()> {
        self.centroids.clear()?;
        self.centroids.append_rows(centroids)
    }

    fn run(&self, rows: View<B>) -> Result<Assignment> {
        let work = || assign::assign(rows, &self.centroids, &Budget::default());
        match self.device {
            // Labels and distances come down; no row goes up.
            OnDevice::Resident(_) => work(),
            OnDevice::Streamed(_) => transfers::during(Purpose::Rows, work),
        }
    }

    /// The sums f64 `[k, d]` of the rows of each label, in ascending order of rows; none where the rows are not all on the device.
    pub(super) fn sums(&mut self, labels: &[u32]) -> Result<Option<Vec<f64>>> {
        let (OnDevice::Resident(matrix), Some(memory)) = (self.device, &mut self.sums) else {
            return Ok(None);
        };
        let backend = matrix.backend();
        backend.upload(bytemuck::cast_slice(labels), &mut memory.labels)?;
        let rows = accumulate::Rows {
            x: matrix.exact_at(0),
            dtype: match matrix.precision() {
                Precision::Half => DType::F16,
                Precision::Single => DType::F32,
            },
            stride: matrix.exact_stride(),
            labels: backend.address(&memory.labels),
        };
        let (sums, counts) = (
            backend.address(&memory.sums),
            backend.address(&memory.counts),
        );
        memory.accumulator.run(backend, &rows, sums, counts)?;
        let mut found = vec![0f64; self.centroids.len() * matrix.d()];
        backend.download(&memory.sums, 0, bytemuck::cast_slice_mut(&mut found))?;
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_of_blocks_add_up_to_those_of_the_groups() {
        let ends = [4, 4, 5, 12];
        // Groups of four, none, one and seven.
        let whole = 6 + 21;
        assert_eq!(compared(&ends, 0..12), whole);
        for cut in 0..=12 {
            let sum = compared(&ends, 0..cut) + compared(&ends, cut..12);
            assert_eq!(sum, whole, "cut at {cut}");
        }
        assert_eq!(compared(&ends, 0..1), 3);
        assert_eq!(compared(&[], 0..0), 0);
    }

    #[test]
    fn places_are_found_again() {
        assert_eq!(inverse(&[5, 0, 3]), [1, u64::MAX, u64::MAX, 2, u64::MAX, 0]);
    }
}
