//! A WebDataset tar: a sample is a consecutive run of members with one key.
//!
//! The key is the member's name up to the first dot of its basename (`.` and empty components left out, so that `./a.jpg` is
//! `a`), the suffix is the rest, lower-cased. The image is the first member whose whole suffix is an image suffix, so that
//! `seg.png` is no image; the others are sidecars. Names of two dots are what they are in WebDataset: `2024.05.jpg` is of the
//! sample `2024`.
//!
//! Bad samples: no image, a suffix that comes twice, a name that leads out of the archive (`..`, absolute), a link, a pipe or a
//! sparse file among the members, a member that is cut off. Folders and dot-files are passed over.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::members::{Member, Members};
use super::names::is_image_suffix;
use super::{Naming, Reader, printable};
use crate::sample::{Blob, Sample, Sidecar};

/// So many suffixes are named in a message.
const SHOWN: usize = 10;

/// A tar.
pub(super) struct Tar {
    path: Arc<Path>,
    naming: Naming,
}

impl Tar {
    pub(super) fn new(path: &Path, naming: Naming) -> Tar {
        Tar {
            path: Arc::from(path),
            // Whether or not there are other inputs.
            naming: Naming {
                prefixed: true,
                ..naming
            },
        }
    }
}

impl Reader for Tar {
    fn name(&self) -> &str {
        &self.naming.written
    }

    fn samples(&self) -> Box<dyn Iterator<Item = Sample> + Send + '_> {
        match Members::open(&self.path) {
            Ok(members) => Box::new(Samples {
                tar: self,
                members,
                run: None,
                rest: None,
            }),
            Err(reason) => Box::new(std::iter::once(self.naming.bad(reason))),
        }
    }
}

struct Samples<'a> {
    tar: &'a Tar,
    members: Members,
    /// The members of one key so far.
    run: Option<Run>,
    /// Why the rest cannot be read.
    rest: Option<String>,
}

impl Iterator for Samples<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        loop {
            match self.members.next() {
                Some(Ok(member)) => {
                    let Some(parts) = Parts::of(&member.name) else {
                        continue;
                    };
                    match &mut self.run {
                        Some(run) if run.key == parts.key => run.add(self.tar, parts, member),
                        _ => {
                            let mut run = Run::new(&parts, &member);
                            run.add(self.tar, parts, member);
                            if let Some(whole) = self.run.replace(run) {
                                return Some(whole.sample(self.tar));
                            }
                        }
                    }
                }
                Some(Err(reason)) => self.rest = Some(reason),
                None => {
                    return match self.run.take() {
                        Some(run) => Some(run.sample(self.tar)),
                        None => self.rest.take().map(|reason| self.tar.naming.bad(reason)),
                    };
                }
            }
        }
    }
}

/// A member's name taken apart.
struct Parts {
    key: String,
    suffix: String,
    /// It leads out of the archive.
    leaves: bool,
}

impl Parts {
    /// `None` for a dot-file.
    fn of(name: &[u8]) -> Option<Parts> {
        let absolute = name.starts_with(b"/");
        // A backslash separates on Windows only, but what is written here may be unpacked there.
        let mut steps = name.split(|b| b"/\\".contains(b));
        let leaves = absolute || name.starts_with(b"\\") || steps.any(|step| step == b"..");
        let name = printable(name);
        let parts: Vec<_> = name
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let (base, folders) = parts.split_last().unwrap_or((&"", &[]));
        if base.starts_with('.') && *base != ".." {
            return None;
        }
        let (stem, suffix) = base.split_once('.').unwrap_or((base, ""));
        let mut key = if absolute {
            "/".to_string()
        } else {
            String::new()
        };
        for folder in folders {
            key.push_str(folder);
            key.push('/');
        }
        key.push_str(stem);
        Some(Parts {
            key,
            suffix: suffix.to_lowercase(),
            leaves,
        })
    }
}

/// The members of one key, one after the other.
struct Run {
    key: String,
    /// The image, or the first member as long as there is none: name, offset, length.
    member: (String, u64, u64),
    has_image: bool,
    suffixes: HashSet<String>,
    sidecars: Vec<Sidecar>,
    problem: Option<String>,
}

impl Run {
    fn new(parts: &Parts, member: &Member) -> Run {
        Run {
            key: parts.key.clone(),
            member: (printable(&member.name), member.offset, 0),
            has_image: false,
            suffixes: HashSet::new(),
            sidecars: Vec::new(),
            problem: None,
        }
    }

    fn add(&mut self, tar: &Tar, parts: Parts, member: Member) {
        let name = printable(&member.name);
        let problem = if parts.leaves {
            Some(format!("the member name {name} leads out of the archive"))
        } else if self.suffixes.contains(&parts.suffix) {
            Some(format!(
                "the suffix `{}` comes twice in one sample, at {name}",
                parts.suffix
            ))
        } else {
            member.problem.map(|problem| format!("{name}: {problem}"))
        };
        if self.problem.is_none() {
            self.problem = problem;
        }
        self.suffixes.insert(parts.suffix.clone());
        if !self.has_image && is_image_suffix(&parts.suffix) {
            self.has_image = true;
            self.member = (name, member.offset, member.length);
        } else {
            self.sidecars.push(Sidecar {
                suffix: parts.suffix,
                blob: tar.span(member.offset, member.length),
            });
        }
    }

    fn sample(self, tar: &Tar) -> Sample {
        let (member, offset, length) = self.member;
        let problem = self.problem.or_else(|| {
            let named = |sidecar: &Sidecar| match &*sidecar.suffix {
                "" => "no suffix".to_string(),
                suffix => format!(".{suffix}"),
            };
            let named: Vec<_> = self.sidecars.iter().take(SHOWN).map(named).collect();
            (!self.has_image).then(|| format!("no image among its members: {}", named.join(", ")))
        });
        Sample {
            id: tar.naming.id(&self.key),
            key: self.key,
            source: tar.naming.written.clone(),
            member,
            offset,
            length,
            image: tar.span(offset, length),
            sidecars: self.sidecars,
            problem,
        }
    }
}

impl Tar {
    fn span(&self, offset: u64, length: u64) -> Blob {
        Blob::Span {
            path: self.path.clone(),
            offset,
            length,
        }
    }
}
