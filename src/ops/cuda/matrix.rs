//! Unit rows in device memory: what k-means and the cosine tiles work on from the tower to the decisions.

use half::f16;
use rayon::prelude::*;

use super::launch::{Arg, Backend, Launch};
use super::margin::Bounds;
use super::values::{allocate, download, upload_to};
use crate::{Error, Result};

/// Values uploaded at a time.
const STAGED_VALUES: usize = 1 << 24;

/// What the exact values of a matrix are kept in. Candidates always come from copies in f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f16: the copies are the rows themselves, 2 bytes a value.
    Half,
    /// f32 beside the copies, 6 bytes a value.
    Single,
}

impl Precision {
    /// The least that keeps these values as they are.
    pub fn of(values: &[f32]) -> Precision {
        if values.par_chunks(1 << 16).all(all_half) {
            Precision::Half
        } else {
            Precision::Single
        }
    }

    /// The end of the names of the kernels that read exact values.
    pub(crate) fn choose(self, half: &'static str, single: &'static str) -> &'static str {
        match self {
            Precision::Half => half,
            Precision::Single => single,
        }
    }
}

/// The number of values from one row's copy in f16 to the next: d to the next multiple of 8, so that a row begins at a multiple of
/// 16 bytes.
pub(crate) fn stride_of(d: usize) -> usize {
    d.next_multiple_of(8)
}

/// Blocks of 256 threads for a kernel in which `threads_an_item` threads take an item at a time and any grid will do.
pub(crate) fn grid_for<B: Backend>(backend: &B, items: usize, threads_an_item: usize) -> u32 {
    let blocks = (items * threads_an_item).div_ceil(256).max(1);
    // Eight such blocks fill a multiprocessor.
    blocks.min(8 * backend.multiprocessors().max(1) as usize) as u32
}

/// n rows of d values in device memory, with room for more.
pub struct DeviceMatrix<'b, B: Backend> {
    backend: &'b B,
    n: usize,
    d: usize,
    capacity: usize,
    precision: Precision,
    /// `[capacity, stride]` f16.
    half: B::Buffer,
    /// `[capacity, d]` f32, where the precision asks for it.
    single: Option<B::Buffer>,
    /// `[2]` f64: greatest squares, see [`Bounds`].
    bounds: B::Buffer,
}

impl<'b, B: Backend> DeviceMatrix<'b, B> {
    /// No rows yet, and memory for `capacity` of them: `2 ⌈d⌉₈` bytes each, and `4 d` more where they are kept in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] for d = 0; those of the device, where memory is short.
    pub fn with_capacity(
        backend: &'b B,
        capacity: usize,
        d: usize,
        precision: Precision,
    ) -> Result<Self> {
        check_d(d)?;
        let mut bounds = allocate::<B, u64>(backend, 2)?;
        backend.zero(&mut bounds)?;
        let (half, single) = Self::memory(backend, capacity, d, precision)?;
        Ok(DeviceMatrix {
            backend,
            n: 0,
            d,
            capacity,
            precision,
            half,
            single,
            bounds,
        })
    }

    fn memory(
        backend: &B,
        capacity: usize,
        d: usize,
        precision: Precision,
    ) -> Result<(B::Buffer, Option<B::Buffer>)> {
        let half = allocate::<B, f16>(backend, capacity * stride_of(d))?;
        let single = match precision {
            Precision::Half => None,
            // To a multiple of 16 bytes, in which it is moved when it grows.
            Precision::Single => Some(allocate::<B, f32>(
                backend,
                (capacity * d).next_multiple_of(4),
            )?),
        };
        Ok((half, single))
    }

    /// The rows of `rows` `[n, d]`, in the least precision that keeps them as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] where the values are no rows of d; those of the device.
    pub fn from_rows(backend: &'b B, rows: &[f32], d: usize) -> Result<Self> {
        check_d(d)?;
        let mut matrix = Self::with_capacity(backend, rows.len() / d, d, Precision::of(rows))?;
        matrix.append_rows(rows)?;
        Ok(matrix)
    }

    /// Uploads rows `[m, d]` behind those that there are, in blocks of 64 MiB at most.
    ///
    /// # Errors
    /// [`Error::Shape`] where the values are no rows of d, or no f16 values in a matrix of [`Precision::Half`]; those of the
    /// device.
    pub fn append_rows(&mut self, rows: &[f32]) -> Result<()> {
        if !rows.len().is_multiple_of(self.d) {
            return Err(Error::shape(
                "a matrix on the device",
                format!("rows of {} values", self.d),
                format!("{} values", rows.len()),
            ));
        }
        if self.precision == Precision::Half && Precision::of(rows) != Precision::Half {
            return Err(Error::shape(
                "a matrix on the device",
                "f16 values, as the matrix keeps no others",
                "values that f16 would round",
            ));
        }
        self.reserve(rows.len() / self.d)?;
        let block = (STAGED_VALUES / self.d).max(1) * self.d;
        let mut staging = allocate::<B, f32>(self.backend, rows.len().min(block))?;
        for rows in rows.chunks(block) {
            match self.precision {
                Precision::Half => upload_to(self.backend, &to_half(rows), &mut staging)?,
                Precision::Single => upload_to(self.backend, rows, &mut staging)?,
            }
            self.append_device(self.backend.address(&staging), rows.len() / self.d)?;
        }
        Ok(())
    }

    /// Takes in `rows` rows `[rows, d]` that are on the device already, f16 or f32 as the matrix' precision says, behind those that
    /// there are. They are copied, without a synchronisation.
    ///
    /// # Errors
    /// Those of the device.
    pub fn append_device(&mut self, address: u64, rows: usize) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        self.reserve(rows)?;
        let exact = match &self.single {
            Some(single) => self.backend.address(single) + (self.n * self.d * 4) as u64,
            None => 0,
        };
        prepare(
            self.backend,
            self.precision,
            address,
            rows,
            self.d,
            self.half_at(self.n),
            exact,
            &self.bounds,
        )?;
        self.n += rows;
        Ok(())
    }

    /// Makes room for this many more rows: half as much again as is needed, so that appending stays linear.
    fn reserve(&mut self, more: usize) -> Result<()> {
        let needed = self.n + more;
        if needed <= self.capacity {
            return Ok(());
        }
        let capacity = needed + self.n / 2;
        let (half, single) = Self::memory(self.backend, capacity, self.d, self.precision)?;
        let copy = |from: &B::Buffer, to: &B::Buffer, bytes: usize| {
            let (from, to) = (self.backend.address(from), self.backend.address(to));
            gather(self.backend, from, 0, bytes.div_ceil(16), 8, to)
        };
        copy(&self.half, &half, self.n * stride_of(self.d) * 2)?;
        if let (Some(from), Some(to)) = (&self.single, &single) {
            copy(from, to, self.n * self.d * 4)?;
        }
        (self.half, self.single, self.capacity) = (half, single, capacity);
        Ok(())
    }

    /// Forgets all rows and keeps the memory: for centroids, which come anew in each iteration.
    ///
    /// # Errors
    /// Those of the device.
    pub fn clear(&mut self) -> Result<()> {
        self.n = 0;
        self.backend.zero(&mut self.bounds)
    }

    /// The number of rows n.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The number of values d in a row.
    pub fn d(&self) -> usize {
        self.d
    }

    /// What the exact values are kept in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Where the memory is.
    pub fn backend(&self) -> &'b B {
        self.backend
    }

    /// Greatest length and rounding error of the rows so far. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Shape`] where a value is not finite; those of the device.
    pub fn bounds(&self) -> Result<Bounds> {
        let bits = download::<B, u64>(self.backend, &self.bounds, 2)?;
        Bounds::from_bits([bits[0], bits[1]])
    }

    /// The address of a row's copy in f16.
    pub(crate) fn half_at(&self, row: usize) -> u64 {
        self.backend.address(&self.half) + (row * stride_of(self.d) * 2) as u64
    }

    /// The address of a row's exact values.
    pub(crate) fn exact_at(&self, row: usize) -> u64 {
        match &self.single {
            Some(single) => self.backend.address(single) + (row * self.d * 4) as u64,
            None => self.half_at(row),
        }
    }

    /// The number of exact values from one row to the next.
    pub(crate) fn exact_stride(&self) -> usize {
        exact_stride(self.precision, self.d)
    }
}

/// The number of exact values from one row to the next.
pub(crate) fn exact_stride(precision: Precision, d: usize) -> usize {
    match precision {
        Precision::Half => stride_of(d),
        Precision::Single => d,
    }
}

/// Whether f16 keeps all values as they are.
pub(crate) fn all_half(values: &[f32]) -> bool {
    let exact = |x: &f32| f16::from_f32(*x).to_f32().to_bits() == x.to_bits();
    values.iter().all(exact)
}

fn check_d(d: usize) -> Result<()> {
    if (1..1 << 30).contains(&d) {
        return Ok(());
    }
    Err(Error::shape(
        "a matrix on the device",
        "rows of at least one value",
        format!("rows of {d}"),
    ))
}

/// Values rounded to f16.
pub(crate) fn to_half(values: &[f32]) -> Vec<f16> {
    values.par_iter().map(|&x| f16::from_f32(x)).collect()
}

/// The f16 copies, and the exact copy unless its address is 0, of rows on the device.
#[allow(clippy::too_many_arguments, reason = "the parameters of one kernel")]
pub(crate) fn prepare<B: Backend>(
    backend: &B,
    precision: Precision,
    from: u64,
    rows: usize,
    d: usize,
    half: u64,
    exact: u64,
    bounds: &B::Buffer,
) -> Result<()> {
    backend.launch(&Launch {
        module: "matrix",
        function: precision.choose("prepare_rows_f16", "prepare_rows_f32"),
        grid: [grid_for(backend, rows, 32), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            Arg::Pointer(from),
            Arg::I64(rows as i64),
            Arg::I32(d as i32),
            Arg::I32(stride_of(d) as i32),
            Arg::Pointer(half),
            Arg::Pointer(exact),
            Arg::Pointer(backend.address(bounds)),
        ],
    })
}

/// Copies the rows that `ids` (an address, 0 for the first ones) lists; `stride` is a multiple of 8 f16 values.
pub(crate) fn gather<B: Backend>(
    backend: &B,
    from: u64,
    ids: u64,
    rows: usize,
    stride: usize,
    to: u64,
) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    backend.launch(&Launch {
        module: "matrix",
        function: "gather_rows",
        grid: [grid_for(backend, rows, stride / 8), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            Arg::Pointer(from),
            Arg::Pointer(ids),
            Arg::I64(rows as i64),
            Arg::I32(stride as i32),
            Arg::Pointer(to),
        ],
    })
}

/// Sets a buffer's words of four bytes to `[even, odd]` in turn, on the device.
pub(crate) fn fill<B: Backend>(
    backend: &B,
    buffer: &B::Buffer,
    words: usize,
    [even, odd]: [u32; 2],
) -> Result<()> {
    if words == 0 {
        return Ok(());
    }
    backend.launch(&Launch {
        module: "matrix",
        function: "fill_words",
        grid: [grid_for(backend, words, 1), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            Arg::Pointer(backend.address(buffer)),
            Arg::I64(words as i64),
            Arg::I32(even as i32),
            Arg::I32(odd as i32),
        ],
    })
}
