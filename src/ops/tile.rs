//! Cosine tiles: all pairs of rows above a threshold, and for each row its best match among the rows before it.
//!
//! A tile of cosines comes from an f32 matrix product, is scanned and forgotten; the matrix is never whole. What the scan finds
//! within the error bound of the product (`simd::gemm::error_bound`, about 5e-5 for unit rows at d = 768) is only a candidate: it is
//! computed again by the canonical [`dot::cosine`], and that value alone decides. The results are therefore the same bytes for
//! every tile size, number of threads and instruction set.

use super::dot;
use super::identical;
use super::rows::Rows;
use super::scan;
use super::simd::gemm;
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
/// that its `a` come from; blocks follow one another and cover all positions. Where a block ends depends on `tile`; the pairs,
/// one block after another, do not. `visit` may take the vector.
///
/// Memory: `4 * tile * (tile + 2 d)` bytes a thread, and the pairs of a block: 32 bytes each, at most
/// max(2^23 and those of the tiles in flight, n) of them.
///
/// # Errors
/// The first error of `visit` ends the walk and is returned.
pub fn pairs_above<E>(
    rows: Rows,
    threshold: f64,
    tile: usize,
    visit: impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
) -> Result<(), E> {
    pairs_above_holding(rows, threshold, tile, PAIRS_HELD, visit)
}

/// [`pairs_above`] with blocks of at most `held` pairs, unless one row alone has more.
fn pairs_above_holding<E>(
    rows: Rows,
    threshold: f64,
    tile: usize,
    held: usize,
    mut visit: impl FnMut(Range<usize>, &mut Vec<Pair>) -> Result<(), E>,
) -> Result<(), E> {
    let tile = tile.max(1);
    let longest = rows.max_squared_length();
    let limit = gemm::round_down(threshold - gemm::error_bound(rows.d(), longest));
    let (mut start, mut height) = (0, tile);
    while start < rows.len() {
        let band = start..(start + height).min(rows.len());
        match band_pairs(rows, band.clone(), threshold, limit, tile, held) {
            Some(mut pairs) => {
                visit(band.clone(), &mut pairs)?;
                start = band.end;
                height = (height * 2).min(tile);
            }
            None => height = band.len().div_ceil(2),
        }
    }
    Ok(())
}

/// The pairs between a band of positions and all later ones, sorted; none when they are more than `held` and the band can be
/// cut.
fn band_pairs(
    rows: Rows,
    band: Range<usize>,
    threshold: f64,
    limit: f32,
    tile: usize,
    held: usize,
) -> Option<Vec<Pair>> {
    let (d, n) = (rows.d(), rows.len());
    let mut scratch = Vec::new();
    let left = rows.tile(band.clone(), &mut scratch);
    let found = AtomicUsize::new(0);
    let too_many = || band.len() > 1 && found.load(Ordering::Relaxed) > held;
    let tiles: Vec<Vec<Pair>> = (band.start..n)
        .into_par_iter()
        .step_by(tile)
        .map_init(
            || (Vec::new(), Vec::new()),
            |(scratch, products): &mut (Vec<f32>, Vec<f32>), start| {
                let mut pairs = Vec::new();
                if too_many() {
                    return pairs;
                }
                let columns = start..(start + tile).min(n);
                let right = rows.tile(columns.clone(), scratch);
                products.resize(band.len() * columns.len(), 0.0);
                gemm::rows_by_rows(left, right, d, products);
                for (i, cosines) in band.clone().zip(products.chunks_exact(columns.len())) {
                    let after = (i + 1).saturating_sub(columns.start).min(cosines.len());
                    for j in scan::at_least(&cosines[after..], limit) {
                        let j = columns.start + after + j;
                        let cosine = dot::cosine(rows.values(i), rows.values(j));
                        if cosine >= threshold {
                            pairs.push(Pair {
                                a: rows.row_at(i),
                                b: rows.row_at(j),
                                cosine,
                                identical: false,
                            });
                        }
                    }
                }
                found.fetch_add(pairs.len(), Ordering::Relaxed);
                pairs
            },
        )
        .collect();
    if too_many() {
        return None;
    }
    let mut pairs = tiles.concat();
    drop(tiles);
    pairs.par_sort_unstable_by_key(Pair::key);
    Some(pairs)
}

/// For each position the row before it with the greatest cosine, the earliest on a tie; the row itself and 0 at the first
/// position. This is the pairwise step of the reference system (NVIDIA NeMo Curator) with `rows` in rank order.
///
/// `rows` are unit rows in any order, all different row numbers. Rows that are identical to an earlier one are not looked at as
/// matches, since the earlier one has the same cosine. Memory: 48 bytes a row, `4 * tile * (tile + 2 d)` bytes a thread.
pub fn best_earlier(rows: Rows, tile: usize) -> Vec<Match> {
    let (d, tile) = (rows.d(), tile.max(1));
    let first = identical::first_identical(rows);
    let distinct: Vec<usize> = (0..rows.len()).filter(|&p| first[p] == p as u64).collect();
    drop(first);
    let margin = gemm::error_bound(d, rows.max_squared_length());
    let mut best: Vec<Match> = (0..rows.len())
        .map(|p| Match {
            row: rows.row_at(p),
            cosine: 0.0,
        })
        .collect();
    best.par_chunks_mut(tile).enumerate().for_each_init(
        || (Vec::new(), Vec::new(), Vec::new()),
        |(left_scratch, right_scratch, products): &mut (Vec<f32>, Vec<f32>, Vec<f32>),
         (block, best)| {
            let band = block * tile..block * tile + best.len();
            let left = rows.tile(band.clone(), left_scratch);
            // Cosines below this cannot be the best any more.
            let mut limits = vec![f32::NEG_INFINITY; best.len()];
            let mut found = vec![f64::NEG_INFINITY; best.len()];
            let earlier = distinct.partition_point(|&p| p + 1 < band.end);
            for columns in distinct[..earlier].chunks(tile) {
                rows.gather(columns.iter().copied(), right_scratch);
                products.resize(best.len() * columns.len(), 0.0);
                gemm::rows_by_rows(left, right_scratch, d, products);
                for (i, cosines) in products.chunks_exact(columns.len()).enumerate() {
                    let position = band.start + i;
                    let before = columns.partition_point(|&p| p < position);
                    let greatest = -scan::smallest(&cosines[..before], |x| -x);
                    // The greatest of this tile may be off by the margin downwards, the others upwards.
                    let mut limit =
                        limits[i].max(gemm::round_down(f64::from(greatest) - 2.0 * margin));
                    for j in scan::at_least(&cosines[..before], limit) {
                        // The limit has risen since.
                        if cosines[j] >= limit {
                            let p = columns[j];
                            let cosine = dot::cosine(rows.values(position), rows.values(p));
                            // Positions ascend, so the earliest keeps a tie.
                            if cosine > found[i] {
                                found[i] = cosine;
                                best[i] = Match {
                                    row: rows.row_at(p),
                                    cosine,
                                };
                                limit = limit.max(gemm::round_down(cosine - margin));
                            }
                        }
                    }
                    limits[i] = limit;
                }
            }
        },
    );
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::normalize::normalize_rows;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    /// Unit rows around a few directions, most of them a few last places apart, some identical.
    fn draw(seed: u64, n: usize, d: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let directions: Vec<f32> = (0..3 * d)
            .map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5)
            .collect();
        let mut rows = Vec::new();
        for _ in 0..n {
            let which = rng.next_u32() as usize % 3;
            let noise = [0.0, 0.0, 1e-6, 1e-2][rng.next_u32() as usize % 4];
            for &x in &directions[which * d..(which + 1) * d] {
                rows.push(x + noise * (rng.next_u32() as f32 / u32::MAX as f32 - 0.5));
            }
        }
        assert!(normalize_rows(&mut rows, d).is_empty());
        rows
    }

    fn collect(rows: Rows, threshold: f64, tile: usize, held: usize) -> Vec<Pair> {
        let (mut all, mut next) = (Vec::new(), 0);
        pairs_above_holding(rows, threshold, tile, held, |positions, pairs| {
            assert_eq!(positions.start, next, "blocks follow one another");
            next = positions.end;
            all.append(pairs);
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!(next, rows.len());
        all
    }

    fn brute(rows: Rows, threshold: f64) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for i in 0..rows.len() {
            for j in i + 1..rows.len() {
                let cosine = dot::cosine(rows.values(i), rows.values(j));
                if cosine >= threshold {
                    pairs.push(Pair {
                        a: rows.row_at(i),
                        b: rows.row_at(j),
                        cosine,
                        identical: false,
                    });
                }
            }
        }
        pairs
    }

    proptest! {
        #[test]
        fn pairs_are_those_of_all_cosines_one_by_one(
            seed in any::<u64>(),
            n in 0usize..40,
            d in 2usize..40,
            tile in 1usize..12,
            held in 1usize..50,
            from_a_pair in any::<bool>(),
        ) {
            let data = draw(seed, n, d);
            let rows = Rows::all(&data, d).unwrap();
            // A threshold that is some pair's own cosine: a last place decides.
            let threshold = if from_a_pair && n > 1 {
                dot::cosine(rows.values(0), rows.values(n - 1))
            } else {
                0.999
            };
            let expected = brute(rows, threshold);
            prop_assert_eq!(&collect(rows, threshold, tile, held), &expected);
            let index: Vec<u64> = (0..n as u64).step_by(2).collect();
            let some = rows.select(&index).unwrap();
            prop_assert_eq!(collect(some, threshold, tile, held), brute(some, threshold));
        }

        #[test]
        fn the_best_earlier_row_is_that_of_all_cosines_one_by_one(
            seed in any::<u64>(),
            n in 0usize..40,
            d in 2usize..40,
            tile in 1usize..12,
        ) {
            let data = draw(seed, n, d);
            let rows = Rows::all(&data, d).unwrap();
            let index: Vec<u64> = (0..n as u64).rev().collect();
            let rows = rows.select(&index).unwrap();
            let mut expected = Vec::new();
            for p in 0..n {
                let mut best = (Match { row: rows.row_at(p), cosine: 0.0 }, f64::NEG_INFINITY);
                for q in 0..p {
                    let cosine = dot::cosine(rows.values(p), rows.values(q));
                    if cosine > best.1 {
                        best = (Match { row: rows.row_at(q), cosine }, cosine);
                    }
                }
                expected.push(best.0);
            }
            prop_assert_eq!(best_earlier(rows, tile), expected);
        }
    }

    #[test]
    fn an_error_of_the_visitor_ends_the_walk() {
        let data = draw(7, 20, 4);
        let rows = Rows::all(&data, 4).unwrap();
        let mut calls = 0;
        let result = pairs_above(rows, -1.0, 4, |_, _| {
            calls += 1;
            if calls == 2 { Err("full") } else { Ok(()) }
        });
        assert_eq!((result, calls), (Err("full"), 2));
    }
}
