//! Cosine tiles: all pairs of rows above a threshold, and for each row its best match among the rows before it.
//!
//! A tile of cosines comes from coarse products (8-bit integers where the processor multiplies them, else f32), is scanned and
//! forgotten; the matrix is never whole. What the scan finds within the bound that `coarse` states is only a candidate: it
//! is computed again by the canonical [`dot::cosine`], and that value alone decides. The results are therefore the same bytes
//! for every tile size, number of threads and instruction set.

use super::coarse::{Block, Coarse, Precision, Products};
use super::dot;
use super::identical;
use super::rows::Rows;
use super::simd::sift::Found;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows on each side of a tile where nothing else is asked for: a megabyte of cosines a thread.
pub const TILE: usize = 512;

/// A block of rows with more pairs than this (256 MiB) is done again in halves.
const PAIRS_HELD: usize = 1 << 23;

/// Two rows and their cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Row number.
    pub a: u64,
    /// Row number, greater than `a`.
    pub b: u64,
    /// The canonical dot product of the two unit rows, see [`dot::cosine`].
    pub cosine: f64,
    /// Whether the rows are the same bit for bit. `a` is then the first such row and stands for `b` in all other pairs.
    pub identical: bool,
}

impl Pair {
    /// What pairs are sorted by.
    pub fn key(&self) -> (u64, u64) {
        (self.a, self.b)
    }
}

/// A row's best match among the rows before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// Row number; the row's own where none is before it.
    pub row: u64,
    /// The canonical cosine; 0 where none is before it.
    pub cosine: f64,
}

/// All pairs of `rows` whose cosine is at least `threshold`, in ascending order of (a, b).
///
/// `rows` are unit rows, their row numbers ascending and distinct. `visit` gets the pairs in blocks, each with the positions
/// that its `a` come from; blocks follow one another and cover all positions. Where a block ends depends on `tile` and the
/// processor; the pairs, one block after another, do not. `visit` may take the vector.
///
/// Candidates come from 8-bit products where the processor has them, unless a sample of the rows has many in them; then from f32.
///
/// Work: each pair once, `n^2 d` operations (a multiplication and an addition each count). Every row is read from memory, and
/// rounded, once for each band of `8 * tile` rows before it: `4 n d * n / (16 tile)` bytes. At d = 512 and a tile of 512 that is one
/// byte for every 4096 operations, so arithmetic is the floor.
///
/// Memory: the rounded rows of a band and of a tile for each thread, `(d + 100) * tile * (8 + threads)` bytes in 8 bits and
/// `4 (d + 10) * tile * (1 + threads)` in f32; up to half a megabyte of products a thread; and the pairs of a block: 32 bytes
/// each, at most max(2^23 and those of the tiles in flight, n) of them.
///
/// # Errors
/// The first error of `visit` ends the walk and is returned.
pub fn pairs_above<E>(
    rows: Rows,
    threshold: f64,
    tile: usize,
    visit: impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
) -> Result<(), E> {
    let fastest = Precision::fastest(rows.d());
    let precision = match fits(fastest, rows, threshold) {
        true => fastest,
        false => Precision::F32,
    };
    pairs_above_in(precision, rows, threshold, tile, PAIRS_HELD, visit)
}

/// Whether candidates are few in this precision: at most one in sixteen of a sample of pairs. A candidate costs as much as some ten
/// products in f32, where next to nothing else is a candidate. Rows that 8 bits are too few for hold few values that outweigh
/// all others, not the same ones in all rows.
fn fits(precision: Precision, rows: Rows, threshold: f64) -> bool {
    /// On each side; fewer rows are done before it matters.
    const SAMPLE: usize = 256;
    let n = rows.len();
    if precision == Precision::F32 || n < 4 * SAMPLE {
        return true;
    }
    let coarse = Coarse::new(precision, rows);
    let (mut left, mut right, mut products) =
        (Block::default(), Block::default(), Products::default());
    let strip = coarse.strip();
    coarse.left(
        (0..strip).map(|s| rows.values((2 * s + 1) * n / (2 * strip))),
        &mut left,
    );
    coarse.right((0..SAMPLE).map(|s| rows.values(s * n / SAMPLE)), &mut right);
    let (mut bias, mut under, mut limits, mut found) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    right.bias(right.shifts(), left.longest(), 0.0, &mut bias, &mut under);
    let slack = coarse.slack(left.longest().max(right.longest()));
    left.limits(&mut limits, |i| {
        threshold - left.shift(i) - right.longest() * left.error(i) - slack
    });
    coarse.sweep(&left, &right, 0, &mut products, |chunk| {
        chunk.at_least(&bias, &limits, &mut found)
    });
    found.len() <= strip * SAMPLE / 16
}

/// [`pairs_above`] in a given precision, with blocks of at most `held` pairs, unless one row alone has more.
fn pairs_above_in<E>(
    precision: Precision,
    rows: Rows,
    threshold: f64,
    tile: usize,
    held: usize,
    mut visit: impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
) -> Result<(), E> {
    let search = Search {
        rows,
        threshold,
        tile: tile.max(1),
        held,
        coarse: Coarse::new(precision, rows),
    };
    let highest = search.highest();
    let (mut start, mut height) = (0, highest);
    while start < rows.len() {
        let band = start..(start + height).min(rows.len());
        match search.band_pairs(band.clone()) {
            Some(mut pairs) => {
                // A band twice as high would have too many again.
                let room = pairs.len() < held / 4;
                visit(band.clone(), &mut pairs)?;
                start = band.end;
                height = if room {
                    (height * 2).min(highest)
                } else {
                    height
                };
            }
            None => height = band.len().div_ceil(2),
        }
    }
    Ok(())
}

/// What [`pairs_above`] looks for.
struct Search<'a> {
    rows: Rows<'a>,
    threshold: f64,
    tile: usize,
    held: usize,
    coarse: Coarse,
}

/// What a thread uses again from tile to tile.
#[derive(Default)]
struct Scratch {
    right: Block,
    bias: Vec<f32>,
    under: Vec<f32>,
    sifted: Sifted,
}

/// What a thread uses again from strip to strip.
#[derive(Default)]
struct Sifted {
    products: Products,
    limits: Vec<f32>,
    found: Vec<Found>,
}

impl Search<'_> {
    /// Rows of a band. Rounding the rows after it costs as much as a hundred or two products each, so it is done for many.
    fn highest(&self) -> usize {
        match self.coarse.precision() {
            Precision::F32 => self.tile,
            _ => self.tile.saturating_mul(8),
        }
    }

    /// The pairs between a band of positions and all later ones, sorted; none when they are more than `held` and the band can be
    /// cut.
    fn band_pairs(&self, band: Range<usize>) -> Option<Vec<Pair>> {
        let (rows, tile, strip) = (self.rows, self.tile, self.coarse.strip());
        let strips: Vec<(usize, Block)> = band
            .clone()
            .into_par_iter()
            .step_by(strip)
            .map(|first| {
                let mut block = Block::default();
                let positions = first..(first + strip).min(band.end);
                self.coarse
                    .left(positions.map(|p| rows.values(p)), &mut block);
                (first, block)
            })
            .collect();
        let longest = strips
            .iter()
            .map(|(_, block)| block.longest())
            .fold(0.0, f64::max);
        let found = AtomicUsize::new(0);
        let too_many = || band.len() > 1 && found.load(Ordering::Relaxed) > self.held;
        let tiles: Vec<Vec<Pair>> = (band.start..rows.len())
            .into_par_iter()
            .step_by(tile)
            .map_init(Scratch::default, |scratch, start| {
                let columns = start..(start + tile).min(rows.len());
                let mut pairs = Vec::new();
                if too_many() {
                    return pairs;
                }
                let Scratch {
                    right,
                    bias,
                    under,
                    sifted,
                } = scratch;
                self.coarse
                    .right(columns.clone().map(|p| rows.values(p)), right);
                right.bias(right.shifts(), longest, 0.0, bias, under);
                for (first, left) in &strips {
                    if *first >= columns.end || too_many() {
                        break;
                    }
                    let before = pairs.len();
                    self.strip_pairs(
                        *first,
                        left,
                        longest,
                        columns.start,
                        right,
                        bias,
                        sifted,
                        &mut pairs,
                    );
                    found.fetch_add(pairs.len() - before, Ordering::Relaxed);
                }
                pairs
            })
            .collect();
        if too_many() {
            return None;
        }
        let mut pairs = tiles.concat();
        drop(tiles);
        pairs.par_sort_unstable_by_key(Pair::key);
        Some(pairs)
    }

    /// Appends the pairs of a strip from position `first` on with later ones of a tile from position `start` on, which `bias`
    /// already makes ready for the strips of a band whose rows are at most `longest`.
    #[allow(clippy::too_many_arguments)]
    fn strip_pairs(
        &self,
        first: usize,
        left: &Block,
        longest: f64,
        start: usize,
        right: &Block,
        bias: &[f32],
        sifted: &mut Sifted,
        pairs: &mut Vec<Pair>,
    ) {
        let (
            rows,
            Sifted {
                products,
                limits,
                found,
            },
        ) = (self.rows, sifted);
        let slack = self.coarse.slack(longest.max(right.longest()));
        left.limits(limits, |i| {
            self.threshold - left.shift(i) - right.longest() * left.error(i) - slack
        });
        let from = (first + 1).saturating_sub(start);
        self.coarse.sweep(left, right, from, products, |chunk| {
            found.clear();
            chunk.at_least(bias, limits, found);
            for of_row in found.chunk_by(|x, y| x.row == y.row) {
                let i = first + of_row[0].row as usize;
                let later = || {
                    of_row
                        .iter()
                        .map(|f| start + f.column as usize)
                        .filter(|&j| j > i)
                };
                let mut positions = later();
                let others = later().map(|j| rows.values(j));
                dot::cosines(rows.values(i), others, |cosine| {
                    let j = positions.next().expect("a cosine for each position");
                    if cosine >= self.threshold {
                        pairs.push(Pair {
                            a: rows.row_at(i),
                            b: rows.row_at(j),
                            cosine,
                            identical: false,
                        });
                    }
                });
            }
        });
    }
}

/// For each position the row before it with the greatest cosine, the earliest on a tie; the row itself and 0 at the first
/// position. This is the pairwise step of the reference system (NVIDIA NeMo Curator) with `rows` in rank order.
///
/// `rows` are unit rows in any order, all different row numbers. Rows that are identical to an earlier one are not looked at as
/// matches, since the earlier one has the same cosine. Memory: 48 bytes a row; a thread holds two tiles of rounded rows
/// (`2 (d + 100) * tile` bytes in 8 bits, `8 (d + 10) * tile` in f32) and up to half a megabyte of products.
pub fn best_earlier(rows: Rows, tile: usize) -> Vec<Match> {
    best_earlier_in(Precision::fastest(rows.d()), rows, tile)
}

/// [`best_earlier`] in a given precision.
fn best_earlier_in(precision: Precision, rows: Rows, tile: usize) -> Vec<Match> {
    let tile = tile.max(1);
    let first = identical::first_identical(rows);
    let distinct: Vec<usize> = (0..rows.len()).filter(|&p| first[p] == p as u64).collect();
    drop(first);
    let coarse = Coarse::new(precision, rows);
    let mut best: Vec<Match> = (0..rows.len())
        .map(|p| Match {
            row: rows.row_at(p),
            cosine: 0.0,
        })
        .collect();
    best.par_chunks_mut(tile).enumerate().for_each_init(
        BestScratch::default,
        |scratch, (block, best)| {
            let earlier = distinct.partition_point(|&p| p + 1 < block * tile + best.len());
            let task = BestTask {
                rows,
                coarse: &coarse,
                tile,
                first: block * tile,
                earlier: &distinct[..earlier],
            };
            task.run(best, scratch);
        },
    );
    best
}

/// A block of positions from `first` on, and the positions of distinct rows before its last.
struct BestTask<'a> {
    rows: Rows<'a>,
    coarse: &'a Coarse,
    tile: usize,
    first: usize,
    earlier: &'a [usize],
}

#[derive(Default)]
struct BestScratch {
    strips: Vec<Block>,
    right: Block,
    bias: Vec<f32>,
    under: Vec<f32>,
    sifted: Sifted,
}

impl BestTask<'_> {
    fn run(&self, best: &mut [Match], scratch: &mut BestScratch) {
        let (rows, coarse, first) = (self.rows, self.coarse, self.first);
        let BestScratch {
            strips,
            right,
            bias,
            under,
            sifted,
        } = scratch;
        let Sifted {
            products,
            limits,
            found,
        } = sifted;
        let strip = coarse.strip();
        strips.resize_with(best.len().div_ceil(strip), Block::default);
        for (s, block) in strips.iter_mut().enumerate() {
            let positions = first + s * strip..(first + (s + 1) * strip).min(first + best.len());
            coarse.left(positions.map(|p| rows.values(p)), block);
        }
        // The greatest canonical cosine so far.
        let mut reached = vec![f64::NEG_INFINITY; best.len()];
        // What it must be, as coarse products say.
        let mut promised = vec![f64::NEG_INFINITY; best.len()];
        let mut greatest = Vec::new();
        for columns in self.earlier.chunks(self.tile) {
            coarse.right(columns.iter().map(|&p| rows.values(p)), right);
            for (s, left) in strips.iter().enumerate() {
                let longest = left.longest().max(right.longest());
                let slack = coarse.slack(longest);
                let lost = |i: usize| right.longest() * left.error(i) + slack;
                right.bias(right.shifts(), left.longest(), 0.0, bias, under);
                let base = s * strip;
                let before = |i: usize| columns.partition_point(|&p| p < first + base + i);
                let ends: Vec<usize> = (0..left.rows()).map(before).collect();
                coarse.sweep(left, right, 0, products, |chunk| {
                    greatest.clear();
                    greatest.resize(left.rows(), f32::NEG_INFINITY);
                    chunk.greatest(under, |i| ends[i], &mut greatest);
                    for (i, &greatest) in greatest.iter().enumerate() {
                        let least = f64::from(greatest) + left.shift(i) - lost(i);
                        let promised = &mut promised[base + i];
                        *promised = promised.max(least).max(reached[base + i]);
                    }
                    left.limits(limits, |i| promised[base + i] - left.shift(i) - lost(i));
                    found.clear();
                    chunk.at_least(bias, limits, found);
                    for of_row in found.chunk_by(|x, y| x.row == y.row) {
                        let i = of_row[0].row as usize;
                        let earlier = || {
                            of_row
                                .iter()
                                .map(|f| f.column as usize)
                                .filter(|&j| j < ends[i])
                                .map(|j| columns[j])
                        };
                        let mut positions = earlier();
                        let others = earlier().map(|p| rows.values(p));
                        dot::cosines(rows.values(first + base + i), others, |cosine| {
                            let p = positions.next().expect("a cosine for each position");
                            // Positions ascend, so the earliest keeps a tie.
                            if cosine > reached[base + i] {
                                reached[base + i] = cosine;
                                best[base + i] = Match {
                                    row: rows.row_at(p),
                                    cosine,
                                };
                            }
                        });
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
