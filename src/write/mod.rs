//! The curated set: the kept samples' original bytes and sidecars, written in reading order.
//!
//! | layout   | what stands in the folder                                                                           |
//! |----------|-----------------------------------------------------------------------------------------------------|
//! | `tar`    | `00000.tar` + `00000.parquet`, ...: WebDataset shards of exactly `shard_size` samples, the last less |
//! | `folder` | the files under their original relative paths, sidecars beside them, and `curated.parquet`           |
//! | `list`   | `list.txt`: one absolute path a line; itself an input                                                |
//! | `none`   | nothing                                                                                              |
//!
//! What holds for all of them:
//!
//! - An image's bytes are those that were scored: they are checked against the recorded SHA-256 while they are copied, and
//!   no file appears when they differ (`list` copies nothing and checks the length).
//! - A kept sample that cannot be read is an error: nothing is lost silently.
//! - Names come from untrusted archives. They are made safe (`names.rs`), so nothing leaves the folder, and two samples
//!   never merge: the later one gets `_2`, `_3`, ...
//! - The same samples in the same order give the same bytes.
//! - A shard appears whole or not at all; its parquet comes last, so a tar without one is unfinished. `.clipsift.json` in the
//!   folder remembers the request. The same request goes on where a killed one was, without reading what stands already;
//!   another request clears the files of the earlier one first. Files that clipsift did not write are never removed nor
//!   overwritten; where they are in the way, that is an error.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sample::{Blob, Sample};

mod copy;
mod folder;
mod list;
mod names;
mod record;
mod table;
mod tar;

use record::Record;

/// How the curated set is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// WebDataset shards, each with a table beside it.
    Tar,
    /// Single files under their original relative paths, and one table.
    Folder,
    /// A text file with the absolute paths of the kept files.
    List,
    /// Nothing is written.
    None,
}

impl Layout {
    /// Every layout, in the order of the help text.
    pub const ALL: [Layout; 4] = [Layout::Tar, Layout::Folder, Layout::List, Layout::None];

    /// The word that the command line uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Layout::Tar => "tar",
            Layout::Folder => "folder",
            Layout::List => "list",
            Layout::None => "none",
        }
    }

    /// Whether `sample` can be written in this layout: a list can only name files. Worth asking before any work is done.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the sample and the layouts that would do.
    pub fn accepts(self, sample: &Sample) -> Result<()> {
        match (self, &sample.image) {
            (Layout::List, Blob::File(path)) => list::line_of(sample, path).map(|_| ()),
            (Layout::List, _) => Err(Error::usage(format!(
                "{} lies inside {} and has no file of its own that a list could name; write `tar` or `folder` instead",
                sample.id, sample.source
            ))),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Layout {
    type Err = Error;

    fn from_str(word: &str) -> Result<Layout> {
        Layout::ALL
            .into_iter()
            .find(|layout| layout.as_str() == word)
            .ok_or_else(|| {
                Error::usage(format!(
                    "`{word}` is no layout; the layouts are tar, folder, list and none"
                ))
            })
    }
}

/// What a [`Writer`] needs to know besides the folder and the layout.
#[derive(Clone, Debug)]
pub struct Options {
    /// Samples in a tar shard; the last one may hold fewer. Default 10,000.
    pub shard_size: usize,
    /// Names of the scores, in the order of [`Kept::scores`]: a column each. A name that the table uses itself, or that
    /// stands twice, gets `score_` in front.
    pub scores: Vec<String>,
    /// Says which samples will come and what is known of them (inputs, model, scores, decisions). An unfinished set with the
    /// same one is gone on with; a set with another one is replaced.
    pub fingerprint: String,
    /// Replace an earlier set even where its fingerprint is the same.
    pub overwrite: bool,
    /// Files and folders that the samples are read from: clearing an earlier set must not remove what is yet to be read.
    pub inputs: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            shard_size: 10_000,
            scores: Vec::new(),
            fingerprint: String::new(),
            overwrite: false,
            inputs: Vec::new(),
        }
    }
}

/// A sample that is in the set, with what the ledger knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The sample. Its blobs are read only when they have to be copied.
    pub sample: &'a Sample,
    /// Of the image file's bytes, from the ledger; see [`parse_sha256`].
    pub sha256: [u8; 32],
    /// Pixels in a row, upright.
    pub width: u32,
    /// Rows, upright.
    pub height: u32,
    /// By content: `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff`. Names the file where the original name has no image suffix.
    pub format: &'a str,
    /// One for each name in [`Options::scores`].
    pub scores: &'a [f32],
}

/// What [`Writer::finish`] leaves in the folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files of the set, tables included.
    pub files: u64,
    /// Samples in the set.
    pub samples: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Samples among them that an earlier, cut-off run had written already.
    pub standing: u64,
}

/// Writes the curated set, sample by sample.
///
/// The folder is locked for as long as the writer lives. After an error the writer is only good for being dropped; what
/// stands then is a whole number of shards (files, for `folder`), and the same request goes on from there.
#[derive(Debug)]
pub struct Writer {
    scores: usize,
    failed: bool,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Tar(tar::Shards),
    Folder(Box<folder::Files>),
    List(list::List),
    None(u64),
}

impl Writer {
    /// Opens the folder, creating it where it is missing, and clears or takes up what an earlier run left in it.
    ///
    /// # Errors
    /// - [`Error::Usage`]: a shard size of 0, or a set that is about to be replaced is itself among the inputs.
    /// - [`Error::Run`]: files in the way that clipsift did not write, a damaged `.clipsift.json`, another writer at work.
    /// - [`Error::Io`]: the folder cannot be created, read or written.
    pub fn create(dir: impl AsRef<Path>, layout: Layout, options: Options) -> Result<Writer> {
        if options.shard_size == 0 {
            return Err(Error::usage("a shard holds at least one sample, not 0"));
        }
        let scores = options.scores.len();
        let inner = match Record::open(dir.as_ref(), layout, &options)? {
            None => Inner::None(0),
            Some(record) => match layout {
                Layout::Tar => Inner::Tar(tar::Shards::new(record, &options)),
                Layout::Folder => Inner::Folder(Box::new(folder::Files::new(record, &options)?)),
                Layout::List => Inner::List(list::List::new(record)?),
                Layout::None => Inner::None(0),
            },
        };
        Ok(Writer {
            scores,
            failed: false,
            inner,
        })
    }

    /// Adds the next sample. Samples come in reading order, each once.
    ///
    /// # Errors
    /// - [`Error::Input`]: the sample cannot be read, or has changed since it was read first.
    /// - [`Error::Run`]: a file in the way, or other samples than the ones that an earlier run with this fingerprint wrote.
    /// - [`Error::Usage`]: the layout cannot hold it; see [`Layout::accepts`].
    /// - [`Error::Shape`]: not one score for each name.
    /// - [`Error::Io`]: the set cannot be written.
    pub fn push(&mut self, kept: Kept) -> Result<()> {
        self.check_alive()?;
        self.failed = true;
        if kept.scores.len() != self.scores {
            return Err(Error::shape(
                "write",
                format!("{} scores", self.scores),
                format!("{} for {}", kept.scores.len(), kept.sample.id),
            ));
        }
        if let Some(problem) = &kept.sample.problem {
            return Err(copy::unreadable(kept.sample, problem));
        }
        match &mut self.inner {
            Inner::Tar(shards) => shards.push(kept)?,
            Inner::Folder(files) => files.push(kept)?,
            Inner::List(list) => list.push(kept)?,
            Inner::None(samples) => *samples += 1,
        }
        self.failed = false;
        Ok(())
    }

    /// Completes the set. No sample at all is a valid, empty set.
    ///
    /// # Errors
    /// Those of [`Writer::push`].
    pub fn finish(self) -> Result<Written> {
        self.check_alive()?;
        match self.inner {
            Inner::Tar(shards) => shards.finish(),
            Inner::Folder(files) => files.finish(),
            Inner::List(list) => list.finish(),
            Inner::None(samples) => Ok(Written {
                samples,
                ..Written::default()
            }),
        }
    }

    fn check_alive(&self) -> Result<()> {
        if self.failed {
            return Err(Error::usage(
                "the curated set cannot be gone on with after an error; create the writer anew",
            ));
        }
        Ok(())
    }
}

/// Reads the 64 hexadecimal digits that the ledger holds.
pub fn parse_sha256(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.as_bytes();
    let mut sha256 = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in sha256.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_read_and_shown_alike() {
        for layout in Layout::ALL {
            assert_eq!(layout.to_string().parse::<Layout>().unwrap(), layout);
        }
        let message = "zip".parse::<Layout>().unwrap_err().to_string();
        assert!(message.contains("tar, folder, list and none"), "{message}");
    }

    #[test]
    fn a_writer_may_live_on_a_thread_of_its_own() {
        fn on_a_thread<T: Send>() {}
        on_a_thread::<Writer>();
    }

    #[test]
    fn a_sha256_survives_its_digits() {
        let sha256: [u8; 32] = std::array::from_fn(|at| (at * 9) as u8);
        assert_eq!(parse_sha256(&crate::digest::hex(&sha256)), Some(sha256));
        assert_eq!(parse_sha256("12"), None);
        assert_eq!(parse_sha256(&"+1".repeat(32)), None);
        assert_eq!(parse_sha256(&"é".repeat(32)), None);
    }
}
