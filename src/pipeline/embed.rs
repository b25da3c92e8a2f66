//! Read -> decode -> embed -> store, part by part.
//!
//! Two threads and the pool: one thread walks the inputs and lets the pool load, decode and resize a batch at a time; the
//! calling thread owns the device, embeds the batches in order and writes a part when its last batch is in. A bounded channel
//! between them keeps at most [`QUEUED`] batches in memory. Batches never cross parts, so a part's bytes depend on its samples
//! alone.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::progress::{Context, Stage};
use crate::clip::{self, Embedder};
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
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Embedded {
    pub read: u64,
    pub bad: u64,
    /// Of those read, the ones that did not stand in finished parts.
    pub made: u64,
    pub seconds: f64,
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
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUED);
        scope.spawn(move || {
            if let Err(error) = walk(dir, inputs, embedder, cut, context, &sender) {
                // Nobody is left to hear it when the other side has failed first.
                let _ = sender.send(Message::Failed(error));
            }
        });
        consume(dir, embedder, receiver, |read, bad, made| {
            totals.read += read;
            totals.bad += bad;
            totals.made += made;
            running.advance(read)
        })
    })?;
    totals.seconds = running.finish();
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
        let message = if dir.has_part(part) {
            standing(dir, part, samples.by_ref().take(cut.part_size))?
        } else {
            let mut left = cut.part_size;
            while left > 0 && samples.peek().is_some() {
                context.check()?;
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

/// Embeds batches as they come and writes parts.
fn consume(
    dir: &RunDir,
    embedder: &dyn Embedder,
    receiver: Receiver<Message>,
    mut advance: impl FnMut(u64, u64, u64) -> Result<()>,
) -> Result<()> {
    let mut part = Part::new(0, embedder);
    for message in receiver {
        match message {
            Message::Batch(batch) => {
                let read = batch.len() as u64;
                let bad = part.add(batch, embedder)?;
                advance(read, bad, read)?;
            }
            Message::EndOfPart => {
                dir.write_part(part.index, &part.samples, &part.embeddings)?;
                part = Part::new(part.index + 1, embedder);
            }
            Message::Standing { read, bad } => {
                part = Part::new(part.index + 1, embedder);
                advance(read, bad, 0)?;
            }
            Message::Failed(error) => return Err(error),
        }
    }
    Ok(())
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

    /// Embeds the good samples of a batch; gives the number of bad ones.
    fn add(&mut self, batch: Vec<Prepared>, embedder: &dyn Embedder) -> Result<u64> {
        let inputs: Vec<&[u8]> = batch
            .iter()
            .filter(|p| p.row.good())
            .map(|p| p.input.as_slice())
            .collect();
        let d = embedder.dims();
        let embedded = match inputs.is_empty() {
            true => clip::Embedded::default(),
            false => embedder.embed(&inputs.concat())?,
        };
        if embedded.good.len() != inputs.len() || embedded.rows.len() != inputs.len() * d {
            let (values, images) = (embedded.rows.len(), embedded.good.len());
            return Err(Error::shape(
                "embed",
                format!("{} rows of {d}", inputs.len()),
                format!("{values} values for {images} images"),
            ));
        }
        let mut rows = embedded.rows.chunks_exact(d).zip(&embedded.good);
        let mut bad = 0;
        for Prepared { mut row, .. } in batch {
            if row.good() {
                match rows.next() {
                    Some((embedding, true)) if has_direction(embedding) => {
                        self.embeddings.ids.push(row.id.clone());
                        self.embeddings.rows.extend_from_slice(embedding);
                    }
                    _ => row.error = Some("its embedding is zero or not finite".into()),
                }
            }
            bad += u64::from(!row.good());
            self.samples.push(row);
        }
        Ok(bad)
    }
}
