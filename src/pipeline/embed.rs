//! Read -> decode -> embed -> store, part by part.
//!
//! Reading threads load the files ahead ([`crate::read::ahead`]); one thread hands them to the pool, which decodes and resizes them
//! (`prepare.rs`); the calling thread embeds the batches in order and writes a part when its last batch is in. A bounded channel
//! between the last two keeps at most [`QUEUED`] batches in memory. Batches never cross parts, so a part's bytes depend on its
//! samples alone.
//!
//! On a CPU a batch is embedded by the pool that decodes: a thread of it begins, those that have finished an image come to its help
//! before they take another one, and while it waits for them it decodes itself. So no core waits as long as there is an image to
//! decode or a batch to embed, and none is shared by two threads. On a card the calling thread alone owns the device: it begins a
//! batch before it waits for the one before, so that one is uploaded while the other is computed.

use std::sync::mpsc::{Receiver, sync_channel};

use super::prepare::{Mark, Message, Prepared, Walk, prepare_all};
use super::progress::{Context, Stage};
use super::resident::{Gathering, Resident};
use crate::clip::{self, Embedder, Pending};
use crate::decode::Limits;
use crate::error::{Error, Result};
use crate::read::Inputs;
use crate::read::ahead::{Ahead, Bounds};
use crate::store::ids::IdType;
use crate::store::tables::{Embeddings, SampleRow};
use crate::store::{RunDir, Table};

/// Batches that wait between the decoding pool and the device.
const QUEUED: usize = 2;

/// How the samples are cut up.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// Samples a part.
    pub part_size: usize,
    /// Images a batch, at most.
    pub batch_size: usize,
    /// What one image may cost.
    pub limits: Limits,
    /// The edge that a JPEG may be reduced to while it is decoded, where it may.
    pub scaled_edge: Option<u32>,
}

/// What the stage did.
#[derive(Debug, Default)]
pub(super) struct Embedded {
    pub read: u64,
    pub bad: u64,
    /// Of those read, the ones that did not stand in finished parts.
    pub made: u64,
    pub seconds: f64,
    /// All good rows in the order of the store, where they are in a device's memory.
    pub resident: Option<Resident>,
}

/// Makes all parts that are not there yet.
pub(super) fn embed(
    dir: &RunDir,
    inputs: &Inputs,
    embedder: &dyn Embedder,
    cut: &Cut,
    context: Context,
) -> Result<Embedded> {
    dir.prepare(Table::Samples)?;
    dir.prepare(Table::Embeddings)?;
    let mut running = context.begin(Stage::Embed, inputs.expected());
    let mut totals = Embedded::default();
    let mut resident = None;
    let bounds = Bounds::default();
    let walk = Walk::new(dir, inputs.samples(), cut.part_size, context);
    let ahead = Ahead::new(walk, bounds);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUED);
        let ahead = &ahead;
        for _ in 0..bounds.readers {
            scope.spawn(move || ahead.read(|sample| sample.read(cut.limits.max_file_bytes)));
        }
        scope.spawn(move || prepare_all(ahead, embedder, cut, sender));
        let mut consumer = Consumer {
            dir,
            embedder,
            context,
            part: Part::new(0, embedder),
            begun: None,
            gathering: Gathering::Empty(inputs.expected()),
            stopping: false,
            part_size: cut.part_size,
            advance: |read, bad, made| {
                totals.read += read;
                totals.bad += bad;
                totals.made += made;
                match made {
                    0 => running.pass(read),
                    // A part that is begun is finished: it would have to be made again as a whole.
                    _ => {
                        running.count(read);
                        Ok(())
                    }
                }
            },
        };
        consumer.consume(receiver)?;
        resident = consumer.gathering.finish();
        Ok::<(), Error>(())
    })?;
    totals.seconds = running.finish();
    totals.resident = resident;
    Ok(totals)
}

/// The side that owns the device: embeds batches as they come and writes parts.
struct Consumer<'a, A> {
    dir: &'a RunDir,
    embedder: &'a dyn Embedder,
    context: Context<'a>,
    part: Part,
    /// The batch that the embedder works on while the next one comes.
    begun: Option<Begun<'a>>,
    gathering: Gathering,
    /// Whether the user has been told that the work ends after this part.
    stopping: bool,
    part_size: usize,
    /// Told of samples read, bad ones among them, and how many were made now.
    advance: A,
}

impl<A: FnMut(u64, u64, u64) -> Result<()>> Consumer<'_, A> {
    fn consume(&mut self, receiver: Receiver<Message>) -> Result<()> {
        for message in receiver {
            match message {
                Message::Batch(batch) => {
                    let next = Begun::new(batch.wait(), self.embedder)?;
                    let before = self.begun.replace(next);
                    self.finish(before)?;
                }
                Message::Mark(Mark::EndOfPart) => {
                    // Written when the next part's first batch is begun: the device has work meanwhile.
                    if let Some(last) = &mut self.begun {
                        last.ends_part = true;
                    }
                }
                Message::Mark(Mark::Standing { read, bad }) => {
                    let before = self.begun.take();
                    self.finish(before)?;
                    self.part = Part::new(self.part.index + 1, self.embedder);
                    self.gathering.give_up();
                    (self.advance)(read, bad, 0)?;
                }
                Message::Mark(Mark::Failed(error)) => {
                    let before = self.begun.take();
                    self.finish(before)?;
                    return Err(error);
                }
            }
        }
        let last = self.begun.take();
        self.finish(last)
    }

    /// Takes in the rows of a batch, and writes the part that it ends.
    fn finish(&mut self, begun: Option<Begun>) -> Result<()> {
        let Some(Begun {
            batch,
            pending,
            ends_part,
        }) = begun
        else {
            return Ok(());
        };
        let read = batch.len() as u64;
        let (embedded, on_device) = match pending {
            Some(pending) => pending.finish()?,
            None => Default::default(),
        };
        let (bad, kept) = self.part.add(batch, &embedded)?;
        self.tell_of(read as usize);
        if !kept.is_empty()
            && let Some(line) = self.gathering.take(on_device.as_ref(), &kept)?
        {
            self.context.note(&line);
        }
        if ends_part {
            let part = &self.part;
            self.dir
                .write_part(part.index, &part.samples, &part.embeddings)?;
            self.part = Part::new(part.index + 1, self.embedder);
        }
        (self.advance)(read, bad, read)?;
        match ends_part {
            true => self.context.check(),
            false => Ok(()),
        }
    }
}

impl<A> Consumer<'_, A> {
    /// Tells of the bad samples among the last ones of the part, and once that the work will end with it.
    fn tell_of(&mut self, last: usize) {
        let samples = &self.part.samples;
        let last = &samples[samples.len() - last..];
        last.iter().for_each(|row| self.context.bad(row));
        if !self.stopping && self.context.check().is_err() {
            self.stopping = true;
            let (done, part) = (samples.len(), self.part.index);
            self.context.note(&format!(
                "finishing part {part}: {done} of at most {} samples are done",
                self.part_size
            ));
        }
    }
}

/// A batch that the embedder works on.
struct Begun<'a> {
    batch: Vec<Prepared>,
    /// None where no sample of the batch is good.
    pending: Option<Pending<'a>>,
    ends_part: bool,
}

impl<'a> Begun<'a> {
    fn new(batch: Vec<Prepared>, embedder: &'a dyn Embedder) -> Result<Begun<'a>> {
        let inputs: Vec<&[u8]> = good(&batch).map(|p| p.input.as_slice()).collect();
        let pending = match inputs.is_empty() {
            true => None,
            false => Some(start(embedder, &inputs)?),
        };
        Ok(Begun {
            batch,
            pending,
            ends_part: false,
        })
    }
}

/// Begins a batch where it is best computed.
fn start<'a>(embedder: &'a dyn Embedder, inputs: &[&[u8]]) -> Result<Pending<'a>> {
    let in_the_pool = embedder
        .device()
        .is_some_and(|device| device.candle().is_cpu());
    if !in_the_pool {
        return embedder.start(inputs);
    }
    let joined = inputs.concat();
    // From outside, each of its operations would queue behind the images.
    let embedded = rayon::scope(|_| embedder.embed(&joined))?;
    Ok(Pending::ready(embedded))
}

fn good(batch: &[Prepared]) -> impl Iterator<Item = &Prepared> {
    batch.iter().filter(|p| p.row.good())
}

/// Whether a row is neither zero nor has a value that is not finite, whatever a caller's own embedder says of it.
fn has_direction(row: &[f32]) -> bool {
    row.iter().all(|x| x.is_finite()) && row.iter().any(|x| *x != 0.0)
}

/// The part that is being made.
struct Part {
    index: usize,
    samples: Vec<SampleRow>,
    embeddings: Embeddings,
}

impl Part {
    fn new(index: usize, embedder: &dyn Embedder) -> Part {
        let embeddings = Embeddings {
            ids: Vec::new(),
            id_type: IdType::String,
            dims: embedder.dims(),
            dtype: embedder.dtype(),
            rows: Vec::new(),
        };
        Part {
            index,
            samples: Vec::new(),
            embeddings,
        }
    }

    /// Takes in a batch with the rows of its good samples; gives the number of bad ones, and which rows were kept.
    fn add(&mut self, batch: Vec<Prepared>, embedded: &clip::Embedded) -> Result<(u64, Vec<bool>)> {
        let (d, images) = (self.embeddings.dims, good(&batch).count());
        if embedded.good.len() != images || embedded.rows.len() != images * d {
            let (values, rows) = (embedded.rows.len(), embedded.good.len());
            return Err(Error::shape(
                "embed",
                format!("{images} rows of {d}"),
                format!("{values} values for {rows} images"),
            ));
        }
        let mut rows = embedded.rows.chunks_exact(d).zip(&embedded.good);
        let (mut bad, mut kept) = (0, Vec::with_capacity(images));
        for Prepared { mut row, .. } in batch {
            if row.good() {
                match rows.next() {
                    Some((embedding, true)) if has_direction(embedding) => {
                        self.embeddings.ids.push(row.id.clone());
                        self.embeddings.rows.extend_from_slice(embedding);
                        kept.push(true);
                    }
                    _ => {
                        row.error = Some("its embedding is zero or not finite".into());
                        kept.push(false);
                    }
                }
            }
            bad += u64::from(!row.good());
            self.samples.push(row);
        }
        Ok((bad, kept))
    }
}
