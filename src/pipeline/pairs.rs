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
}

impl<'a> PairFiles<'a> {
    pub(super) fn new(home: &'a RunDir, samples: &'a Samples) -> PairFiles<'a> {
        PairFiles {
            home,
            samples,
            held: Vec::new(),
            files: 0,
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

    /// Writes what is held, the first file even when it is empty; gives the number of files.
    pub(super) fn finish(mut self) -> Result<usize> {
        if self.files == 0 || !self.held.is_empty() {
            self.flush()?;
        }
        Ok(self.files)
    }

    fn flush(&mut self) -> Result<()> {
        let id = |row: u64| self.samples.id(row as usize);
        let a: Vec<_> = self.held.iter().map(|p| id(p.a)).collect();
        let b: Vec<_> = self.held.iter().map(|p| id(p.b)).collect();
        let cosine: Vec<_> = self.held.iter().map(|p| p.cosine).collect();
        let identical: Vec<_> = self.held.iter().map(|p| p.identical).collect();
        let table = findings::pairs_to_batch(self.samples.id_type, &a, &b, &cosine, &identical)?;
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
    let rows = samples.by_id();
    for file in 0..files {
        let path = pairs_path(home, file);
        if !path.is_file() {
            let root = home.root().display();
            let reason = format!("is not there; clipsift dedup {root} finds the pairs again");
            return Err(Error::run(&path, reason));
        }
        let mut block = Vec::new();
        findings::for_each_pair(&atomic::read_parquet(&path)?, |a, b, cosine, identical| {
            let row = |id: &str| {
                let row = rows.get(id).copied();
                row.ok_or_else(|| format!("names {id}, which is not in the set"))
            };
            block.push(Pair {
                a: row(a)?,
                b: row(b)?,
                cosine,
                identical,
            });
            Ok(())
        })
        .map_err(|reason| Error::run(&path, reason))?;
        each(&block)?;
    }
    Ok(())
}
