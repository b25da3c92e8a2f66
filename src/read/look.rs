//! The first look at an input: what kind it is, by its content and then by its suffix, and what its basename is.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::members;
use super::names::{self, Content, printable};

/// What a first look at an input shows.
pub(super) struct Look {
    pub(super) what: What,
    /// The basename that its ids begin with.
    pub(super) base: String,
}

/// The kind of an input.
pub(super) enum What {
    Folder,
    Image,
    List,
    Stdin,
    Tar,
    Parquet,
    Unusable(String),
}

/// Looks at an input, given as the user wrote it.
pub(super) fn look(spec: &str) -> Look {
    if spec == "-" {
        return Look {
            what: What::Stdin,
            base: "stdin".to_string(),
        };
    }
    let path = Path::new(spec);
    let what = tell(path);
    let name = match path.file_name() {
        Some(name) => PathBuf::from(name),
        // `.`, `..` and `/`
        None => fs::canonicalize(path)
            .ok()
            .and_then(|path| path.file_name().map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from("root")),
    };
    let stem = match what {
        What::Folder | What::Image => None,
        _ => ["tar", "parquet", "txt"]
            .contains(&&*names::suffix(&name))
            .then(|| name.file_stem())
            .flatten(),
    };
    let base = printable(stem.unwrap_or(name.as_os_str()).as_encoded_bytes());
    Look { what, base }
}

/// The kind of an input: by content, then by suffix.
fn tell(path: &Path) -> What {
    let written = path.to_string_lossy();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) => {
            return What::Unusable(if written.contains("://") {
                "is a URL: only local files are read".to_string()
            } else if e.kind() == std::io::ErrorKind::NotFound && written.contains(['*', '?']) {
                "no such file: wildcards are expanded by the shell, so leave them unquoted"
                    .to_string()
            } else {
                unreadable(&e)
            });
        }
    };
    if metadata.is_dir() {
        return What::Folder;
    }
    if !metadata.is_file() {
        return What::Unusable("is not a regular file: pipe a list of paths into `-`".to_string());
    }
    let suffix = names::suffix(path);
    let head = match head::<512>(path) {
        Ok(head) => head,
        Err(e) => return What::Unusable(unreadable(&e)),
    };
    match names::sniff(&head) {
        // First, as the name of the first member may look like anything.
        _ if members::is_header(&head) => return What::Tar,
        Content::Image => return What::Image,
        // An archive of nothing but its end.
        _ if suffix == "tar" && !head.is_empty() && head.iter().all(|&b| b == 0) => {
            return What::Tar;
        }
        _ if suffix == "txt" => return What::List,
        _ if names::is_image_suffix(&suffix) => return What::Image,
        Content::Parquet => return What::Parquet,
        Content::Packed(what) => return What::Unusable(format!("is {what}")),
        _ => {}
    }
    What::Unusable(if head.is_empty() {
        "the file is empty".to_string()
    } else if names::is_other_image_suffix(&suffix) {
        names::not_readable(&suffix)
    } else if suffix == "parquet" {
        "is not a parquet file: it does not begin with PAR1".to_string()
    } else if suffix == "tar" {
        "is not a tar archive: it does not begin with a header".to_string()
    } else {
        "is no image, tar or parquet, nor a .txt list of paths".to_string()
    })
}

/// The first bytes of a file, at most `N`.
pub(super) fn head<const N: usize>(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(N);
    File::open(path)?.take(N as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Why a path cannot be examined, in words that are the same on every system where they can be.
pub(super) fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".to_string(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_string(),
        _ => format!("cannot be read: {error}"),
    }
}
