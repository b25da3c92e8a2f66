//! A folder: its image files, and those of the folders below it, in the order of the bytes of their paths.
//!
//! A file is an image when it has an image suffix (whatever it holds: if it is none, that is said when it is decoded), or
//! when its suffix is not a well-known other one and it begins like an image. HEIC, AVIF, JPEG XL and JPEG 2000 files are bad
//! samples, so that they are not lost silently. `.txt` and `.json` files with the stem of an image, in the same folder, travel
//! with it. Everything else is passed over, and so are names that begin with a dot. Links are followed, but not to a
//! folder that is being walked already.
//!
//! The folder is walked twice, once to count and once to read, so that only the names of the folders on the way down are
//! in memory.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::names::{self, Content, printable, slashed, without_extension};
use super::{Naming, head, unreadable};
use crate::sample::{Blob, Sample, Sidecar};

/// A folder with at least one image.
pub(super) struct Folder {
    root: PathBuf,
    count: usize,
    bytes: u64,
    digest: String,
}

impl Folder {
    /// Counts the images.
    ///
    /// # Errors
    /// Why there is nothing to read.
    pub(super) fn open(root: &Path) -> Result<Folder, String> {
        fs::read_dir(root).map_err(|e| unreadable(&e))?;
        let mut walk = Walk::new(root);
        let (mut count, mut bytes, mut digest) = (0, 0, Sha256::new());
        for found in &mut walk {
            let size = fs::metadata(root.join(&found.path)).map_or(0, |m| m.len());
            count += 1;
            bytes += size;
            digest.update(slashed(&found.path));
            digest.update(format!("\0{size}\n"));
        }
        if count == 0 {
            return Err(walk.why_empty(root));
        }
        Ok(Folder {
            root: root.to_path_buf(),
            count,
            bytes,
            digest: short(digest),
        })
    }

    /// The number of samples.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// For the description of the input.
    pub(super) fn detail(&self) -> String {
        format!(
            "folder, {} images, {} bytes, {}",
            self.count, self.bytes, self.digest
        )
    }

    /// The samples; skipping one costs no look at the file.
    pub(super) fn samples<'a>(
        &'a self,
        naming: &'a Naming,
    ) -> impl Iterator<Item = Sample> + Send + 'a {
        Samples {
            walk: Walk::new(&self.root),
            root: &self.root,
            naming,
        }
    }
}

/// The first 16 hexadecimal digits of a digest.
pub(super) fn short(digest: Sha256) -> String {
    let bytes = digest.finalize();
    bytes[..8].iter().map(|b| format!("{b:02x}")).collect()
}

struct Samples<'a> {
    walk: Walk,
    root: &'a Path,
    naming: &'a Naming,
}

impl Iterator for Samples<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        let found = self.walk.next()?;
        if found.path.as_os_str().is_empty() {
            // The folder itself, gone since it was counted.
            return Some(self.naming.bad(found.problem.unwrap_or_default()));
        }
        let name = printable(&slashed(&found.path));
        let mut sample = file_sample(self.naming, &name, &self.root.join(&found.path));
        sample.problem = found.problem.or(sample.problem);
        let sidecars = found.sidecars.into_iter();
        sample.sidecars = sidecars
            .map(|(suffix, path)| Sidecar {
                suffix,
                blob: Blob::File(Arc::from(self.root.join(path))),
            })
            .collect();
        Some(sample)
    }

    fn nth(&mut self, n: usize) -> Option<Sample> {
        for _ in 0..n {
            self.walk.next()?;
        }
        self.next()
    }
}

/// The sample of an image file called `name`, which may not be there.
pub(super) fn file_sample(naming: &Naming, name: &str, path: &Path) -> Sample {
    let (length, problem) = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => (metadata.len(), None),
        Ok(metadata) if metadata.is_dir() => (0, Some("is a folder, not an image".to_string())),
        Ok(_) => (0, Some("is not a regular file".to_string())),
        Err(e) => (0, Some(unreadable(&e))),
    };
    Sample {
        id: naming.id(name),
        key: without_extension(name).to_string(),
        source: naming.written.clone(),
        member: name.to_string(),
        offset: 0,
        length,
        image: Blob::File(Arc::from(path)),
        sidecars: Vec::new(),
        problem,
    }
}

/// An image below the root.
struct Found {
    /// Relative to the root.
    path: PathBuf,
    /// Suffix, and path relative to the root.
    sidecars: Vec<(String, PathBuf)>,
    problem: Option<String>,
}

/// A folder on the way down.
struct Level {
    /// Relative to the root.
    path: PathBuf,
    /// Reached through a link, here or further up, so that it may lead back to a folder above.
    linked: bool,
    entries: std::vec::IntoIter<Entry>,
    /// The captions and metadata by stem, in the order of their names.
    sidecars: HashMap<OsString, Vec<(String, OsString)>>,
}

struct Entry {
    name: OsString,
    what: What,
    /// Reached through a link.
    link: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Folder,
    File,
    Other,
}

impl Entry {
    /// Sorts as the paths below it do: a folder `a` after a file `a.jpg`, as `a/` comes after `a.`.
    fn order(&self) -> impl Iterator<Item = u8> + '_ {
        let slash = (self.what == What::Folder).then_some(b'/');
        self.name.as_encoded_bytes().iter().copied().chain(slash)
    }
}

struct Walk {
    root: PathBuf,
    levels: Vec<Level>,
    started: bool,
    /// Files passed over, by what they could have been.
    tars: usize,
    parquets: usize,
    others: usize,
}

impl Walk {
    fn new(root: &Path) -> Walk {
        Walk {
            root: root.to_path_buf(),
            levels: Vec::new(),
            started: false,
            tars: 0,
            parquets: 0,
            others: 0,
        }
    }

    /// Why a walk found no image, and what to give instead.
    fn why_empty(&self, root: &Path) -> String {
        let root = root.to_string_lossy();
        let root = root.trim_end_matches('/');
        if self.tars > 0 {
            format!(
                "holds no images but {} .tar files: give {root}/*.tar",
                self.tars
            )
        } else if self.parquets > 0 {
            format!(
                "holds no images but {} .parquet files: give {root}/*.parquet",
                self.parquets
            )
        } else {
            format!("holds no images, {} other files", self.others)
        }
    }

    /// Goes down into a folder.
    fn enter(&mut self, path: PathBuf, linked: bool) -> std::io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.root.join(&path))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let mut kind = entry.file_type()?;
            let link = kind.is_symlink();
            if link && let Ok(metadata) = fs::metadata(entry.path()) {
                kind = metadata.file_type();
            }
            let what = if kind.is_dir() {
                What::Folder
            } else if kind.is_file() || kind.is_symlink() {
                // A link that leads nowhere counts as a file, and is found missing when it is read.
                What::File
            } else {
                What::Other
            };
            entries.push(Entry { name, what, link });
        }
        entries.sort_by(|a, b| a.order().cmp(b.order()));
        let mut sidecars: HashMap<OsString, Vec<_>> = HashMap::new();
        for entry in entries.iter().filter(|entry| entry.what == What::File) {
            let name = Path::new(&entry.name);
            let suffix = names::suffix(name);
            if (suffix == "txt" || suffix == "json")
                && let Some(stem) = name.file_stem()
            {
                let same = sidecars.entry(stem.to_owned()).or_default();
                if same.iter().all(|(s, _)| *s != suffix) {
                    same.push((suffix, entry.name.clone()));
                }
            }
        }
        self.levels.push(Level {
            path,
            linked,
            entries: entries.into_iter(),
            sidecars,
        });
        Ok(())
    }

    /// Whether a folder is one of those on the way down to it.
    fn is_loop(&self, path: &Path) -> bool {
        let Ok(real) = fs::canonicalize(self.root.join(path)) else {
            return false;
        };
        self.levels.iter().any(|level| {
            fs::canonicalize(self.root.join(&level.path)).is_ok_and(|above| above == real)
        })
    }

    /// What an entry that is no folder is: an image, perhaps one with a known problem, or `None`.
    fn judge(&mut self, path: &Path, what: What) -> Option<Option<String>> {
        let suffix = names::suffix(path);
        if names::is_image_suffix(&suffix) {
            return Some((what == What::Other).then(|| "is not a regular file".to_string()));
        }
        if what == What::Other {
            return None;
        }
        if names::is_other_image_suffix(&suffix) {
            return Some(Some(names::not_readable(&suffix)));
        }
        if names::is_unknown_suffix(&suffix)
            && head::<32>(&self.root.join(path))
                .is_ok_and(|head| names::sniff(&head) == Content::Image)
        {
            return Some(None);
        }
        match &*suffix {
            "tar" => self.tars += 1,
            "parquet" => self.parquets += 1,
            _ => self.others += 1,
        }
        None
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let unreadable_folder = |path: PathBuf, e: &std::io::Error| Found {
            path,
            sidecars: Vec::new(),
            problem: Some(format!("the folder is left out: {}", unreadable(e))),
        };
        if !self.started {
            self.started = true;
            if let Err(e) = self.enter(PathBuf::new(), false) {
                return Some(unreadable_folder(PathBuf::new(), &e));
            }
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(Entry { name, what, link }) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            if what == What::Folder {
                let linked = link || level.linked;
                if linked && self.is_loop(&path) {
                    continue;
                }
                if let Err(e) = self.enter(path.clone(), linked) {
                    return Some(unreadable_folder(path, &e));
                }
                continue;
            }
            let Some(problem) = self.judge(&path, what) else {
                continue;
            };
            let level = self
                .levels
                .last()
                .expect("judging an entry leaves its folder");
            let stem = path.file_stem().unwrap_or(OsStr::new(""));
            let sidecars = level.sidecars.get(stem).into_iter().flatten();
            return Some(Found {
                sidecars: sidecars
                    .map(|(suffix, name)| (suffix.clone(), level.path.join(name)))
                    .collect(),
                path,
                problem,
            });
        }
    }
}
