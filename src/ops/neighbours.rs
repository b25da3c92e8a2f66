//! Rows of one view against rows of another: all that are near each other, and for each row the nearest.
//!
//! As in [`super::tile`], candidates come from an f32 matrix product with its error bound as margin, and the canonical
//! [`dot::cosine`] alone decides, so that tiles, threads and instruction sets agree.

use super::dot;
use super::rows::Rows;
use super::scan;
use super::simd::gemm;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A block of rows with more neighbours than this (192 MiB) is done again in halves.
const HELD: usize = 1 << 23;

/// A row of the left view and one of the right that are near each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// Position in the left view.
    pub left: usize,
    /// Position in the right view.
    pub right: usize,
    /// The canonical dot product of the two unit rows, see [`dot::cosine`].
    pub cosine: f64,
}

/// All (left, right) whose cosine is at least `threshold`, in ascending order; a row that stands in both views is near itself.
///
/// Both are unit rows of one d. `visit` gets them in blocks, each with the positions on the left that it covers; blocks follow
/// one another and cover all of them. Memory: `4 * tile * (tile + 2 d)` bytes a thread, and 24 bytes for each neighbour of a
/// block: at most 2^23 of them and those of the tiles in flight, unless one row alone has more.
///
/// # Errors
/// The first error of `visit` ends the walk and is returned.
///
/// # Panics
/// When the views differ in d.
pub fn neighbours_of<E>(
    left: Rows,
    right: Rows,
    threshold: f64,
    tile: usize,
    visit: impl FnMut(Range<usize>, &[Near]) -> Result<(), E>,
) -> Result<(), E> {
    neighbours_holding(left, right, threshold, tile, HELD, visit)
}

fn neighbours_holding<E>(
    left: Rows,
    right: Rows,
    threshold: f64,
    tile: usize,
    held: usize,
    mut visit: impl FnMut(Range<usize>, &[Near]) -> Result<(), E>,
) -> Result<(), E> {
    let tile = tile.max(1);
    let limit = gemm::round_down(threshold - margin(left, right));
    let (mut start, mut height) = (0, tile);
    while start < left.len() {
        let band = start..(start + height).min(left.len());
        match band_neighbours(left, right, band.clone(), threshold, limit, tile, held) {
            Some(near) => {
                visit(band.clone(), &near)?;
                start = band.end;
                height = (height * 2).min(tile);
            }
            None => height = band.len().div_ceil(2),
        }
    }
    Ok(())
}

/// How far an f32 product of a left and a right row can be off.
fn margin(left: Rows, right: Rows) -> f64 {
    assert_eq!(left.d(), right.d(), "two views of one d");
    let lengths = (left.max_squared_length() * right.max_squared_length()).sqrt();
    gemm::error_bound(left.d(), lengths)
}

/// The neighbours of a band of positions on the left, sorted; none when they are more than `held` and the band can be cut.
fn band_neighbours(
    left: Rows,
    right: Rows,
    band: Range<usize>,
    threshold: f64,
    limit: f32,
    tile: usize,
    held: usize,
) -> Option<Vec<Near>> {
    let d = left.d();
    let mut scratch = Vec::new();
    let rows = left.tile(band.clone(), &mut scratch);
    let found = AtomicUsize::new(0);
    let too_many = || band.len() > 1 && found.load(Ordering::Relaxed) > held;
    let tiles: Vec<Vec<Near>> = (0..right.len())
        .into_par_iter()
        .step_by(tile)
        .map_init(
            || (Vec::new(), Vec::new()),
            |(scratch, products): &mut (Vec<f32>, Vec<f32>), start| {
                let mut near = Vec::new();
                if too_many() {
                    return near;
                }
                let columns = start..(start + tile).min(right.len());
                products.resize(band.len() * columns.len(), 0.0);
                gemm::rows_by_rows(rows, right.tile(columns.clone(), scratch), d, products);
                for (i, cosines) in band.clone().zip(products.chunks_exact(columns.len())) {
                    for j in scan::at_least(cosines, limit) {
                        let j = columns.start + j;
                        let cosine = dot::cosine(left.values(i), right.values(j));
                        if cosine >= threshold {
                            near.push(Near {
                                left: i,
                                right: j,
                                cosine,
                            });
                        }
                    }
                }
                found.fetch_add(near.len(), Ordering::Relaxed);
                near
            },
        )
        .collect();
    if too_many() {
        return None;
    }
    let mut near = tiles.concat();
    drop(tiles);
    near.par_sort_unstable_by_key(|near| (near.left, near.right));
    Some(near)
}

/// For each position on the left the position on the right with the greatest cosine, the earliest on a tie, and that cosine;
/// none where the right view is empty. Memory: 24 bytes a row on the left, `4 * tile * (tile + 2 d)` bytes a thread.
///
/// # Panics
/// When the views differ in d.
pub fn nearest_of(left: Rows, right: Rows, tile: usize) -> Vec<Option<(usize, f64)>> {
    let (d, tile) = (left.d(), tile.max(1));
    let margin = margin(left, right);
    let mut best: Vec<Option<(usize, f64)>> = vec![None; left.len()];
    best.par_chunks_mut(tile).enumerate().for_each_init(
        || (Vec::new(), Vec::new(), Vec::new()),
        |(left_scratch, right_scratch, products): &mut (Vec<f32>, Vec<f32>, Vec<f32>),
         (block, best)| {
            let band = block * tile..block * tile + best.len();
            let rows = left.tile(band.clone(), left_scratch);
            // Cosines below this cannot be the best any more.
            let mut limits = vec![f32::NEG_INFINITY; best.len()];
            for start in (0..right.len()).step_by(tile) {
                let columns = start..(start + tile).min(right.len());
                products.resize(best.len() * columns.len(), 0.0);
                let others = right.tile(columns.clone(), right_scratch);
                gemm::rows_by_rows(rows, others, d, products);
                for (i, cosines) in products.chunks_exact(columns.len()).enumerate() {
                    let greatest = -scan::smallest(cosines, |x| -x);
                    // The greatest of this tile may be off by the margin downwards, the others upwards.
                    let least = gemm::round_down(f64::from(greatest) - 2.0 * margin);
                    let mut limit = limits[i].max(least);
                    for j in scan::at_least(cosines, limit) {
                        // The limit has risen since.
                        if cosines[j] >= limit {
                            let j = columns.start + j;
                            let cosine = dot::cosine(left.values(band.start + i), right.values(j));
                            // Positions ascend, so the earliest keeps a tie.
                            if best[i].is_none_or(|(_, greatest)| cosine > greatest) {
                                best[i] = Some((j, cosine));
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
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let directions: Vec<f32> = (0..3 * d)
            .map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5)
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
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

    proptest! {
        #[test]
        fn neighbours_and_the_nearest_are_those_of_all_cosines_one_by_one(
            seed in any::<u64>(),
            n in 0usize..30,
            m in 0usize..30,
            d in 2usize..40,
            tile in 1usize..12,
            held in 1usize..50,
            from_a_pair in any::<bool>(),
        ) {
            let (a, b) = (draw(seed, n, d), draw(seed.wrapping_add(1), m, d));
            let (left, right) = (Rows::all(&a, d).unwrap(), Rows::all(&b, d).unwrap());
            let index: Vec<u64> = (0..m as u64).rev().collect();
            let right = right.select(&index).unwrap();
            // A threshold that is some pair's own cosine: a last place decides.
            let threshold = if from_a_pair && n > 0 && m > 0 {
                dot::cosine(left.values(0), right.values(m - 1))
            } else {
                0.999
            };
            let (mut near, mut nearest) = (Vec::new(), Vec::new());
            for i in 0..n {
                let mut best: Option<(usize, f64)> = None;
                for j in 0..m {
                    let cosine = dot::cosine(left.values(i), right.values(j));
                    if cosine >= threshold {
                        near.push(Near { left: i, right: j, cosine });
                    }
                    if best.is_none_or(|(_, greatest)| cosine > greatest) {
                        best = Some((j, cosine));
                    }
                }
                nearest.push(best);
            }
            let (mut got, mut next) = (Vec::new(), 0);
            neighbours_holding(left, right, threshold, tile, held, |positions, block| {
                assert_eq!(positions.start, next, "blocks follow one another");
                next = positions.end;
                got.extend_from_slice(block);
                Ok::<(), ()>(())
            }).unwrap();
            prop_assert_eq!(next, n);
            prop_assert_eq!(got, near);
            prop_assert_eq!(nearest_of(left, right, tile), nearest);
        }
    }
}
