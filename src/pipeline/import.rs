//! Embeddings made by others -> a run directory like any other, without images.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::open::open;
use super::progress::{Context, Running, Stage};
use super::run::Run;
use crate::error::{Error, Result};
use crate::manifest::FALLBACK_EPS;
use crate::ops::normalize::normalize_rows;
use crate::read::embeddings::{self, Columns, Row};
use crate::store::run_file::EmbedRequest;
use crate::store::tables::{Embeddings, SampleRow};
use crate::store::{RunDir, Table};

/// The fingerprint of embeddings made by others, whose model is not known.
pub const IMPORTED: &str = "given";

/// How embeddings made by others are taken in.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// Columns of parquet files.
    pub columns: Columns,
    /// Rows a part.
    pub part_size: usize,
    /// Remove an earlier run of another request from the directory instead of refusing it.
    pub overwrite: bool,
}

impl Default for Import {
    fn default() -> Import {
        Import {
            columns: Columns::default(),
            part_size: super::PART_SIZE,
            overwrite: false,
        }
    }
}

impl Run {
    /// Takes embeddings made by others (see [`embeddings`]) into the run directory `out`: rows at unit length, f16 where all
    /// files are, else f32. A row that is zero, not finite, null or of another length is a bad sample. Where `out` has them
    /// already, they are not read again.
    ///
    /// # Errors
    /// What [`embeddings::Embeddings::open`] refuses; [`Error::Usage`] where `out` holds another run.
    pub fn import(
        files: &embeddings::Embeddings,
        out: &Path,
        import: &Import,
        context: Context,
    ) -> Result<Run> {
        if import.part_size == 0 {
            return Err(Error::usage("a part size of 0: give at least 1"));
        }
        let dtype = if files.is_half() {
            DType::F16
        } else {
            DType::F32
        };
        let request = EmbedRequest {
            inputs: files.names(),
            content: files.describe(),
            partition: None,
            id_column: import.columns.id.clone(),
            embedding_column: import.columns.embedding.clone(),
            imported: true,
            id_type: files.id_type(),
            model: "given".into(),
            fingerprint: IMPORTED.into(),
            dims: files.dims(),
            dtype: format!("{dtype:?}").to_lowercase(),
            device: "none".into(),
            part_size: import.part_size,
            batch_size: 0,
            scaled_decode: false,
            default_eps: FALLBACK_EPS,
        };
        let inputs: Vec<PathBuf> = files.names().iter().map(PathBuf::from).collect();
        let (dir, file, _) = open(out, request, &inputs, import.overwrite, context)?;
        let mut run = Run::over(dir, file);
        if run.file.parts == Some(run.home.parts()) {
            let mut parts = 0..run.home.parts();
            if parts.try_fold(true, |all, part| {
                Ok::<_, Error>(all && run.home.part_holds(part, |line| context.note(line))?)
            })? {
                return Ok(run);
            }
        }
        for name in files.doubles() {
            context.note(&format!("{name}: f64, taken as f32"));
        }
        run.save()?;
        run.home.prepare(Table::Samples)?;
        run.home.prepare(Table::Embeddings)?;
        let mut part = Part {
            dir: &run.home,
            index: 0,
            size: import.part_size,
            samples: Vec::new(),
            embeddings: empty(files, dtype),
            bad: 0,
            running: context.begin(Stage::Import, Some(files.rows())),
        };
        files.for_each(|row| part.add(row))?;
        if part.index == 0 || !part.samples.is_empty() {
            part.flush()?;
        }
        let (bad, seconds) = (part.bad, part.running.finish());
        run.took(Stage::Import, seconds);
        run.file.parts = Some(run.home.parts());
        run.file.counts.insert("read".into(), files.rows());
        run.file.counts.insert("bad".into(), bad);
        run.save()?;
        Ok(run)
    }
}

fn empty(files: &embeddings::Embeddings, dtype: DType) -> Embeddings {
    Embeddings {
        ids: Vec::new(),
        id_type: files.id_type(),
        dims: files.dims(),
        dtype,
        rows: Vec::new(),
    }
}

/// The part that is being made.
struct Part<'a> {
    dir: &'a RunDir,
    index: usize,
    size: usize,
    samples: Vec<SampleRow>,
    /// Of the good samples; not normalised before the part is written.
    embeddings: Embeddings,
    bad: u64,
    running: Running<'a>,
}

impl Part<'_> {
    fn add(&mut self, row: Row) -> Result<()> {
        let problem = row.problem.or_else(|| {
            if !row.values.iter().all(|x| x.is_finite()) {
                Some("its embedding holds a NaN or an infinity".to_string())
            } else if row.values.iter().all(|x| *x == 0.0) {
                Some("its embedding is zero".to_string())
            } else {
                None
            }
        });
        if problem.is_none() {
            self.embeddings.ids.push(row.id.clone());
            self.embeddings.rows.extend_from_slice(row.values);
        }
        self.bad += u64::from(problem.is_some());
        let number = row.number.to_string();
        self.samples.push(SampleRow {
            key: row.id.clone(),
            id: row.id,
            source: row.source.to_string(),
            member: number,
            offset: row.number,
            error: problem,
            ..SampleRow::default()
        });
        if self.samples.len() == self.size {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let rows = &mut self.embeddings.rows;
        if let [row, ..] = normalize_rows(rows, self.embeddings.dims)[..] {
            // Rows that cannot be normalised were put aside one by one.
            let id = self.embeddings.ids[row].clone();
            return Err(Error::shape("normalise", "finite rows, not zero", id));
        }
        let standing = self.dir.part_holds(self.index, |_| {})?;
        if !standing {
            self.dir
                .write_part(self.index, &self.samples, &self.embeddings)?;
            let bad = self.samples.iter().filter(|row| row.error.is_some());
            bad.for_each(|row| self.running.bad(row));
        }
        let done = self.samples.len() as u64;
        self.index += 1;
        self.samples.clear();
        self.embeddings.ids.clear();
        self.embeddings.rows.clear();
        match standing {
            true => self.running.pass(done),
            false => self.running.advance(done),
        }
    }
}
