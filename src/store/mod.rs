//! The run directory: where each table lies, what `run.json` says, and which parts are there already.
//!
//! Every file appears whole or not at all ([`crate::atomic`]). A part is a block of consecutive samples in read order; its
//! `samples/` table is written last, so where that stands the part is done.

pub mod findings;
pub mod ids;
pub mod run_file;
pub mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use sha2::{Digest, Sha256};

use crate::atomic;
use crate::error::{Error, Result};
use run_file::RunFile;
use tables::{Embeddings, SampleRow};

/// A run directory that this process has to itself.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// Held as long as the directory is open.
    _lock: atomic::FolderLock,
}

/// The folders of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table<'a> {
    /// `samples/`
    Samples,
    /// `embeddings/`
    Embeddings,
    /// `scores/NAME/`
    Scores(&'a str),
    /// `clusters/`
    Clusters,
}

impl RunDir {
    /// Opens a directory for a run, making it where it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be made or written to; [`Error::Run`] where it is something else's, or another process
    /// works on it.
    pub fn create(root: &Path) -> Result<RunDir> {
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
        // What a process leaves that was killed before its first file stood.
        let leftover = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(atomic::TEMPORARY_PREFIX)
        };
        let mut listing = fs::read_dir(root).map_err(Error::io("read", root))?;
        let empty = listing.all(|entry| entry.is_ok_and(|entry| leftover(&entry)));
        if !empty && !root.join(RUN_FILE).is_file() {
            return Err(Error::usage(format!(
                "{} is not empty and not a run directory; give a new folder as --out",
                root.display()
            )));
        }
        RunDir::lock(root)
    }

    /// Opens the directory of an earlier run.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is none; [`Error::Run`] where another process works on it.
    pub fn open(root: &Path) -> Result<RunDir> {
        RunDir::check_there(root)?;
        RunDir::lock(root)
    }

    fn check_there(root: &Path) -> Result<()> {
        if root.join(RUN_FILE).is_file() {
            return Ok(());
        }
        let what = if root.exists() {
            "is not a run directory (no run.json in it)"
        } else {
            "does not exist"
        };
        Err(Error::usage(format!(
            "{} {what}; clipsift curate or embed makes one",
            root.display()
        )))
    }

    /// Opens the directory of an earlier run to read from it: nothing in it is touched, and others may read it too.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is none; [`Error::Run`] where another process works on it.
    pub fn open_to_read(root: &Path) -> Result<RunDir> {
        RunDir::check_there(root)?;
        Ok(RunDir {
            root: root.to_path_buf(),
            _lock: atomic::share_folder(root)?,
        })
    }

    fn lock(root: &Path) -> Result<RunDir> {
        let lock = atomic::lock_folder(root)?;
        let dir = RunDir {
            root: root.to_path_buf(),
            _lock: lock,
        };
        let scores = dir
            .stored_scores()?
            .into_iter()
            .map(|name| format!("scores/{name}"));
        let tables = ["", "samples", "embeddings", "clusters", "duplicates"].map(String::from);
        for folder in tables
            .into_iter()
            .chain(scores)
            .map(|folder| dir.path(&folder))
        {
            if folder.is_dir() {
                atomic::remove_leftovers(&folder)?;
            }
        }
        Ok(dir)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside it.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where a part of a table lies.
    pub fn part(&self, table: Table, index: usize) -> PathBuf {
        self.folder(table).join(format!("part-{index:05}.parquet"))
    }

    fn folder(&self, table: Table) -> PathBuf {
        match table {
            Table::Samples => self.root.join("samples"),
            Table::Embeddings => self.root.join("embeddings"),
            Table::Scores(name) => self.root.join("scores").join(name),
            Table::Clusters => self.root.join("clusters"),
        }
    }

    /// Makes a table's folder and clears it of what a killed process left.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn prepare(&self, table: Table) -> Result<()> {
        let folder = self.folder(table);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        atomic::remove_leftovers(&folder)
    }

    /// Removes everything that a run made here but the curated set, so that another can begin. Files that clipsift does not
    /// make stay.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn clear(&self) -> Result<()> {
        // First, so that a clearing that is cut off is not taken for the run that was here.
        self.write_run_file(&RunFile::default())?;
        for name in ["decisions.parquet", "report.html", "stdin.txt"] {
            atomic::remove_file(self.path(name))?;
        }
        self.clear_duplicates()?;
        for name in self.stored_scores()? {
            self.clear_scores(&name)?;
        }
        remove_empty(&self.path("scores"));
        remove_ours(&self.folder(Table::Samples))?;
        remove_ours(&self.folder(Table::Embeddings))
    }

    /// Removes clusters and pairs.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn clear_duplicates(&self) -> Result<()> {
        remove_ours(&self.folder(Table::Clusters))?;
        self.clear_pairs()
    }

    /// Removes pairs, and what follows from them.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn clear_pairs(&self) -> Result<()> {
        remove_ours(&self.path("duplicates"))
    }

    /// Removes a score's table.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn clear_scores(&self, name: &str) -> Result<()> {
        remove_ours(&self.folder(Table::Scores(name)))
    }

    /// Names of the folders under `scores/`.
    fn stored_scores(&self) -> Result<Vec<String>> {
        let folder = self.path("scores");
        let names = entries(&folder)?
            .into_iter()
            .filter(|name| folder.join(name).is_dir());
        Ok(names.collect())
    }

    /// What is wrong with part `index` of a table; none where its file is there and its checksum holds.
    ///
    /// # Errors
    /// [`Error::Io`] where it is there and cannot be read.
    pub fn trouble(&self, table: Table, index: usize) -> Result<Option<String>> {
        atomic::trouble(self.part(table, index))
    }

    /// Whether part `index` is done and both its files are as they were written. What is wrong is told to `note`.
    ///
    /// # Errors
    /// [`Error::Io`] where a file is there and cannot be read.
    pub fn part_holds(&self, index: usize, note: impl Fn(&str)) -> Result<bool> {
        if !self.has_part(index) {
            return Ok(false);
        }
        for table in [Table::Samples, Table::Embeddings] {
            if let Some(trouble) = self.trouble(table, index)? {
                let path = self.part(table, index);
                note(&format!(
                    "{}: {trouble}; part {index} is made anew",
                    path.display()
                ));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What makes a damaged part of a table anew.
    fn remedy(&self, table: Table) -> String {
        let root = self.root.display();
        match table {
            Table::Samples | Table::Embeddings => format!(
                "repeat the command that made the run, with the same inputs and --out {root}: it makes what is damaged anew and \
                 keeps the rest"
            ),
            Table::Scores(name) => {
                format!("clipsift score {root} --head {name}=... makes what is damaged anew")
            }
            Table::Clusters => format!("clipsift dedup {root} makes it anew"),
        }
    }

    /// Reads a part of a table, as `rows` takes it.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what makes it anew.
    fn read<T>(
        &self,
        table: Table,
        index: usize,
        rows: impl FnOnce(&RecordBatch) -> Result<T, String>,
    ) -> Result<T> {
        let path = self.part(table, index);
        atomic::read_parquet(&path)
            .and_then(|batch| rows(&batch).map_err(|reason| Error::damaged(&path, reason)))
            .map_err(|error| error.with_remedy(|| self.remedy(table)))
    }

    /// Calls `each` with some columns of a part of the samples.
    fn read_columns(
        &self,
        index: usize,
        columns: &[&str],
        mut each: impl FnMut(&RecordBatch) -> Result<(), String>,
    ) -> Result<()> {
        let path = self.part(Table::Samples, index);
        let mut read = || {
            for batch in atomic::read_parquet_batches(&path, columns)? {
                each(&batch?).map_err(|reason| Error::damaged(&path, reason))?;
            }
            Ok(())
        };
        read().map_err(|error: Error| error.with_remedy(|| self.remedy(Table::Samples)))
    }

    /// Whether part `index` is done.
    pub fn has_part(&self, index: usize) -> bool {
        self.part(Table::Samples, index).is_file() && self.part(Table::Embeddings, index).is_file()
    }

    /// The number of parts, which are numbered without a gap once a run is complete.
    pub fn parts(&self) -> usize {
        (0..).take_while(|i| self.has_part(*i)).count()
    }

    /// Writes a part: embeddings first, so that the samples' table says the part is done.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn write_part(
        &self,
        index: usize,
        samples: &[SampleRow],
        embeddings: &Embeddings,
    ) -> Result<()> {
        atomic::write_parquet(self.part(Table::Embeddings, index), &embeddings.to_batch()?)?;
        atomic::write_parquet(
            self.part(Table::Samples, index),
            &tables::samples_to_batch(samples, embeddings.id_type)?,
        )
    }

    /// Reads the samples of a part.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what makes the file anew.
    pub fn read_samples(&self, index: usize) -> Result<Vec<SampleRow>> {
        self.read(Table::Samples, index, tables::samples_from_batch)
    }

    /// Calls `each` with the id of each sample of a part and whether it is good, and reads nothing else.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what makes the file anew.
    pub(crate) fn for_each_id(&self, index: usize, mut each: impl FnMut(&str, bool)) -> Result<()> {
        self.read_columns(index, &["id", "error"], |table| {
            tables::for_each_id(table, &mut each)
        })
    }

    /// Calls `each` with the sha256 of each good sample of a part; empty where there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what makes the file anew.
    pub(crate) fn for_each_sha256(&self, index: usize, mut each: impl FnMut(&str)) -> Result<()> {
        self.read_columns(index, &["error", "sha256"], |table| {
            tables::for_each_sha256(table, &mut each)
        })
    }

    /// Feeds all samples' tables to a hash: what decides whether something made of them is still theirs.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] with what makes the file anew.
    pub(crate) fn hash_samples(&self, hash: &mut Sha256) -> Result<()> {
        for part in 0..self.parts() {
            let path = self.part(Table::Samples, part);
            if let Some(trouble) = atomic::trouble(&path)? {
                let damaged = Error::damaged(&path, trouble);
                return Err(damaged.with_remedy(|| self.remedy(Table::Samples)));
            }
            hash.update(fs::read(&path).map_err(Error::io("read", &path))?);
        }
        Ok(())
    }

    /// Reads the embeddings of a part.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what makes the file anew.
    pub fn read_embeddings(&self, index: usize) -> Result<Embeddings> {
        self.read(Table::Embeddings, index, Embeddings::from_batch)
    }

    /// Reads a score of a part's good samples, in their order.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what makes the file anew.
    pub fn read_scores(&self, name: &str, index: usize) -> Result<Vec<f32>> {
        self.read(Table::Scores(name), index, tables::scores_from_batch)
    }

    /// Reads centroid numbers and cosine distances of a part's good samples, in their order.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what makes the file anew.
    pub fn read_clusters(&self, index: usize) -> Result<(Vec<u32>, Vec<f32>)> {
        self.read(Table::Clusters, index, findings::clusters_from_batch)
    }

    /// Reads `run.json`; none where the run has not begun.
    ///
    /// # Errors
    /// [`Error::Damaged`]
    pub fn read_run_file(&self) -> Result<Option<RunFile>> {
        let path = self.path(RUN_FILE);
        if path.is_file() {
            let read = atomic::read_json(&path).map(Some);
            read.map_err(|error| {
                error.with_remedy(|| {
                    "nothing else says what the run is: begin anew with another --out".to_string()
                })
            })
        } else {
            Ok(None)
        }
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn write_run_file(&self, file: &RunFile) -> Result<()> {
        atomic::write_json(self.path(RUN_FILE), file)
    }
}

const RUN_FILE: &str = "run.json";

/// Names in a folder that are text; none where there is no folder.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", folder)(e)),
    };
    let names = listing.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: std::io::Result<Vec<_>> = names.collect();
    Ok(names
        .map_err(Error::io("read", folder))?
        .into_iter()
        .flatten()
        .collect())
}

/// Removes the files of a run from one of its folders, and the folder when nothing else is in it.
fn remove_ours(folder: &Path) -> Result<()> {
    for name in entries(folder)? {
        let numbered = name.starts_with("part-") || name.starts_with("pairs-");
        let single = [
            "matches.parquet",
            "removed.parquet",
            "audit.parquet",
            "against.parquet",
            "centroids.safetensors",
        ];
        let ours = (numbered && name.ends_with(".parquet")) || single.contains(&name.as_str());
        if ours || name.starts_with(atomic::TEMPORARY_PREFIX) {
            atomic::remove_file(folder.join(name))?;
        }
    }
    remove_empty(folder);
    Ok(())
}

/// Removes a folder if nothing is in it.
fn remove_empty(folder: &Path) {
    // A folder that is not empty, or not there, is as it should be.
    let _ = fs::remove_dir(folder);
}
