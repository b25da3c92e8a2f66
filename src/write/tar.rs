//! WebDataset shards: `00000.tar`, and `00000.parquet` with a row a sample.
//!
//! A sample is a run of members of one key: the image first, then the sidecars in their order. Readers that take the first
//! member with an image suffix for the image find it, whatever the sidecars are. Headers say mode 0644, owner 0, time 0;
//! names above 100 bytes are GNU long names.
//!
//! The tar is put in place before its table, and the table knows the tar's length, so a table that fits is the proof of a whole
//! shard.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray};
use tar::{Builder, EntryType, Header};

use super::copy::{Reader, changed, unreadable};
use super::names::{Taken, image_suffix, sidecar_suffixes, tar_key, with_suffix};
use super::record::Record;
use super::table::Rows;
use super::{Kept, Options, Written};
use crate::atomic::{self, Pending};
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::sample::{Blob, Sample};

/// Where the table says how long its tar is.
const TAR_BYTES: &str = "tar_bytes";

/// The shards of a set, one open at a time.
#[derive(Debug)]
pub(super) struct Shards {
    record: Record,
    shard_size: usize,
    scores: Vec<String>,
    reader: Reader,
    number: u64,
    current: Current,
    written: Written,
}

#[derive(Debug)]
enum Current {
    /// Between two shards.
    None,
    /// A shard that an earlier run wrote.
    Standing(Box<Standing>),
    /// A shard being written.
    Open(Box<Open>),
}

#[derive(Debug)]
struct Standing {
    ids: StringArray,
    sha256: StringArray,
    /// How many of its samples came again.
    seen: usize,
    bytes: u64,
}

struct Open {
    path: PathBuf,
    tar: Builder<BufWriter<Pending>>,
    rows: Rows,
    taken: Taken,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} with {} samples",
            self.path.display(),
            self.rows.len()
        )
    }
}

impl Shards {
    pub(super) fn new(record: Record, options: &Options) -> Shards {
        Shards {
            record,
            shard_size: options.shard_size,
            scores: options.scores.clone(),
            reader: Reader::default(),
            number: 0,
            current: Current::None,
            written: Written::default(),
        }
    }

    pub(super) fn push(&mut self, kept: Kept) -> Result<()> {
        if let Current::None = self.current {
            self.current = match self.standing() {
                Some(standing) => Current::Standing(Box::new(standing)),
                None => Current::Open(Box::new(self.open()?)),
            };
        }
        let filled = match &mut self.current {
            Current::None => unreachable!("a shard was just begun"),
            Current::Standing(standing) => {
                let at = standing.seen;
                if at >= standing.ids.len()
                    || standing.ids.value(at) != kept.sample.id
                    || standing.sha256.value(at) != hex(&kept.sha256)
                {
                    return Err(self.other_samples());
                }
                standing.seen += 1;
                standing.seen
            }
            Current::Open(open) => {
                open.push(kept, &mut self.reader)?;
                open.rows.len()
            }
        };
        if filled == self.shard_size {
            self.close()?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Written> {
        self.close()?;
        // An earlier run got further, with samples that are not in the set: the fingerprint did not say so, the samples do.
        for number in self.number..self.record.begun() {
            remove_shard(self.record.dir(), number)?;
        }
        self.record.complete(self.number)?;
        Ok(self.written)
    }

    /// Puts the open shard in place, if there is one.
    fn close(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.current, Current::None) {
            Current::None => return Ok(()),
            Current::Standing(standing) if standing.seen < standing.ids.len() => {
                return Err(self.other_samples());
            }
            Current::Standing(standing) => {
                self.written.samples += standing.seen as u64;
                self.written.standing += standing.seen as u64;
                self.written.bytes += standing.bytes;
            }
            Current::Open(open) => {
                self.written.samples += open.rows.len() as u64;
                self.record.begin(self.number + 1)?;
                self.written.bytes += open.commit(self.record.dir(), self.number)?;
            }
        }
        self.written.files += 2;
        self.number += 1;
        Ok(())
    }

    fn open(&self) -> Result<Open> {
        let path = shard_path(self.record.dir(), self.number, "tar");
        let file = BufWriter::with_capacity(1 << 20, Pending::create(&path)?);
        Ok(Open {
            path,
            tar: Builder::new(file),
            rows: Rows::new(&self.scores),
            taken: Taken::default(),
        })
    }

    /// The shard of the current number as an earlier run left it; `None` unless it is whole.
    fn standing(&self) -> Option<Standing> {
        if self.number >= self.record.begun() {
            return None;
        }
        let dir = self.record.dir();
        let table = shard_path(dir, self.number, "parquet");
        let batch = atomic::read_parquet(&table).ok()?;
        let tar_bytes = shard_path(dir, self.number, "tar").metadata().ok()?.len();
        let recorded: u64 = batch.schema().metadata().get(TAR_BYTES)?.parse().ok()?;
        let rows = batch.num_rows();
        if recorded != tar_bytes || rows == 0 || rows > self.shard_size {
            return None;
        }
        Some(Standing {
            ids: strings(&batch, "id")?,
            sha256: strings(&batch, "sha256")?,
            seen: 0,
            bytes: tar_bytes + table.metadata().ok()?.len(),
        })
    }

    fn other_samples(&self) -> Error {
        Error::run(
            shard_path(self.record.dir(), self.number, "tar"),
            "it holds other samples than the ones that are kept now, though the request is the same; \
             run again with --overwrite to write the set anew",
        )
    }
}

impl Open {
    fn push(&mut self, kept: Kept, reader: &mut Reader) -> Result<()> {
        let sample = kept.sample;
        let key = self.taken.claim(tar_key(sample));
        let suffix = image_suffix(sample, kept.format);
        let member = with_suffix(&key, &suffix);
        let (bytes, sha256) = self.append(&member, sample, &sample.image, reader)?;
        if sha256 != kept.sha256 {
            return Err(changed(sample));
        }
        let suffixes = sidecar_suffixes(sample, &suffix);
        for (sidecar, suffix) in sample.sidecars.iter().zip(suffixes) {
            self.append(&with_suffix(&key, &suffix), sample, &sidecar.blob, reader)?;
        }
        self.rows.push(&kept, key, member, bytes);
        Ok(())
    }

    fn append(
        &mut self,
        name: &str,
        sample: &Sample,
        blob: &Blob,
        reader: &mut Reader,
    ) -> Result<(u64, [u8; 32])> {
        let mut source = reader.open(blob).map_err(|e| unreadable(sample, e))?;
        let length = source.length();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(length);
        let copied = self.tar.append_data(&mut header, name, &mut source);
        let sha256 = source.finish().map_err(|e| unreadable(sample, e))?;
        copied.map_err(Error::io("write", &self.path))?;
        Ok((length, sha256))
    }

    /// Puts the tar and then its table in place; returns the bytes of both.
    fn commit(self, dir: &Path, number: u64) -> Result<u64> {
        let Open {
            path,
            tar,
            mut rows,
            taken: _,
        } = self;
        let table = shard_path(dir, number, "parquet");
        let committed = || -> io::Result<Pending> {
            let mut buffered = tar.into_inner()?;
            buffered.flush()?;
            buffered.into_inner().map_err(|e| e.into_error())
        };
        let mut pending = committed().map_err(Error::io("write", &path))?;
        let tar_bytes = pending.file_mut().metadata();
        let tar_bytes = tar_bytes.map_err(Error::io("write", &path))?.len();
        // A table of an earlier, damaged shard must not stand beside the new tar.
        atomic::remove_file(&table)?;
        pending.commit()?;
        let batch = rows
            .take()
            .and_then(|batch| with_tar_bytes(&batch, tar_bytes))
            .map_err(|e| Error::io("write", &table)(io::Error::other(e)))?;
        atomic::write_parquet(&table, &batch)?;
        let table_bytes = fs::metadata(&table).map_err(Error::io("read", &table))?;
        Ok(tar_bytes + table_bytes.len())
    }
}

fn with_tar_bytes(
    batch: &RecordBatch,
    bytes: u64,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let metadata = HashMap::from([(TAR_BYTES.to_string(), bytes.to_string())]);
    let schema = batch.schema().as_ref().clone().with_metadata(metadata);
    RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec())
}

fn strings(batch: &RecordBatch, name: &str) -> Option<StringArray> {
    let column = batch.column_by_name(name)?.as_any();
    column.downcast_ref::<StringArray>().cloned()
}

fn shard_path(dir: &Path, number: u64, suffix: &str) -> PathBuf {
    dir.join(format!("{number:05}.{suffix}"))
}

/// The number in `00000.tar` and `00000.parquet`.
pub(super) fn shard_number(name: &str) -> Option<u64> {
    let (number, suffix) = name.split_once('.')?;
    let digits = number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit());
    match suffix {
        "tar" | "parquet" if digits => number.parse().ok(),
        _ => None,
    }
}

/// Removes a shard, the table first.
pub(super) fn remove_shard(dir: &Path, number: u64) -> Result<()> {
    atomic::remove_file(shard_path(dir, number, "parquet"))?;
    atomic::remove_file(shard_path(dir, number, "tar"))
}
