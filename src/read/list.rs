//! A list of image paths: a `.txt` file, or standard input. A single image is a list of one.
//!
//! One path a line; blank lines, carriage returns and a byte-order mark are passed over. Paths are relative to the list's own
//! folder, those on standard input to the working directory. `.txt` and `.json` files beside an image travel with it, as in a
//! folder. A path that is not UTF-8 is read all the same; its id has the odd bytes as `\xNN`. Only images can be listed: tars and parquets are inputs of their own.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::folder::{file_sample, short};
use super::names::{self, printable, slashed};
use super::unique::Unique;
use super::{Naming, unreadable};
use crate::sample::{Blob, Sample, Sidecar};
use crate::{Error, Result};

/// A list with at least one line.
pub(super) struct List {
    /// What relative paths are relative to.
    folder: PathBuf,
    /// Printable.
    lines: Vec<String>,
}

impl List {
    /// Reads a `.txt` file.
    ///
    /// # Errors
    /// Why there is nothing to read.
    pub(super) fn open(path: &Path) -> Result<List, String> {
        let text = fs::read(path).map_err(|e| unreadable(&e))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        List::of(lines(&text)?, folder)
    }

    /// Lines as [`read_stdin`] gives them.
    ///
    /// # Errors
    /// Why there is nothing to read.
    pub(super) fn of(lines: Vec<String>, folder: PathBuf) -> Result<List, String> {
        match lines.is_empty() {
            true => Err("lists no paths".to_string()),
            false => Ok(List { folder, lines }),
        }
    }

    /// The number of samples.
    pub(super) fn count(&self) -> usize {
        self.lines.len()
    }

    /// For the description of the input.
    pub(super) fn detail(&self) -> String {
        let mut digest = Sha256::new();
        for line in &self.lines {
            digest.update(line);
            digest.update("\n");
        }
        format!("list, {} paths, {}", self.lines.len(), short(digest))
    }

    /// The samples of some lines, with ids that are unique among all lines.
    pub(super) fn samples<'a>(
        &'a self,
        naming: &'a Naming,
        range: Range<usize>,
    ) -> impl Iterator<Item = Sample> + Send + 'a {
        let mut unique = Unique::default();
        let end = range.end.min(self.lines.len());
        let numbered = self.lines[..end].iter().enumerate();
        numbered.filter_map(move |(at, line)| {
            if at < range.start {
                // Only for its id.
                unique.note(&naming.id(&name(line)));
                return None;
            }
            Some(unique.admit(self.sample(naming, line)))
        })
    }

    fn sample(&self, naming: &Naming, line: &str) -> Sample {
        let name = name(line);
        let Some(path) = names::path(line) else {
            let mut sample = file_sample(naming, &name, Path::new(line));
            sample.problem = Some("the path is not UTF-8".to_string());
            return sample;
        };
        let mut sample = image(naming, &name, &self.folder.join(&path));
        if line.contains("://") && sample.problem.is_some() {
            sample.problem = Some("is a URL: only local files are read".to_string());
        } else if let suffix @ ("tar" | "parquet") = &*names::suffix(&path) {
            sample.problem = Some(format!(
                "a list names images: give a .{suffix} as an input of its own"
            ));
        }
        sample
    }
}

/// The line as it stands in ids.
fn name(line: &str) -> String {
    String::from_utf8_lossy(&slashed(Path::new(line))).into_owned()
}

/// The sample of an image file that was named on its own, with the caption and metadata beside it.
pub(super) fn image(naming: &Naming, name: &str, path: &Path) -> Sample {
    let mut sample = file_sample(naming, name, path);
    if names::is_other_image_suffix(&names::suffix(path)) {
        sample
            .problem
            .get_or_insert_with(|| names::not_readable(&names::suffix(path)));
    }
    if sample.problem.is_none() {
        for suffix in ["json", "txt"] {
            let beside = path.with_extension(suffix);
            if beside != path && beside.is_file() {
                sample.sidecars.push(Sidecar {
                    suffix: suffix.to_string(),
                    blob: Blob::File(Arc::from(beside)),
                });
            }
        }
    }
    sample
}

/// The lines of standard input, printable.
///
/// # Errors
/// [`Error::Io`], and [`Error::Input`] for text that is no list.
pub(super) fn read_stdin() -> Result<Vec<String>> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut text)
        .map_err(Error::io("read", "standard input"))?;
    lines(&text).map_err(|reason| Error::input("-", reason))
}

/// The lines that are not blank, printable.
fn lines(text: &[u8]) -> Result<Vec<String>, String> {
    if text.starts_with(&[0xFF, 0xFE]) || text.starts_with(&[0xFE, 0xFF]) {
        return Err("is UTF-16 text: save the list as UTF-8".to_string());
    }
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let lines = text.split(|&b| b == b'\n');
    Ok(lines
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.trim_ascii().is_empty())
        .map(printable)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blank_lines_carriage_returns_and_the_byte_order_mark_are_passed_over() {
        let text = "\u{FEFF}a.jpg\r\n\r\n  \nsub/ü b.png\n/abs.jpg";
        assert_eq!(
            lines(text.as_bytes()).unwrap(),
            ["a.jpg", "sub/ü b.png", "/abs.jpg"]
        );
        assert!(lines(b"").unwrap().is_empty());
    }

    #[test]
    fn utf_16_is_named_as_such() {
        assert!(lines(b"\xFF\xFEa\0").unwrap_err().contains("UTF-16"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(text: Vec<u8>) {
            if let Ok(lines) = lines(&text) && let Ok(list) = List::of(lines, PathBuf::new()) {
                let naming = Naming { written: "x".into(), base: "x".into(), prefixed: true };
                prop_assert_eq!(list.samples(&naming, 0..usize::MAX).count(), list.count());
            }
        }
    }
}
