//! Pairs in files: `duplicates/pairs-*.parquet`.

use super::set::Samples;
use crate::atomic;
use crate::error::{Error, Result};
use crate::ops::tile::Pair;
use crate::store::{RunDir, tables};

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

    /// Writes what is held; the first file even when it is empty.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.files == 0 || !self.held.is_empty() {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<()> {
        let id = |row: u64| self.samples.sample(row as usize).id.as_str();
        let a: Vec<_> = self.held.iter().map(|p| id(p.a)).collect();
        let b: Vec<_> = self.held.iter().map(|p| id(p.b)).collect();
        let cosine: Vec<_> = self.held.iter().map(|p| p.cosine).collect();
        let identical: Vec<_> = self.held.iter().map(|p| p.identical).collect();
        let table = tables::pairs_to_batch(self.samples.id_type, &a, &b, &cosine, &identical)?;
        atomic::write_parquet(
            self.home
                .path(&format!("duplicates/pairs-{:05}.parquet", self.files)),
            &table,
        )?;
        self.files += 1;
        self.held.clear();
        Ok(())
    }
}

/// Calls `each` with the stored pairs, file by file, as row numbers.
///
/// # Errors
/// [`Error::Run`] where a file is damaged or names an id that is not in the set.
pub(super) fn read_pairs(
    home: &RunDir,
    samples: &Samples,
    mut each: impl FnMut(&[Pair]) -> Result<()>,
) -> Result<()> {
    let rows = samples.by_id();
    for file in 0.. {
        let path = home.path(&format!("duplicates/pairs-{file:05}.parquet"));
        if !path.is_file() {
            return Ok(());
        }
        let mut block = Vec::new();
        tables::for_each_pair(&atomic::read_parquet(&path)?, |a, b, cosine, identical| {
            let row = |id: &str| {
                rows.get(id)
                    .copied()
                    .ok_or_else(|| format!("names {id}, which is not in the set"))
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
