//! Squared distances that only fall: many points come one after another, and each lowers the distance of the rows that it is nearer
//! to than all before it. This is what k-means++ does k times.
//!
//! The rows are rounded once ([`super::coarse`]), a quarter of their bytes in 8 bits, and a point is compared with these; only
//! rows that it may be nearer to are read and measured by the canonical [`dot::squared_distance`]. Distances are therefore the
//! same bits as without rounding.

use super::coarse::{Block, Coarse, Precision, Products};
use super::dot;
use super::rows::Rows;
use super::simd::sift::Found;
use rayon::prelude::*;

/// Bytes of rounded rows at most; rows beyond are measured themselves, each time.
const HELD: usize = 512 << 20;

/// Rows, ready to be compared with points.
pub(crate) struct Nearer<'a> {
    rows: Rows<'a>,
    /// Rows to a block of distances.
    size: usize,
    rounded: Option<Rounded>,
}

struct Rounded {
    coarse: Coarse,
    /// The first of the blocks, as many as may be held.
    blocks: Vec<Block>,
    /// `|X|^2` of each of their rows, relative to the centre.
    squares: Vec<f64>,
}

/// A point, ready to be compared with rows.
pub(crate) struct Point<'p> {
    values: &'p [f32],
    rounded: Option<(Block, f64)>,
}

/// What a thread uses again from block to block.
#[derive(Default)]
pub(crate) struct Scratch {
    base: Vec<f32>,
    over: Vec<f32>,
    under: Vec<f32>,
    products: Products,
    found: Vec<Found>,
}

impl<'a> Nearer<'a> {
    /// For blocks of `size` rows. Memory: `(d + 100) n` bytes in 8 bits but at most 512 MiB, none where the processor multiplies f32
    /// only.
    pub(crate) fn new(rows: Rows<'a>, size: usize) -> Nearer<'a> {
        Nearer::new_in(Precision::fastest(rows.d()), rows, size, HELD)
    }

    fn new_in(precision: Precision, rows: Rows<'a>, size: usize, held: usize) -> Nearer<'a> {
        let rounded = (precision != Precision::F32).then(|| {
            let coarse = Coarse::new(precision, rows);
            let blocks = held / (size * (rows.d() + 100));
            let held_rows = rows.len().min(blocks * size);
            let starts = (0..held_rows).into_par_iter().step_by(size);
            let blocks = starts
                .map(|start| {
                    let mut block = Block::default();
                    let positions = start..(start + size).min(held_rows);
                    coarse.right(positions.map(|p| rows.values(p)), &mut block);
                    block
                })
                .collect();
            let squares = (0..held_rows)
                .into_par_iter()
                .map(|p| dot::squared_distance(rows.values(p), coarse.centre()))
                .collect();
            Rounded {
                coarse,
                blocks,
                squares,
            }
        });
        Nearer {
            rows,
            size,
            rounded,
        }
    }

    /// Makes a point of d values ready.
    pub(crate) fn point<'p>(&self, values: &'p [f32]) -> Point<'p> {
        let rounded = self.rounded.as_ref().map(|rounded| {
            let mut block = Block::default();
            rounded.coarse.left([values].into_iter(), &mut block);
            (
                block,
                dot::squared_distance(values, rounded.coarse.centre()),
            )
        });
        Point { values, rounded }
    }

    /// Lowers the `distances` of the rows of a block to those of the point, where these are less.
    pub(crate) fn lower(
        &self,
        point: &Point,
        block: usize,
        distances: &mut [f64],
        scratch: &mut Scratch,
    ) {
        let first = block * self.size;
        let values = |i: usize| self.rows.values(first + i);
        let rounded = self.rounded.as_ref().zip(point.rounded.as_ref());
        let right = rounded.and_then(|(rounded, _)| rounded.blocks.get(block));
        let (Some((rounded, (left, square))), Some(right)) = (rounded, right) else {
            for (i, distance) in distances.iter_mut().enumerate() {
                *distance = distance.min(dot::squared_distance(values(i), point.values));
            }
            return;
        };
        let Scratch {
            base,
            over,
            under,
            products,
            found,
        } = scratch;
        // |x - z|^2 < D where 2 X.Z + D - |X|^2 > |Z|^2, all of it halved here.
        let squares = &rounded.squares[first..first + distances.len()];
        base.clear();
        base.extend(
            distances
                .iter()
                .zip(squares)
                .map(|(distance, square)| ((distance - square) / 2.0) as f32),
        );
        base.resize(right.padded(), f32::NEG_INFINITY);
        right.bias(base, left.longest(), left.greatest_error(), over, under);
        // Distances are at most (|X| + |Z|)^2 once one is known, so no number here is greater than what the slack is for.
        let longest = left.longest().max(right.longest());
        let reach = distances.iter().copied().fold(0.0, f64::max);
        let slack = 4.0 * rounded.coarse.slack_unshifted(longest, longest)
            + reach * f64::from(f32::EPSILON);
        let mut limits = Vec::new();
        left.limits(&mut limits, |_| square / 2.0 - slack);
        limits.truncate(1);
        rounded.coarse.sweep(left, right, 0, products, |chunk| {
            found.clear();
            chunk.at_least(over, &limits, found);
            let near = || {
                found
                    .iter()
                    .map(|f| f.column as usize)
                    .filter(|&i| i < distances.len())
            };
            let mut measured = near();
            let mut lower = Vec::new();
            dot::squared_distances(point.values, near().map(values), |distance| {
                let i = measured.next().expect("a distance for each row");
                lower.push((i, distance));
            });
            for (i, distance) in lower {
                distances[i] = distances[i].min(distance);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn distances_are_those_of_every_row_measured(
            seed in any::<u64>(),
            n in 1usize..60,
            d in 1usize..70,
            size in 1usize..40,
            cone in prop::sample::select(vec![0.0f32, 3.0]),
            scale in prop::sample::select(vec![1.0f32, 1e-20, 1e6]),
        ) {
            use rand_chacha::rand_core::{RngCore, SeedableRng};
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let data: Vec<f32> = (0..n * d)
                .map(|_| {
                    // Few different values, hence many ties.
                    scale * (cone + (rng.next_u32() % 3) as f32 + 1e-6 * (rng.next_u32() % 3) as f32)
                })
                .collect();
            let rows = Rows::all(&data, d).unwrap();
            let points: Vec<usize> = (0..n.min(8)).map(|_| rng.next_u32() as usize % n).collect();
            let mut expected = vec![f64::INFINITY; n];
            for &p in &points {
                for (i, distance) in expected.iter_mut().enumerate() {
                    *distance = distance.min(dot::squared_distance(rows.values(i), rows.values(p)));
                }
            }
            for (precision, held) in Precision::available().into_iter().flat_map(|p| [(p, 3000), (p, HELD)]) {
                let nearer = Nearer::new_in(precision, rows, size, held);
                let (mut distances, mut scratch) = (vec![f64::INFINITY; n], Scratch::default());
                for &p in &points {
                    let point = nearer.point(rows.values(p));
                    for (block, distances) in distances.chunks_mut(size).enumerate() {
                        nearer.lower(&point, block, distances, &mut scratch);
                    }
                }
                prop_assert_eq!(&distances, &expected, "{:?}", precision);
            }
        }
    }
}
