//! From the inputs to batches of squares: which samples are to be made, and their way through the pool.

use std::iter::Peekable;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::embed::Cut;
use super::progress::Context;
use crate::clip::Embedder;
use crate::decode::{decode, decode_scaled};
use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::read::ahead::{Ahead, Item, Ready};
use crate::sample::Sample;
use crate::store::RunDir;
use crate::store::tables::SampleRow;

/// What stands between the samples of a [`Walk`].
pub(super) enum Mark {
    /// All samples of the part have come.
    EndOfPart,
    /// A part that is done already.
    Standing {
        read: u64,
        bad: u64,
    },
    Failed(Error),
}

/// What the pool's side tells the one that embeds.
pub(super) enum Message {
    /// A batch that the pool has begun.
    Batch(Arc<Batch>),
    Mark(Mark),
}

/// The samples of all parts that are not there yet, with a [`Mark`] behind each part.
pub(super) struct Walk<'a, I: Iterator<Item = Sample>> {
    dir: &'a RunDir,
    samples: Peekable<I>,
    part_size: usize,
    context: Context<'a>,
    part: usize,
    /// Samples to come in the part that is under way.
    left: Option<usize>,
    failed: bool,
}

impl<'a, I: Iterator<Item = Sample>> Walk<'a, I> {
    pub(super) fn new(
        dir: &'a RunDir,
        samples: I,
        part_size: usize,
        context: Context<'a>,
    ) -> Walk<'a, I> {
        Walk {
            dir,
            samples: samples.peekable(),
            part_size,
            context,
            part: 0,
            left: None,
            failed: false,
        }
    }

    fn step(&mut self) -> Result<Option<Item<Mark>>> {
        let left = match self.left {
            Some(left) => left,
            None if self.samples.peek().is_none() => return Ok(None),
            None => {
                let context = self.context;
                if self.dir.part_holds(self.part, |line| context.note(line))? {
                    let samples = self.samples.by_ref().take(self.part_size);
                    let mark = standing(self.dir, self.part, samples)?;
                    self.part += 1;
                    return Ok(Some(Item::Pass(mark)));
                }
                // A part that is begun is finished.
                context.check()?;
                self.part_size
            }
        };
        let sample = match left {
            0 => None,
            _ => self.samples.next(),
        };
        Ok(Some(match sample {
            Some(sample) => {
                self.left = Some(left - 1);
                Item::Load(sample)
            }
            None => {
                self.left = None;
                self.part += 1;
                Item::Pass(Mark::EndOfPart)
            }
        }))
    }
}

impl<I: Iterator<Item = Sample>> Iterator for Walk<'_, I> {
    type Item = Item<Mark>;

    fn next(&mut self) -> Option<Item<Mark>> {
        if self.failed {
            return None;
        }
        self.step().unwrap_or_else(|error| {
            self.failed = true;
            Some(Item::Pass(Mark::Failed(error)))
        })
    }
}

/// Passes over the samples of a part that is done, making sure that they are the same.
fn standing(dir: &RunDir, part: usize, samples: impl Iterator<Item = Sample>) -> Result<Mark> {
    let rows = dir.read_samples(part)?;
    let changed = |what: String| {
        Error::usage(format!(
            "{}: {what}, so the inputs have changed since part {part} was made; give a new --out, or --overwrite to begin anew",
            dir.root().display()
        ))
    };
    let mut read = 0;
    for sample in samples {
        match rows.get(read) {
            Some(row) if row.id == sample.id && row.offset == sample.offset => read += 1,
            Some(row) => {
                return Err(changed(format!(
                    "{} is now where {} was",
                    sample.id, row.id
                )));
            }
            None => return Err(changed(format!("{} is new", sample.id))),
        }
    }
    if read < rows.len() {
        return Err(changed(format!("{} is gone", rows[read].id)));
    }
    Ok(Mark::Standing {
        read: read as u64,
        bad: rows.iter().filter(|row| !row.good()).count() as u64,
    })
}

/// A sample after the pool: its row, and the embedder's input where it is good.
pub(super) struct Prepared {
    pub row: SampleRow,
    pub input: Vec<u8>,
}

/// Samples that are embedded together, on their way through the pool.
#[derive(Default)]
pub(super) struct Batch {
    filling: Mutex<Filling>,
    done: Condvar,
}

#[derive(Default)]
struct Filling {
    /// A place for each sample, empty until it is prepared.
    places: Vec<Option<Prepared>>,
    empty: usize,
    /// No place will be added.
    closed: bool,
    /// What a thread panicked with that was to fill a place.
    panic: Option<Box<dyn std::any::Any + Send>>,
}

impl Batch {
    /// Adds a place; gives its number.
    fn add(&self) -> usize {
        let mut filling = self.lock();
        filling.places.push(None);
        filling.empty += 1;
        filling.places.len() - 1
    }

    /// Fills a place, with what `make` gives.
    fn fill(&self, place: usize, make: impl FnOnce() -> Prepared) {
        let made = catch_unwind(AssertUnwindSafe(make));
        let mut filling = self.lock();
        match made {
            Ok(prepared) => filling.places[place] = Some(prepared),
            Err(panic) => filling.panic = Some(panic),
        }
        filling.empty -= 1;
        self.done.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.done.notify_all();
    }

    /// All samples of the batch, when the last one is prepared.
    ///
    /// # Panics
    /// Where preparing one of them did.
    pub(super) fn wait(&self) -> Vec<Prepared> {
        let mut filling = self.lock();
        while !filling.closed || filling.empty > 0 {
            filling = self
                .done
                .wait(filling)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(panic) = filling.panic.take() {
            drop(filling);
            resume_unwind(panic);
        }
        filling.places.drain(..).flatten().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the images that the pool has been given and not finished.
struct InFlight {
    count: Mutex<usize>,
    fewer: Condvar,
    most: usize,
}

impl InFlight {
    fn begin(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count >= self.most {
            count = self
                .fewer
                .wait(count)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *count += 1;
    }

    fn end(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.fewer.notify_one();
    }
}

/// Sends every part's batches, in order, as soon as they are begun. Ends quietly when nobody listens any more.
pub(super) fn prepare_all<I: Iterator<Item = Item<Mark>>>(
    ahead: &Ahead<I, Mark>,
    embedder: &dyn Embedder,
    cut: &Cut,
    sender: SyncSender<Message>,
) {
    // Enough that no thread of the pool waits for an image, and so few that a batch to embed, which queues behind them, is soon begun.
    let in_flight = InFlight {
        count: Mutex::new(0),
        fewer: Condvar::new(),
        most: 2 * rayon::current_num_threads(),
    };
    rayon::in_place_scope_fifo(|scope| {
        let mut open = Open(None);
        while let Some(ready) = ahead.take() {
            let (sample, bytes) = match ready {
                Ready::Loaded(sample, bytes) => (sample, bytes),
                Ready::Passed(mark) => {
                    open.close();
                    if sender.send(Message::Mark(mark)).is_err() {
                        break;
                    }
                    continue;
                }
            };
            let batch = match &open.0 {
                Some(batch) => batch.clone(),
                None => {
                    let batch = Arc::new(Batch::default());
                    if sender.send(Message::Batch(batch.clone())).is_err() {
                        break;
                    }
                    open.0 = Some(batch.clone());
                    batch
                }
            };
            let place = batch.add();
            if place + 1 == cut.batch_size {
                open.close();
            }
            in_flight.begin();
            let in_flight = &in_flight;
            scope.spawn_fifo(move |_| {
                batch.fill(place, || prepare(*sample, bytes, embedder, cut));
                in_flight.end();
            });
        }
        ahead.close();
    });
}

/// The batch that samples are added to. Closed when dropped, so that nobody waits for more of them.
struct Open(Option<Arc<Batch>>);

impl Open {
    fn close(&mut self) {
        if let Some(batch) = self.0.take() {
            batch.close();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

/// One sample as far as it goes without the device.
fn prepare(
    sample: Sample,
    bytes: Result<Vec<u8>, String>,
    embedder: &dyn Embedder,
    cut: &Cut,
) -> Prepared {
    let mut row = SampleRow {
        id: sample.id,
        source: sample.source.to_string(),
        key: sample.key,
        member: sample.member,
        offset: sample.offset,
        length: sample.length,
        ..SampleRow::default()
    };
    let result = bytes.and_then(|bytes| {
        row.bytes = bytes.len() as u64;
        row.sha256 = sha256_hex(&bytes);
        let decoded = match cut.scaled_edge {
            None => decode(&bytes, &cut.limits),
            Some(edge) => decode_scaled(&bytes, &cut.limits, edge),
        };
        decoded.map_err(|e| e.to_string())
    });
    let input = match result {
        Ok(decoded) => {
            row.format = decoded.format.as_str().into();
            (row.width, row.height) = (decoded.width, decoded.height);
            match cut.scaled_edge {
                None => embedder.prepare(&decoded.image),
                Some(_) => embedder.prepare_reduced(&decoded.image, (row.width, row.height)),
            }
        }
        Err(reason) => {
            row.error = Some(reason);
            Vec::new()
        }
    };
    Prepared { row, input }
}
