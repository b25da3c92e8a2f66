//! What the writer remembers in the folder: which request the set there answers, and which files are its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Layout, Options, folder, list, tar};
use crate::atomic::{self, FolderLock};
use crate::error::{Error, Result};

/// The record's name in the folder.
const RECORD: &str = ".clipsift.json";

/// `.clipsift.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Content {
    /// For a person who wonders what this file is.
    about: String,
    /// Of the rules by which names and tables are made.
    version: u32,
    layout: String,
    shard_size: usize,
    scores: Vec<String>,
    fingerprint: String,
    /// How many shards (or, for the other layouts, tables) were ever begun to be put in place: those are the writer's own.
    /// Raised before the file appears, so that no own file is ever taken for a stranger's.
    begun: u64,
    /// Whether the set was finished. For people and scripts; the writer looks at the files.
    complete: bool,
}

/// The folder of a curated set, held by one writer.
#[derive(Debug)]
pub(super) struct Record {
    dir: PathBuf,
    content: Content,
    _lock: FolderLock,
}

impl Record {
    /// Opens the folder for the request, clearing an earlier set that answers another one. `None` for [`Layout::None`].
    pub(super) fn open(dir: &Path, layout: Layout, options: &Options) -> Result<Option<Record>> {
        let path = dir.join(RECORD);
        if layout == Layout::None && !path.exists() {
            return Ok(None);
        }
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = atomic::lock_folder(dir)?;
        atomic::remove_leftovers(dir)?;
        let mut content = Content {
            about: "clipsift's record of the curated set in this folder: the same request goes on \
                    where it was cut off, another one clears these files first"
                .to_string(),
            version: 1,
            layout: layout.to_string(),
            shard_size: options.shard_size,
            scores: options.scores.clone(),
            fingerprint: options.fingerprint.clone(),
            begun: 0,
            complete: false,
        };
        if layout == Layout::Folder {
            check_inputs(dir, &options.inputs)?;
        }
        if path.exists() {
            let earlier: Content = atomic::read_json(&path)?;
            content.begun = earlier.begun;
            let same = Content {
                complete: false,
                ..earlier
            };
            if options.overwrite || same != content {
                check_inputs(dir, &options.inputs)?;
                clear(dir, same.layout.parse()?, same.begun)?;
                atomic::remove_file(&path)?;
                content.begun = 0;
            }
        }
        if layout == Layout::None {
            return Ok(None);
        }
        check_strangers(dir, layout, content.begun)?;
        atomic::write_json(&path, &content)?;
        Ok(Some(Record {
            dir: dir.to_path_buf(),
            content,
            _lock: lock,
        }))
    }

    /// The folder of the set.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many shards or tables may stand already.
    pub(super) fn begun(&self) -> u64 {
        self.content.begun
    }

    /// Says that `count` shards or tables are about to stand.
    pub(super) fn begin(&mut self, count: u64) -> Result<()> {
        if count > self.content.begun {
            self.content.begun = count;
            self.save()?;
        }
        Ok(())
    }

    /// Says that the set is finished, with `count` shards or tables.
    pub(super) fn complete(mut self, count: u64) -> Result<()> {
        self.content.begun = count;
        self.content.complete = true;
        self.save()
    }

    fn save(&self) -> Result<()> {
        atomic::write_json(self.dir.join(RECORD), &self.content)
    }
}

/// An earlier set is about to be removed, or files are about to be put between others: neither may be what is read.
fn check_inputs(dir: &Path, inputs: &[PathBuf]) -> Result<()> {
    let Ok(whole) = dir.canonicalize() else {
        return Ok(());
    };
    for input in inputs {
        if input.canonicalize().is_ok_and(|at| at.starts_with(&whole)) {
            return Err(Error::usage(format!(
                "{} lies in {}, where the curated set is to be written; write it to another folder",
                input.display(),
                dir.display()
            )));
        }
    }
    Ok(())
}

/// Refuses to begin where files stand that would mix with the set.
fn check_strangers(dir: &Path, layout: Layout, begun: u64) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let name = entry.map_err(Error::io("read", dir))?.file_name();
        let name = name.to_string_lossy();
        let strange = match layout {
            Layout::Tar => tar::shard_number(&name).is_some_and(|number| number >= begun),
            Layout::Folder => name == folder::TABLE && begun == 0,
            Layout::List => name == list::NAME && begun == 0,
            Layout::None => false,
        };
        if strange {
            return Err(stranger(&dir.join(&*name)));
        }
    }
    Ok(())
}

/// A file in the way that is not the writer's to touch.
pub(super) fn stranger(path: &Path) -> Error {
    Error::run(
        path,
        "it stands where the curated set is to be written, and clipsift did not write it; \
         move it away or write to another folder",
    )
}

/// Removes the files of an earlier set, the tables first, so that what is left of it never looks whole.
fn clear(dir: &Path, layout: Layout, begun: u64) -> Result<()> {
    match layout {
        Layout::Tar => {
            for number in 0..begun {
                tar::remove_shard(dir, number)?;
            }
            Ok(())
        }
        Layout::Folder => {
            if begun > 0 {
                atomic::remove_file(dir.join(folder::TABLE))?;
            }
            clear_folder(dir)
        }
        Layout::List if begun > 0 => atomic::remove_file(dir.join(list::NAME)),
        Layout::List | Layout::None => Ok(()),
    }
}

fn clear_folder(dir: &Path) -> Result<()> {
    let mut folders = BTreeSet::new();
    for name in folder::journaled(dir)? {
        // The journal is a file like any other: it must not talk anybody into removing something elsewhere.
        let plain = Path::new(&name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        let above = || Path::new(&name).ancestors().skip(1);
        if !plain || above().any(|folder| dir.join(folder).is_symlink() && folder != Path::new(""))
        {
            continue;
        }
        atomic::remove_file(dir.join(&name))?;
        folders.extend(
            above()
                .filter(|folder| *folder != Path::new(""))
                .map(Path::to_path_buf),
        );
    }
    // Sorted, a folder stands before what lies in it.
    for folder in folders.iter().rev() {
        let folder = dir.join(folder);
        match fs::remove_dir(&folder) {
            Err(e)
                if !matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty
                        | io::ErrorKind::NotFound
                        | io::ErrorKind::AlreadyExists
                ) =>
            {
                return Err(Error::io("remove", &folder)(e));
            }
            _ => {}
        }
    }
    atomic::remove_file(dir.join(folder::JOURNAL))
}
