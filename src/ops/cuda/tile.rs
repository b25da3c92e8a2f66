//! Cosine tiles on the device: all pairs of rows above a threshold, and for each row its best match among the rows before it.
//!
//! Both work on groups of rows (clusters) that are compared inside only; many small groups share a launch. The results are those
//! of [`crate::ops::tile`], bit for bit: see [`super::margin`].

use std::ops::Range;

use super::identical::first_identical;
use super::launch::{Arg, Backend, Launch};
use super::margin::{UNIT, product_error};
use super::matrix::grid_for;
use super::nearest::{Best, Columns, ITEM_ROWS, Item, Metric, TILE_SHARED_BYTES, nearest};
use super::values::{allocate, download, upload};
use super::view::{Budget, Part, View};
use crate::ops::simd::gemm::round_down;
use crate::ops::tile::{Match, Pair};
use crate::{Error, Result};
use rayon::prelude::*;

/// Rows and columns of a tile.
const TILE: (usize, usize) = (ITEM_ROWS, 256);
/// Tiles of small groups in one launch, at most.
const LISTED_TILES: usize = 1 << 18;

/// A pair by its positions.
type Found = (usize, usize, f64);

/// All pairs of the view's rows whose cosine is at least `threshold`, in ascending order of their positions: what
/// [`crate::ops::tile::pairs_above`] finds, and handed to `visit` in the same way.
///
/// Device memory: 16 bytes a candidate of the budget, and blocks of rows where they are not in place. Host memory: 24 bytes a
/// pair of a band.
///
/// # Errors
/// Those of the device, and the first of `visit`, which ends the walk.
pub fn pairs_above<B: Backend, E: From<Error>>(
    view: View<'_, '_, B>,
    threshold: f64,
    budget: &Budget,
    visit: impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
) -> Result<(), E> {
    pairs_above_in_groups(view, &[view.len()], threshold, budget, visit)
}

/// [`pairs_above`] inside groups of consecutive positions, `groups` their ends, ascending; the last is n.
///
/// # Errors
/// [`Error::Shape`] for other groups; as [`pairs_above`].
pub fn pairs_above_in_groups<B: Backend, E: From<Error>>(
    view: View<'_, '_, B>,
    groups: &[usize],
    threshold: f64,
    budget: &Budget,
    mut visit: impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
) -> Result<(), E> {
    check_groups(&view, groups)?;
    if view.is_empty() {
        return Ok(());
    }
    let bounds = view.bounds(budget)?;
    let error = product_error(view.stride(), bounds, bounds);
    let capacity = budget.candidates.max(1);
    let search = Search {
        view,
        threshold,
        limit: round_down(threshold - error),
        capacity,
        candidates: allocate::<B, i32>(view.backend(), capacity * 2)?,
        budget: *budget,
    };
    let block_rows = view.block_rows(budget, 2)?;
    let ranges: Vec<Range<usize>> = ranges(groups).collect();
    let mut next = 0;
    while next < ranges.len() {
        let end = search.batch_end(&ranges, next, block_rows);
        if end > next + 1 {
            search.batch(&ranges[next..end], &mut visit)?;
        } else {
            search.group(ranges[next].clone(), block_rows, &mut visit)?;
        }
        next = end;
    }
    Ok(())
}

/// The ranges that the ends of groups enclose, empty ones left out.
fn ranges(groups: &[usize]) -> impl Iterator<Item = Range<usize>> + '_ {
    let starts = std::iter::once(&0).chain(groups);
    starts
        .zip(groups)
        .map(|(&start, &end)| start..end)
        .filter(|range| !range.is_empty())
}

fn check_groups<B: Backend>(view: &View<'_, '_, B>, groups: &[usize]) -> Result<()> {
    if groups.is_sorted() && groups.last().copied().unwrap_or(0) == view.len() {
        return Ok(());
    }
    Err(Error::shape(
        "groups of rows",
        format!("ascending ends up to {}", view.len()),
        format!("{} ends up to {:?}", groups.len(), groups.last()),
    ))
}

struct Search<'a, 'b, B: Backend> {
    view: View<'a, 'b, B>,
    threshold: f64,
    limit: f32,
    /// Pairs that `candidates` holds.
    capacity: usize,
    candidates: B::Buffer,
    budget: Budget,
}

impl<B: Backend> Search<'_, '_, B> {
    /// How many groups from `next` on are taken in one launch: as many as fit a block, the list of tiles and the pairs held.
    fn batch_end(&self, ranges: &[Range<usize>], next: usize, block_rows: usize) -> usize {
        let (mut tiles, mut possible) = (0, 0);
        let mut end = next;
        while end < ranges.len() {
            let (rows, group) = (ranges[end].end - ranges[next].start, ranges[end].len());
            tiles += group.div_ceil(TILE.0) * group.div_ceil(TILE.1);
            possible += group * (group - 1) / 2;
            let fits = rows <= block_rows && tiles <= LISTED_TILES;
            if end > next && !(fits && possible <= self.budget.pairs.max(1)) {
                break;
            }
            end += 1;
        }
        end
    }

    /// Small groups in one launch; in two halves where the candidates are too many.
    fn batch<E: From<Error>>(
        &self,
        groups: &[Range<usize>],
        visit: &mut impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
    ) -> Result<(), E> {
        let positions = groups[0].start..groups[groups.len() - 1].end;
        let block = self.view.block(positions.clone())?;
        let mut found = Vec::new();
        self.listed(block.part, groups, &mut found)?;
        drop(block);
        visit(positions, &mut self.pairs(found))
    }

    fn listed(&self, part: Part, groups: &[Range<usize>], found: &mut Vec<Found>) -> Result<()> {
        let mut items: Vec<Item> = Vec::new();
        for group in groups {
            let (start, end) = (group.start - part.first, group.end - part.first);
            for row in (start..end).step_by(TILE.0) {
                // Columns from the tile's own rows on.
                for column in (row..end).step_by(TILE.1) {
                    items.push([row, end, column, end].map(|x| x as i32));
                }
            }
        }
        let backend = self.view.backend();
        let listed = upload(backend, items.as_flattened())?;
        let launch = |count: Arg| Launch {
            module: "tile",
            function: "tile_pairs_listed",
            grid: [self.tile_grid(items.len()), 1, 1],
            block: [256, 1, 1],
            shared_bytes: TILE_SHARED_BYTES,
            args: vec![
                Arg::Pointer(part.half),
                Arg::Pointer(part.half),
                Arg::I32(self.view.stride() as i32),
                Arg::Pointer(backend.address(&listed)),
                Arg::I64(items.len() as i64),
                Arg::I64(0),
                Arg::F32(self.limit),
                Arg::Pointer(backend.address(&self.candidates)),
                Arg::I64(self.capacity as i64),
                count,
            ],
        };
        match self.candidates(launch)? {
            Ok(count) => self.settle(part, part, count, found),
            // A group of its own goes on as any other large one.
            Err(_) if groups.len() == 1 => {
                let group = &groups[0];
                let rows = part.slice(group.start - part.first..group.end - part.first);
                self.rectangle(rows, rows, found)
            }
            Err(_) => {
                let (left, right) = groups.split_at(groups.len() / 2);
                self.listed(part, left, found)?;
                self.listed(part, right, found)
            }
        }
    }

    /// One group, band by band, each against all columns from its own first on.
    fn group<E: From<Error>>(
        &self,
        group: Range<usize>,
        block_rows: usize,
        visit: &mut impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
    ) -> Result<(), E> {
        let most = block_rows.min(self.budget.band.max(1));
        let (mut start, mut height) = (group.start, most);
        while start < group.end {
            let band = start..(start + height).min(group.end);
            match self.band(band.clone(), group.end, block_rows)? {
                Some(found) => {
                    visit(band.clone(), &mut self.pairs(found))?;
                    start = band.end;
                    height = (height * 2).min(most);
                }
                None => height = band.len().div_ceil(2),
            }
        }
        Ok(())
    }

    /// The pairs between a band and all later positions; none when they are more than are held and the band can be cut.
    fn band(
        &self,
        band: Range<usize>,
        end: usize,
        block_rows: usize,
    ) -> Result<Option<Vec<Found>>> {
        let rows = self.view.block(band.clone())?;
        let mut found = Vec::new();
        for start in (band.start..end).step_by(block_rows) {
            let columns = self.view.block(start..(start + block_rows).min(end))?;
            self.rectangle(rows.part, columns.part, &mut found)?;
            if found.len() > self.budget.pairs && band.len() > 1 {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// The pairs of two parts, row before column; cut up where the candidates are too many. The columns begin at or behind the
    /// first row.
    fn rectangle(&self, rows: Part, columns: Part, found: &mut Vec<Found>) -> Result<()> {
        let backend = self.view.backend();
        let tiles = rows.rows.div_ceil(TILE.0) * columns.rows.div_ceil(TILE.1);
        let launch = |count: Arg| Launch {
            module: "tile",
            function: "tile_pairs",
            grid: [self.tile_grid(tiles), 1, 1],
            block: [256, 1, 1],
            shared_bytes: TILE_SHARED_BYTES,
            args: vec![
                Arg::Pointer(rows.half),
                Arg::Pointer(columns.half),
                Arg::I32(self.view.stride() as i32),
                Arg::I64(rows.rows as i64),
                Arg::I64(columns.rows as i64),
                Arg::I64(columns.first as i64 - rows.first as i64),
                Arg::F32(self.limit),
                Arg::Pointer(backend.address(&self.candidates)),
                Arg::I64(self.capacity as i64),
                count,
            ],
        };
        let many = match self.candidates(launch)? {
            Ok(count) => return self.settle(rows, columns, count, found),
            Err(many) => many,
        };
        // More parts than would be needed if the candidates were evenly spread.
        let parts = many / self.capacity + 2;
        let cut = |n: usize| {
            (0..n)
                .step_by(n.div_ceil(parts))
                .map(move |start| start..(start + n.div_ceil(parts)).min(n))
        };
        if rows.rows > 1 {
            for some in cut(rows.rows) {
                // What lies before the first of these rows has no pair with them.
                let before = (rows.first + some.start).saturating_sub(columns.first);
                let before = before.min(columns.rows);
                let columns = columns.slice(before..columns.rows);
                if columns.rows > 0 {
                    self.rectangle(rows.slice(some), columns, found)?;
                }
            }
        } else {
            for some in cut(columns.rows) {
                self.rectangle(rows, columns.slice(some), found)?;
            }
        }
        Ok(())
    }

    /// A block a multiprocessor, which walks every so many tiles.
    fn tile_grid(&self, tiles: usize) -> u32 {
        tiles.clamp(1, self.view.backend().multiprocessors().max(1) as usize) as u32
    }

    /// Runs a search: the number of candidates now in the buffer, or how many there would be where they do not fit.
    fn candidates(&self, launch: impl Fn(Arg) -> Launch) -> Result<Result<usize, usize>> {
        let backend = self.view.backend();
        let count = upload(backend, &[0u64])?;
        backend.launch(&launch(Arg::Pointer(backend.address(&count))))?;
        let found = download::<B, u64>(backend, &count, 1)?[0] as usize;
        Ok(if found <= self.capacity {
            Ok(found)
        } else {
            Err(found)
        })
    }

    /// Takes those of the first `count` candidates whose canonical cosine reaches the threshold.
    fn settle(
        &self,
        rows: Part,
        columns: Part,
        count: usize,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let backend = self.view.backend();
        let cosines = allocate::<B, f64>(backend, count)?;
        backend.launch(&Launch {
            module: "tile",
            function: self
                .view
                .precision()
                .choose("pair_cosines_f16", "pair_cosines_f32"),
            grid: [grid_for(backend, count, 16), 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Pointer(rows.exact),
                Arg::Pointer(rows.ids),
                Arg::I64(rows.exact_stride as i64),
                Arg::Pointer(columns.exact),
                Arg::Pointer(columns.ids),
                Arg::I64(columns.exact_stride as i64),
                Arg::I32(self.view.d() as i32),
                Arg::Pointer(backend.address(&self.candidates)),
                Arg::I64(count as i64),
                Arg::Pointer(backend.address(&cosines)),
            ],
        })?;
        let pairs = download::<B, i32>(backend, &self.candidates, count * 2)?;
        let cosines = download::<B, f64>(backend, &cosines, count)?;
        found.extend(
            pairs
                .chunks_exact(2)
                .zip(cosines)
                .filter(|&(_, cosine)| cosine >= self.threshold)
                .map(|(pair, cosine)| {
                    (
                        rows.first + pair[0] as usize,
                        columns.first + pair[1] as usize,
                        cosine,
                    )
                }),
        );
        Ok(())
    }

    fn pairs(&self, mut found: Vec<Found>) -> Vec<Pair> {
        found.par_sort_unstable_by_key(|&(a, b, _)| (a, b));
        found
            .into_iter()
            .map(|(a, b, cosine)| Pair {
                a: self.view.row_at(a),
                b: self.view.row_at(b),
                cosine,
                identical: false,
            })
            .collect()
    }
}

/// For each position the row before it in its group with the greatest cosine, the earliest on a tie; the row itself and 0 at the
/// first position of a group: what [`crate::ops::tile::best_earlier`] finds, group by group.
///
/// `groups` are the ends of ranges of positions, ascending; the last is n. Device memory: 84 bytes a row of a block, beside the
/// blocks. Host memory: 60 bytes a row.
///
/// # Errors
/// [`Error::Shape`] for other groups; those of the device.
pub fn best_earlier<B: Backend>(
    view: View<'_, '_, B>,
    groups: &[usize],
    budget: &Budget,
) -> Result<Vec<Match>> {
    check_groups(&view, groups)?;
    let mut all: Vec<Match> = (0..view.len())
        .map(|p| Match {
            row: view.row_at(p),
            cosine: 0.0,
        })
        .collect();
    if view.is_empty() {
        return Ok(all);
    }
    let backend = view.backend();
    let bounds = view.bounds(budget)?;
    // Twice what one cosine can be off, and the addition of the margin in f32.
    let error = product_error(view.stride(), bounds, bounds);
    let largest = bounds.longest * bounds.longest + error;
    let margin = ((1.0 + 2.0 * UNIT) * (2.0 * error + 4.0 * UNIT * largest)) as f32;

    // Rows identical to an earlier one are no better a match than that one.
    let first = first_identical(view, groups, budget)?;
    let distinct: Vec<u64> = (0..view.len() as u64)
        .filter(|&p| first[p as usize] == p)
        .collect();
    drop(first);
    let mut distinct_rows = Vec::new();
    let compared = if distinct.len() == view.len() {
        view
    } else {
        view.reselect(&distinct, &mut distinct_rows)
    };

    let block_rows = view.block_rows(budget, 2)?;
    let column_rows = compared.block_rows(budget, 2)?;
    for start in (0..view.len()).step_by(block_rows) {
        let band = start..(start + block_rows).min(view.len());
        let rows = view.block(band.clone())?;
        let best = Best::none(backend, band.len())?;
        for column in (0..compared.len()).step_by(column_rows) {
            if distinct[column] as usize + 1 >= band.end {
                break;
            }
            let positions = &distinct[column..(column + column_rows).min(compared.len())];
            let items = causal_items(&band, positions, groups);
            if items.is_empty() {
                continue;
            }
            let columns = compared.block(column..column + positions.len())?;
            let base = positions[0];
            let counted: Vec<i32> = positions.iter().map(|p| (p - base) as i32).collect();
            let counted = upload(backend, &counted)?;
            let columns = Columns {
                part: columns.part,
                metric: Metric::Cosine,
                bias: 0,
                positions: backend.address(&counted),
                row_position: start as i64 - base as i64,
                margin,
            };
            let (precision, d) = (view.precision(), view.d());
            nearest(backend, rows.part, precision, d, columns, &items, &best)?;
        }
        let costs = download::<B, f64>(backend, &best.costs, band.len())?;
        let nearest = download::<B, u32>(backend, &best.nearest, band.len())?;
        for ((found, cost), column) in all[band].iter_mut().zip(costs).zip(nearest) {
            if cost < f64::INFINITY {
                *found = Match {
                    row: compared.row_at(column as usize),
                    cosine: -cost,
                };
            }
        }
    }
    Ok(all)
}

/// The tiles of rows of a band, each with the columns of its group that come before its last row; those with most work first.
/// `columns` are ascending positions.
fn causal_items(band: &Range<usize>, columns: &[u64], groups: &[usize]) -> Vec<Item> {
    let mut items = Vec::new();
    let (mut start, mut group) = (band.start, groups.partition_point(|&end| end <= band.start));
    while start < band.end {
        let group_start = if group == 0 { 0 } else { groups[group - 1] };
        let group_end = groups[group];
        let end = group_end.min(band.end);
        let low = columns.partition_point(|&p| (p as usize) < group_start);
        for row in (start..end).step_by(ITEM_ROWS) {
            let row_end = (row + ITEM_ROWS).min(end);
            let high = columns.partition_point(|&p| (p as usize) + 1 < row_end);
            if low < high {
                items.push([row - band.start, row_end - band.start, low, high].map(|x| x as i32));
            }
        }
        start = end;
        group += 1;
        while group < groups.len() && groups[group] <= start {
            group += 1;
        }
    }
    items.sort_by_key(|item| item[2] - item[3]);
    items
}

/// The canonical cosine of pairs of positions, whatever it is.
///
/// # Errors
/// Those of the device.
pub fn cosines<B: Backend>(view: View<'_, '_, B>, pairs: &[(u64, u64)]) -> Result<Vec<f64>> {
    let mut rows = Vec::new();
    let listed: Vec<u64> = pairs.iter().flat_map(|&(a, b)| [a, b]).collect();
    let view = view.reselect(&listed, &mut rows);
    let backend = view.backend();
    let mut all = Vec::with_capacity(pairs.len());
    const PAIRS: usize = 1 << 16;
    for start in (0..pairs.len()).step_by(PAIRS) {
        let count = PAIRS.min(pairs.len() - start);
        let block = view.block(2 * start..2 * (start + count))?;
        let numbers: Vec<i32> = (0..2 * count as i32).collect();
        let search = Search {
            view,
            threshold: f64::NEG_INFINITY,
            limit: f32::NEG_INFINITY,
            capacity: count,
            candidates: upload(backend, &numbers)?,
            budget: Budget::default(),
        };
        let mut found = Vec::new();
        search.settle(block.part, block.part, count, &mut found)?;
        all.extend(found.into_iter().map(|(_, _, cosine)| cosine));
    }
    Ok(all)
}
