//! What a running pipeline tells, and how it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::store::tables::SampleRow;

/// A stage of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading, decoding and embedding; counted in samples.
    Embed,
    /// Taking in embeddings made by others; counted in rows.
    Import,
    /// A head over stored embeddings; counted in rows.
    Score,
    /// Choosing the first centroids of k-means; counted in steps, which may end early.
    Seed,
    /// Fitting centroids and labelling rows; counted in rows compared with all centroids, which end early where the fit converges.
    KMeans,
    /// Pairs; counted in pairs of rows compared, which are fewer where rows are identical.
    Dedup,
    /// Rows against all rows, for what clusters lost; counted in rows.
    Audit,
    /// Thresholds and pairs -> decisions; counted in samples.
    Decide,
    /// The curated set; counted in samples kept.
    Write,
    /// The page about the run; counted in pictures.
    Report,
}

impl Stage {
    /// As it stands in `run.json` and in progress lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Embed => "embed",
            Stage::Import => "import",
            Stage::Score => "score",
            Stage::Seed => "seed",
            Stage::KMeans => "k-means",
            Stage::Dedup => "dedup",
            Stage::Audit => "audit",
            Stage::Decide => "decide",
            Stage::Write => "write",
            Stage::Report => "report",
        }
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stage begins, with the number of items to come where it is known.
    Started {
        /// Which.
        stage: Stage,
        /// Items to come.
        total: Option<u64>,
    },
    /// Items of a stage are done.
    Advanced {
        /// Which.
        stage: Stage,
        /// Items done so far.
        done: u64,
    },
    /// A sample that could not be read, decoded or embedded. Those in parts that an earlier run finished are not told again.
    Bad {
        /// Its id.
        id: &'a str,
        /// The file or folder that it came from.
        source: &'a str,
        /// Why, as `samples/` has it.
        reason: &'a str,
    },
    /// A stage is over.
    Finished {
        /// Which.
        stage: Stage,
        /// Items done in all.
        done: u64,
        /// Those of them that an earlier run had done.
        passed: u64,
        /// Seconds it took.
        seconds: f64,
    },
    /// A sentence for the user.
    Note(&'a str),
}

/// Takes events, from any thread.
pub type Observer<'a> = dyn Fn(Event<'_>) + Send + Sync + 'a;

/// What every stage is given: whom to tell, and whether to stop.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Takes the events.
    pub observer: &'a Observer<'a>,
    /// Set from outside to end the work: reading and embedding when the part at hand is written, other stages at their next step.
    pub stop: &'a AtomicBool,
}

/// Never set: what work that nobody stops looks at.
pub(super) static NEVER: AtomicBool = AtomicBool::new(false);

impl Context<'static> {
    /// Tells nobody, and is never stopped.
    pub fn quiet() -> Context<'static> {
        Context {
            observer: &|_| {},
            stop: &NEVER,
        }
    }
}

impl<'a> Context<'a> {
    /// # Errors
    /// [`Error::Interrupted`] where the work is to end.
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Says a sentence.
    pub fn note(&self, text: &str) {
        (self.observer)(Event::Note(text));
    }

    /// Tells of a bad sample; nothing of a good one.
    pub(super) fn bad(&self, row: &SampleRow) {
        if let Some(reason) = &row.error {
            let (id, source) = (&row.id, &row.source);
            (self.observer)(Event::Bad { id, source, reason });
        }
    }

    /// Begins a stage.
    pub fn begin(&self, stage: Stage, total: Option<u64>) -> Running<'a> {
        (self.observer)(Event::Started { stage, total });
        Running {
            context: *self,
            stage,
            done: 0,
            passed: 0,
            begun: Instant::now(),
        }
    }
}

/// A stage under way.
pub struct Running<'a> {
    context: Context<'a>,
    stage: Stage,
    done: u64,
    passed: u64,
    begun: Instant,
}

impl Running<'_> {
    /// More items are done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the work is to end.
    pub fn advance(&mut self, items: u64) -> Result<()> {
        self.count(items);
        self.context.check()
    }

    /// More items are done; whether the work is to end is looked at elsewhere.
    pub(super) fn count(&mut self, items: u64) {
        self.done += items;
        (self.context.observer)(Event::Advanced {
            stage: self.stage,
            done: self.done,
        });
    }

    /// Tells of a bad sample; nothing of a good one.
    pub(super) fn bad(&self, row: &SampleRow) {
        self.context.bad(row);
    }

    /// Items that an earlier run had done.
    ///
    /// # Errors
    /// As [`Running::advance`].
    pub fn pass(&mut self, items: u64) -> Result<()> {
        self.passed += items;
        self.advance(items)
    }

    /// Which stage it is.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// The stage is over; gives the seconds it took.
    pub fn finish(self) -> f64 {
        let seconds = self.begun.elapsed().as_secs_f64();
        (self.context.observer)(Event::Finished {
            stage: self.stage,
            done: self.done,
            passed: self.passed,
            seconds,
        });
        seconds
    }
}
