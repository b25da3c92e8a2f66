//! How many bytes went between host and device, by what for.
//!
//! The pipeline's promise on a GPU is that an embedding never travels back up once the tower has made it. These counters are
//! how that is seen: the upward count of [`Purpose::Rows`] stays 0 in a run from images to decisions.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// What bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Decoded images.
    Pixels,
    /// Weights of towers and heads.
    Weights,
    /// Embeddings: rows of `[n, d]`.
    Rows,
    /// Everything else: results, row numbers, centroids, thresholds.
    Other,
}

impl Purpose {
    /// All of them, in the order of tables.
    pub const ALL: [Purpose; 4] = [
        Purpose::Pixels,
        Purpose::Weights,
        Purpose::Rows,
        Purpose::Other,
    ];

    /// Its name in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Pixels => "pixels",
            Purpose::Weights => "weights",
            Purpose::Rows => "rows",
            Purpose::Other => "other",
        }
    }
}

static UP: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static DOWN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

thread_local! {
    static PURPOSE: Cell<Purpose> = const { Cell::new(Purpose::Other) };
}

/// Counts the transfers of this thread within `work` as for `purpose`.
pub fn during<R>(purpose: Purpose, work: impl FnOnce() -> R) -> R {
    struct Restore(Purpose);
    impl Drop for Restore {
        fn drop(&mut self) {
            PURPOSE.set(self.0);
        }
    }
    let _restore = Restore(PURPOSE.replace(purpose));
    work()
}

/// Counts bytes that go to the device.
pub fn count_up(bytes: usize) {
    UP[PURPOSE.get() as usize].fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Counts bytes that come from the device.
pub fn count_down(bytes: usize) {
    DOWN[PURPOSE.get() as usize].fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Bytes so far: purpose, up to the device, down from it.
pub fn counts() -> [(Purpose, u64, u64); 4] {
    Purpose::ALL.map(|purpose| {
        let at = purpose as usize;
        (
            purpose,
            UP[at].load(Ordering::Relaxed),
            DOWN[at].load(Ordering::Relaxed),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_for_the_purpose_that_is_set_and_the_one_before_comes_back() {
        let of = |purpose: Purpose| counts()[purpose as usize];
        let before = of(Purpose::Pixels);
        during(Purpose::Pixels, || {
            count_up(10);
            during(Purpose::Weights, || count_up(1000));
            count_down(3);
        });
        let (_, up, down) = of(Purpose::Pixels);
        assert_eq!((up - before.1, down - before.2), (10, 3));
        assert_eq!(PURPOSE.get(), Purpose::Other);
    }
}
