//! Byte-identical files: samples whose sha256 in `samples/` is the same. Bad samples and embeddings made by others have none.
//!
//! They are duplicates at every eps and in every cluster. Where their embeddings are the same to the bit, the search has related
//! them already; where these differ (images of one batch may be computed in another order than those of another), a pair is
//! added that says so.

use std::collections::HashMap;

use super::against::Against;
use super::set::Samples;
use crate::error::Result;
use crate::ops::dot;
use crate::ops::identical::same_bits;
use crate::ops::tile::Pair;
use crate::store::RunDir;
use crate::store::tables::SampleRow;

/// The first half of a sha256; none for a sample without one. 128 bits of it are as good as unique.
type Sum = Option<u128>;

fn sum(sha256: &str) -> Sum {
    u128::from_str_radix(sha256.get(..32)?, 16).ok()
}

/// The sums of all good rows `[n]`.
fn sums(dirs: &[&RunDir], samples: &Samples) -> Result<Vec<Sum>> {
    let mut sums = Vec::with_capacity(samples.len());
    for dir in dirs {
        for part in 0..dir.parts() {
            dir.for_each_sha256(part, |sha256| sums.push(sum(sha256)))?;
        }
    }
    sums.resize(samples.len(), None);
    Ok(sums)
}

/// Rows whose files are the same but whose embeddings are not.
#[derive(Default)]
pub(super) struct Copies {
    /// The first row of a set with its bytes, and another one, in order.
    pub(super) pairs: Vec<Pair>,
    /// For each of these rows the first; the first stands for itself.
    first: HashMap<u64, u64>,
}

impl Copies {
    /// Finds them among the rows `[n + m, d]` of a set and the earlier ones that it is compared with. Memory: 32 bytes a row while
    /// it looks.
    pub(super) fn find(
        dirs: &[&RunDir],
        samples: &Samples,
        against: &Against,
        matrix: &[f32],
        d: usize,
    ) -> Result<Copies> {
        let n = samples.len();
        let mut sums: Vec<(u128, u64)> = sums(dirs, samples)?
            .into_iter()
            .enumerate()
            .filter_map(|(row, sum)| Some((sum?, row as u64)))
            .collect();
        if sums.is_empty() {
            return Ok(Copies::default());
        }
        against.for_each_sample(|number, _, _, sample: SampleRow| {
            sums.extend(sum(&sample.sha256).map(|sum| (sum, (n + number) as u64)));
            Ok(())
        })?;
        sums.sort_unstable();
        let values = |row: u64| &matrix[row as usize * d..(row as usize + 1) * d];
        let mut copies = Copies::default();
        for alike in sums.chunk_by(|a, b| a.0 == b.0) {
            let first = alike[0].1;
            // Rows of earlier sets are not compared with each other, and one of them stands for all.
            let own = alike.partition_point(|(_, row)| *row < n as u64);
            let others = alike[..alike.len().min(own + 1)].iter().skip(1);
            for &(_, row) in others.filter(|_| own > 0) {
                if !same_bits(values(row), values(first)) {
                    copies.pairs.push(Pair {
                        a: first,
                        b: row,
                        cosine: dot::cosine(values(first), values(row)),
                        identical: true,
                    });
                    copies.first.insert(row, first);
                    copies.first.insert(first, first);
                }
            }
        }
        copies.pairs.sort_unstable_by_key(Pair::key);
        Ok(copies)
    }

    /// Whether a pair that a search found says less than one of [`Copies::pairs`].
    pub(super) fn has(&self, pair: &Pair) -> bool {
        let first = |row| self.first.get(&row);
        !self.first.is_empty() && first(pair.a).is_some() && first(pair.a) == first(pair.b)
    }
}

/// Which rows are byte-identical to others, once it is decided.
#[derive(Default)]
pub(super) struct Sums {
    own: Vec<Sum>,
    earlier: Vec<Sum>,
}

impl Sums {
    /// Reads the sums of a set, and of the rows of earlier sets that its pairs name. Memory: 32 bytes a row.
    pub(super) fn read(dirs: &[&RunDir], samples: &Samples, earlier: &[SampleRow]) -> Result<Sums> {
        Ok(Sums {
            own: sums(dirs, samples)?,
            earlier: earlier.iter().map(|row| sum(&row.sha256)).collect(),
        })
    }

    /// Whether two rows have the same bytes.
    pub(super) fn same(&self, a: usize, b: usize) -> bool {
        let sum = |row: usize| match row.checked_sub(self.own.len()) {
            None => self.own[row],
            Some(row) => self.earlier.get(row).copied().flatten(),
        };
        sum(a).is_some() && sum(a) == sum(b)
    }
}
