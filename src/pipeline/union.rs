//! Several runs taken as one set.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::run::Run;
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::store::RunDir;
use crate::store::run_file::{RunFile, ScoreRequest};

impl Run {
    /// Takes several runs as one set, in their order, with its own directory for what is decided.
    ///
    /// # Errors
    /// [`Error::Usage`] where they were not made alike: model, precision, scores and thresholds.
    pub fn union(paths: &[&Path], home: &Path) -> Result<Run> {
        let paths = paths
            .iter()
            .map(|path| absolute(path))
            .collect::<Result<Vec<_>>>()?;
        for (i, path) in paths.iter().enumerate() {
            if paths[..i].contains(path) {
                return Err(Error::usage(format!("{path} is named twice")));
            }
            if absolute(home).is_ok_and(|home| home == *path) {
                return Err(Error::usage(format!(
                    "--out {path} is one of the runs; give another folder"
                )));
            }
        }
        let runs = paths
            .iter()
            .map(|path| Run::open(Path::new(path)))
            .collect::<Result<Vec<_>>>()?;
        let first = runs
            .first()
            .ok_or_else(|| Error::usage("no run was named"))?;
        runs.iter().try_for_each(|run| run.check_alike(first))?;
        let (scores, thresholds) = (first.file.scores.clone(), first.file.thresholds.clone());
        let members: Vec<RunDir> = runs.into_iter().map(|run| run.home).collect();

        let home = RunDir::create(home)?;
        let earlier = home.read_run_file()?.unwrap_or_default();
        let another = !earlier.members.is_empty() && earlier.members != paths;
        if earlier.embed.is_some() || another {
            return Err(Error::usage(format!(
                "{} holds another run; give a new --out",
                home.root().display()
            )));
        }
        let digest = Some(digest_of(&members)?);
        let file = if earlier.members == paths && earlier.members_sha256 == digest {
            RunFile {
                scores,
                thresholds,
                ..earlier
            }
        } else {
            home.clear()?;
            RunFile {
                members: paths,
                members_sha256: digest,
                scores,
                thresholds,
                ..RunFile::default()
            }
        };
        Ok(Run {
            members,
            ..Run::over(home, file)
        })
    }

    /// # Errors
    /// [`Error::Usage`] where the run cannot be of one set with another.
    fn check_alike(&self, other: &Run) -> Result<()> {
        let sorted = |scores: &[ScoreRequest]| {
            let mut scores = scores.to_vec();
            scores.sort_by(|a, b| a.name.cmp(&b.name));
            scores
        };
        let model = |run: &Run| {
            let embed = run.file.embed.as_ref();
            embed.map(|e| (e.fingerprint.clone(), e.dims, e.dtype.clone()))
        };
        let id_type = |run: &Run| run.file.embed.as_ref().map(|e| e.id_type);
        let path = self.home.root().display();
        let difference = if self.is_set() {
            return Err(Error::usage(format!(
                "{path} is itself a set of runs; name its members"
            )));
        } else if model(self) != model(other) {
            "model or precision"
        } else if id_type(self) != id_type(other) {
            "type of ids"
        } else if sorted(&self.file.scores) != sorted(&other.file.scores) {
            "scores; clipsift score on each with the same heads makes them alike"
        } else if self.file.thresholds != other.file.thresholds {
            "thresholds; clipsift filter on each makes them alike"
        } else {
            return Ok(());
        };
        let other = other.home.root().display();
        Err(Error::usage(format!(
            "{path} and {other} differ in their {difference}"
        )))
    }
}

/// sha256 over what the rows of some runs depend on: the samples, the model, the heads.
pub(super) fn digest_of(members: &[RunDir]) -> Result<String> {
    let mut hash = Sha256::new();
    for dir in members {
        let file = dir.read_run_file()?.unwrap_or_default();
        if let Some(embed) = file.embed {
            hash.update(embed.fingerprint);
            if embed.imported {
                // Of images the samples have a sha256 each.
                embed.content.iter().for_each(|line| hash.update(line));
            }
        }
        file.scores
            .iter()
            .for_each(|s| hash.update(format!("{}={}", s.name, s.fingerprint)));
        dir.hash_samples(&mut hash)?;
    }
    Ok(hex(&hash.finalize()))
}

fn absolute(path: &Path) -> Result<String> {
    Ok(path
        .canonicalize()
        .map_err(Error::io("find", path))?
        .display()
        .to_string())
}
