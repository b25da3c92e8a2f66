//! The nearest centroid of each row: the assignment step of k-means.
//!
//! `|x - c|^2 = |x|^2 + |c|^2 - 2 x.c`, so tiles of `x.c` come from an f32 matrix product and `|c|^2 - 2 x.c` is compared
//! along the centroids. That is right to a few 1e-5 only; every centroid within the error bound of the smallest is therefore
//! compared again by the canonical [`dot::squared_distance`], and the lowest number wins a tie. The result does not depend on
//! tiles, threads or the instruction set.

use super::dot;
use super::rows::Rows;
use super::scan;
use super::simd::gemm;
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
/// Memory: 12 bytes a row, and about a megabyte (`4 * 256 * min(k, 1024)` bytes and some candidates) a thread.
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
    let (rows, centers) = (Rows::all(data, d)?, Rows::all(centroids, d)?);
    if centers.is_empty() || u32::try_from(centers.len()).is_err() {
        return Err(Error::shape(
            "assign",
            "between 1 and 4294967295 centroids",
            format!("{}", centers.len()),
        ));
    }
    for (name, view) in [("rows", rows), ("centroids", centers)] {
        let longest = view.max_squared_length().sqrt();
        if !longest.is_finite() || longest > LONGEST {
            return Err(Error::shape(
                "assign",
                format!("finite {name} no longer than {LONGEST:e}"),
                format!("one of length {longest:e}"),
            ));
        }
    }
    let (row_tile, centroid_tile) = (row_tile.max(1), centroid_tile.max(1));
    let squared: Vec<f64> = (0..centers.len())
        .map(|j| dot::cosine(centers.values(j), centers.values(j)))
        .collect();
    let task = Task {
        d,
        centroids,
        longest: squared.iter().copied().fold(0.0, f64::max).sqrt(),
        squared: squared.iter().map(|&s| s as f32).collect(),
        centroid_tile,
    };
    let mut labels = vec![0; rows.len()];
    let mut squared_distances = vec![0.0; rows.len()];
    labels
        .par_chunks_mut(row_tile)
        .zip(squared_distances.par_chunks_mut(row_tile))
        .zip(data.par_chunks(row_tile * d))
        .for_each_init(Scratch::default, |scratch, ((labels, distances), tile)| {
            task.run(tile, scratch, labels, distances);
        });
    Ok(Assignment {
        labels,
        squared_distances,
    })
}

struct Task<'a> {
    d: usize,
    centroids: &'a [f32],
    /// `|c|^2` of each centroid.
    squared: Vec<f32>,
    /// The greatest `|c|`.
    longest: f64,
    centroid_tile: usize,
}

/// What a thread uses again from tile to tile.
#[derive(Default)]
struct Scratch {
    products: Vec<f32>,
    /// For each row of the tile: the smallest `|c|^2 - 2 x.c` so far, and the centroids that may yet be nearest.
    best: Vec<f32>,
    candidates: Vec<Vec<(u32, f32)>>,
    margins: Vec<f32>,
}

impl Task<'_> {
    fn run(&self, tile: &[f32], scratch: &mut Scratch, labels: &mut [u32], distances: &mut [f64]) {
        let (d, m) = (self.d, labels.len());
        scratch.best.clear();
        scratch.best.resize(m, f32::INFINITY);
        scratch.candidates.resize_with(m, Vec::new);
        scratch.candidates.iter_mut().for_each(Vec::clear);
        scratch.margins.clear();
        scratch
            .margins
            .extend(tile.chunks_exact(d).map(|x| self.margin(x)));
        let mut first = 0;
        for block in self.centroids.chunks(self.centroid_tile * d) {
            let n = block.len() / d;
            scratch.products.resize(m * n, 0.0);
            gemm::rows_by_rows(tile, block, d, &mut scratch.products[..m * n]);
            let squared = &self.squared[first..first + n];
            for (i, scores) in scratch.products[..m * n].chunks_exact_mut(n).enumerate() {
                for (score, &squared) in scores.iter_mut().zip(squared) {
                    *score = squared - 2.0 * *score;
                }
                let best = &mut scratch.best[i];
                *best = best.min(scan::smallest(scores, |x| x));
                let limit = *best + scratch.margins[i];
                scratch.candidates[i]
                    .extend(scan::at_most(scores, limit).map(|j| ((first + j) as u32, scores[j])));
            }
            first += n;
        }
        for (i, x) in tile.chunks_exact(d).enumerate() {
            let limit = scratch.best[i] + scratch.margins[i];
            let mut nearest = (u32::MAX, f64::INFINITY);
            for &(j, score) in &scratch.candidates[i] {
                if score <= limit {
                    let c = &self.centroids[j as usize * d..(j as usize + 1) * d];
                    let distance = dot::squared_distance(x, c);
                    // Candidates ascend, so the lowest number keeps a tie.
                    if distance < nearest.1 {
                        nearest = (j, distance);
                    }
                }
            }
            (labels[i], distances[i]) = nearest;
        }
    }

    /// How much greater than the smallest the score of the truly nearest centroid can be: twice what one score can be off.
    /// A score is `|c|^2 - 2 x.c` with an f32 product, `|c|^2` rounded and one f32 subtraction; the canonical distance that
    /// decides has an error of its own, smaller by 2^29 but relative to `(|x| + |c|)^2`. The sum is rounded up.
    fn margin(&self, x: &[f32]) -> f32 {
        const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
        let (x, c) = (dot::cosine(x, x).sqrt(), self.longest);
        let product = 2.0 * gemm::error_bound(self.d, x * c);
        let rounding = UNIT * (3.0 * c * c + 4.0 * x * c);
        let canonical = (self.d + 4) as f64 * f64::EPSILON * (x + c).powi(2);
        // The last factor is for adding the margin to the smallest score in f32.
        let margin = 2.0 * (product + rounding + canonical) + 2.0 * UNIT * (c * c + 2.0 * x * c);
        (margin as f32).next_up()
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
            let got = assign_tiled(&data, d, &centroids, row_tile, centroid_tile).unwrap();
            prop_assert_eq!(got, brute(&data, d, &centroids));
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
