//! `list.txt`: the absolute path of each kept file, one a line, in reading order. It is an input like any other.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::{Path, absolute};

use super::copy::{changed, unreadable};
use super::record::Record;
use super::{Kept, Layout, Written};
use crate::atomic::Pending;
use crate::error::{Error, Result};
use crate::sample::{Blob, Sample};

/// The list's name in the folder.
pub(super) const NAME: &str = "list.txt";

/// The list being written.
#[derive(Debug)]
pub(super) struct List {
    record: Record,
    file: BufWriter<Pending>,
    /// A file that overlapping inputs give twice is listed once: readers refuse a path that stands twice.
    seen: HashSet<String>,
    written: Written,
}

impl List {
    pub(super) fn new(record: Record) -> Result<List> {
        let pending = Pending::create(record.dir().join(NAME))?;
        Ok(List {
            record,
            file: BufWriter::new(pending),
            seen: HashSet::new(),
            written: Written::default(),
        })
    }

    pub(super) fn push(&mut self, kept: Kept) -> Result<()> {
        let sample = kept.sample;
        Layout::List.accepts(sample)?;
        let Blob::File(path) = &sample.image else {
            unreachable!("a list accepts files only");
        };
        let metadata = path.metadata().map_err(|e| unreadable(sample, e))?;
        if !metadata.is_file() {
            return Err(unreadable(sample, "it is not a regular file"));
        }
        if sample.length > 0 && sample.length != metadata.len() {
            return Err(changed(sample));
        }
        let line = line_of(sample, path)?;
        if !self.seen.contains(&line) {
            writeln!(self.file, "{line}").map_err(self.io())?;
            self.written.bytes += line.len() as u64 + 1;
            self.seen.insert(line);
        }
        self.written.samples += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Written> {
        self.file.flush().map_err(self.io())?;
        let io = self.io();
        let pending = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        self.record.begin(1)?;
        pending.commit()?;
        self.record.complete(1)?;
        self.written.files = 1;
        Ok(self.written)
    }

    fn io(&self) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::io("write", self.file.get_ref().path().to_path_buf())
    }
}

/// The line that names the file at `path`.
pub(super) fn line_of(sample: &Sample, path: &Path) -> Result<String> {
    let path = absolute(path).map_err(|e| unreadable(sample, e))?;
    match path.to_str() {
        Some(line) if !line.contains(['\n', '\r']) => Ok(line.to_string()),
        Some(_) => Err(unlistable(&path, "has a line break in its name")),
        None => Err(unlistable(&path, "has a name that is not UTF-8")),
    }
}

fn unlistable(path: &Path, why: &str) -> Error {
    Error::usage(format!(
        "{path:?} {why}, which a list of lines cannot hold; rename it, or write `tar` or `folder` instead"
    ))
}
