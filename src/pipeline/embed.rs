//! Read -> decode -> embed -> store, part by part.
//!
//! Two threads and the pool: one thread walks the inputs and lets the pool load, decode and resize a batch at a time; the
//! calling thread owns the device, embeds the batches in order and writes a part when its last batch is in: it begins a batch before it
//! waits for the one before, so that an embedder on a device can upload one while it computes the other. A bounded channel between
//! the threads keeps at most [`QUEUED`] batches in memory. Batches never cross parts, so a part's bytes depend on its samples
//! alone.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::progress::{Context, Stage};
use super::resident::{Gathering, Resident};
use crate::clip::{self, Embedder, Pending};
use crate::decode::{Limits, decode};
use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::read::Inputs;
use crate::sample::Sample;
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

/// A sample after the pool: its row, and the embedder's input where it is good.
struct Prepared {
    row: SampleRow,
    input: Vec<u8>,
}

enum Message {
    Batch(Vec<Prepared>),
    /// All batches of the part are sent.
    EndOfPart,
    /// A part that is done already.
    Standing {
        read: u64,
        bad: u64,
    },
    Failed(Error),
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
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUED);
        scope.spawn(move || {
            if let Err(error) = walk(dir, inputs, embedder, cut, context, &sender) {
                // Nobody is left to hear it when the other side has failed first.
                let _ = sender.send(Message::Failed(error));
            }
        });
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

/// Sends every part's batches, in order. Ends quietly when nobody listens any more.
fn walk(
    dir: &RunDir,
    inputs: &Inputs,
    embedder: &dyn Embedder,
    cut: &Cut,
    context: Context,
    sender: &SyncSender<Message>,
) -> Result<()> {
    let mut samples = inputs.samples().peekable();
    for part in 0.. {
        if samples.peek().is_none() {
            return Ok(());
        }
        let message = if dir.part_holds(part, |line| context.note(line))? {
            standing(dir, part, samples.by_ref().take(cut.part_size))?
        } else {
            context.check()?;
            let mut left = cut.part_size;
            while left > 0 && samples.peek().is_some() {
                let batch: Vec<Sample> = samples.by_ref().take(left.min(cut.batch_size)).collect();
                left -= batch.len();
                let prepared = batch
                    .par_iter()
                    .map(|sample| prepare(sample, embedder, &cut.limits))
                    .collect();
                if sender.send(Message::Batch(prepared)).is_err() {
                    return Ok(());
                }
            }
            Message::EndOfPart
        };
        if sender.send(message).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Passes over the samples of a part that is done, making sure that they are the same.
fn standing(dir: &RunDir, part: usize, samples: impl Iterator<Item = Sample>) -> Result<Message> {
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
    Ok(Message::Standing {
        read: read as u64,
        bad: rows.iter().filter(|row| !row.good()).count() as u64,
    })
}

/// One sample as far as it goes without the device.
fn prepare(sample: &Sample, embedder: &dyn Embedder, limits: &Limits) -> Prepared {
    let mut row = SampleRow {
        id: sample.id.clone(),
        source: sample.source.to_string(),
        key: sample.key.clone(),
        member: sample.member.clone(),
        offset: sample.offset,
        length: sample.length,
        ..SampleRow::default()
    };
    let result = sample.read(limits.max_file_bytes).and_then(|bytes| {
        row.bytes = bytes.len() as u64;
        row.sha256 = sha256_hex(&bytes);
        decode(&bytes, limits).map_err(|e| e.to_string())
    });
    let input = match result {
        Ok(decoded) => {
            row.format = decoded.format.as_str().into();
            (row.width, row.height) = (decoded.image.width, decoded.image.height);
            embedder.prepare(&decoded.image)
        }
        Err(reason) => {
            row.error = Some(reason);
            Vec::new()
        }
    };
    Prepared { row, input }
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
                    let next = Begun::new(batch, self.embedder)?;
                    let before = self.begun.replace(next);
                    self.finish(before)?;
                }
                Message::EndOfPart => {
                    // Written when the next part's first batch is begun: the device has work meanwhile.
                    if let Some(last) = &mut self.begun {
                        last.ends_part = true;
                    }
                }
                Message::Standing { read, bad } => {
                    let before = self.begun.take();
                    self.finish(before)?;
                    self.part = Part::new(self.part.index + 1, self.embedder);
                    self.gathering.give_up();
                    (self.advance)(read, bad, 0)?;
                }
                Message::Failed(error) => {
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
            false => Some(embedder.start(&inputs)?),
        };
        Ok(Begun {
            batch,
            pending,
            ends_part: false,
        })
    }
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
