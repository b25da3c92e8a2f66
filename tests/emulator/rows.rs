//! Unit rows for the tests of the kernels over rows.

use clipsift::ops::normalize_rows;
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How values are rounded before they are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// Values of f32.
    Single,
    /// Values of f16, of which the rows are unit rows only to three digits.
    Half,
}

impl Rounding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Rounding::Single => "f32",
            Rounding::Half => "f16",
        }
    }
}

/// Unit rows `[n, d]` around a few directions: some identical, some a few last places apart, some at 1e-2, and with a sixth
/// of them on their own. Near ties everywhere.
pub(crate) fn unit_rows(n: usize, d: usize, rounding: Rounding, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let directions: Vec<f32> = (0..5 * d).map(|_| random.random_range(-0.5..0.5)).collect();
    let mut rows = Vec::with_capacity(n * d);
    for _ in 0..n {
        let which = random.random_range(0..6);
        let noise = [0.0, 0.0, 1e-6, 1e-3, 1e-2][random.random_range(0..5)];
        for i in 0..d {
            rows.push(match directions.get(which * d + i) {
                Some(x) => x + noise * random.random_range(-0.5f32..0.5),
                None => random.random_range(-0.5..0.5),
            });
        }
    }
    assert!(normalize_rows(&mut rows, d).is_empty());
    if rounding == Rounding::Half {
        rows.iter_mut()
            .for_each(|x| *x = f16::from_f32(*x).to_f32());
    }
    rows
}

/// Ends of groups of consecutive positions, of 0 rows and more, that n rows fall into.
pub(crate) fn group_ends(n: usize, largest: usize, seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut ends = Vec::new();
    let mut end = 0;
    while end < n {
        end = (end + random.random_range(0..=largest)).min(n);
        ends.push(end);
    }
    ends
}
