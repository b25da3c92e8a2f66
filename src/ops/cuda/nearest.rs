//! The two launches that find for each row the nearest of many columns, `assign.cu`: candidates from the tensor cores, then the
//! canonical decision among them.

use super::launch::{Arg, Backend, Launch};
use super::matrix::{Precision, fill};
use super::values::{allocate, upload};
use super::view::Part;
use crate::Result;

/// Rows of an item at most: those of a tile.
pub(crate) const ITEM_ROWS: usize = 128;
/// Candidates listed for a row.
const LISTED: usize = 16;
/// Dynamic shared memory of the kernels that multiply tiles, as `mainloop.cuh` has it.
pub(crate) const TILE_SHARED_BYTES: u32 = 3 * (128 + 256) * 32 * 2;

/// A tile's rows and the columns that they are compared with: (row, row end, column, column end).
pub(crate) type Item = [i32; 4];

/// What makes a column the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// The least squared distance; columns are f32 whatever the rows are.
    Distance,
    /// The greatest cosine; rows and columns of one precision.
    Cosine,
}

/// The best of each row so far. Costs are squared distances or negated cosines.
pub(crate) struct Best<B: Backend> {
    /// `[rows]` f32: the least score of the tensor cores.
    scores: B::Buffer,
    /// `[rows]` f64: the least canonical cost; infinity for none.
    pub(crate) costs: B::Buffer,
    /// `[rows]` u32: its column.
    pub(crate) nearest: B::Buffer,
}

impl<B: Backend> Best<B> {
    /// Nothing found yet.
    pub(crate) fn none(backend: &B, rows: usize) -> Result<Self> {
        let scores = allocate::<B, f32>(backend, rows)?;
        let costs = allocate::<B, f64>(backend, rows)?;
        let nearest = allocate::<B, u32>(backend, rows)?;
        let infinity = f64::INFINITY.to_bits();
        fill(backend, &scores, rows, [f32::INFINITY.to_bits(); 2])?;
        fill(
            backend,
            &costs,
            2 * rows,
            [infinity as u32, (infinity >> 32) as u32],
        )?;
        fill(backend, &nearest, rows, [u32::MAX; 2])?;
        Ok(Best {
            scores,
            costs,
            nearest,
        })
    }
}

/// What rows are compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub(crate) part: Part,
    pub(crate) metric: Metric,
    /// `[columns]` f32 added to the scores; 0 for none.
    pub(crate) bias: u64,
    /// `[columns]` i32, ascending: a column is seen by rows at greater positions only; 0 for none.
    pub(crate) positions: u64,
    /// The position of the first row, as `positions` counts.
    pub(crate) row_position: i64,
    /// How far above the least score the nearest column's can be.
    pub(crate) margin: f32,
}

/// Compares the rows of the items with their columns and brings `best` up to date. Columns must come in ascending order from
/// call to call, so that the lowest wins a tie.
pub(crate) fn nearest<B: Backend>(
    backend: &B,
    rows: Part,
    precision: Precision,
    d: usize,
    columns: Columns,
    items: &[Item],
    best: &Best<B>,
) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let listed = upload(backend, items.as_flattened())?;
    let counts = allocate::<B, i32>(backend, rows.rows)?;
    let candidates = allocate::<B, i32>(backend, rows.rows * LISTED)?;
    let pointer = |buffer: &B::Buffer| Arg::Pointer(backend.address(buffer));
    let factor = match columns.metric {
        Metric::Distance => -2.0,
        Metric::Cosine => -1.0,
    };
    backend.launch(&Launch {
        module: "assign",
        function: "nearest_candidates",
        grid: [
            items.len().min(backend.multiprocessors().max(1) as usize) as u32,
            1,
            1,
        ],
        block: [256, 1, 1],
        shared_bytes: TILE_SHARED_BYTES,
        args: vec![
            Arg::Pointer(rows.half),
            Arg::Pointer(columns.part.half),
            Arg::I32(super::matrix::stride_of(d) as i32),
            Arg::Pointer(columns.bias),
            Arg::F32(factor),
            Arg::F32(columns.margin),
            Arg::Pointer(columns.positions),
            Arg::I64(columns.row_position),
            pointer(&listed),
            Arg::I64(items.len() as i64),
            pointer(&best.scores),
            pointer(&counts),
            pointer(&candidates),
        ],
    })?;
    let function = match columns.metric {
        Metric::Distance => precision.choose("settle_distance_f16", "settle_distance_f32"),
        Metric::Cosine => precision.choose("settle_cosine_f16", "settle_cosine_f32"),
    };
    backend.launch(&Launch {
        module: "assign",
        function,
        grid: [items.len() as u32, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            Arg::Pointer(rows.exact),
            Arg::Pointer(rows.ids),
            Arg::I64(rows.exact_stride as i64),
            Arg::Pointer(columns.part.exact),
            Arg::Pointer(columns.part.ids),
            Arg::I64(columns.part.exact_stride as i64),
            Arg::I32(d as i32),
            pointer(&listed),
            Arg::Pointer(columns.positions),
            Arg::I64(columns.row_position),
            pointer(&counts),
            pointer(&candidates),
            Arg::I64(columns.part.first as i64),
            pointer(&best.costs),
            pointer(&best.nearest),
        ],
    })
}
