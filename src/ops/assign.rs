//! The nearest centroid of each row: the assignment step of k-means.
//!
//! Scores come from coarse products, see `coarse`; every centroid whose score lies within the bound of the best is
//! compared again by the canonical [`dot::squared_distance`], and the lowest number wins a tie. The result does not depend on
//! tiles, threads or the instruction set.

use super::coarse::{Block, Coarse, Precision, Products};
use super::dot;
use super::rows::Rows;
use super::simd::sift::Found;
use crate::{Error, Result};
use rayon::prelude::*;

/// Rows and centroids in a tile.
const ROWS: usize = 256;
const CENTROIDS: usize = 1024;

/// Values beyond this could overflow f32 when multiplied.
const LONGEST: f64 = 1e18;

/// Where each row belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// `[n]`: the nearest centroid.
    pub labels: Vec<u32>,
    /// `[n]`: the squared Euclidean distance to it, canonical.
    pub squared_distances: Vec<f64>,
}

impl Assignment {
    /// The sum of the squared distances, added in fixed blocks, so that it too is the same for any number of threads.
    pub fn inertia(&self) -> f64 {
        self.squared_distances
            .chunks(4096)
            .map(|block| block.iter().sum::<f64>())
            .sum()
    }
}

/// The nearest of `centroids` `[k, d]` for each row of `data` `[n, d]`, by Euclidean distance; the lowest number on a tie.
///
/// Work: `2 n k d` operations, and one canonical distance for each row and each centroid that could be its nearest; `data` is
/// read from memory once. With many clusters the products are the floor, with few the reading.
///
/// Memory: 12 bytes a row; the rounded centroids, `(d + 100) k` bytes in 8 bits and `4 (d + 10) k` in f32; and for each thread the rows
/// of a tile, up to half a megabyte of products and some candidates.
///
/// # Errors
/// [`Error::Shape`] when there are no centroids, more than `u32` counts, or the values are not rows of `d`, not finite or longer
/// than 1e18.
pub fn assign(data: &[f32], d: usize, centroids: &[f32]) -> Result<Assignment> {
    assign_tiled(data, d, centroids, ROWS, CENTROIDS)
}

/// [`assign`] with tiles of `row_tile` rows by `centroid_tile` centroids, each at least 1.
///
/// # Errors
/// As [`assign`].
pub fn assign_tiled(
    data: &[f32],
    d: usize,
    centroids: &[f32],
    row_tile: usize,
    centroid_tile: usize,
) -> Result<Assignment> {
    assign_in(None, data, d, centroids, row_tile, centroid_tile)
}

/// [`assign_tiled`] in a given precision, or in the one that suits the rows.
fn assign_in(
    precision: Option<Precision>,
    data: &[f32],
    d: usize,
    centroids: &[f32],
    row_tile: usize,
    centroid_tile: usize,
) -> Result<Assignment> {
    let (rows, centers) = (Rows::all(data, d)?, Rows::all(centroids, d)?);
    if centers.is_empty() || u32::try_from(centers.len()).is_err() {
        return Err(Error::shape(
            "assign",
            "between 1 and 4294967295 centroids",
            format!("{}", centers.len()),
        ));
    }
    check("centroids", centers)?;
    let tile = centroid_tile.max(1);
    let mut task = Task::new(precision.unwrap_or(Precision::fastest(d)), centers, tile);
    if precision.is_none() && !task.fits(rows)? {
        task = Task::new(Precision::F32, centers, tile);
    }
    let task = task;
    let row_tile = row_tile.max(1);
    let mut labels = vec![0; rows.len()];
    let mut squared_distances = vec![0.0; rows.len()];
    labels
        .par_chunks_mut(row_tile)
        .zip(squared_distances.par_chunks_mut(row_tile))
        .zip(data.par_chunks(row_tile * d))
        .try_for_each_init(Scratch::default, |scratch, ((labels, distances), tile)| {
            let strip = task.coarse.strip();
            labels
                .chunks_mut(strip)
                .zip(distances.chunks_mut(strip))
                .zip(tile.chunks(strip * d))
                .try_for_each(|((labels, distances), rows)| {
                    task.run(rows, scratch, labels, distances).map(|_| ())
                })
        })?;
    Ok(Assignment {
        labels,
        squared_distances,
    })
}

/// # Errors
/// [`Error::Shape`] for a row that is not finite or longer than [`LONGEST`].
fn check(name: &str, rows: Rows) -> Result<()> {
    let longest = rows.max_squared_length().sqrt();
    if longest.is_finite() && longest <= LONGEST {
        return Ok(());
    }
    Err(Error::shape(
        "assign",
        format!("finite {name} no longer than {LONGEST:e}"),
        format!("one of length {longest:e}"),
    ))
}

/// Centroids, made ready for any rows. With X = x - m and C = c - m (see [`super::coarse`]) the nearest centroid is the one of the
/// greatest *score* `X.C - |C|^2 / 2`, which is `(|X|^2 - |x - c|^2) / 2`.
struct Task<'a> {
    coarse: Coarse,
    centroids: Rows<'a>,
    /// Tiles of rounded centroids.
    tiles: Vec<Block>,
    tile: usize,
    /// `-|C|^2 / 2` of each centroid.
    bases: Vec<f32>,
    /// The greatest `|C|`, exact or rounded.
    longest: f64,
}

/// What a thread uses again from strip to strip.
#[derive(Default)]
struct Scratch {
    left: Block,
    products: Products,
    over: Vec<f32>,
    under: Vec<f32>,
    limits: Vec<f32>,
    /// For each row: a score that some centroid surely reaches.
    promised: Vec<f64>,
    greatest: Vec<f32>,
    found: Vec<Found>,
    /// For each row the centroids that may be nearest, with the most that their scores can be.
    candidates: Vec<Vec<(u32, f32)>>,
}

impl<'a> Task<'a> {
    fn new(precision: Precision, centroids: Rows<'a>, tile: usize) -> Task<'a> {
        let coarse = Coarse::new(precision, centroids);
        let starts = (0..centroids.len()).into_par_iter().step_by(tile);
        let tiles: Vec<Block> = starts
            .map(|start| {
                let mut block = Block::default();
                let numbers = start..(start + tile).min(centroids.len());
                coarse.right(numbers.map(|j| centroids.values(j)), &mut block);
                block
            })
            .collect();
        let bases = (0..centroids.len())
            .into_par_iter()
            .map(|j| (-dot::squared_distance(centroids.values(j), coarse.centre()) / 2.0) as f32)
            .collect();
        Task {
            longest: tiles.iter().map(Block::longest).fold(0.0, f64::max),
            coarse,
            centroids,
            tiles,
            tile,
            bases,
        }
    }

    /// Whether candidates are few: at most one in eight centroids, over a sample of the rows. A candidate costs as much as some ten
    /// products in f32.
    fn fits(&self, rows: Rows) -> Result<bool> {
        let (n, k, strip) = (rows.len(), self.centroids.len(), self.coarse.strip());
        if self.coarse.precision() == Precision::F32 || n < 8 * strip || k < 32 {
            return Ok(true);
        }
        let mut sample = Vec::new();
        rows.gather((0..strip).map(|s| s * n / strip), &mut sample);
        let (mut labels, mut distances) = (vec![0; strip], vec![0.0; strip]);
        let measured = self.run(
            &sample,
            &mut Scratch::default(),
            &mut labels,
            &mut distances,
        )?;
        Ok(measured <= strip * k / 8)
    }

    /// Labels a strip of rows; the number of distances that it took.
    fn run(
        &self,
        rows: &[f32],
        scratch: &mut Scratch,
        labels: &mut [u32],
        distances: &mut [f64],
    ) -> Result<usize> {
        let d = self.centroids.d();
        let Scratch {
            left,
            products,
            over,
            under,
            limits,
            promised,
            greatest,
            found,
            candidates,
        } = scratch;
        self.coarse.left(rows.chunks_exact(d), left);
        if left.longest() >= LONGEST / 2.0 {
            check("rows", Rows::all(rows, d)?)?;
        }
        // What rounding to 8 bits loses goes into the bias; the slack is for all else, in the score and in the distance.
        let slack = self.coarse.slack_unshifted(left.longest(), self.longest);
        promised.clear();
        promised.resize(labels.len(), f64::NEG_INFINITY);
        candidates.resize_with(labels.len(), Vec::new);
        candidates.iter_mut().for_each(Vec::clear);
        for (t, tile) in self.tiles.iter().enumerate() {
            let first = t * self.tile;
            let base = &self.bases[first..(first + self.tile).min(self.bases.len())];
            tile.bias(base, left.longest(), left.greatest_error(), over, under);
            self.coarse.sweep(left, tile, 0, products, |chunk| {
                greatest.clear();
                greatest.resize(labels.len(), f32::NEG_INFINITY);
                chunk.greatest(under, |_| usize::MAX, greatest);
                for (promised, &greatest) in promised.iter_mut().zip(&*greatest) {
                    *promised = promised.max(f64::from(greatest) - slack);
                }
                left.limits(limits, |i| promised[i] - slack);
                found.clear();
                chunk.at_least(over, limits, found);
                for found in &*found {
                    candidates[found.row as usize].push((first as u32 + found.column, found.value));
                }
            });
        }
        left.limits(limits, |i| promised[i] - slack);
        let mut measured = 0;
        for (i, x) in rows.chunks_exact(d).enumerate() {
            let last = |&&(_, value): &&(u32, f32)| value >= limits[i];
            let mut numbers = candidates[i].iter().filter(last).map(|&(j, _)| j);
            let others = candidates[i]
                .iter()
                .filter(last)
                .map(|&(j, _)| self.centroids.values(j as usize));
            let mut nearest = (u32::MAX, f64::INFINITY);
            dot::squared_distances(x, others, |distance| {
                let j = numbers.next().expect("a distance for each candidate");
                measured += 1;
                // Candidates ascend, so the lowest number keeps a tie.
                if distance < nearest.1 {
                    nearest = (j, distance);
                }
            });
            (labels[i], distances[i]) = nearest;
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::normalize::normalize_rows;
    use proptest::prelude::*;

    fn brute(data: &[f32], d: usize, centroids: &[f32]) -> Assignment {
        let (mut labels, mut squared_distances) = (Vec::new(), Vec::new());
        for x in data.chunks_exact(d) {
            let mut nearest = (0, f64::INFINITY);
            for (j, c) in centroids.chunks_exact(d).enumerate() {
                let distance = dot::squared_distance(x, c);
                if distance < nearest.1 {
                    nearest = (j as u32, distance);
                }
            }
            labels.push(nearest.0);
            squared_distances.push(nearest.1);
        }
        Assignment {
            labels,
            squared_distances,
        }
    }

    proptest! {
        #[test]
        fn the_nearest_centroid_is_the_canonical_one_for_every_tile(
            d in 1usize..40,
            n in 1usize..30,
            k in 1usize..20,
            row_tile in 1usize..9,
            centroid_tile in 1usize..9,
            wiggle in prop::sample::select(vec![0u32, 1, 3, 1000]),
            scale in prop::sample::select(vec![1.0f32, 1e-20, 1e6]),
            seed in any::<u64>(),
        ) {
            use rand_chacha::rand_core::{RngCore, SeedableRng};
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            // Few distinct directions, each value moved by a few last places: near ties everywhere.
            let directions: Vec<f32> = (0..3 * d).map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5).collect();
            let mut draw = |count: usize| {
                let mut rows: Vec<f32> = Vec::new();
                for _ in 0..count {
                    let which = rng.next_u32() as usize % 3;
                    for &x in &directions[which * d..(which + 1) * d] {
                        rows.push(f32::from_bits(x.to_bits() + rng.next_u32() % (wiggle + 1)));
                    }
                }
                normalize_rows(&mut rows, d);
                rows.iter_mut().for_each(|x| *x *= scale);
                rows
            };
            let (data, centroids) = (draw(n), draw(k));
            let expected = brute(&data, d, &centroids);
            for precision in Precision::available() {
                let got = assign_in(Some(precision), &data, d, &centroids, row_tile, centroid_tile).unwrap();
                prop_assert_eq!(&got, &expected, "{:?}", precision);
            }
        }
    }

    #[test]
    fn what_cannot_be_assigned_is_refused() {
        assert!(assign(&[1.0, 2.0], 2, &[]).is_err());
        assert!(assign(&[1.0, f32::NAN], 2, &[1.0, 0.0]).is_err());
        assert!(assign(&[1.0, 0.0], 2, &[1.0, 1e30]).is_err());
        assert!(assign(&[1.0, 0.0, 3.0], 2, &[1.0, 1.0]).is_err());
        assert!(assign(&[], 2, &[1.0, 1.0]).unwrap().labels.is_empty());
    }
}
