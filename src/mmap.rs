//! Memory-mapped files: the one place outside `ops` with `unsafe`.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file for reading.
///
/// # Errors
/// [`Error::Io`] where it cannot be opened or mapped.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    map_file(&file).map_err(Error::io("map", path))
}

/// Maps an open file for reading, such as one that has no name.
///
/// # Errors
/// What the system says.
pub(crate) fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this process. Another process that shortens the file while it is mapped would
    // end this one by SIGBUS, and one that writes to it would change values under us; both hold for every mapped weights
    // file, and neither reaches memory that is not the map's. A file without a name is out of reach of both.
    unsafe { Mmap::map(file) }
}
