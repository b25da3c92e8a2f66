//! Embeddings that stayed in a GPU's memory, from the tower to heads, k-means and tiles.
//!
//! The rows that a batch leaves on the device are copied there into one matrix, in the order in which they are stored. It is an
//! aid, not a record: the stored rows are the same bytes, and whoever finds no matrix, or one without all rows, reads those. A
//! matrix that would leave the tower too little memory is given up, and later stages stream their blocks from the store.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::dedup::OnDevice;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::cuda::matrix::{DeviceMatrix, Precision};
use crate::ops::cuda::transfers::{self, Purpose};
use crate::ops::cuda::{Backend, CudaBackend};

/// Of the memory that is free when the tower has what it needs, the share that rows may take.
const SHARE: f64 = 0.5;

/// Rows of one run in order, on one card.
pub(super) struct Resident {
    pub card: &'static CudaBackend,
    pub matrix: DeviceMatrix<'static, CudaBackend>,
    /// The most rows that there may be.
    limit: usize,
}

impl std::fmt::Debug for Resident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Resident({} rows of {} on {:?})",
            self.matrix.len(),
            self.matrix.d(),
            self.card
        )
    }
}

/// How the matrix comes about while batches are embedded.
#[derive(Debug)]
pub(super) enum Gathering {
    /// No batch yet; so many rows are expected, if anybody knows.
    Empty(Option<u64>),
    Rows(Box<Resident>),
    /// Not on a device, or not all of it.
    GivenUp,
}

impl Gathering {
    /// Takes in the rows of a batch for which `keep` holds. Gives a line for the user when the matrix is given up for lack of memory.
    ///
    /// # Errors
    /// Those of the device, lack of memory aside.
    pub(super) fn take(&mut self, rows: Option<&Tensor>, keep: &[bool]) -> Result<Option<String>> {
        let Some(rows) = rows else {
            *self = Gathering::GivenUp;
            return Ok(None);
        };
        let taken = match self {
            Gathering::GivenUp => return Ok(None),
            Gathering::Rows(resident) => resident.append(rows, keep),
            Gathering::Empty(expected) => {
                Resident::begin(rows, *expected).and_then(|mut resident| {
                    resident.append(rows, keep)?;
                    *self = Gathering::Rows(Box::new(resident));
                    Ok(())
                })
            }
        };
        match taken {
            Err(e) if e.is_out_of_memory() => {
                *self = Gathering::GivenUp;
                Ok(Some(
                    "the embeddings outgrow the GPU's memory; later stages stream them in blocks"
                        .into(),
                ))
            }
            other => other.map(|()| None),
        }
    }

    /// A part that stood already is not on the device.
    pub(super) fn give_up(&mut self) {
        *self = Gathering::GivenUp;
    }

    pub(super) fn finish(self) -> Option<Resident> {
        match self {
            Gathering::Rows(resident) => Some(*resident),
            _ => None,
        }
    }
}

impl Resident {
    fn begin(rows: &Tensor, expected: Option<u64>) -> Result<Resident> {
        let card = CudaBackend::of(rows.device())?;
        let d = rows.dim(1)?;
        let (precision, bytes) = match rows.dtype() {
            DType::F16 => (Precision::Half, 2 * d),
            _ => (Precision::Single, 6 * d),
        };
        let limit = (card.free_bytes()? as f64 * SHARE) as usize / bytes;
        // A matrix that grows is for a while there twice.
        let capacity = match expected.and_then(|n| usize::try_from(n).ok()) {
            Some(n) => n,
            None => (limit / 4).min(1 << 20),
        };
        let resident = Resident {
            card,
            matrix: DeviceMatrix::with_capacity(card, capacity.min(limit), d, precision)?,
            limit,
        };
        Ok(resident)
    }

    fn append(&mut self, rows: &Tensor, keep: &[bool]) -> Result<()> {
        let (n, d) = rows.dims2()?;
        if keep.len() != n {
            return Err(Error::shape(
                "rows on the device",
                format!("{n} rows"),
                format!("{} verdicts", keep.len()),
            ));
        }
        let more = keep.iter().filter(|keep| **keep).count();
        if self.matrix.len() + more > self.limit {
            return Err(Error::Gpu {
                action: "gathering embeddings".into(),
                reason: format!("more than {} rows", self.limit),
                out_of_memory: true,
            });
        }
        let (rows, address) = self.card.operand(rows)?;
        let row = d * rows.dtype().size_in_bytes();
        for run in runs(keep) {
            self.matrix
                .append_device(address + (run.start * row) as u64, run.len())?;
        }
        Ok(())
    }

    /// Rows of the matrix as f32 `[n, d]` on the device.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are no such rows; those of the device.
    pub(super) fn rows(&self, range: Range<usize>) -> Result<Tensor> {
        let (n, d) = (range.len(), self.matrix.d());
        if range.end > self.matrix.len() || n == 0 {
            let got = format!("rows {range:?} of {}", self.matrix.len());
            return Err(Error::shape(
                "rows on the device",
                "rows of the matrix",
                got,
            ));
        }
        let (from, stride) = (
            self.matrix.exact_at(range.start),
            self.matrix.exact_stride(),
        );
        let dtype = match self.matrix.precision() {
            Precision::Half => DType::F16,
            Precision::Single => DType::F32,
        };
        let (copy, to) = self.card.result(&[n, stride], dtype)?;
        self.card
            .copy(from, to, n * stride * dtype.size_in_bytes())?;
        Ok(copy.narrow(1, 0, d)?.to_dtype(DType::F32)?)
    }
}

/// Where the rows of a set are when they are compared.
pub(super) enum Placed<'a> {
    /// On a card since they were embedded.
    Resident(&'a Resident),
    /// On a card now.
    Uploaded(DeviceMatrix<'static, CudaBackend>),
    /// In host memory, because the card has no room for them all.
    TooLarge(&'static CudaBackend),
    /// In host memory, compared on the CPU.
    Nowhere,
}

impl<'a> Placed<'a> {
    /// Brings rows `[n, d]` to the device where it is a card and they are not there yet.
    ///
    /// # Errors
    /// Those of the device, lack of memory aside.
    pub(super) fn of(
        device: &Device,
        resident: Option<&'a Resident>,
        rows: &[f32],
        d: usize,
    ) -> Result<Placed<'a>> {
        if !device.candle().is_cuda() {
            return Ok(Placed::Nowhere);
        }
        let n = rows.len() / d.max(1);
        if let Some(resident) = resident.filter(|resident| resident.matrix.len() == n) {
            return Ok(Placed::Resident(resident));
        }
        let card = CudaBackend::of(device.candle())?;
        // Blocks, candidates and sums want room beside them.
        let room = (card.free_bytes()? as f64 * SHARE) as usize;
        if n * d * 6 > room {
            return Ok(Placed::TooLarge(card));
        }
        let up = transfers::during(Purpose::Rows, || DeviceMatrix::from_rows(card, rows, d));
        match up {
            Ok(matrix) => Ok(Placed::Uploaded(matrix)),
            Err(e) if e.is_out_of_memory() => Ok(Placed::TooLarge(card)),
            Err(e) => Err(e),
        }
    }

    /// The same as the duplicate engine wants it.
    pub(super) fn on_device(&self) -> Option<OnDevice<'_>> {
        match self {
            Placed::Resident(resident) => Some(OnDevice::Resident(&resident.matrix)),
            Placed::Uploaded(matrix) => Some(OnDevice::Resident(matrix)),
            Placed::TooLarge(card) => Some(OnDevice::Streamed(card)),
            Placed::Nowhere => None,
        }
    }
}

/// The ranges of consecutive rows that are kept.
fn runs(keep: &[bool]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (row, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_rows_are_taken_in_runs() {
        assert_eq!(runs(&[]), Vec::<Range<usize>>::new());
        assert_eq!(runs(&[true, true, false, true]), vec![0..2, 3..4]);
        assert_eq!(runs(&[false, true, false]), vec![1..2]);
    }

    #[test]
    fn an_embedder_without_a_device_leaves_no_matrix() {
        let mut gathering = Gathering::Empty(Some(10));
        assert_eq!(gathering.take(None, &[true]).unwrap(), None);
        assert!(gathering.finish().is_none());
    }
}
