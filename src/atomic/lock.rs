//! One writer a folder.
//!
//! The lock is the operating system's, on the folder itself: it ends with the process that holds it, however that ends. The
//! file [`HOLDER`] beside it only says who holds it; one that a killed process left says nothing.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// Where the holder's process id stands while it holds a folder. A temporary name, so that no reader takes it for a result.
pub(super) const HOLDER: &str = ".clipsift-tmp-holder";

/// Holds a folder for one writer; dropping it lets the next one in. The end of the process does so too.
#[derive(Debug)]
pub struct FolderLock {
    /// What says who holds it; goes before the lock does.
    holder: Option<PathBuf>,
    _folder: Option<File>,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            // It is a courtesy: the next writer puts its own in its place.
            let _ = fs::remove_file(holder);
        }
    }
}

/// Takes the folder for this writer alone, so that two runs do not clear or overwrite each other's files.
///
/// Where the system or the file system has no such locks, nothing is held.
///
/// # Errors
/// [`Error::Run`] while another writer holds it, with its process id where it is known.
pub fn lock_folder(folder: impl AsRef<Path>) -> Result<FolderLock> {
    let folder = folder.as_ref();
    let mut lock = lock(folder, File::try_lock)?;
    if lock._folder.is_some() {
        let holder = folder.join(HOLDER);
        // On a disk that is full nobody can say who holds it, and that must not be what fails.
        if fs::write(&holder, std::process::id().to_string()).is_ok() {
            lock.holder = Some(holder);
        } else {
            let _ = fs::remove_file(&holder);
        }
    }
    Ok(lock)
}

/// Takes the folder to read from it: other readers may have it too, a writer may not.
///
/// # Errors
/// [`Error::Run`] while a writer holds it.
pub fn share_folder(folder: impl AsRef<Path>) -> Result<FolderLock> {
    lock(folder.as_ref(), File::try_lock_shared)
}

fn lock(folder: &Path, take: fn(&File) -> Result<(), TryLockError>) -> Result<FolderLock> {
    let holding = |folder| FolderLock {
        holder: None,
        _folder: folder,
    };
    let Ok(handle) = File::open(folder) else {
        return Ok(holding(None));
    };
    // A process that is just being started elsewhere in this one holds copies of all files until it has begun; such a lock is
    // gone in a moment.
    let mut tried = take(&handle);
    for _ in 0..20 {
        if !matches!(tried, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        tried = take(&handle);
    }
    match tried {
        Err(TryLockError::WouldBlock) => Err(Error::run(folder, held(folder))),
        Err(TryLockError::Error(_)) => Ok(holding(None)),
        Ok(()) => Ok(holding(Some(handle))),
    }
}

fn held(folder: &Path) -> String {
    let holder = fs::read_to_string(folder.join(HOLDER)).ok();
    let process = holder.and_then(|text| text.trim().parse::<u32>().ok());
    match process {
        Some(process) => format!(
            "another clipsift, process {process}, is writing here; wait until it is done, or name another folder"
        ),
        // A reader, or a writer that could not say so.
        None => "another clipsift is at work here; wait until it is done, or name another folder"
            .to_string(),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_folder(folder.path()).unwrap();
        assert!(lock_folder(folder.path()).is_err());
        drop(lock);
        lock_folder(folder.path()).unwrap();
        let readers = [share_folder(folder.path()), share_folder(folder.path())];
        assert!(readers.iter().all(Result::is_ok));
        assert!(lock_folder(folder.path()).is_err());
        drop(readers);
        lock_folder(folder.path()).unwrap();
    }

    #[test]
    fn the_writer_is_named_as_long_as_it_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_folder(folder.path()).unwrap();
        super::super::remove_leftovers(folder.path()).unwrap();
        let message = lock_folder(folder.path()).unwrap_err().to_string();
        let own = format!("process {}", std::process::id());
        assert!(message.contains(&own), "{message}");
        assert!(message.contains(folder.path().to_str().unwrap()));
        drop(lock);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // What a killed process leaves holds nothing.
        fs::write(folder.path().join(HOLDER), "1").unwrap();
        lock_folder(folder.path()).unwrap();
    }
}
