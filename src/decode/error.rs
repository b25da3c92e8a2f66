//! Why a file is not an image that can be used.

use super::Format;

/// Why a file is not an image that can be used. Each message is a sentence for the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,

    /// More bytes than [`super::Limits::max_file_bytes`].
    #[error("the file has {bytes} bytes, more than the limit of {limit}")]
    TooManyBytes {
        /// Bytes of the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },

    /// The first bytes are those of no known format.
    #[error("not an image: {start}")]
    NotAnImage {
        /// What it starts like.
        start: String,
    },

    /// More pixels than [`super::Limits::max_pixels`].
    #[error("claims {width} x {height} pixels, more than the limit of {limit}")]
    TooManyPixels {
        /// Width that the file claims.
        width: u64,
        /// Height that the file claims.
        height: u64,
        /// The limit.
        limit: u64,
    },

    /// Decoding would take more than [`super::Limits::max_memory`].
    #[error("decoding would take {needed} bytes of memory, more than the limit of {limit}")]
    TooMuchMemory {
        /// Estimate.
        needed: u64,
        /// The limit.
        limit: u64,
    },

    /// A width or height of zero.
    #[error("claims {width} x {height} pixels: there is nothing to see")]
    NoPixels {
        /// Width that the file claims.
        width: u64,
        /// Height that the file claims.
        height: u64,
    },

    /// The data end before the image does.
    #[error("{format} ends early: the file is truncated")]
    Truncated {
        /// What the file is.
        format: Format,
    },

    /// The data contradict the format.
    #[error("{format} is damaged: {detail}")]
    Damaged {
        /// What the file is.
        format: Format,
        /// What the decoder met.
        detail: String,
    },

    /// A valid file of a kind that is not read.
    #[error("this kind of {format} is not supported: {detail}")]
    Unsupported {
        /// What the file is.
        format: Format,
        /// What is not read.
        detail: String,
    },
}

impl DecodeError {
    /// A [`DecodeError::Damaged`].
    pub(super) fn damaged(format: Format, detail: impl ToString) -> DecodeError {
        DecodeError::Damaged {
            format,
            detail: detail.to_string(),
        }
    }

    /// A [`DecodeError::Unsupported`].
    pub(super) fn unsupported(format: Format, detail: impl ToString) -> DecodeError {
        DecodeError::Unsupported {
            format,
            detail: detail.to_string(),
        }
    }

    /// What an [`std::io::Error`] from a decoder that reads a slice means: nothing but its end can fail there.
    pub(super) fn from_io(format: Format, error: &std::io::Error) -> DecodeError {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => DecodeError::Truncated { format },
            _ => DecodeError::damaged(format, error),
        }
    }
}
