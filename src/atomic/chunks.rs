//! A file as the parquet crate reads it, but for its end, which is an error here.
//!
//! The crate skips what it does not know in the header of a page by copying bytes to nowhere, and does not notice that there are no
//! more. A list that claims two thousand million numbers, in a file of some hundred bytes, is then skipped for minutes, and
//! a list of such lists for years.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use parquet::errors::Result;
use parquet::file::reader::{ChunkReader, Length};

/// An open file.
pub(crate) struct Chunks(pub(crate) File);

/// A part of a file, from somewhere to its end.
pub(crate) struct Rest(BufReader<File>);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Chunks {
    type T = Rest;

    fn get_read(&self, start: u64) -> Result<Rest> {
        let mut file = self.0.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(Rest(BufReader::new(file)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        self.0.get_bytes(start, length)
    }
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file ends in the middle of a page",
            )),
            read => Ok(read),
        }
    }
}
