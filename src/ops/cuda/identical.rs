//! Rows on the device that are the same bit for bit: hashed there, grouped here, compared there. The rows themselves stay where
//! they are (or are streamed once to be hashed, and compared in host memory).

use std::ops::Range;

use super::launch::{Arg, Backend, Launch};
use super::matrix::grid_for;
use super::values::{allocate, download, upload};
use super::view::{Budget, View};
use crate::Result;
use rayon::prelude::*;

/// For each position the first position of its group whose row has the same bits (itself, where there is no earlier one): what
/// [`crate::ops::identical::first_identical`] finds, group by group.
///
/// `groups` are ascending ends of consecutive ranges of positions; `[n]` for one group. Host memory: 32 bytes a row.
///
/// # Errors
/// Those of the device.
pub fn first_identical<B: Backend>(
    view: View<'_, '_, B>,
    groups: &[usize],
    budget: &Budget,
) -> Result<Vec<u64>> {
    first_identical_hashed(view, groups, budget, |hash| hash)
}

/// [`first_identical`] with hashes changed: tests make different rows share one.
fn first_identical_hashed<B: Backend>(
    view: View<'_, '_, B>,
    groups: &[usize],
    budget: &Budget,
    change: impl Fn(u64) -> u64 + Sync,
) -> Result<Vec<u64>> {
    let n = view.len();
    let mut keys: Vec<(usize, u64, u64)> = hashes(view, budget)?
        .into_par_iter()
        .enumerate()
        .map(|(p, hash)| {
            (
                groups.partition_point(|&end| end <= p),
                change(hash),
                p as u64,
            )
        })
        .collect();
    keys.par_sort_unstable();
    let mut first: Vec<u64> = (0..n as u64).collect();
    // Runs of one group and hash; what differs from the first of its run forms a run of its own in the next round.
    let mut runs: Vec<Vec<u64>> = keys
        .chunk_by(|a, b| (a.0, a.1) == (b.0, b.1))
        .filter(|run| run.len() > 1)
        .map(|run| run.iter().map(|key| key.2).collect())
        .collect();
    drop(keys);
    while !runs.is_empty() {
        let pairs: Vec<(u64, u64)> = runs
            .iter()
            .flat_map(|run| run[1..].iter().map(|&p| (run[0], p)))
            .collect();
        let same = same_bits(view, &pairs)?;
        let mut verdicts = pairs.iter().zip(same);
        let mut next = Vec::new();
        for run in &runs {
            let mut others = Vec::new();
            for (&(f, p), same) in verdicts.by_ref().take(run.len() - 1) {
                if same {
                    first[p as usize] = f;
                } else {
                    others.push(p);
                }
            }
            if others.len() > 1 {
                next.push(others);
            }
        }
        runs = next;
    }
    Ok(first)
}

/// A hash of the bits of each position's row.
fn hashes<B: Backend>(view: View<'_, '_, B>, budget: &Budget) -> Result<Vec<u64>> {
    let backend = view.backend();
    let mut all = Vec::with_capacity(view.len());
    let step = view.block_rows(budget, 1)?;
    for start in (0..view.len()).step_by(step) {
        let block = view.block(start..(start + step).min(view.len()))?;
        let part = block.part;
        let out = allocate::<B, u64>(backend, part.rows)?;
        backend.launch(&Launch {
            module: "matrix",
            function: view.precision().choose("hash_rows_f16", "hash_rows_f32"),
            grid: [grid_for(backend, part.rows, 32), 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Pointer(part.exact),
                Arg::Pointer(part.ids),
                Arg::I64(part.rows as i64),
                Arg::I64(part.exact_stride as i64),
                Arg::I32(view.d() as i32),
                Arg::Pointer(backend.address(&out)),
            ],
        })?;
        all.extend(download::<B, u64>(backend, &out, part.rows)?);
    }
    Ok(all)
}

/// Whether the rows of two positions have the same bits, for each pair of positions.
fn same_bits<B: Backend>(view: View<'_, '_, B>, pairs: &[(u64, u64)]) -> Result<Vec<bool>> {
    let backend = view.backend();
    let matrix = match (view.resident(), view.in_host_memory()) {
        (Some(matrix), _) => matrix,
        (None, Some(rows)) => {
            let values = |p: u64| rows.values(p as usize);
            let same =
                |&(a, b): &(u64, u64)| crate::ops::identical::same_bits(values(a), values(b));
            return Ok(pairs.par_iter().map(same).collect());
        }
        (None, None) => return Ok(Vec::new()),
    };
    let mut all = Vec::with_capacity(pairs.len());
    const PAIRS: usize = 1 << 22;
    for start in (0..pairs.len()).step_by(PAIRS) {
        let range: Range<usize> = start..(start + PAIRS).min(pairs.len());
        let rows: Vec<i64> = pairs[range]
            .iter()
            .flat_map(|&(a, b)| {
                [
                    view.row_at(a as usize) as i64,
                    view.row_at(b as usize) as i64,
                ]
            })
            .collect();
        let count = rows.len() / 2;
        let (listed, same) = (upload(backend, &rows)?, allocate::<B, i32>(backend, count)?);
        backend.launch(&Launch {
            module: "matrix",
            function: view
                .precision()
                .choose("compare_rows_f16", "compare_rows_f32"),
            grid: [grid_for(backend, count, 32), 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Pointer(matrix.exact_at(0)),
                Arg::I64(matrix.exact_stride() as i64),
                Arg::I32(view.d() as i32),
                Arg::Pointer(backend.address(&listed)),
                Arg::I64(count as i64),
                Arg::Pointer(backend.address(&same)),
            ],
        })?;
        let verdicts = download::<B, i32>(backend, &same, count)?;
        all.extend(verdicts.into_iter().map(|same| same != 0));
    }
    Ok(all)
}
