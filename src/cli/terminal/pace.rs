//! How fast a stage goes and how long it will take, from the last half minute: the start (warming up, parts that an earlier run
//! had done) tells little of the rest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(30);

/// Marks in the window are at least this far apart.
const APART: Duration = Duration::from_millis(250);

/// Items done at some moments.
pub(super) struct Pace {
    begun: Instant,
    /// Time since the beginning, and items done by then; the first is what was done before.
    marks: VecDeque<(Duration, u64)>,
    last: (Duration, u64),
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            begun: Instant::now(),
            marks: VecDeque::from([(Duration::ZERO, 0)]),
            last: (Duration::ZERO, 0),
        }
    }

    /// So many items were done before.
    pub(super) fn passed(&mut self, done: u64) {
        self.last = (self.begun.elapsed(), done);
        self.marks = VecDeque::from([self.last]);
    }

    /// So many items are done by now.
    pub(super) fn at(&mut self, done: u64) {
        self.at_time(done, self.begun.elapsed());
    }

    pub(super) fn at_time(&mut self, done: u64, now: Duration) {
        self.last = (now, done);
        if self.marks.back().is_none_or(|(at, _)| now >= *at + APART) {
            self.marks.push_back(self.last);
        }
        while self.marks.len() > 2 && self.marks[1].0 + WINDOW < now {
            self.marks.pop_front();
        }
    }

    /// Items a second; 0 before there are any.
    pub(super) fn rate(&self) -> f64 {
        let (since, before) = self.marks[0];
        let seconds = self.last.0.saturating_sub(since).as_secs_f64();
        let made = self.last.1.saturating_sub(before) as f64;
        if seconds > 0.0 { made / seconds } else { 0.0 }
    }

    /// Seconds until `total`, where it is known and something was done.
    pub(super) fn left(&self, done: u64, total: Option<u64>) -> Option<f64> {
        let rate = self.rate();
        let left = total?.saturating_sub(done) as f64;
        (rate > 0.0).then(|| left / rate)
    }

    /// Seconds since the beginning.
    pub(super) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

/// Seconds as a person says them.
pub(super) fn span(seconds: f64) -> String {
    match seconds.round() as u64 {
        s @ 0..=99 => format!("{s} s"),
        s @ 100..=5999 => format!("{} min", (s + 30) / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_half_minute_counts() {
        let mut pace = Pace::new();
        // Ten thousand at once, of an earlier run, then ten a second.
        pace.at_time(10_000, Duration::from_secs(1));
        for second in 2..100 {
            pace.at_time(10_000 + second * 10, Duration::from_secs(second));
        }
        assert!((pace.rate() - 10.0).abs() < 0.5, "{}", pace.rate());
        let left = pace.left(10_990, Some(11_990)).unwrap();
        assert!((left - 100.0).abs() < 5.0, "{left}");
        assert_eq!(Pace::new().left(0, Some(5)), None);
    }

    #[test]
    fn spans_are_said_in_the_largest_unit_that_tells_enough() {
        for (seconds, says) in [
            (0.4, "0 s"),
            (99.0, "99 s"),
            (150.0, "3 min"),
            (7260.0, "2 h 1 min"),
        ] {
            assert_eq!(span(seconds), says);
        }
    }
}
