//! Files that appear whole or not at all: a temporary file in the same folder, fsync, rename, fsync of the folder.
//!
//! A run that is killed leaves at most files whose name begins with [`TEMPORARY_PREFIX`]; [`remove_leftovers`] clears them.
//! A disk that fills up is an [`Error::Io`] that names the file that was to appear, and the half file goes away with the
//! [`Pending`] that held it. Tables carry a checksum, and each reading compares it.

mod checksum;
mod chunks;
mod lock;
mod table;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

pub(crate) use self::checksum::of_bytes as checksum_of_bytes;
pub(crate) use self::chunks::Chunks;
pub use self::lock::{FolderLock, lock_folder, share_folder};
pub(crate) use self::table::io_of_parquet;
pub use self::table::{
    PendingTable, parquet_properties, read_parquet, read_parquet_batches, trouble, write_parquet,
};
use crate::error::{Error, Result};

/// What the names of unfinished files begin with. The leading dot keeps them out of globs and out of the readers.
pub const TEMPORARY_PREFIX: &str = ".clipsift-tmp-";

/// A file being written that is not there yet. Dropped without [`Pending::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Pending {
    temporary: NamedTempFile<File>,
    path: PathBuf,
}

impl Pending {
    /// Begins the file that is to stand at `path`. An earlier file there stays untouched until [`Pending::commit`].
    ///
    /// # Errors
    /// [`Error::Io`] where the folder of `path` is missing or not writable.
    pub fn create(path: impl AsRef<Path>) -> Result<Pending> {
        let path = path.as_ref();
        Pending::create_in(folder_of(path), path)
    }

    /// Like [`Pending::create`], with the temporary file in `folder`, which must lie on the same file system as `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where `folder` is missing or not writable.
    pub fn create_in(folder: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<Pending> {
        let path = path.as_ref().to_path_buf();
        // Opened like any other file: tempfile's own mode of 0600 suits secrets, and these are results. Its own errors
        // would name the temporary file, which nobody asked for.
        tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .make_in(folder, |temporary| {
                File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(temporary)
            })
            .map(|temporary| Pending {
                temporary,
                path: path.clone(),
            })
            .map_err(Error::io("write", &path))
    }

    /// Where the file will stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file as written so far.
    pub fn file_mut(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Flushes the bytes to the disk and moves the file to its place, over an earlier one.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left behind then, and an earlier file still stands.
    pub fn commit(self) -> Result<()> {
        let path = self.path;
        self.temporary
            .as_file()
            .sync_all()
            .map_err(Error::io("write", &path))?;
        self.temporary
            .persist(&path)
            .map_err(|e| Error::io("write", &path)(e.error))?;
        sync_folder(folder_of(&path))
    }

    /// Moves the file to `path` (instead of the place named at its creation) without waiting for the disk. For many small
    /// files, of which a later record is the proof; the caller flushes them together before it writes that record.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left behind then.
    pub fn commit_unsynced_at(self, path: &Path) -> Result<()> {
        match self.temporary.persist(path) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::io("write", path)(e.error)),
        }
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file_mut().flush()
    }
}

/// Writes the file at `path` through `fill`; whatever `fill` returns as an error leaves no file behind.
///
/// # Errors
/// [`Error::Io`] that names `path`.
pub fn write(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<()> {
    let mut pending = Pending::create(&path)?;
    let mut writer = BufWriter::new(pending.file_mut());
    fill(&mut writer)
        .and_then(|()| writer.flush())
        .map_err(Error::io("write", &path))?;
    drop(writer);
    pending.commit()
}

/// Writes `value` as indented JSON with a newline at the end.
///
/// # Errors
/// [`Error::Io`] that names `path`.
pub fn write_json<T: Serialize + ?Sized>(path: impl AsRef<Path>, value: &T) -> Result<()> {
    write(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)?;
        writer.write_all(b"\n")
    })
}

/// Reads a JSON file that [`write_json`] wrote.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Damaged`] where it is not what it should be.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::damaged(path, e.to_string()))
}

/// Removes what a killed run left unfinished in `folder` (not in folders below it). A missing folder has none.
///
/// Only for a folder that no other process writes to; [`lock_folder`] makes sure of that.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be listed or a file in it not removed.
pub fn remove_leftovers(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(TEMPORARY_PREFIX) && name != lock::HOLDER {
            remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file; that it is not there is no error.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_file(path: impl AsRef<Path>) -> Result<()> {
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Makes the names in `folder` last: without it a rename may be undone by a power cut.
///
/// # Errors
/// [`Error::Io`]. File systems that cannot do it are passed over.
pub fn sync_folder(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    // Elsewhere a folder cannot be opened as a file, and the rename needs no help.
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|handle| handle.sync_all()) {
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Err(Error::io("write", folder)(e))
        }
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_earlier_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_json(&path, &[1]).unwrap();
        let error = write(&path, |writer| {
            writer.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.json"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "[\n  1\n]\n");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), [1]);
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_json(folder.path().join("missing/a.json"), &1).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("missing/a.json"), "{message}");
        assert!(!message.contains(TEMPORARY_PREFIX), "{message}");
    }

    #[test]
    fn leftovers_go_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kept"), "").unwrap();
        fs::write(folder.path().join(format!("{TEMPORARY_PREFIX}x1")), "").unwrap();
        remove_leftovers(folder.path()).unwrap();
        remove_leftovers(folder.path().join("missing")).unwrap();
        assert_eq!(names(folder.path()), ["kept"]);
    }
}
