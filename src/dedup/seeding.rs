//! Where k-means starts: k-means++, k-means||, random rows; and the seeded random numbers that they take.
//!
//! Sums run in fixed blocks of rows and each draw comes from one ChaCha stream, so the same seed chooses the same rows for any
//! number of threads.

use super::kmeans::{Step, Tell, slab_of};
use crate::ops::assign::assign;
use crate::ops::nearer::{Nearer, Scratch};
use crate::ops::rows::Rows;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

/// Rows whose values are added one after another; blocks are then added in order.
const BLOCK: usize = 4096;

/// k-means++ among `rows` with `weights` (1 each, where none): the numbers of the chosen rows.
pub(super) fn plus_plus(
    rows: &[f32],
    d: usize,
    weights: Option<&[f64]>,
    k: usize,
    rng: &mut ChaCha8Rng,
    tell: &mut Tell,
) -> crate::Result<Vec<usize>> {
    let n = rows.len() / d;
    let weight = |row: usize| weights.map_or(1.0, |w| w[row]);
    // Nothing is chosen yet: every row is as far as any other, and only its weight counts.
    let mut distances = vec![1.0f64; n];
    let mut sums: Vec<f64> = (0..n)
        .step_by(BLOCK)
        .map(|start| (start..(start + BLOCK).min(n)).map(weight).sum())
        .collect();
    let nearer = Nearer::new(Rows::all(rows, d)?, BLOCK);
    let mut chosen = Vec::with_capacity(k);
    while chosen.len() < k {
        let Some(row) = draw(&distances, &weight, &sums, rng) else {
            break;
        };
        let newest = &rows[row * d..(row + 1) * d];
        if chosen.is_empty() {
            distances.fill(f64::INFINITY);
        }
        chosen.push(row);
        let point = nearer.point(newest);
        distances
            .par_chunks_mut(BLOCK)
            .enumerate()
            .map_init(Scratch::default, |scratch, (block, distances)| {
                nearer.lower(&point, block, distances, scratch);
                let weights = (block * BLOCK..).map(weight);
                distances
                    .iter()
                    .zip(weights)
                    .map(|(distance, weight)| distance * weight)
                    .sum()
            })
            .collect_into_vec(&mut sums);
        tell(Step::Seeded {
            done: chosen.len() as u64,
            of: k as u64,
        })?;
    }
    // Fewer different rows than clusters: the rest are copies of chosen ones, in order.
    let mut is_chosen = vec![false; n];
    chosen.iter().for_each(|&row| is_chosen[row] = true);
    let rest = (0..n).filter(|&row| !is_chosen[row]).take(k - chosen.len());
    chosen.extend(rest);
    Ok(chosen)
}

/// A row drawn with probability proportional to distance times weight; `sums` are these by blocks. None when all are 0.
fn draw(
    distances: &[f64],
    weight: &impl Fn(usize) -> f64,
    sums: &[f64],
    rng: &mut ChaCha8Rng,
) -> Option<usize> {
    let total: f64 = sums.iter().sum();
    let mut left = uniform(rng.next_u64()) * total;
    let mut last = None;
    for (block, &sum) in sums.iter().enumerate() {
        // The last block with anything in it takes what rounding leaves over.
        if left >= sum && sums[block + 1..].iter().any(|&s| s > 0.0) {
            left -= sum;
            continue;
        }
        let rows = block * BLOCK..distances.len().min((block + 1) * BLOCK);
        for (row, distance) in rows.clone().zip(&distances[rows]) {
            let share = distance * weight(row);
            if share > 0.0 {
                last = Some(row);
                if left < share {
                    return last;
                }
                left -= share;
            }
        }
        if last.is_some() {
            return last;
        }
    }
    last
}

/// k-means||: the chosen centroids `[k, d]`.
pub(super) fn parallel(
    rows: &[f32],
    d: usize,
    k: usize,
    rng: &mut ChaCha8Rng,
    tell: &mut Tell,
) -> crate::Result<Vec<f32>> {
    /// Passes, and rows expected of each as a multiple of k.
    const ROUNDS: usize = 5;
    const OVERSAMPLING: f64 = 2.0;
    let n = rows.len() / d;
    let mut candidates = vec![below(n, rng)];
    let mut nearest = vec![0; n];
    let mut distances = vec![f64::INFINITY; n];
    let mut first_new = 0;
    // The choice among the candidates counts as one more pass.
    let (mut compared, all) = (0, n as u64 * (ROUNDS as u64 + 2));
    for round in 0..=ROUNDS {
        let newest = gather(rows, d, &candidates[first_new..]);
        let slab = slab_of(newest.len());
        let known = nearest.chunks_mut(slab).zip(distances.chunks_mut(slab));
        for (rows, (nearest, distances)) in rows.chunks(slab * d).zip(known) {
            let assignment = assign(rows, d, &newest)?;
            let new = assignment.labels.iter().zip(&assignment.squared_distances);
            for ((nearest, distance), (&label, &to_new)) in
                nearest.iter_mut().zip(&mut *distances).zip(new)
            {
                if to_new < *distance {
                    (*nearest, *distance) = (first_new + label as usize, to_new);
                }
            }
            compared += distances.len() as u64;
            tell(Step::Seeded {
                done: compared,
                of: all,
            })?;
        }
        let cost: f64 = distances
            .chunks(BLOCK)
            .map(|block| block.iter().sum::<f64>())
            .sum();
        if round == ROUNDS || cost == 0.0 {
            break;
        }
        first_new = candidates.len();
        let key = rng.next_u64();
        candidates.extend((0..n).filter(|&row| {
            let chance = OVERSAMPLING * k as f64 * distances[row] / cost;
            uniform(mix(key ^ mix(row as u64))) < chance
        }));
        if candidates.len() == first_new {
            break;
        }
    }
    let mut weights = vec![0.0; candidates.len()];
    for candidate in nearest {
        weights[candidate] += 1.0;
    }
    // Too few: any other rows, the earliest, without a weight.
    if candidates.len() < k {
        let mut is_candidate = vec![false; n];
        candidates.iter().for_each(|&row| is_candidate[row] = true);
        let missing = k - candidates.len();
        candidates.extend((0..n).filter(|&row| !is_candidate[row]).take(missing));
        weights.resize(k, 0.0);
    }
    let among = gather(rows, d, &candidates);
    let last_pass = |step| match step {
        Step::Seeded { done, of } => tell(Step::Seeded {
            done: all - n as u64 + n as u64 * done / of,
            of: all,
        }),
        step => tell(step),
    };
    let chosen = plus_plus(&among, d, Some(&weights), k, rng, &mut { last_pass })?;
    Ok(gather(&among, d, &chosen))
}

pub(super) fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// `m` different numbers below `n`, in random order (the first m steps of a Fisher-Yates shuffle).
pub(super) fn choose(n: usize, m: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..n).collect();
    for i in 0..m {
        let other = i + below(n - i, rng);
        numbers.swap(i, other);
    }
    numbers.truncate(m);
    numbers
}

/// A number below `n`; the bias is at most n / 2^64.
fn below(n: usize, rng: &mut ChaCha8Rng) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// 53 of the bits as a number from 0 to below 1.
pub(super) fn uniform(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's finaliser: every bit of the input moves every bit of the output.
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(super) fn gather(rows: &[f32], d: usize, numbers: &[usize]) -> Vec<f32> {
    let mut values = Vec::with_capacity(numbers.len() * d);
    for &row in numbers {
        values.extend_from_slice(&rows[row * d..(row + 1) * d]);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_means_plus_plus_draws_by_squared_distance() {
        // From row 0, rows 1 and 2 are at squared distances 1 and 9.
        let rows = [0.0, 1.0, -3.0];
        let (mut from_first, mut third) = (0, 0);
        for seed in 0..4000 {
            let chosen =
                plus_plus(&rows, 1, None, 2, &mut random(seed, 1), &mut |_| Ok(())).unwrap();
            if chosen[0] == 0 {
                from_first += 1;
                third += usize::from(chosen[1] == 2);
            }
        }
        let share = third as f64 / from_first as f64;
        assert!((1200..1470).contains(&from_first), "{from_first}");
        assert!((0.87..0.93).contains(&share), "{share}");
    }

    #[test]
    fn a_sample_is_without_replacement() {
        let mut picked = choose(100, 100, &mut random(3, 0));
        assert_ne!(picked[..5], [0, 1, 2, 3, 4]);
        picked.sort_unstable();
        assert_eq!(picked, (0..100).collect::<Vec<_>>());
    }
}
