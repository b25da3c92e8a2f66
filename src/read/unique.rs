//! Keeps the ids of one input apart.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::sample::Sample;

/// The ids seen so far, as 128-bit hashes with secret keys, so that long ids cost no more than short ones.
#[derive(Default)]
pub(super) struct Unique {
    seen: HashSet<u128>,
    /// For an id that was repeated, the number to try next. Without it a column with one value for all would take quadratic
    /// time.
    next: HashMap<u128, u64>,
    keys: (RandomState, RandomState),
}

impl Unique {
    fn hash(&self, id: &str) -> u128 {
        u128::from(self.keys.0.hash_one(id)) << 64 | u128::from(self.keys.1.hash_one(id))
    }

    /// Takes note of an id. Where it came before: the one to have instead, with `#2`, `#3` ... appended.
    pub(super) fn note(&mut self, id: &str) -> Option<String> {
        let hash = self.hash(id);
        if self.seen.insert(hash) {
            return None;
        }
        let mut number = self.next.get(&hash).copied().unwrap_or(2);
        let other = loop {
            let other = format!("{id}#{number}");
            number += 1;
            // `a#2` may be the name of another sample.
            if self.seen.insert(self.hash(&other)) {
                break other;
            }
        };
        self.next.insert(hash, number);
        Some(other)
    }

    /// A sample whose id came before is bad, and has a number appended.
    pub(super) fn admit(&mut self, mut sample: Sample) -> Sample {
        let Some(id) = self.note(&sample.id) else {
            return sample;
        };
        sample.problem.get_or_insert_with(|| {
            format!(
                "the key `{}` came before in {}: a key stands for one sample",
                sample.key, sample.source
            )
        });
        sample.id = id;
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Naming;

    #[test]
    fn a_repeated_id_is_numbered_and_bad() {
        let mut unique = Unique::default();
        let ids: Vec<_> = ["a", "a#2", "a", "b", "a", "a#2"]
            .into_iter()
            .map(|id| {
                let naming = Naming {
                    written: "x".into(),
                    base: id.to_string(),
                    prefixed: false,
                };
                let mut sample = naming.bad(String::new());
                sample.problem = None;
                let sample = unique.admit(sample);
                (sample.id, sample.problem.is_some())
            })
            .collect();
        let expected = [
            ("a", false),
            ("a#2", false),
            ("a#3", true),
            ("b", false),
            ("a#4", true),
            ("a#2#2", true),
        ];
        assert_eq!(ids, expected.map(|(id, bad)| (id.to_string(), bad)));
    }
}
