//! Single files under their original relative paths, sidecars beside them, and `curated.parquet` with a row a sample.
//!
//! The path is the sample's id, so a tar's samples stand at `SHARD/KEY.suffix`. A file that stands already with the right bytes
//! is left alone, which is how a killed run is gone on with. `.clipsift-files` names the files that the writer put there, one
//! JSON string a line, each before the file appears: only those are ever replaced or removed.
//!
//! Memory: about 100 bytes a file, for telling which paths are given away.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::copy::{Reader, changed, sha256_of, unreadable};
use super::names::{folder_stem, safe_path_within, sidecar_suffixes, with_suffix};
use super::record::{Record, stranger};
use super::table::Rows;
use super::{Kept, Options, Written};
use crate::atomic::{self, Pending};
use crate::error::{Error, Result};
use crate::sample::{Blob, Sample};

/// The table's name in the folder.
pub(super) const TABLE: &str = "curated.parquet";
/// The name of the list of the writer's own files.
pub(super) const JOURNAL: &str = ".clipsift-files";

/// Rows held before they go into the table.
const ROWS: usize = 65_536;
/// Files written before the disk is waited for: together that costs far less than one by one.
const UNSYNCED: usize = 512;
/// Bytes that file systems allow in a name.
const NAME_LIMIT: usize = 255;
/// Bytes left free in a name for the number behind an equal one.
const NUMBER_ROOM: usize = 12;

/// A name or a content, shortened to what tells it from any other.
type Short = u128;

/// The files of a set.
pub(super) struct Files {
    record: Record,
    reader: Reader,
    rows: Rows,
    table: ArrowWriter<BufWriter<Pending>>,
    /// Paths given away in this run: `None` for an image, the content for a sidecar, which two images may share
    /// (`a.jpg` and `a.png` beside one `a.txt`).
    files: HashMap<Short, Option<Short>>,
    /// Folders that stand, and are folders.
    folders: HashSet<Short>,
    /// The last number behind a stem that several samples want.
    numbers: HashMap<Short, u64>,
    journal: File,
    /// What the journal named before and names now.
    own: HashSet<Short>,
    unsynced: Vec<PathBuf>,
    written: Written,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {:?}", self.record.dir().display(), self.written)
    }
}

impl Files {
    pub(super) fn new(record: Record, options: &Options) -> Result<Files> {
        let dir = record.dir();
        let rows = Rows::new(&options.scores);
        let path = dir.join(TABLE);
        let pending = BufWriter::new(Pending::create(&path)?);
        let properties = atomic::parquet_properties(&rows.schema());
        let table = ArrowWriter::try_new(pending, rows.schema(), Some(properties))
            .map_err(|e| Error::io("write", &path)(atomic::io_of_parquet(e)))?;
        let own = journaled(dir)?.iter().map(|name| short(name)).collect();
        let journal = open_journal(&dir.join(JOURNAL))?;
        Ok(Files {
            reader: Reader::default(),
            rows,
            table,
            files: HashMap::from([(short(TABLE), None)]),
            folders: HashSet::new(),
            numbers: HashMap::new(),
            journal,
            own,
            unsynced: Vec::new(),
            written: Written::default(),
            record,
        })
    }

    pub(super) fn push(&mut self, kept: Kept) -> Result<()> {
        let sample = kept.sample;
        let (stem, suffix) = folder_stem(sample, kept.format);
        let suffixes = sidecar_suffixes(sample, &suffix);
        let mut contents = Vec::with_capacity(suffixes.len());
        for sidecar in &sample.sidecars {
            contents.push(self.sha256(sample, &sidecar.blob)?);
        }
        let longest = suffixes.iter().chain([&suffix]).map(String::len).max();
        let room = NAME_LIMIT - NUMBER_ROOM - 1 - longest.unwrap_or(0).min(NAME_LIMIT / 2);
        let stem = self.free_folders(&safe_path_within(&stem, room));
        let stem = self.free_stem(stem, &suffix, &suffixes, &contents);

        let image = with_suffix(&stem, &suffix);
        self.files.insert(short(&image), None);
        self.make_folders(&image)?;
        if self.place(&image, sample, &sample.image, kept.sha256)? {
            self.written.standing += 1;
        }
        let path = self.record.dir().join(&image);
        let bytes = path.metadata().map_err(Error::io("read", &path))?.len();
        self.written.bytes += bytes;
        self.written.files += 1;
        for ((sidecar, suffix), content) in sample.sidecars.iter().zip(suffixes).zip(contents) {
            let name = with_suffix(&stem, &suffix);
            let given = self.files.insert(short(&name), Some(short_of(content)));
            if given.is_none() {
                self.place(&name, sample, &sidecar.blob, content)?;
                let path = self.record.dir().join(&name);
                self.written.bytes += path.metadata().map_err(Error::io("read", &path))?.len();
                self.written.files += 1;
            }
        }
        self.rows.push(&kept, stem, image, bytes);
        self.written.samples += 1;
        if self.rows.len() >= ROWS {
            self.write_rows()?;
        }
        if self.unsynced.len() >= UNSYNCED {
            self.sync()?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Written> {
        self.sync()?;
        self.write_rows()?;
        let path = self.record.dir().join(TABLE);
        let buffered = self
            .table
            .into_inner()
            .map_err(|e| Error::io("write", &path)(atomic::io_of_parquet(e)))?;
        let mut pending = buffered
            .into_inner()
            .map_err(|e| Error::io("write", &path)(e.into_error()))?;
        let metadata = pending.file_mut().metadata();
        self.written.bytes += metadata.map_err(Error::io("write", &path))?.len();
        self.written.files += 1;
        self.record.begin(1)?;
        pending.commit()?;
        self.record.complete(1)?;
        Ok(self.written)
    }

    /// `path` with `_2` behind every folder of it that is a file already.
    fn free_folders(&self, path: &str) -> String {
        let mut free = String::new();
        let mut components = path.split('/').peekable();
        while let Some(component) = components.next() {
            free.push_str(component);
            if components.peek().is_some() {
                let mut folder = free.clone();
                for number in 2.. {
                    if !self.files.contains_key(&short(&folder)) {
                        break;
                    }
                    folder = format!("{free}_{number}");
                }
                free = folder + "/";
            }
        }
        free
    }

    /// `stem`, or the first of `stem_2`, `stem_3`, ... under which the image and its sidecars overwrite nothing.
    fn free_stem(
        &mut self,
        stem: String,
        suffix: &str,
        sidecars: &[String],
        contents: &[[u8; 32]],
    ) -> String {
        let fits = |stem: &str| {
            let image = short(&with_suffix(stem, suffix));
            let free = |name: Short| !self.folders.contains(&name);
            let mut beside = sidecars.iter().zip(contents);
            !self.files.contains_key(&image)
                && free(image)
                && beside.all(|(suffix, content)| {
                    let name = short(&with_suffix(stem, suffix));
                    let given = self.files.get(&name);
                    free(name) && given.is_none_or(|given| *given == Some(short_of(*content)))
                })
        };
        if fits(&stem) {
            return stem;
        }
        let wanted = short(&with_suffix(&stem, suffix));
        let last = self.numbers.get(&wanted).copied().unwrap_or(1);
        let (number, free) = (last + 1..)
            .map(|number| (number, format!("{stem}_{number}")))
            .find(|(_, candidate)| fits(candidate))
            .expect("there are more numbers than names");
        self.numbers.insert(wanted, number);
        free
    }

    /// Makes the folders above `name`. A link in their place could lead out of the set, so it is a stranger.
    fn make_folders(&mut self, name: &str) -> Result<()> {
        for (at, _) in name.match_indices('/') {
            if !self.folders.insert(short(&name[..at])) {
                continue;
            }
            let path = self.record.dir().join(&name[..at]);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(stranger(&path)),
                Err(_) => fs::create_dir(&path).map_err(Error::io("create", &path))?,
            }
        }
        Ok(())
    }

    /// Makes the file `name` hold the bytes of `blob`; says whether it did so already.
    fn place(
        &mut self,
        name: &str,
        sample: &Sample,
        blob: &Blob,
        sha256: [u8; 32],
    ) -> Result<bool> {
        let path = self.record.dir().join(name);
        let own = self.own.contains(&short(name));
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                if sha256_of(&path).map_err(Error::io("read", &path))? == sha256 {
                    return Ok(true);
                }
                if !own {
                    return Err(stranger(&path));
                }
            }
            Ok(_) => return Err(stranger(&path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path)(e)),
        }
        // Unfinished files lie in the folder of the set, where the next run finds them.
        let mut pending = Pending::create_in(self.record.dir(), &path)?;
        let mut source = self.reader.open(blob).map_err(|e| unreadable(sample, e))?;
        let copied = io::copy(&mut source, pending.file_mut());
        let found = source.finish().map_err(|e| unreadable(sample, e))?;
        copied.map_err(Error::io("write", &path))?;
        if found != sha256 {
            return Err(changed(sample));
        }
        if !own {
            let journal = self.record.dir().join(JOURNAL);
            let line = serde_json::to_string(name).expect("a string is JSON") + "\n";
            self.journal
                .write_all(line.as_bytes())
                .map_err(Error::io("write", &journal))?;
            self.own.insert(short(name));
        }
        pending.commit_unsynced_at(&path)?;
        self.unsynced.push(path);
        Ok(false)
    }

    fn sha256(&mut self, sample: &Sample, blob: &Blob) -> Result<[u8; 32]> {
        let mut source = self.reader.open(blob).map_err(|e| unreadable(sample, e))?;
        // An error stays with the source.
        let _ = io::copy(&mut source, &mut io::sink());
        source.finish().map_err(|e| unreadable(sample, e))
    }

    fn write_rows(&mut self) -> Result<()> {
        let path = self.record.dir().join(TABLE);
        let written = self
            .rows
            .take()
            .map_err(io::Error::other)
            .and_then(|batch| {
                self.table
                    .write(&batch)
                    .and_then(|()| self.table.flush())
                    .map_err(atomic::io_of_parquet)
            });
        written.map_err(Error::io("write", &path))
    }

    /// Waits until the disk has the files and their names.
    fn sync(&mut self) -> Result<()> {
        let journal = self.record.dir().join(JOURNAL);
        self.journal
            .sync_all()
            .map_err(Error::io("write", &journal))?;
        self.unsynced.par_iter().try_for_each(|path| {
            File::options()
                .write(true)
                .open(path)
                .and_then(|file| file.sync_all())
                .map_err(Error::io("write", path))
        })?;
        let mut folders: BTreeSet<&Path> = BTreeSet::new();
        for path in &self.unsynced {
            let inside = path
                .ancestors()
                .skip(1)
                .take_while(|folder| folder.starts_with(self.record.dir()));
            folders.extend(inside);
        }
        folders.into_iter().try_for_each(atomic::sync_folder)?;
        self.unsynced.clear();
        Ok(())
    }
}

/// The files that the journal in `dir` names. A line that a killed run left half is of a file that never appeared.
pub(super) fn journaled(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join(JOURNAL);
    match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("read", &path)(e)),
        Ok(bytes) => Ok(bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()),
    }
}

/// The journal, open at its end, behind a whole line.
fn open_journal(path: &Path) -> Result<File> {
    let open = || {
        let mut journal = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        if journal.seek(SeekFrom::End(0))? > 0 {
            let mut last = [0];
            journal.seek(SeekFrom::End(-1))?;
            journal.read_exact(&mut last)?;
            if last != *b"\n" {
                journal.write_all(b"\n")?;
            }
        }
        Ok(journal)
    };
    open().map_err(Error::io("write", path))
}

fn short(name: &str) -> Short {
    short_of(Sha256::digest(name.as_bytes()).into())
}

fn short_of(sha256: [u8; 32]) -> Short {
    let half = sha256.first_chunk().expect("16 of 32 bytes");
    Short::from_le_bytes(*half)
}
