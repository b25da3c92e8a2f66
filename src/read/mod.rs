//! Reads what the user names into [`Sample`]s, in an order and with ids that are the same on every machine and every time.
//!
//! An input is a folder, an image, a WebDataset tar, a parquet, a `.txt` list of image paths, or `-` for a list on standard
//! input; its kind is told by its content, then by its suffix. Nothing here loads an image: a sample says where its bytes
//! lie ([`crate::Blob`]), and whoever decodes loads them. (A parquet is the exception: its values are in memory once read.)
//!
//! What cannot be used never stops the rest. One bad image is a sample with a [`Sample::problem`]; an input that cannot be used
//! while others can, and what is left of one that breaks off, is one bad sample whose id is the input's basename.
//!
//! # Ids
//!
//! | input   | id                                              | key                                    |
//! |---------|-------------------------------------------------|----------------------------------------|
//! | folder  | path below the folder, with `/` on all systems  | the id without the extension           |
//! | image   | file name                                       | the same without the extension         |
//! | tar     | `SHARD/KEY`, SHARD being the file name's stem   | member name up to the basename's first dot |
//! | parquet | the key                                         | id column, else the stored path, else row number |
//! | list    | path as written                                 | the same without the extension         |
//!
//! With several inputs each id begins with its input's basename (tars and single images have it already) and a slash; equal
//! basenames are refused. So ids of different inputs cannot meet, and uniqueness is kept per input: an id that came before
//! gets `#2`, `#3` ... and is a bad sample. That takes about 40 bytes a sample of the largest tar, parquet or list; folders
//! need none. Names that are not UTF-8, and control characters, stand as `\xNN`.

pub(crate) mod ahead;
mod braces;
mod columns;
pub mod embeddings;
mod folder;
mod list;
mod look;
mod members;
mod names;
mod npy;
mod parquet;
mod partition;
mod tar;
mod unique;
mod vectors;

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

#[cfg(any(test, fuzzing))]
pub(crate) use self::braces::expand as expand_braces;
use self::folder::Folder;
use self::list::List;
use self::look::{Look, What, head, look, unreadable};
use self::names::printable;
pub use self::npy::read_matrix;
use self::parquet::Parquet;
pub use self::partition::Partition;
use self::tar::Tar;
use self::unique::Unique;
use crate::sample::{Blob, Sample};
use crate::{Error, Result};

/// A source of samples. The built-in ones are made by [`Inputs::open`]; bring others with [`Inputs::from_readers`].
pub trait Reader: Send + Sync {
    /// The source as the user names it; its last path component begins the ids where there are several sources.
    fn name(&self) -> &str;

    /// The samples, in an order that is the same every time.
    ///
    /// Trouble with one sample is its [`Sample::problem`]; trouble with the rest of the source is one bad sample too. Ids need
    /// not be unique: a repeated one is marked by [`Inputs::samples`].
    fn samples(&self) -> Box<dyn Iterator<Item = Sample> + Send + '_>;
}

/// How to read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The parquet column that holds the key; default: the path stored with the image, else the row number.
    pub id_column: Option<String>,
    /// The parquet column that holds the image; default: told by type and name.
    pub image_column: Option<String>,
    /// The lines that `-` stands for, as [`Inputs::stdin_list`] gave them; default: standard input is read. For going on with a
    /// run whose list was piped in.
    pub stdin: Option<Vec<String>>,
}

/// What all inputs are, for choosing how to write the curated set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Image files: folders, images and lists only. A list of the kept paths says it all.
    Files,
    /// A tar, a parquet or a caller's own [`Reader`] is among them, so that bytes have to be copied.
    Packed,
}

/// What one input's samples are called.
#[derive(Clone, Debug)]
struct Naming {
    /// The input as written, brace ranges expanded.
    written: Arc<str>,
    /// Its basename, printable.
    base: String,
    /// Whether ids begin with the basename.
    prefixed: bool,
}

impl Naming {
    fn id(&self, name: &str) -> String {
        match self.prefixed {
            true => format!("{}/{name}", self.base),
            false => name.to_string(),
        }
    }

    /// The sample that stands for the input, or for what is left of it.
    fn bad(&self, problem: String) -> Sample {
        Sample {
            id: self.base.clone(),
            key: self.base.clone(),
            source: self.written.clone(),
            member: String::new(),
            offset: 0,
            length: 0,
            image: Blob::Bytes(Arc::from([])),
            sidecars: Vec::new(),
            problem: Some(problem),
        }
    }
}

/// Where an input's samples come from.
enum Source {
    Folder(Folder),
    List(List),
    Image(PathBuf),
    /// A unit that is never divided, with whether its ids still need the basename before them.
    Whole(Box<dyn Reader>, bool),
    /// It cannot be used; why.
    Unusable(String),
}

struct Input {
    naming: Naming,
    source: Source,
    /// What stands in [`Inputs::describe`] besides the name.
    detail: String,
    /// What a partition is made of: 1 for a tar or parquet, the number of images otherwise.
    units: usize,
    /// The number of samples, where known without reading.
    samples: Option<u64>,
    /// The units to read.
    range: Range<usize>,
}

impl Input {
    fn samples(&self) -> Box<dyn Iterator<Item = Sample> + Send + '_> {
        let Range { start, end } = self.range.clone();
        if start >= end {
            return Box::new(std::iter::empty());
        }
        match &self.source {
            Source::Folder(folder) => Box::new(Counted {
                samples: folder.samples(&self.naming).skip(start).take(end - start),
                // Without a partition the range has no end.
                missing: end.min(folder.count()).saturating_sub(start),
                whole_is_gone: false,
                naming: &self.naming,
            }),
            Source::List(list) => Box::new(list.samples(&self.naming, start..end)),
            // Its basename is its id, alone or among others.
            Source::Image(path) => {
                let mut sample = list::image(&self.naming, &self.naming.base, path);
                sample.id.clone_from(&self.naming.base);
                Box::new(std::iter::once(sample))
            }
            Source::Whole(reader, rename) => {
                let (rename, mut unique) = (*rename, Unique::default());
                Box::new(reader.samples().map(move |mut sample| {
                    if rename {
                        sample.id = self.naming.id(&sample.id);
                    }
                    unique.admit(sample)
                }))
            }
            Source::Unusable(reason) => Box::new(std::iter::once(self.naming.bad(reason.clone()))),
        }
    }
}

/// The samples of a folder, and one for all that were there when it was counted and are not any more.
struct Counted<'a, I> {
    samples: I,
    /// Images still to come.
    missing: usize,
    /// The folder itself could not be opened again, and has its sample.
    whole_is_gone: bool,
    naming: &'a Naming,
}

impl<I: Iterator<Item = Sample>> Iterator for Counted<'_, I> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        if let Some(sample) = self.samples.next() {
            self.missing = self.missing.saturating_sub(1);
            self.whole_is_gone = sample.id == self.naming.base;
            return Some(sample);
        }
        let missing = std::mem::take(&mut self.missing);
        (missing > 0 && !self.whole_is_gone).then(|| {
            self.naming.bad(format!(
                "{missing} images that were here when the run began were gone before they were read"
            ))
        })
    }
}

/// All that is read in a run, in order.
pub struct Inputs {
    inputs: Vec<Input>,
    stdin: Option<Vec<String>>,
}

impl Inputs {
    /// Looks at every input: expands brace ranges (a path that exists as written wins), tells its kind, counts a folder's
    /// images, reads a list. Nothing is decoded.
    ///
    /// # Errors
    /// [`Error::Usage`] for no input at all, for two inputs with the same basename, and for `-` given twice;
    /// [`Error::Input`] with every reason where none can be used.
    pub fn open(specs: &[String], options: &Options) -> Result<Inputs> {
        let mut written = Vec::new();
        for spec in specs {
            if spec == "-" || fs::symlink_metadata(spec).is_ok() {
                written.push(spec.clone());
            } else {
                written.extend(braces::expand(spec)?);
            }
        }
        if written.is_empty() {
            return Err(Error::usage(
                "no input: name folders, images, tars, parquets or lists",
            ));
        }
        let several = written.len() > 1;
        // Thousands of shards on a network file system are looked at side by side.
        let looks: Vec<Look> = written.par_iter().map(|spec| look(spec)).collect();
        refuse_equal(
            written
                .iter()
                .zip(&looks)
                .map(|(spec, look)| (&**spec, &*look.base)),
        )?;
        let stdin = match written.iter().any(|spec| spec == "-") {
            true => Some(match &options.stdin {
                Some(lines) => lines.clone(),
                None => list::read_stdin()?,
            }),
            false => None,
        };
        let inputs: Vec<Input> = written
            .par_iter()
            .zip(looks)
            .map(|(spec, look)| open_one(spec, look, several, stdin.as_deref(), options))
            .collect();
        let inputs = Inputs { inputs, stdin };
        let reasons: Vec<_> = inputs.unusable().collect();
        if reasons.len() == inputs.inputs.len() {
            if let [(name, reason)] = reasons[..] {
                return Err(Error::input(name, reason));
            }
            const SHOWN: usize = 10;
            let mut text: Vec<_> = reasons
                .iter()
                .take(SHOWN)
                .map(|(name, reason)| format!("{name}: {reason}"))
                .collect();
            if reasons.len() > SHOWN {
                text.push(format!("and {} more", reasons.len() - SHOWN));
            }
            return Err(Error::input("no usable input", text.join("; ")));
        }
        Ok(inputs)
    }

    /// Inputs that the caller reads. Each is a unit of [`Inputs::partition`]; with several readers their ids get the last
    /// component of [`Reader::name`] before them.
    ///
    /// # Errors
    /// [`Error::Usage`] for no reader, and for two readers with the same last component.
    pub fn from_readers(readers: Vec<Box<dyn Reader>>) -> Result<Inputs> {
        if readers.is_empty() {
            return Err(Error::usage("no input: no reader was given"));
        }
        let several = readers.len() > 1;
        let base = |name: &str| {
            let last = name.rsplit('/').find(|part| !part.is_empty());
            printable(last.unwrap_or(name).as_bytes())
        };
        let inputs: Vec<Input> = readers
            .into_iter()
            .map(|reader| Input {
                naming: Naming {
                    written: reader.name().into(),
                    base: base(reader.name()),
                    prefixed: several,
                },
                detail: "reader".to_string(),
                units: 1,
                samples: None,
                range: 0..1,
                source: Source::Whole(reader, true),
            })
            .collect();
        refuse_equal(inputs.iter().map(|i| (&*i.naming.written, &*i.naming.base)))?;
        Ok(Inputs {
            inputs,
            stdin: None,
        })
    }

    /// Only a slice: of U units (tars, parquets, readers, image files of folders and lists), those from U(I-1)/N to UI/N.
    /// Slices are contiguous, ids and `#2` are those of the whole, so N partitions one after the other are the one run.
    ///
    /// # Errors
    /// [`Error::Usage`] where I is not in 1..=N.
    pub fn partition(mut self, partition: Partition) -> Result<Inputs> {
        let total = self.inputs.iter().map(|input| input.units).sum();
        let slice = partition.slice(total)?;
        let mut first = 0;
        for input in &mut self.inputs {
            let last = first + input.units;
            let range =
                slice.start.clamp(first, last) - first..slice.end.clamp(first, last) - first;
            if range != (0..input.units) {
                input.range = range;
            }
            first = last;
        }
        Ok(self)
    }

    /// The samples of all inputs, in order, with unique ids.
    pub fn samples(&self) -> impl Iterator<Item = Sample> + Send + '_ {
        self.inputs.iter().flat_map(Input::samples)
    }

    /// The number of samples to expect, for showing progress; `None` with a tar or a caller's reader, which say so only when
    /// read.
    pub fn expected(&self) -> Option<u64> {
        self.inputs
            .iter()
            .map(|input| match (input.range.len(), input.samples) {
                (0, _) => Some(0),
                (_, None) => None,
                (_, Some(samples)) if input.units == 1 => Some(samples),
                (units, Some(samples)) => Some(samples.min(units as u64)),
            })
            .sum()
    }

    /// Whether the inputs that can be used are image files only.
    pub fn kind(&self) -> Kind {
        let packed = |input: &Input| matches!(input.source, Source::Whole(..));
        match self.inputs.iter().any(packed) {
            true => Kind::Packed,
            false => Kind::Files,
        }
    }

    /// The inputs that cannot be used, each with the reason.
    pub fn unusable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs.iter().filter_map(|input| match &input.source {
            Source::Unusable(reason) => Some((&*input.naming.written, reason.as_str())),
            _ => None,
        })
    }

    /// The files and folders that are read, so that nothing is written over them.
    pub fn paths(&self) -> Vec<PathBuf> {
        let written = self.inputs.iter().map(|input| &*input.naming.written);
        written
            .filter(|spec| *spec != "-")
            .map(PathBuf::from)
            .collect()
    }

    /// The lines that were read for `-`, so that a run can keep them and go on without them being piped in again.
    pub fn stdin_list(&self) -> Option<&[String]> {
        self.stdin.as_deref()
    }

    /// One line for each input: as written, then its kind and what tells its content from another without reading it
    /// all (numbers of files and bytes; a digest of the names and sizes in a folder, of the lines of a list). No times, so that a copy on another
    /// machine is described alike. Of a partition the whole inputs are described.
    pub fn describe(&self) -> Vec<String> {
        self.inputs
            .iter()
            .map(|input| format!("{} ({})", input.naming.written, input.detail))
            .collect()
    }
}

fn open_one(
    spec: &str,
    look: Look,
    several: bool,
    stdin: Option<&[String]>,
    options: &Options,
) -> Input {
    let path = Path::new(spec);
    let naming = Naming {
        written: spec.into(),
        base: look.base,
        prefixed: several,
    };
    // What every arm gives: the source, its units, its samples where known, and the detail for the description.
    type Opened = Result<(Source, usize, Option<u64>, String), String>;
    let opened: Opened = match look.what {
        What::Unusable(reason) => Err(reason),
        What::Folder => Folder::open(path).map(|folder| {
            let (count, detail) = (folder.count(), folder.detail());
            (Source::Folder(folder), count, Some(count as u64), detail)
        }),
        What::Tar => {
            let bytes = fs::metadata(path).map_or(0, |m| m.len());
            let reader = Box::new(Tar::new(path, naming.clone()));
            let source = Source::Whole(reader, false);
            Ok((source, 1, None, format!("tar, {bytes} bytes")))
        }
        What::Parquet => Parquet::open(path, naming.clone(), options).map(|parquet| {
            let bytes = fs::metadata(path).map_or(0, |m| m.len());
            let rows = parquet.rows();
            let detail = format!("parquet, {rows} rows, {bytes} bytes");
            (
                Source::Whole(Box::new(parquet), false),
                1,
                Some(rows),
                detail,
            )
        }),
        What::Image => {
            let bytes = fs::metadata(path).map_or(0, |m| m.len());
            let detail = format!("image, {bytes} bytes");
            Ok((Source::Image(path.to_path_buf()), 1, Some(1), detail))
        }
        What::List | What::Stdin => {
            let list = match stdin {
                Some(lines) if spec == "-" => List::of(lines.to_vec(), PathBuf::new()),
                _ => List::open(path),
            };
            list.map(|list| {
                let (count, detail) = (list.count(), list.detail());
                (Source::List(list), count, Some(count as u64), detail)
            })
        }
    };
    let (source, units, samples, detail) = opened.unwrap_or_else(|reason| {
        let detail = "not usable".to_string();
        (Source::Unusable(reason), 1, Some(1), detail)
    });
    Input {
        naming,
        source,
        detail,
        units,
        samples,
        // Everything, even what appears in a folder while it is read.
        range: 0..usize::MAX,
    }
}

/// Refuses two inputs whose ids would begin alike.
fn refuse_equal<'a>(inputs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let mut seen = HashMap::new();
    for (name, base) in inputs {
        if let Some(earlier) = seen.insert(base, name) {
            return Err(Error::usage(format!(
                "{earlier} and {name} would give their samples the same ids, as both begin with `{base}`: rename one, \
                 or read them in runs of their own"
            )));
        }
    }
    Ok(())
}
