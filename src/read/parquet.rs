//! A parquet: a sample is a row.
//!
//! The image is a column `struct<bytes, path>` as Hugging Face writes it (without bytes the path is read, relative to the
//! parquet's folder), a binary column, or a column of paths; [`super::columns`] says which. The other columns of texts, numbers,
//! truth values and times become one `json` sidecar; lists and structs are left out.
//!
//! The key is the id column's value, else the stored path, else the row number. Stored paths are often bare file names that come
//! again from several folders: where one comes twice in a parquet, the row numbers of that parquet are the keys.
//!
//! A batch is about 64 MiB of values, at most 256 rows. Bytes come with the samples, as a parquet cannot be read at an offset.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use super::columns::{self, Columns, Form, plain};
use super::folder::file_sample;
use super::unique::Unique;
use super::{Naming, Options, Reader, names, printable, unreadable};
use crate::atomic::Chunks;
use crate::sample::{Blob, Sample, Sidecar};

/// What a batch should hold at most, going by the average row.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_ROWS: u64 = 256;

/// A parquet with a column that holds images.
pub(super) struct Parquet {
    path: PathBuf,
    naming: Naming,
    columns: Columns,
    rows: u64,
    batch: usize,
}

impl Parquet {
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn open(path: &Path, naming: Naming, options: &Options) -> Result<Parquet, String> {
        let builder = builder(path)?;
        let columns = Columns::choose(
            builder.schema(),
            options.image_column.as_deref(),
            options.id_column.as_deref(),
        )?;
        let groups = builder.metadata().row_groups();
        let rows: u64 = groups.iter().map(|g| g.num_rows().max(0) as u64).sum();
        let bytes: u64 = groups
            .iter()
            .map(|g| g.total_byte_size().max(0) as u64)
            .fold(0, u64::saturating_add);
        let batch = (BATCH_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, BATCH_ROWS) as usize;
        Ok(Parquet {
            path: path.to_path_buf(),
            naming,
            columns,
            rows,
            batch,
        })
    }

    /// The number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    fn read(&self) -> Result<Rows<'_>, String> {
        let by_row = match self.columns.form {
            Form::Struct { path: true, .. } if self.columns.id.is_none() => self.paths_repeat()?,
            _ => false,
        };
        let builder = builder(&self.path)?;
        let all = self.columns.all();
        let mask = ProjectionMask::roots(builder.parquet_schema(), all.iter().copied());
        let names = builder.schema().clone();
        let facts = self
            .columns
            .facts
            .iter()
            .map(|&at| names.field(at).name().clone());
        let facts = facts.collect();
        let reader = guarded(|| {
            builder
                .with_projection(mask)
                .with_batch_size(self.batch)
                .build()
        })?;
        let places = all
            .into_iter()
            .enumerate()
            .map(|(at, column)| (column, at))
            .collect();
        Ok(Rows {
            parquet: self,
            reader,
            places,
            facts,
            by_row,
            row: 0,
            ready: Vec::new().into_iter(),
            done: false,
        })
    }

    /// Whether a path stored with the images comes twice. Reads nothing else.
    fn paths_repeat(&self) -> Result<bool, String> {
        let builder = builder(&self.path)?;
        let image = builder.schema().field(self.columns.image).name().clone();
        let wanted = [image.as_str(), "path"];
        let leaves = builder.parquet_schema().columns().iter().enumerate();
        let leaves = leaves
            .filter(|(_, leaf)| leaf.path().parts() == wanted)
            .map(|(at, _)| at);
        let mask = ProjectionMask::leaves(builder.parquet_schema(), leaves);
        let mut reader = guarded(|| builder.with_projection(mask).with_batch_size(8192).build())?;
        let mut seen = Unique::default();
        while let Some(batch) = guarded(|| reader.next().transpose())? {
            let Some(paths) = batch
                .column(0)
                .as_struct_opt()
                .and_then(|s| s.column_by_name("path").cloned())
            else {
                return Ok(false);
            };
            let paths = plain(&paths)?;
            let mut texts = (0..paths.len()).filter_map(|row| columns::text(&paths, row));
            if texts.any(|path| seen.note(path).is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Reader for Parquet {
    fn name(&self) -> &str {
        &self.naming.written
    }

    fn samples(&self) -> Box<dyn Iterator<Item = Sample> + Send + '_> {
        match self.read() {
            Ok(rows) => Box::new(rows),
            Err(reason) => Box::new(std::iter::once(self.naming.bad(reason))),
        }
    }
}

pub(super) fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<Chunks>, String> {
    let file = File::open(path).map_err(|e| unreadable(&e))?;
    guarded(|| ParquetRecordBatchReaderBuilder::try_new(Chunks(file)))
        .map_err(|e| format!("is not a whole parquet file: {e}"))
}

/// Runs what reads a file that may be damaged in ways its reader does not expect.
pub(super) fn guarded<T, E: std::fmt::Display>(
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("damaged in a way that its reader does not expect".to_string()),
    }
}

struct Rows<'a> {
    parquet: &'a Parquet,
    reader: ParquetRecordBatchReader,
    /// Where a column of the table is in a batch.
    places: HashMap<usize, usize>,
    /// The names of the columns in the sidecar.
    facts: Vec<String>,
    /// Whether keys are row numbers, as stored paths repeat.
    by_row: bool,
    /// The next row.
    row: u64,
    ready: std::vec::IntoIter<Sample>,
    done: bool,
}

impl Iterator for Rows<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        loop {
            if let Some(sample) = self.ready.next() {
                return Some(sample);
            }
            if self.done {
                return None;
            }
            let batch = guarded(|| self.reader.next().transpose());
            let samples =
                batch.and_then(|batch| batch.map(|batch| self.samples(&batch)).transpose());
            match samples {
                Ok(Some(samples)) => self.ready = samples.into_iter(),
                Ok(None) if self.row >= self.parquet.rows => self.done = true,
                // A damaged footer may promise rows that no page has.
                Ok(None) => return Some(self.rest("the file ends before them")),
                Err(reason) => return Some(self.rest(&reason)),
            }
        }
    }
}

impl Rows<'_> {
    /// The sample that stands for the rows that cannot be read.
    fn rest(&mut self, reason: &str) -> Sample {
        self.done = true;
        self.parquet.naming.bad(format!(
            "rows from {} of {} cannot be read: {reason}",
            self.row, self.parquet.rows
        ))
    }

    fn samples(&mut self, batch: &RecordBatch) -> Result<Vec<Sample>, String> {
        let columns = &self.parquet.columns;
        let column = |at: usize| batch.column(self.places[&at]);
        let image = Images::of(column(columns.image), columns.form)?;
        let ids = columns.id.map(|at| plain(column(at))).transpose()?;
        let facts = columns.facts.iter().map(|&at| plain(column(at)));
        let facts = facts.collect::<Result<Vec<_>, _>>()?;
        let mut samples = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let mut sample = self.sample(&image, ids.as_ref(), row);
            if !facts.is_empty() {
                let values = facts.iter().map(|column| columns::fact(column, row));
                let object: Map<String, Value> = self.facts.iter().cloned().zip(values).collect();
                sample.sidecars.push(Sidecar {
                    suffix: "json".to_string(),
                    blob: Blob::Bytes(Value::Object(object).to_string().into_bytes().into()),
                });
            }
            samples.push(sample);
            self.row += 1;
        }
        Ok(samples)
    }

    fn sample(&self, images: &Images, ids: Option<&ArrayRef>, row: usize) -> Sample {
        let Parquet {
            path,
            naming,
            columns,
            ..
        } = self.parquet;
        let number = self.row.to_string();
        let (bytes, stored) = images.value(row);
        let mut missing = None;
        let key = match ids {
            Some(ids) => columns::rendered(ids, row).unwrap_or_else(|| {
                missing = Some("has no id: the id column is null".to_string());
                number.clone()
            }),
            None if self.by_row => number.clone(),
            None => stored.map_or_else(|| number.clone(), str::to_string),
        };
        let key = printable(key.as_bytes());
        let mut sample = naming.bad(String::new());
        sample.problem = match (bytes, stored) {
            (Some([]), _) => Some("the image has no bytes".to_string()),
            (Some(bytes), _) => {
                sample.length = bytes.len() as u64;
                sample.image = Blob::Bytes(Arc::from(bytes));
                None
            }
            (None, None | Some("")) => Some(match columns.form {
                Form::Path => "the path is null".to_string(),
                _ => "the image is null".to_string(),
            }),
            (None, Some(stored)) if stored.contains("://") => {
                Some("is a URL: only local files are read".to_string())
            }
            (None, Some(stored)) => {
                let beside = path.parent().unwrap_or(Path::new("")).join(stored);
                let file = file_sample(naming, stored, &beside);
                sample.length = file.length;
                sample.image = file.image;
                let suffix = names::suffix(&beside);
                let other =
                    names::is_other_image_suffix(&suffix).then(|| names::not_readable(&suffix));
                file.problem
                    .map(|problem| format!("{}: {problem}", printable(stored.as_bytes())))
                    .or(other)
            }
        };
        sample.problem = missing.or(sample.problem);
        sample.id = naming.id(&key);
        sample.key = key;
        sample.offset = self.row;
        sample.member = number;
        sample
    }
}

/// The image column of a batch.
struct Images {
    bytes: Option<ArrayRef>,
    paths: Option<ArrayRef>,
    /// A struct, for its own nulls.
    whole: ArrayRef,
}

impl Images {
    fn of(column: &ArrayRef, form: Form) -> Result<Images, String> {
        let whole = plain(column)?;
        let child = |name: &str, has: bool| {
            let column = whole
                .as_struct_opt()
                .filter(|_| has)
                .and_then(|s| s.column_by_name(name));
            column.map(plain).transpose()
        };
        let (bytes, paths) = match form {
            Form::Struct { bytes, path } => (child("bytes", bytes)?, child("path", path)?),
            Form::Bytes => (Some(whole.clone()), None),
            Form::Path => (None, Some(whole.clone())),
        };
        Ok(Images {
            bytes,
            paths,
            whole,
        })
    }

    /// The bytes and the path of a row, where it has them.
    fn value(&self, row: usize) -> (Option<&[u8]>, Option<&str>) {
        if self.whole.is_null(row) {
            return (None, None);
        }
        (
            self.bytes
                .as_ref()
                .and_then(|column| columns::bytes(column, row)),
            self.paths
                .as_ref()
                .and_then(|column| columns::text(column, row)),
        )
    }
}
