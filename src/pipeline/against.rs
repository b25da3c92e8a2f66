//! Earlier sets that a run is decided against: what they kept, read and never written to.
//!
//! An earlier set is what an earlier run *kept*. Samples that it dropped are not in its set and count for nothing; of a run about
//! which nothing was decided, every good sample counts. Its rows follow the run's own, from n on, in the order of the sets.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::decisions;
use super::run::Run;
use super::set::{Samples, sample_rows};
use super::union::digest_of;
use crate::atomic;
use crate::digest::hex;
use crate::error::{Error, Result};
use crate::sample::Reason;
use crate::store::ids::{IdType, Ids};
use crate::store::run_file::{AgainstRequest, EmbedRequest, RunFile};
use crate::store::tables::SampleRow;
use crate::store::{RunDir, findings};

/// Where the rows of earlier sets stand that pairs name.
pub(super) const AGAINST: &str = "duplicates/against.parquet";

/// Rows of earlier sets by name.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// The sets: the paths of their runs.
    pub runs: Vec<String>,
    ids: Ids,
    /// For each row the place of its set in `runs`.
    run_of: Vec<u32>,
}

impl Earlier {
    /// m: rows of all sets.
    pub(super) fn len(&self) -> usize {
        self.run_of.len()
    }

    /// A row's id.
    pub(super) fn id(&self, row: usize) -> &str {
        self.ids.get(row)
    }

    /// The run that a row is of.
    pub(super) fn run(&self, row: usize) -> &str {
        &self.runs[self.run_of[row] as usize]
    }

    fn push(&mut self, run: &str, id: &str) {
        let known = self.runs.iter().rposition(|known| known == run);
        let at = known.unwrap_or_else(|| {
            self.runs.push(run.into());
            self.runs.len() - 1
        });
        self.ids.push(id);
        self.run_of.push(at as u32);
    }

    /// Row numbers by run and id.
    pub(super) fn by_id(&self) -> HashMap<(&str, &str), u64> {
        (0..self.len())
            .map(|row| ((self.run(row), self.id(row)), row as u64))
            .collect()
    }

    /// Reads the rows that the pairs in `home` name.
    ///
    /// # Errors
    /// [`Error::Run`] where the table is missing or damaged.
    pub(super) fn stored(home: &RunDir, runs: &[AgainstRequest]) -> Result<Earlier> {
        let mut earlier = Earlier {
            runs: runs.iter().map(|run| run.run.clone()).collect(),
            ..Earlier::default()
        };
        let path = home.path(AGAINST);
        let mut read = || {
            for batch in atomic::read_parquet_batches(&path, &["run", "id"])? {
                findings::for_each_earlier(&batch?, |run, id| earlier.push(run, id))
                    .map_err(|reason| Error::damaged(&path, reason))?;
            }
            Ok(())
        };
        read().map_err(|error: Error| error.with_remedy(|| remedy(home)))?;
        Ok(earlier)
    }
}

fn remedy(home: &RunDir) -> String {
    let root = home.root().display();
    format!("clipsift dedup {root} --against finds the pairs again")
}

/// Runs that others are decided against, open for reading.
#[derive(Debug, Default)]
pub(super) struct Against {
    sets: Vec<Set>,
}

#[derive(Debug)]
struct Set {
    /// The run's path, as it stands in the tables.
    name: String,
    /// The run itself, or the members of a set of runs.
    dirs: Vec<RunDir>,
    /// Held open, so that nobody writes to it meanwhile.
    _home: Option<RunDir>,
    samples: Samples,
    /// For each good row whether it is in the set.
    kept: Vec<bool>,
    sha256: String,
}

impl Against {
    /// Opens the runs at `paths` for rows of the same model. `own` are the directories that they must not be.
    ///
    /// # Errors
    /// [`Error::Usage`] where a path is no complete run, is one of `own`, or has embeddings of another model or size.
    pub(super) fn open(
        paths: &[PathBuf],
        fingerprint: &str,
        dims: usize,
        own: &[&Path],
    ) -> Result<Against> {
        let mut sets: Vec<Set> = Vec::new();
        for path in paths {
            let set = Set::open(path, fingerprint, dims, own)?;
            if sets.iter().any(|other| other.name == set.name) {
                return Err(Error::usage(format!(
                    "--against {} is named twice",
                    path.display()
                )));
            }
            sets.push(set);
        }
        Ok(Against { sets })
    }

    /// As it goes into `run.json`.
    pub(super) fn requests(&self) -> Vec<AgainstRequest> {
        let request = |set: &Set| AgainstRequest {
            run: set.name.clone(),
            sha256: set.sha256.clone(),
        };
        self.sets.iter().map(request).collect()
    }

    /// m: rows of all sets.
    pub(super) fn len(&self) -> usize {
        self.sets.iter().map(Set::len).sum()
    }

    /// All rows, by names that a column of `kind` can hold.
    ///
    /// # Errors
    /// [`Error::Usage`] where it cannot.
    pub(super) fn rows(&self, kind: IdType) -> Result<Earlier> {
        let mut earlier = Earlier::default();
        for set in &self.sets {
            earlier.runs.push(set.name.clone());
            for row in set.rows() {
                earlier.push(&set.name, set.samples.id(row));
            }
        }
        if !kind.is_text() {
            for row in 0..earlier.len() {
                if kind.column(std::iter::once(Some(earlier.id(row)))).is_err() {
                    return Err(Error::usage(format!(
                        "--against {}: its id {} does not fit among ids of type {kind}; give the new embeddings ids that are texts (a .npy among \
                         others has STEM#ROW)",
                        earlier.run(row),
                        earlier.id(row)
                    )));
                }
            }
        }
        Ok(earlier)
    }

    /// Calls `each` with the embeddings of the rows, part by part.
    pub(super) fn for_each_embedding(
        &self,
        d: usize,
        mut each: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        for set in &self.sets {
            let dirs: Vec<&RunDir> = set.dirs.iter().collect();
            let (mut row, mut kept) = (0, Vec::new());
            super::matrix::for_each_part(&dirs, &set.samples, d, |rows| {
                kept.clear();
                for values in rows.chunks_exact(d) {
                    if set.kept[row] {
                        kept.extend_from_slice(values);
                    }
                    row += 1;
                }
                each(&kept)
            })?;
        }
        Ok(())
    }

    /// Calls `each` with every row: its number from 0, its place among the run's samples, and what stands in `samples/`.
    pub(super) fn for_each_sample(
        &self,
        mut each: impl FnMut(usize, &str, u64, SampleRow) -> Result<()>,
    ) -> Result<()> {
        let mut number = 0;
        for set in &self.sets {
            let dirs: Vec<&RunDir> = set.dirs.iter().collect();
            let mut good = 0;
            for (at, sample) in sample_rows(&dirs).enumerate() {
                let sample = sample?;
                if !sample.good() {
                    continue;
                }
                if set.kept.get(good) == Some(&true) {
                    each(number, &set.name, at as u64, sample)?;
                    number += 1;
                }
                good += 1;
            }
        }
        Ok(())
    }
}

impl Set {
    fn open(path: &Path, fingerprint: &str, dims: usize, own: &[&Path]) -> Result<Set> {
        let shown = path.display();
        let ours = |path: &Path| {
            let path = path.canonicalize().ok();
            path.is_some() && own.iter().any(|own| own.canonicalize().ok() == path)
        };
        // Before it is opened: what this process writes to nobody else may read.
        if ours(path) {
            return Err(Error::usage(format!(
                "--against {shown} is the run itself, or one of its members; name an earlier one"
            )));
        }
        let home = RunDir::open_to_read(path)?;
        let root = path.canonicalize().map_err(Error::io("find", path))?;
        let file = home.read_run_file()?.unwrap_or_default();
        if let Some(member) = file.members.iter().find(|member| ours(Path::new(member))) {
            return Err(Error::usage(format!(
                "--against {shown} is a set of which {member} is a member, which is a part of this run too; name another"
            )));
        }
        let (dirs, home) = match file.members.is_empty() {
            true => (vec![home], None),
            false => {
                let open = |member: &String| RunDir::open_to_read(Path::new(member));
                let dirs: Vec<RunDir> = file.members.iter().map(open).collect::<Result<_>>()?;
                (dirs, Some(home))
            }
        };
        check_whole(path, &file, &dirs)?;
        let embed = match &file.embed {
            Some(embed) => Some(embed.clone()),
            None => dirs[0].read_run_file()?.and_then(|file| file.embed),
        };
        let embed = embed.ok_or_else(|| {
            Error::run(
                path,
                "run.json does not say which model made the embeddings",
            )
        })?;
        check_model(path, &embed, fingerprint, dims)?;
        let samples = Samples::read(&dirs.iter().collect::<Vec<_>>())?;
        let decisions = home.as_ref().unwrap_or(&dirs[0]);
        let kept = kept(path, decisions, &file, &samples)?;
        let mut hash = Sha256::new();
        hash.update(&embed.fingerprint);
        if embed.imported {
            embed.content.iter().for_each(|line| hash.update(line));
        }
        dirs.iter()
            .try_for_each(|dir| dir.hash_samples(&mut hash))?;
        hash.update(kept.iter().map(|kept| u8::from(*kept)).collect::<Vec<_>>());
        Ok(Set {
            name: root.display().to_string(),
            dirs,
            _home: home,
            samples,
            kept,
            sha256: hex(&hash.finalize()),
        })
    }

    fn len(&self) -> usize {
        self.kept.iter().filter(|kept| **kept).count()
    }

    /// The good rows that are in the set.
    fn rows(&self) -> impl Iterator<Item = usize> {
        (0..self.kept.len()).filter(|row| self.kept[*row])
    }
}

/// # Errors
/// [`Error::Usage`] where a part is not there, or members have changed.
fn check_whole(path: &Path, file: &RunFile, dirs: &[RunDir]) -> Result<()> {
    let shown = path.display();
    if file.members.is_empty() {
        return match file.parts == Some(dirs[0].parts()) {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "--against {shown} is not complete; repeat the command that began it first"
            ))),
        };
    }
    match file.members_sha256 == Some(digest_of(dirs)?) {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "--against {shown}: the runs that it is a set of have changed; decide about it again first"
        ))),
    }
}

/// # Errors
/// [`Error::Usage`] where embeddings cannot be compared.
fn check_model(path: &Path, earlier: &EmbedRequest, fingerprint: &str, dims: usize) -> Result<()> {
    let shown = path.display();
    if earlier.dims != dims {
        return Err(Error::usage(format!(
            "--against {shown} has embeddings of {} dims, here they have {dims}: give a run of the same model",
            earlier.dims
        )));
    }
    if earlier.fingerprint != fingerprint {
        return Err(Error::usage(format!(
            "--against {shown} was made by another model, its weights, preprocessing or precision ({}, {}): embeddings of two \
             models cannot be compared",
            earlier.model, earlier.dtype
        )));
    }
    Ok(())
}

/// For each good row whether the run kept it.
///
/// # Errors
/// [`Error::Usage`] where it was decided, but not as it is now.
fn kept(path: &Path, home: &RunDir, file: &RunFile, samples: &Samples) -> Result<Vec<bool>> {
    let stale = || {
        let shown = path.display();
        Err(Error::usage(format!(
            "--against {shown} has no decisions about what it is now; clipsift filter {shown} or clipsift dedup {shown} makes \
             them"
        )))
    };
    let table = home.path("decisions.parquet");
    if !table.is_file() {
        let asked = file.decide.is_some() || !file.thresholds.is_empty();
        return match asked {
            true => stale(),
            false => Ok(vec![true; samples.len()]),
        };
    }
    let mut all = Vec::with_capacity(samples.ids.len());
    let again = |error: Error| error.with_remedy(|| decisions::remedy(home));
    for batch in
        atomic::read_parquet_batches(&table, &["id", "reason", "duplicate_of"]).map_err(again)?
    {
        let rows = findings::decisions_from_batch(&batch.map_err(again)?)
            .map_err(|reason| again(Error::damaged(&table, reason)))?;
        for row in rows {
            if all.len() >= samples.ids.len() || row.id != samples.ids.get(all.len()) {
                return stale();
            }
            all.push(row.reason == Reason::Kept.as_str());
        }
    }
    match all.len() == samples.ids.len() {
        true => Ok(samples.good.iter().map(|at| all[*at]).collect()),
        false => stale(),
    }
}

/// What can be known to be wrong with earlier sets before any work: whether they are complete runs of a model with this
/// fingerprint ([`super::IMPORTED`] for embeddings that others made) and d, whose ids fit among ids of type `kind`.
///
/// # Errors
/// [`Error::Usage`]
pub fn check_against(
    paths: &[PathBuf],
    fingerprint: &str,
    dims: usize,
    kind: IdType,
) -> Result<()> {
    let against = Against::open(paths, fingerprint, dims, &[])?;
    against.rows(kind).map(|_| ())
}

impl Run {
    /// The set's samples, with the rows of earlier sets that its pairs name.
    pub(super) fn samples(&self) -> Result<Samples> {
        let mut samples = Samples::read(&self.dirs())?;
        samples.earlier = self.stored_earlier()?;
        Ok(samples)
    }

    /// The rows of earlier sets that the stored pairs name.
    pub(super) fn stored_earlier(&self) -> Result<Earlier> {
        match &self.file.dedup {
            Some(dedup) if !dedup.against.is_empty() && self.file.pair_files.is_some() => {
                Earlier::stored(&self.home, &dedup.against)
            }
            _ => Ok(Earlier::default()),
        }
    }

    /// What stands in `samples/` of the rows of earlier sets that the stored pairs name.
    pub(super) fn earlier_samples(&self) -> Result<Vec<SampleRow>> {
        let rows = self.earlier_places()?;
        Ok(rows.into_iter().map(|(_, _, row)| row).collect())
    }

    /// [`Run::earlier_samples`], each with its run and its place among the samples there.
    pub(super) fn earlier_places(&self) -> Result<Vec<(String, u64, SampleRow)>> {
        let found = self.file.dedup.as_ref();
        if found.is_none_or(|found| found.against.is_empty()) || self.file.pair_files.is_none() {
            return Ok(Vec::new());
        }
        let path = self.home.path(AGAINST);
        atomic::read_parquet(&path)
            .and_then(|table| {
                findings::earlier_from_batch(&table).map_err(|reason| Error::damaged(&path, reason))
            })
            .map_err(|error| error.with_remedy(|| remedy(&self.home)))
    }

    /// Opens the earlier sets of a request.
    pub(super) fn open_against(&self, paths: &[PathBuf], embed: &EmbedRequest) -> Result<Against> {
        let mut own: Vec<&Path> = self.dirs().into_iter().map(RunDir::root).collect();
        own.push(self.root());
        Against::open(paths, &embed.fingerprint, embed.dims, &own)
    }
}
