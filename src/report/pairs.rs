//! Stored pairs, file by file -> as many as a page can hold, and what is true of all of them.

use crate::dedup::decide::Pair;

/// Pairs of either kind that a page holds: 13 MB of text.
pub(crate) const PAIRS: usize = 600_000;

/// Bars of the histogram of cosines.
const BINS: usize = 48;

/// The nearest pairs of a run, and counts over all of them. Memory does not grow with their number.
pub(crate) struct Pairs {
    /// Pairs are stored down to cosine 1 - floor.
    pub floor: f64,
    /// Rows identical to another, with the row that stands for them; nothing where there are more than [`PAIRS`].
    pub identical: Vec<Pair>,
    /// The nearest of the others, nearest first once [`Pairs::finish`] is called.
    pub near: Vec<Pair>,
    /// Number of rows identical to an earlier one.
    pub identical_total: u64,
    /// Number of the other pairs.
    pub total: u64,
    /// How many of them lie in each of [`BINS`] equal bins of cosine between 1 - floor and 1.
    pub histogram: Vec<u64>,
    /// The greatest eps that all pairs are stored for.
    stored_to: f64,
    /// The greatest cosine of a pair that was left out here.
    left_out: f64,
    capacity: usize,
}

impl Pairs {
    /// None yet. The stored ones are all there for an eps up to `complete_to`, or down to the floor.
    pub(crate) fn new(floor: f64, complete_to: Option<f64>) -> Pairs {
        Pairs {
            floor,
            identical: Vec::new(),
            near: Vec::new(),
            identical_total: 0,
            total: 0,
            histogram: vec![0; BINS],
            stored_to: complete_to.unwrap_or(floor),
            left_out: f64::NEG_INFINITY,
            capacity: PAIRS,
        }
    }

    /// Takes in a block.
    pub(crate) fn add(&mut self, pairs: &[Pair]) {
        for pair in pairs {
            if pair.identical {
                self.identical_total += 1;
                if self.identical_total <= self.capacity as u64 {
                    self.identical.push(*pair);
                }
                continue;
            }
            self.total += 1;
            let place = (pair.cosine - (1.0 - self.floor)) / self.floor.max(f64::MIN_POSITIVE);
            self.histogram[((place * BINS as f64).max(0.0) as usize).min(BINS - 1)] += 1;
            self.near.push(*pair);
            if self.near.len() >= 2 * self.capacity {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        if self.near.len() <= self.capacity {
            return;
        }
        let nearest_first = |a: &Pair, b: &Pair| b.cosine.total_cmp(&a.cosine);
        self.near
            .select_nth_unstable_by(self.capacity, nearest_first);
        let left_out = self.near[self.capacity].cosine;
        self.left_out = self.left_out.max(left_out);
        self.near.truncate(self.capacity);
    }

    /// All blocks are in.
    pub(crate) fn finish(&mut self) {
        self.cut();
        // Pairs as far apart as one that was left out would make an incomplete list of that cosine.
        let left_out = self.left_out;
        let stored = 1.0 - self.stored_to;
        self.near
            .retain(|pair| pair.cosine > left_out && pair.cosine >= stored);
        self.near.sort_unstable_by(|a, b| {
            b.cosine
                .total_cmp(&a.cosine)
                .then((a.a, a.b).cmp(&(b.a, b.b)))
        });
        if self.identical_total > self.capacity as u64 {
            self.identical = Vec::new();
        }
    }

    /// The greatest eps for which every pair is here: the floor, or less where pairs were left out; none where identical rows
    /// were, or no eps has all of its pairs.
    pub(crate) fn complete_to(&self) -> Option<f64> {
        if self.identical_total > self.capacity as u64 {
            return None;
        }
        if self.left_out == f64::NEG_INFINITY {
            return Some(self.stored_to);
        }
        // Rounded down to what a person would type.
        let eps = ((1.0 - self.left_out) * 1e5 - 1.0).floor() / 1e5;
        (eps >= 0.0 && 1.0 - eps > self.left_out).then_some(eps.min(self.stored_to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(row: u64, cosine: f64) -> Pair {
        Pair {
            a: 0,
            b: row,
            cosine,
            identical: false,
        }
    }

    #[test]
    fn the_nearest_are_kept_and_the_list_is_complete_as_far_as_it_says() {
        let all: Vec<Pair> = (1..=100)
            .map(|i| pair(i, 1.0 - i as f64 / 1000.0))
            .collect();
        let mut pairs = Pairs::new(0.1, None);
        pairs.capacity = 10;
        all.rchunks(7).for_each(|block| pairs.add(block));
        pairs.finish();
        assert_eq!(pairs.total, 100);
        assert_eq!(pairs.histogram.iter().sum::<u64>(), 100);
        let eps = pairs.complete_to().unwrap();
        assert!(eps > 0.009 && eps < 0.011, "{eps}");
        let within = all.iter().filter(|p| p.cosine >= 1.0 - eps).count();
        assert_eq!(
            within,
            pairs.near.iter().filter(|p| p.cosine >= 1.0 - eps).count()
        );
        assert!(pairs.near.is_sorted_by(|a, b| a.cosine >= b.cosine));
    }

    #[test]
    fn what_is_not_all_stored_is_not_taken_for_complete() {
        let mut pairs = Pairs::new(0.1, Some(0.03));
        pairs.add(&[pair(1, 0.98), pair(2, 0.95)]);
        pairs.finish();
        assert_eq!(
            (pairs.complete_to(), pairs.near.len(), pairs.total),
            (Some(0.03), 1, 2)
        );
    }

    #[test]
    fn ties_at_the_cut_and_too_many_copies_are_not_taken_for_complete() {
        let mut pairs = Pairs::new(0.1, None);
        pairs.capacity = 10;
        pairs.add(&[pair(1, 0.99)]);
        pairs.add(&vec![pair(2, 0.95); 50]);
        pairs.finish();
        assert_eq!(pairs.near.len(), 1);
        assert!(pairs.complete_to().unwrap() < 0.05);
        let copy = Pair {
            identical: true,
            ..pair(1, 1.0)
        };
        pairs.add(&[copy; 11]);
        pairs.finish();
        assert_eq!(pairs.complete_to(), None);
    }
}
