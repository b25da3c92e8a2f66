//! Files of the cache: names that may be used, locks, and how a whole file gets its place.

use std::fs::{File, TryLockError};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// How long a lock that another process holds is left alone.
const POLL: Duration = Duration::from_millis(200);

/// Whether a word from elsewhere can be a file's name here.
pub(super) fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !word.is_empty() && word.len() <= 128 && !word.starts_with('.') && word.chars().all(plain)
}

/// Whether a relative path leads to a file below where it begins.
pub(super) fn stays_below(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    !file.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// A text as part of a URL's path: all but letters, digits, `-._~` and what is in `plain` in percent.
pub(super) fn encode(text: &str, plain: &str) -> String {
    let keeps = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c) || plain.contains(c);
    let mut out = String::new();
    for c in text.chars() {
        if keeps(c) {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).bytes();
            out.extend(bytes.map(|byte| format!("%{byte:02X}")));
        }
    }
    out
}

/// The lock at `path`, once no other process holds it; `waiting` is called meanwhile and may give up.
pub(super) fn lock(path: &Path, waiting: impl Fn() -> Result<()>) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Error::io("write", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                waiting()?;
                std::thread::sleep(POLL);
            }
            // Some network file systems have no locks; two downloads then cost time, and the checksum judges both.
            Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// Gives a whole file its name.
pub(super) fn name(part: &Path, path: &Path) -> Result<()> {
    let file = File::open(part).map_err(Error::io("read", part))?;
    file.sync_all().map_err(Error::io("write", part))?;
    drop(file);
    std::fs::rename(part, path).map_err(Error::io("rename", path))
}

/// Makes `pointer` lead to `blob`, by a relative link as Python's client does, else by a copy.
pub(super) fn point(pointer: &Path, blob: &Path) -> Result<()> {
    if pointer.exists() {
        return Ok(());
    }
    let folder = pointer.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    // A link that leads nowhere: its blob was cleared away.
    let _ = std::fs::remove_file(pointer);
    let relative = relative(folder, blob);
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(&relative, pointer);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(&relative, pointer);
    #[cfg(not(any(unix, windows)))]
    let linked = Err::<(), _>(std::io::Error::other(relative.display().to_string()));
    if linked.is_err() && !pointer.exists() {
        std::fs::copy(blob, pointer).map_err(Error::io("write", pointer))?;
    }
    Ok(())
}

/// The way from a folder to a file.
fn relative(folder: &Path, file: &Path) -> PathBuf {
    let shared = folder
        .components()
        .zip(file.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder
        .components()
        .skip(shared)
        .map(|_| Component::ParentDir);
    up.chain(file.components().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_server_name_files_only_where_they_are_plain() {
        for good in ["a2bf", "W-1_x.y"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", ".part", "a\\b", "a b", "ä"] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert!(stays_below("a/b.json") && stays_below("..a"));
        for bad in ["", "../a", "/a", "a/../../b"] {
            assert!(!stays_below(bad), "{bad}");
        }
    }

    #[test]
    fn a_link_is_relative_so_that_the_cache_can_be_moved() {
        let way = relative(Path::new("/c/m/snapshots/1/sub"), Path::new("/c/m/blobs/x"));
        assert_eq!(way, Path::new("../../../blobs/x"));
    }

    #[test]
    fn names_are_encoded_as_a_path_of_a_url() {
        assert_eq!(encode("refs/pr/3", ""), "refs%2Fpr%2F3");
        assert_eq!(encode("a b/ü.bin", "/"), "a%20b/%C3%BC.bin");
    }
}
