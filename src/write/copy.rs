//! Reading the bytes that are to be copied, and noticing when they are not the ones that were there before.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::sample::{Blob, Sample};

/// Opens blobs. Members of one tar follow each other, so the last file stays open.
#[derive(Debug, Default)]
pub(super) struct Reader {
    last: Option<(Arc<Path>, File)>,
}

impl Reader {
    /// The bytes of `blob`, not yet read.
    pub(super) fn open<'a>(&'a mut self, blob: &'a Blob) -> io::Result<Source<'a>> {
        let (bytes, length): (Box<dyn Read + 'a>, u64) = match blob {
            Blob::Bytes(bytes) => (Box::new(&bytes[..]), bytes.len() as u64),
            Blob::File(path) => {
                let file = open_file(path)?;
                let length = file.metadata()?.len();
                (Box::new(file), length)
            }
            Blob::Span {
                path,
                offset,
                length,
            } => {
                if self.last.as_ref().is_none_or(|(last, _)| last != path) {
                    self.last = Some((path.clone(), open_file(path)?));
                }
                let (_, file) = self.last.as_mut().expect("it was just opened");
                file.seek(SeekFrom::Start(*offset))?;
                (Box::new(file), *length)
            }
        };
        Ok(Source {
            bytes: bytes.take(length),
            length,
            read: 0,
            hasher: Sha256::new(),
            error: None,
        })
    }
}

/// A regular file: opening a pipe would wait for its other end.
fn open_file(path: &Path) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// Bytes on their way, counted and hashed as they pass.
pub(super) struct Source<'a> {
    bytes: Take<Box<dyn Read + 'a>>,
    length: u64,
    read: u64,
    hasher: Sha256,
    error: Option<String>,
}

impl Source<'_> {
    /// How many bytes there are to be.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all bytes; to be asked when they have passed.
    ///
    /// # Errors
    /// Why they have not. Asked before the error of the copy, this tells a bad source from a bad destination.
    pub(super) fn finish(self) -> Result<[u8; 32], String> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.hasher.finalize().into()),
        }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.bytes.read(buffer) {
            Ok(0) if !buffer.is_empty() && self.read < self.length => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends after {} of {} bytes", self.read, self.length),
            )),
            read => read,
        };
        match &count {
            Ok(count) => {
                self.hasher.update(&buffer[..*count]);
                self.read += *count as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => self.error = Some(e.to_string()),
        }
        count
    }
}

/// The digest of a file that stands already.
pub(super) fn sha256_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut file = open_file(path)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// A kept sample whose bytes cannot be had.
pub(super) fn unreadable(sample: &Sample, reason: impl std::fmt::Display) -> Error {
    Error::input(
        &*sample.source,
        format!(
            "{} is kept but cannot be read any more ({reason}); \
             put it back, or run again with --overwrite to read the input anew",
            sample.id
        ),
    )
}

/// A kept sample that is not what was scored.
pub(super) fn changed(sample: &Sample) -> Error {
    Error::input(
        &*sample.source,
        format!(
            "{} has changed since it was read, so its scores are not those of what is there now; \
             run again with --overwrite to read the input anew",
            sample.id
        ),
    )
}
