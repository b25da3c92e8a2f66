//! Pairs in files: `duplicates/pairs-*.parquet`.

use std::path::PathBuf;

use super::set::Samples;
use crate::atomic;
use crate::error::{Error, Result};
use crate::ops::tile::Pair;
use crate::store::{RunDir, findings};

/// Pairs in a file.
const PAIRS_A_FILE: usize = 1 << 20;

/// Writes pairs in files of [`PAIRS_A_FILE`].
pub(super) struct PairFiles<'a> {
    home: &'a RunDir,
    samples: &'a Samples,
    held: Vec<Pair>,
    files: usize,
    /// For each row of an earlier set whether a pair names it.
    used: Vec<bool>,
}

impl<'a> PairFiles<'a> {
    pub(super) fn new(home: &'a RunDir, samples: &'a Samples) -> PairFiles<'a> {
        PairFiles {
            home,
            samples,
            held: Vec::new(),
            files: 0,
            used: vec![false; samples.earlier.len()],
        }
    }

    pub(super) fn take(&mut self, block: &[Pair]) -> Result<()> {
        for pair in block {
            self.held.push(*pair);
            if self.held.len() == PAIRS_A_FILE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is held, the first file even when it is empty; gives the number of files, and for each row of an earlier set
    /// whether a pair names it.
    pub(super) fn finish(mut self) -> Result<(usize, Vec<bool>)> {
        if self.files == 0 || !self.held.is_empty() {
            self.flush()?;
        }
        Ok((self.files, self.used))
    }

    fn flush(&mut self) -> Result<()> {
        let id = |row: u64| self.samples.id(row as usize);
        let a: Vec<_> = self.held.iter().map(|p| id(p.a)).collect();
        let b: Vec<_> = self.held.iter().map(|p| id(p.b)).collect();
        let cosine: Vec<_> = self.held.iter().map(|p| p.cosine).collect();
        let identical: Vec<_> = self.held.iter().map(|p| p.identical).collect();
        let samples = self.samples;
        let mut table = findings::pairs_to_batch(samples.id_type, &a, &b, &cosine, &identical)?;
        if samples.is_against() {
            let runs = self.held.iter().map(|p| samples.run(p.b as usize));
            table = findings::with_runs(table, "b_run", runs)?;
            let n = samples.len() as u64;
            let earlier = self.held.iter().filter_map(|p| p.b.checked_sub(n));
            earlier.for_each(|row| self.used[row as usize] = true);
        }
        atomic::write_parquet(pairs_path(self.home, self.files), &table)?;
        self.files += 1;
        self.held.clear();
        Ok(())
    }
}

/// Where a file of pairs lies.
pub(super) fn pairs_path(home: &RunDir, file: usize) -> PathBuf {
    home.path(&format!("duplicates/pairs-{file:05}.parquet"))
}

/// Calls `each` with the stored pairs, file by file, as row numbers.
///
/// # Errors
/// [`Error::Run`] where a file is missing or damaged, or names an id that is not in the set.
pub(super) fn read_pairs(
    home: &RunDir,
    samples: &Samples,
    files: usize,
    mut each: impl FnMut(&[Pair]) -> Result<()>,
) -> Result<()> {
    let (rows, earlier) = (samples.by_id(), samples.earlier.by_id());
    for file in 0..files {
        let path = pairs_path(home, file);
        if !path.is_file() {
            let root = home.root().display();
            let reason = format!("is not there; clipsift dedup {root} finds the pairs again");
            return Err(Error::run(&path, reason));
        }
        let mut block = Vec::new();
        findings::for_each_pair(
            &atomic::read_parquet(&path)?,
            |(a, b, run), cosine, identical| {
                let row = |id: &str, run: Option<&str>| {
                    let row = match run {
                        None => rows.get(id).copied(),
                        Some(run) => {
                            let earlier = earlier.get(&(run, id)).copied();
                            earlier.map(|row| row + samples.len() as u64)
                        }
                    };
                    row.ok_or_else(|| format!("names {id}, which is not in the set"))
                };
                block.push(Pair {
                    a: row(a, None)?,
                    b: row(b, run)?,
                    cosine,
                    identical,
                });
                Ok(())
            },
        )
        .map_err(|reason| Error::run(&path, reason))?;
        each(&block)?;
    }
    Ok(())
}
