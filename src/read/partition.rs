//! Slices of a run for several machines.

use std::ops::Range;
use std::str::FromStr;

use crate::{Error, Result};

/// The `index`-th of `of` disjoint, contiguous slices of the inputs, which together are everything in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// From 1 to `of`.
    pub index: usize,
    /// The number of slices.
    pub of: usize,
}

impl Partition {
    /// The slice of `0..units` that is this partition's.
    ///
    /// # Errors
    /// [`Error::Usage`] where `index` is not in `1..=of`.
    pub(super) fn slice(self, units: usize) -> Result<Range<usize>> {
        let Partition { index, of } = self;
        if index == 0 || index > of {
            return Err(Error::usage(format!(
                "partition {index}/{of}: I/N counts from 1/N to N/N"
            )));
        }
        let cut = |i: usize| (units as u128 * i as u128 / of as u128) as usize;
        Ok(cut(index - 1)..cut(index))
    }
}

impl FromStr for Partition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Partition> {
        let number = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        let parts = text.split_once('/');
        let Some((Some(index), Some(of))) = parts.map(|(i, n)| (number(i), number(n))) else {
            return Err(Error::usage(format!(
                "partition `{text}`: expected I/N such as 1/8"
            )));
        };
        let partition = Partition { index, of };
        partition.slice(0).map(|_| partition)
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_contiguous_and_cover_everything() {
        for units in [0, 1, 2, 7, 100] {
            for of in [1, 2, 3, 8, 101] {
                let mut next = 0;
                for index in 1..=of {
                    let slice = Partition { index, of }.slice(units).unwrap();
                    assert_eq!(slice.start, next);
                    next = slice.end;
                }
                assert_eq!(next, units);
            }
        }
    }

    #[test]
    fn a_partition_is_written_as_i_of_n_from_one() {
        assert_eq!(
            "2/8".parse::<Partition>().unwrap(),
            Partition { index: 2, of: 8 }
        );
        assert_eq!(Partition { index: 2, of: 8 }.to_string(), "2/8");
        for bad in [
            "", "1", "0/4", "5/4", "0/0", "1/0", "-1/4", "1/4/2", "+1/4", "a/b", "1/ 4",
        ] {
            assert!(
                matches!(bad.parse::<Partition>(), Err(Error::Usage(_))),
                "{bad}"
            );
        }
    }
}
