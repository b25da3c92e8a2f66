//! The one error type. A message states the fact, then what to do about it; operands (paths, shapes, names) are in it.
//!
//! A bad *image* is not an error: it is a row with a reason in the ledger ([`crate::sample::Sample::problem`]). Errors are for
//! what makes the asked-for work impossible.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can make a request impossible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request contradicts itself or the files it names. The command line exits with 2.
    #[error("{0}")]
    Usage(String),

    /// A file or folder could not be read, written, created or renamed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: read, write, create, rename ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// An input (folder, tar, parquet, list) that cannot be used as a whole.
    #[error("{input}: {reason}")]
    Input {
        /// The input as the user wrote it.
        input: String,
        /// Why, and what to do.
        reason: String,
    },

    /// Operands of an operation do not fit together.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shapes or sizes it takes.
        expected: String,
        /// The shapes or sizes it was given.
        got: String,
    },

    /// A model or head that cannot be loaded or does not fit.
    #[error("model {name}: {reason}")]
    Model {
        /// The name, hub id or path asked for.
        name: String,
        /// Why, and what to do.
        reason: String,
    },

    /// A run directory or a table in it that is not as expected.
    #[error("{}: {reason}", path.display())]
    Run {
        /// The run directory, or the file in it.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },

    /// A file of a run that is damaged or missing.
    #[error("{}: the file is damaged or not what it should be ({reason}); {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What makes it anew.
        remedy: String,
    },

    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),

    /// A GPU refused, or what was asked of it failed.
    #[error("{action} on the GPU failed: {reason}")]
    Gpu {
        /// What was to be done: a copy, a kernel's name.
        action: String,
        /// What the driver or library said.
        reason: String,
        /// Whether there was not enough memory.
        out_of_memory: bool,
    },

    /// The user asked to stop.
    #[error("interrupted; the same command goes on where it stopped")]
    Interrupted,
}

impl Error {
    /// An [`Error::Io`] maker for `map_err`: `File::open(p).map_err(Error::io("open", p))`.
    pub fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }

    /// Whether a device had not enough memory: less at a time may do.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Error::Gpu { out_of_memory, .. } => *out_of_memory,
            // The driver's code and cuBLAS's, as candle passes them on.
            Error::Tensor(e) => {
                let text = format!("{e:?}");
                text.contains("OUT_OF_MEMORY") || text.contains("ALLOC_FAILED")
            }
            _ => false,
        }
    }

    /// An [`Error::Usage`].
    pub fn usage(message: impl Into<String>) -> Error {
        Error::Usage(message.into())
    }

    /// An [`Error::Input`].
    pub fn input(input: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Input {
            input: input.into(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Model`].
    pub fn model(name: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Model {
            name: name.into(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Run`].
    pub fn run(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
        Error::Run {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Damaged`] of a file that the command which made it makes anew when it is gone.
    pub fn damaged(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
        Error::Damaged {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
            remedy: "remove it and run the same command again, which makes it anew".into(),
        }
    }

    /// The same error with another remedy where it is an [`Error::Damaged`]; a file that is not there is one then.
    pub fn with_remedy(self, remedy: impl FnOnce() -> String) -> Error {
        match self {
            Error::Damaged { path, reason, .. } => Error::Damaged {
                path,
                reason,
                remedy: remedy(),
            },
            Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::Damaged {
                    path,
                    reason: "it is missing".into(),
                    remedy: remedy(),
                }
            }
            other => other,
        }
    }

    /// An [`Error::Shape`].
    pub fn shape(op: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Shape {
            op,
            expected: expected.into(),
            got: got.into(),
        }
    }
}
