//! The plain types that the stages pass along: an image before it is decoded, and what is decided about it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Where bytes lie. Readers hand these out without loading, so that a finished part costs no reading when a run resumes.
#[derive(Clone, Debug)]
pub enum Blob {
    /// A whole file.
    File(Arc<Path>),
    /// `length` bytes from `offset` of a file, such as a tar member.
    Span {
        /// The file.
        path: Arc<Path>,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Bytes already in memory, such as a parquet value.
    Bytes(Arc<[u8]>),
}

impl Blob {
    /// The number of bytes.
    ///
    /// # Errors
    /// A sentence for the ledger when the file cannot be examined.
    pub fn size(&self) -> Result<u64, String> {
        match self {
            Blob::File(path) => match std::fs::metadata(path) {
                Ok(metadata) => Ok(metadata.len()),
                Err(e) => Err(format!("cannot read the file: {e}")),
            },
            Blob::Span { length, .. } => Ok(*length),
            Blob::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Loads the bytes. Files larger than `limit` bytes are refused before anything is allocated.
    ///
    /// # Errors
    /// A sentence for the ledger.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>, String> {
        let length = self.size()?;
        if length > limit {
            return Err(format!("{length} bytes, more than the limit of {limit}"));
        }
        let (path, offset) = match self {
            Blob::Bytes(bytes) => return Ok(bytes.to_vec()),
            Blob::File(path) => (path, 0),
            Blob::Span { path, offset, .. } => (path, *offset),
        };
        let mut bytes = vec![0; length as usize];
        let mut read = || {
            let mut file = File::open(path)?;
            if offset > 0 {
                file.seek(SeekFrom::Start(offset))?;
            }
            file.read_exact(&mut bytes)
        };
        match read() {
            Ok(()) => Ok(bytes),
            Err(e) => Err(format!("cannot read the file: {e}")),
        }
    }
}

/// A file that travels with an image: a caption, metadata.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// What follows the key, lower-cased, without the leading dot: `txt`, `json`, `seg.png`.
    pub suffix: String,
    /// Its content.
    pub blob: Blob,
}

/// One image on its way in, not loaded yet.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Unique in a run, stable between runs, made of the original names.
    pub id: String,
    /// The original key: in a tar the member name up to the first dot of its basename; in a folder the relative path without
    /// its extension; in a parquet the id column, the stored path, or the row number.
    pub key: String,
    /// The file or folder it came from, as the user wrote it (brace ranges and lists expanded).
    pub source: Arc<str>,
    /// The name of the image inside `source`: tar member, relative path, or parquet row number.
    pub member: String,
    /// First byte of the image in `source` (row number in a parquet).
    pub offset: u64,
    /// Number of bytes of the image file; 0 where unknown.
    pub length: u64,
    /// The image file.
    pub image: Blob,
    /// What travels with it.
    pub sidecars: Vec<Sidecar>,
    /// Set when it is known to be bad before anything is loaded: a sentence that a person understands.
    pub problem: Option<String>,
}

impl Sample {
    /// The image file's extension, lower-cased, without the dot; empty where the name has none.
    pub fn extension(&self) -> String {
        Path::new(&self.member)
            .extension()
            .map(|e| e.to_string_lossy().to_lowercase())
            .unwrap_or_default()
    }

    /// Loads the image file's bytes.
    ///
    /// # Errors
    /// The sample's own problem, or a sentence on why it cannot be read.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>, String> {
        match &self.problem {
            Some(problem) => Err(problem.clone()),
            None => self.image.read(limit),
        }
    }
}

/// Why a sample is in the curated set or not: the first that applies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is in the set.
    Kept,
    /// It could not be read, decoded or embedded.
    Corrupt,
    /// The named score is outside its threshold.
    Score(String),
    /// A kept sample is as good as the same.
    Duplicate,
}

impl Reason {
    /// As it stands in `decisions.parquet`.
    pub fn as_str(&self) -> &str {
        match self {
            Reason::Kept => "kept",
            Reason::Corrupt => "corrupt",
            Reason::Score(name) => name,
            Reason::Duplicate => "duplicate",
        }
    }
}

/// What was decided about one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The sample.
    pub id: String,
    /// Why it is kept or not.
    pub reason: Reason,
    /// The kept sample that stands for it, where `reason` is [`Reason::Duplicate`].
    pub duplicate_of: Option<String>,
    /// The earlier run that this sample is of, where it is not of the same.
    pub duplicate_of_run: Option<String>,
}

impl Decision {
    /// Whether the sample is in the curated set.
    pub fn keep(&self) -> bool {
        self.reason == Reason::Kept
    }
}

/// An upright RGB image: `pixels[(y * width + x) * 3 + channel]`, 8 bits a channel.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height * 3` bytes, row by row.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb8 {} x {}", self.width, self.height)
    }
}
