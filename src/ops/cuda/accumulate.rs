//! The op of `kernels/accumulate.cu`: the device's [`accumulate`](crate::ops::accumulate::accumulate), with its bits.

use candle_core::DType;

use super::{Arg, Backend, Launch, check};
use crate::error::{Error, Result};

const OP: &str = "accumulate on the device";
/// Rows that are ranked among each other, entries that a block scans: as `kernels/accumulate.cu` has them.
const CHUNK_ROWS: usize = 1024;
const SCAN: usize = 1024;
/// Labels along y of the grid, also as there.
const GRID_LABELS: usize = 8192;

/// The rows that are summed.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// `[n, d]` of `dtype`.
    pub x: u64,
    /// f32, f16 or bf16.
    pub dtype: DType,
    /// Elements from a row to the next, at least d.
    pub stride: usize,
    /// u32 `[n]`. A row whose label is k or more belongs to no sum.
    pub labels: u64,
}

/// Sums of rows by label on a device, for matrices of one shape: scratch memory is allocated once.
///
/// Scratch memory: 4 bytes for each of 2n + k·ceil(n / 1,024) entries and a few more.
pub struct Accumulator<B: Backend> {
    n: usize,
    d: usize,
    k: usize,
    chunks: usize,
    ranks: B::Buffer,
    places: B::Buffer,
    totals: B::Buffer,
    sorted: B::Buffer,
}

impl<B: Backend> Accumulator<B> {
    /// For n rows of d elements with labels below k.
    ///
    /// # Errors
    /// [`Error::Shape`] where one is 0, or n or k·ceil(n / 1,024) does not fit into 32 bits; where there is no memory.
    pub fn new(backend: &B, n: usize, d: usize, k: usize) -> Result<Accumulator<B>> {
        for (name, size) in [("n", n), ("d", d), ("k", k)] {
            check::size(OP, name, size)?;
        }
        let chunks = n.div_ceil(CHUNK_ROWS);
        let entries = chunks.checked_mul(k).and_then(|e| u32::try_from(e).ok());
        if u32::try_from(n).is_err() || entries.is_none() {
            let expected = "fewer than 2^32 rows, and labels times 1,024-row chunks";
            return Err(Error::shape(OP, expected, format!("n {n}, k {k}")));
        }
        check::extent(OP, &[n, d])?;
        check::extent(OP, &[k, d])?;
        let entries = chunks * k;
        Ok(Accumulator {
            n,
            d,
            k,
            chunks,
            ranks: backend.allocate(4 * n)?,
            places: backend.allocate(4 * (entries + 1))?,
            totals: backend.allocate(4 * entries.div_ceil(SCAN))?,
            sorted: backend.allocate(4 * n)?,
        })
    }

    /// Sums the rows of each label in f64, in ascending order of rows, one after another, and counts them.
    ///
    /// sums: f64 `[k, d]`; counts: i64 `[k]`. The work is put on the backend's stream.
    ///
    /// # Errors
    /// [`Error::Shape`] where the stride is below d, an address is none, or the dtype is another; those of the backend.
    pub fn run(&mut self, backend: &B, rows: &Rows, sums: u64, counts: u64) -> Result<()> {
        let launches = self.launches(backend, rows, sums, counts)?;
        backend.zero(&mut self.places)?;
        launches
            .iter()
            .try_for_each(|launch| backend.launch(launch))
    }

    fn launches(&self, backend: &B, rows: &Rows, sums: u64, counts: u64) -> Result<Vec<Launch>> {
        let function = match rows.dtype {
            DType::F32 => "label_sums_f32",
            DType::F16 => "label_sums_f16",
            DType::BF16 => "label_sums_bf16",
            other => return check::no_kernel(OP, &[other]),
        };
        if rows.stride < self.d {
            let expected = format!("rows at least d = {} elements apart", self.d);
            return Err(Error::shape(OP, expected, rows.stride.to_string()));
        }
        check::extent(OP, &[self.n, rows.stride])?;
        let element = rows.dtype.size_in_bytes();
        let labels = check::address(OP, "labels", rows.labels, 4)?;
        let x = check::address(OP, "x", rows.x, element)?;
        let sums = check::address(OP, "sums", sums, 8)?;
        let counts = check::address(OP, "counts", counts, 8)?;
        let of = |buffer| Arg::Pointer(backend.address(buffer));
        let (ranks, places) = (of(&self.ranks), of(&self.places));
        let (totals, sorted) = (of(&self.totals), of(&self.sorted));
        let size = |value: usize| Arg::I64(value as i64);
        let (n, k, chunks) = (size(self.n), size(self.k), size(self.chunks));
        let entries = self.chunks * self.k;
        let segments = entries.div_ceil(SCAN);

        let launch = |function, grid, threads, args| Launch {
            module: "accumulate",
            function,
            grid,
            block: [threads, 1, 1],
            shared_bytes: 0,
            args,
        };
        let along_x =
            |blocks: usize| -> Result<[u32; 3]> { Ok([check::blocks(OP, blocks, 1)?, 1, 1]) };
        let label_grid = [
            check::blocks(OP, self.d, 128)?,
            self.k.min(GRID_LABELS) as u32,
            check::blocks(OP, self.k, GRID_LABELS)?,
        ];
        Ok(vec![
            launch(
                "label_ranks",
                along_x(self.chunks)?,
                256,
                vec![labels, ranks, places, n, k, chunks],
            ),
            launch(
                "scan_sums",
                along_x(segments)?,
                256,
                vec![places, totals, size(entries)],
            ),
            launch(
                "scan_totals",
                [1, 1, 1],
                256,
                vec![totals, places, size(segments), size(entries)],
            ),
            launch(
                "scan_places",
                along_x(segments)?,
                256,
                vec![places, totals, size(entries)],
            ),
            launch(
                "sort_rows",
                along_x(self.n.div_ceil(256))?,
                256,
                vec![labels, ranks, places, sorted, n, k, chunks],
            ),
            launch(
                function,
                label_grid,
                128,
                vec![
                    x,
                    sorted,
                    places,
                    sums,
                    counts,
                    size(self.d),
                    size(rows.stride),
                    k,
                    chunks,
                ],
            ),
        ])
    }
}
