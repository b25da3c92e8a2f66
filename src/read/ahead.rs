//! Reading ahead: files are loaded by a few threads of their own before anyone asks for them, and handed on in order.
//!
//! A read that takes its time, from a network or a sleeping disk, so holds up neither the reads after it nor those who decode.
//! What waits is bounded: in bytes, and in samples where those are small. Beyond the bound of bytes there is at most one file for
//! each reading thread.

use std::collections::VecDeque;
use std::iter::Fuse;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::sample::Sample;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes loaded and not taken yet, from which no further file is begun.
    pub bytes: u64,
    /// The same in samples.
    pub samples: usize,
    /// Threads that read: as many files are waited for at once.
    pub readers: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            bytes: 64 << 20,
            samples: 1024,
            // Reads wait rather than work, so a few help where there are few cores as well.
            readers: rayon::current_num_threads().clamp(4, 16),
        }
    }
}

/// What comes in.
pub(crate) enum Item<T> {
    /// A sample to load.
    Load(Sample),
    /// Anything that keeps its place between the samples.
    Pass(T),
}

/// What comes out.
pub(crate) enum Ready<T> {
    /// A sample and its bytes, or why there are none.
    Loaded(Box<Sample>, Result<Vec<u8>, String>),
    /// As it came in.
    Passed(T),
}

enum Slot<T> {
    Loading,
    Ready(Ready<T>),
}

impl<T> Slot<T> {
    fn bytes(&self) -> u64 {
        match self {
            Slot::Ready(Ready::Loaded(_, Ok(bytes))) => bytes.len() as u64,
            _ => 0,
        }
    }
}

/// What waits, in order.
struct Waiting<T> {
    slots: VecDeque<Slot<T>>,
    /// Slots taken out before the first one.
    taken: usize,
    bytes: u64,
    /// Set at a bound, unset at half of it, so that threads do not wake for each file.
    paused: bool,
    /// No slot will be added: the source is at its end, or nobody takes any more.
    closed: bool,
    /// A reading thread panicked: its slot will never be filled.
    failed: bool,
}

/// Samples that are loaded ahead. [`Ahead::read`] is run by [`Bounds::readers`] threads, [`Ahead::take`] by one.
pub(crate) struct Ahead<I, T> {
    source: Mutex<Fuse<I>>,
    waiting: Mutex<Waiting<T>>,
    room: Condvar,
    ready: Condvar,
    bounds: Bounds,
}

impl<T, I: Iterator<Item = Item<T>>> Ahead<I, T> {
    pub(crate) fn new(source: I, bounds: Bounds) -> Self {
        Ahead {
            source: Mutex::new(source.fuse()),
            waiting: Mutex::new(Waiting {
                slots: VecDeque::new(),
                taken: 0,
                bytes: 0,
                paused: false,
                closed: false,
                failed: false,
            }),
            room: Condvar::new(),
            ready: Condvar::new(),
            bounds,
        }
    }

    /// The work of one thread: loads samples until the source ends or [`Ahead::close`] is called.
    pub(crate) fn read(&self, load: impl Fn(&Sample) -> Result<Vec<u8>, String>) {
        // A source or a loader that panics must not leave the other side waiting for its slot.
        let _closing = Closing(self);
        while let Some((place, sample)) = self.next_to_load() {
            let bytes = load(&sample);
            let mut waiting = self.lock();
            let slot = Slot::Ready(Ready::Loaded(Box::new(sample), bytes));
            waiting.bytes += slot.bytes();
            let at = place - waiting.taken;
            waiting.slots[at] = slot;
            if at == 0 {
                self.ready.notify_one();
            }
        }
    }

    /// Waits for room, then takes the next sample from the source, with its place in the order.
    fn next_to_load(&self) -> Option<(usize, Sample)> {
        // Held while waiting for room too, so that places are given in the source's order.
        let mut source = self.source.lock().ok()?;
        loop {
            let mut waiting = self.lock();
            loop {
                let full = waiting.bytes >= self.bounds.bytes
                    || waiting.slots.len() >= self.bounds.samples;
                waiting.paused |= full;
                if waiting.closed {
                    return None;
                }
                if !waiting.paused {
                    break;
                }
                waiting = self
                    .room
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(waiting);
            let item = source.next()?;
            let mut waiting = self.lock();
            match item {
                Item::Load(sample) => {
                    waiting.slots.push_back(Slot::Loading);
                    return Some((waiting.taken + waiting.slots.len() - 1, sample));
                }
                Item::Pass(other) => {
                    waiting.slots.push_back(Slot::Ready(Ready::Passed(other)));
                    self.ready.notify_one();
                }
            }
        }
    }

    /// The next in order; none at the end, and where a reading thread has panicked.
    pub(crate) fn take(&self) -> Option<Ready<T>> {
        let mut waiting = self.lock();
        loop {
            match waiting.slots.front() {
                Some(Slot::Ready(_)) => break,
                None if waiting.closed => return None,
                _ if waiting.failed => return None,
                _ => {
                    waiting = self
                        .ready
                        .wait(waiting)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let slot = waiting.slots.pop_front()?;
        waiting.taken += 1;
        waiting.bytes -= slot.bytes();
        let half = waiting.bytes <= self.bounds.bytes / 2
            && waiting.slots.len() <= self.bounds.samples / 2;
        if waiting.paused && half {
            waiting.paused = false;
            self.room.notify_all();
        }
        match slot {
            Slot::Ready(ready) => Some(ready),
            Slot::Loading => None,
        }
    }

    /// Nobody takes any more: the reading threads end after the file that they are at.
    pub(crate) fn close(&self) {
        self.end(false);
    }

    fn end(&self, failed: bool) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.failed |= failed;
        self.room.notify_all();
        self.ready.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the reading when a thread does, in whatever way.
struct Closing<'a, I: Iterator<Item = Item<T>>, T>(&'a Ahead<I, T>);

impl<I: Iterator<Item = Item<T>>, T> Drop for Closing<'_, I, T> {
    fn drop(&mut self) {
        self.0.end(std::thread::panicking());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};

    use super::*;
    use crate::sample::Blob;

    fn sample(number: usize) -> Sample {
        Sample {
            id: number.to_string(),
            key: number.to_string(),
            source: "test".into(),
            member: String::new(),
            offset: 0,
            length: 0,
            image: Blob::Bytes(Arc::from([])),
            sidecars: Vec::new(),
            problem: None,
        }
    }

    fn number(sample: &Sample) -> usize {
        sample.id.parse().unwrap()
    }

    /// `count` samples, and what is passed through behind every tenth.
    fn source(count: usize) -> impl Iterator<Item = Item<usize>> + Send {
        (0..count).flat_map(|i| {
            let passed = (i % 10 == 9).then_some(Item::Pass(i));
            std::iter::once(Item::Load(sample(i))).chain(passed)
        })
    }

    /// Runs readers and a taker.
    fn run<I: Iterator<Item = Item<usize>> + Send>(
        source: I,
        bounds: Bounds,
        load: impl Fn(&Sample) -> Result<Vec<u8>, String> + Sync,
        take: impl FnOnce(&Ahead<I, usize>),
    ) {
        let ahead = Ahead::new(source, bounds);
        std::thread::scope(|scope| {
            for _ in 0..bounds.readers {
                scope.spawn(|| ahead.read(&load));
            }
            take(&ahead);
            ahead.close();
        });
    }

    /// Everything comes in the order of the source.
    fn take_all<I: Iterator<Item = Item<usize>>>(ahead: &Ahead<I, usize>, count: usize) {
        let mut next = 0;
        while let Some(ready) = ahead.take() {
            match ready {
                Ready::Loaded(sample, bytes) => {
                    assert_eq!(number(&sample), next);
                    assert_eq!(bytes, Ok(vec![next as u8]));
                    next += 1;
                }
                Ready::Passed(i) => assert_eq!(i + 1, next),
            }
        }
        assert_eq!(next, count);
    }

    #[test]
    fn samples_and_what_lies_between_them_come_in_order() {
        for readers in [1, 2, 8] {
            let bounds = Bounds {
                bytes: 20,
                samples: 7,
                readers,
            };
            let load = |sample: &Sample| Ok(vec![number(sample) as u8]);
            run(source(256), bounds, load, |ahead| take_all(ahead, 256));
        }
    }

    #[test]
    fn a_read_that_hangs_holds_up_no_other() {
        // The first read ends only when the thirtieth has begun, which a reader without others beside it would never reach.
        let barrier = Barrier::new(2);
        let load = |sample: &Sample| {
            if matches!(number(sample), 0 | 30) {
                barrier.wait();
            }
            Ok(vec![number(sample) as u8])
        };
        let bounds = Bounds {
            readers: 2,
            ..Bounds::default()
        };
        run(source(60), bounds, load, |ahead| take_all(ahead, 60));
    }

    #[test]
    fn as_many_reads_are_under_way_at_once_as_there_are_readers() {
        let barrier = Barrier::new(5);
        let load = |sample: &Sample| {
            barrier.wait();
            Ok(vec![number(sample) as u8])
        };
        let bounds = Bounds {
            readers: 5,
            ..Bounds::default()
        };
        run(source(50), bounds, load, |ahead| take_all(ahead, 50));
    }

    #[test]
    fn no_more_waits_than_the_bounds_allow_however_slowly_it_is_taken() {
        for (bytes, samples, most) in [(1000, 1_000_000, 10 + 3), (u64::MAX, 7, 7)] {
            let bounds = Bounds {
                bytes,
                samples,
                readers: 3,
            };
            let (loaded, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let load = |_: &Sample| {
                loaded.fetch_add(1, Ordering::SeqCst);
                Ok(vec![0; 100])
            };
            run(source(200), bounds, load, |ahead| {
                while let Some(ready) = ahead.take() {
                    if matches!(ready, Ready::Loaded(..)) {
                        let taken = seen.fetch_add(1, Ordering::SeqCst) + 1;
                        // Give the readers every chance to go too far.
                        std::thread::yield_now();
                        let waiting = loaded.load(Ordering::SeqCst) - taken;
                        assert!(waiting <= most, "{waiting} of at most {most}");
                    }
                }
            });
            assert_eq!(seen.into_inner(), 200);
        }
    }

    #[test]
    fn closing_ends_readers_that_wait_for_room() {
        let bounds = Bounds {
            bytes: 1,
            samples: 2,
            readers: 2,
        };
        let endless = (0..).map(|i| Item::Load(sample(i)));
        run(
            endless,
            bounds,
            |_| Ok(vec![0]),
            |ahead| {
                assert!(ahead.take().is_some());
            },
        );
    }

    #[test]
    fn a_loader_that_panics_ends_the_taking() {
        let ended = std::panic::catch_unwind(|| {
            let load = |sample: &Sample| match number(sample) {
                3 => panic!("as planned"),
                n => Ok(vec![n as u8]),
            };
            run(source(50), Bounds::default(), load, |ahead| {
                while ahead.take().is_some() {}
            });
        });
        assert!(ended.is_err());
    }
}
