//! Embeddings made by others: `.npy` matrices `[n, d]` (such as clip-retrieval's `img_emb_*.npy`) and parquet files of ids and
//! lists (such as NVIDIA NeMo Curator's), one or many as one set.
//!
//! # Ids
//!
//! The id of a row of a `.npy` is its row number, an int64; with several files `STEM#ROW`, a text. A parquet's ids keep their
//! type. Ids are unique over all files: a repeated one is refused with its places, as nothing says which row is meant by it
//! and a number cannot be told apart by an appended word as an image's id can.
//!
//! A file that cannot be used is refused even where others can: its rows have no ids to stand for in the ledger.
//!
//! Memory: a block of rows, and about 60 bytes an id while parquets are opened.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::vectors::{Lists, Vectors};
use super::{braces, npy, npy::Npy, unreadable};
use crate::digest::sha256_file;
use crate::store::ids::IdType;
use crate::{Error, Result};

/// A block of rows is so long at most, in rows and in bytes of f32.
const BLOCK_ROWS: usize = 1024;
const BLOCK_BYTES: usize = 16 << 20;

/// Which columns of parquets are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The ids; `id` by default.
    pub id: Option<String>,
    /// The embeddings; by default `embedding`, else the only column of lists of floats.
    pub embedding: Option<String>,
}

/// A row, not normalised.
pub struct Row<'a> {
    /// Unique over all files.
    pub id: String,
    /// The file, as written.
    pub source: &'a str,
    /// Its number in the file, from 0.
    pub number: u64,
    /// `[d]`; zeros where there is a problem.
    pub values: &'a [f32],
    /// Why it has no embedding.
    pub problem: Option<String>,
}

/// Files of embeddings that fit together.
pub struct Embeddings {
    files: Vec<Opened>,
    dims: usize,
    id_type: IdType,
}

struct Opened {
    written: Arc<str>,
    stem: String,
    content: Content,
    sha256: String,
}

enum Content {
    Npy(Npy),
    Parquet(Vectors),
}

impl Opened {
    fn dims(&self) -> Option<usize> {
        match &self.content {
            Content::Npy(npy) => Some(npy.dims),
            Content::Parquet(vectors) => vectors.dims,
        }
    }

    fn rows(&self) -> u64 {
        match &self.content {
            Content::Npy(npy) => npy.rows,
            Content::Parquet(vectors) => vectors.rows,
        }
    }

    /// Bytes of a value.
    fn width(&self) -> usize {
        match &self.content {
            Content::Npy(npy) => npy.width,
            Content::Parquet(vectors) => vectors.width,
        }
    }

    fn id_type(&self, several: bool) -> IdType {
        match &self.content {
            Content::Npy(_) if several => IdType::String,
            Content::Npy(_) => IdType::Int64,
            Content::Parquet(vectors) => vectors.id_type,
        }
    }
}

impl Embeddings {
    /// Opens files (brace ranges expand; a path that exists as written wins) and makes sure that they fit together. Ids are read,
    /// embeddings are not.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that cannot be used; [`Error::Usage`] for files that differ in d or the type of ids, and for
    /// ids that repeat.
    pub fn open(paths: &[PathBuf], columns: &Columns) -> Result<Embeddings> {
        let mut written = Vec::new();
        for path in paths {
            match path.to_str() {
                Some(text) if !path.exists() => {
                    written.extend(braces::expand(text)?.into_iter().map(PathBuf::from));
                }
                _ => written.push(path.clone()),
            }
        }
        let files = written
            .par_iter()
            .map(|path| {
                open(path, columns)
                    .map_err(|reason| Error::input(path.display().to_string(), reason))
            })
            .collect::<Vec<_>>();
        let files = files.into_iter().collect::<Result<Vec<_>>>()?;
        let Some(first) = files.first() else {
            return Err(Error::usage("no embeddings: name .npy or .parquet files"));
        };
        let is_npy = |file: &Opened| matches!(file.content, Content::Npy(_));
        if (columns.id.is_some() || columns.embedding.is_some()) && files.iter().all(is_npy) {
            return Err(Error::usage(
                "--id-column and --embedding-column are for parquet files; rows of a .npy are called by their numbers",
            ));
        }
        let several = files.len() > 1;
        let id_type = first.id_type(several);
        if let Some(other) = files.iter().find(|file| file.id_type(several) != id_type) {
            return Err(Error::usage(format!(
                "ids of {} are {id_type}, of {} {}: ids of one set have one type",
                first.written,
                other.written,
                other.id_type(several)
            )));
        }
        let mut known = files.iter().filter_map(|file| Some((file, file.dims()?)));
        let Some((first, dims)) = known.next() else {
            let reason = "has no rows, and its lists no fixed size: nothing says what d is";
            return Err(Error::input(&*first.written, reason));
        };
        if let Some((other, d)) = known.find(|(_, d)| *d != dims) {
            return Err(Error::usage(format!(
                "{} has rows of {dims} values, {} of {d}: the rows of one set have one length",
                first.written, other.written
            )));
        }
        let embeddings = Embeddings {
            files,
            dims,
            id_type,
        };
        embeddings.check_ids()?;
        Ok(embeddings)
    }

    /// d.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// n, bad rows included.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(Opened::rows).sum()
    }

    /// The type of the ids.
    pub fn id_type(&self) -> IdType {
        self.id_type
    }

    /// Whether all values are f16.
    pub fn is_half(&self) -> bool {
        self.files.iter().all(|file| file.width() == 2)
    }

    /// Files whose values are f64, which become f32.
    pub fn doubles(&self) -> impl Iterator<Item = &str> {
        let doubles = self.files.iter().filter(|file| file.width() == 8);
        doubles.map(|file| &*file.written)
    }

    /// The files, as written, brace ranges expanded.
    pub fn names(&self) -> Vec<String> {
        self.files.iter().map(|f| f.written.to_string()).collect()
    }

    /// A line for each file: what tells its content from another's.
    pub fn describe(&self) -> Vec<String> {
        let line = |file: &Opened| {
            let kind = match file.content {
                Content::Npy(_) => "npy",
                Content::Parquet(_) => "parquet",
            };
            let (rows, sha256) = (file.rows(), &file.sha256);
            format!("{} ({kind}, {rows} rows, sha256 {sha256})", file.written)
        };
        self.files.iter().map(line).collect()
    }

    /// Hands every row to `visit`, in order.
    ///
    /// # Errors
    /// [`Error::Input`] and [`Error::Io`] where a file breaks off; what `visit` refuses.
    pub fn for_each(&self, mut visit: impl FnMut(Row) -> Result<()>) -> Result<()> {
        // Rows of any length: a file that claims long ones must not make the block long too.
        let block = (BLOCK_BYTES / (4 * self.dims)).clamp(1, BLOCK_ROWS);
        for file in &self.files {
            let mut pass = |first: u64, lists: Lists| {
                let rows = lists.values.chunks_exact(self.dims);
                let named = lists.ids.into_iter().zip(lists.problems);
                for (at, (values, (id, problem))) in rows.zip(named).enumerate() {
                    visit(Row {
                        id,
                        source: &file.written,
                        number: first + at as u64,
                        values,
                        problem,
                    })?;
                }
                Ok(())
            };
            match &file.content {
                Content::Npy(npy) => npy.for_each(block, |first, values| {
                    let rows = (values.len() / self.dims) as u64;
                    let ids = (first..first + rows).map(|row| self.npy_id(file, row));
                    let ids: Vec<_> = ids.collect();
                    let problems = vec![None; ids.len()];
                    pass(
                        first,
                        Lists {
                            ids,
                            values,
                            problems,
                        },
                    )
                })?,
                Content::Parquet(vectors) => vectors.for_each(block, self.dims, pass)?,
            }
        }
        Ok(())
    }

    fn npy_id(&self, file: &Opened, row: u64) -> String {
        match self.files.len() {
            1 => row.to_string(),
            _ => format!("{}#{row}", file.stem),
        }
    }

    /// # Errors
    /// [`Error::Usage`] with both places of an id that comes twice.
    fn check_ids(&self) -> Result<()> {
        let parquets = self
            .files
            .iter()
            .any(|file| matches!(file.content, Content::Parquet(_)));
        if !parquets {
            let mut stems = HashMap::new();
            for file in &self.files {
                if let Some(other) = stems.insert(&file.stem, &file.written) {
                    return Err(Error::usage(format!(
                        "{other} and {} are both called {}, and ids begin with it: rename one",
                        file.written, file.stem
                    )));
                }
            }
            return Ok(());
        }
        // Ids by 128 bits of a hash with secret keys, so that long ones cost no more than short ones.
        let keys = (RandomState::new(), RandomState::new());
        let mut seen: HashMap<u128, (u32, u64)> = HashMap::new();
        for (at, file) in self.files.iter().enumerate() {
            let mut note = |row: u64, id: &str| {
                let hash = u128::from(keys.0.hash_one(id)) << 64 | u128::from(keys.1.hash_one(id));
                let Some((other, first)) = seen.insert(hash, (at as u32, row)) else {
                    return Ok(());
                };
                Err(Error::usage(format!(
                    "the id {id} stands twice, in row {first} of {} and row {row} of {}: give each row its own, or name \
                     another column with --id-column",
                    self.files[other as usize].written, file.written
                )))
            };
            match &file.content {
                Content::Npy(npy) => {
                    (0..npy.rows).try_for_each(|row| note(row, &self.npy_id(file, row)))?;
                }
                Content::Parquet(vectors) => vectors.for_each_id(&mut note)?,
            }
        }
        Ok(())
    }
}

fn open(path: &Path, columns: &Columns) -> Result<Opened, String> {
    if path.is_dir() {
        return Err("is a folder: name the files in it, such as FOLDER/*.npy".to_string());
    }
    let mut file = File::open(path).map_err(|e| unreadable(&e))?;
    let mut magic = Vec::new();
    file.by_ref()
        .take(npy::MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .map_err(|e| unreadable(&e))?;
    let called = |suffix: &str| path.extension().is_some_and(|e| e == suffix);
    let content = if magic == npy::MAGIC || called("npy") {
        Content::Npy(Npy::open(path)?)
    } else if magic.starts_with(b"PAR1") || called("parquet") {
        let (id, embedding) = (columns.id.as_deref(), columns.embedding.as_deref());
        Content::Parquet(Vectors::open(path, id, embedding)?)
    } else {
        return Err(
            "is neither a .npy nor a .parquet file: embeddings are read from these".to_string(),
        );
    };
    let stem = path.file_stem().unwrap_or_default();
    Ok(Opened {
        written: path.display().to_string().into(),
        stem: super::printable(stem.as_encoded_bytes()),
        content,
        sha256: sha256_file(path).map_err(|e| unreadable(&e))?,
    })
}
