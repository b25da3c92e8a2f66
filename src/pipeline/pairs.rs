//! Pairs in files: `duplicates/pairs-*.parquet`.
//!
//! # What is stored
//!
//! Every pair within the eps that was asked for, down to the last one, and those of identical rows, which are one a row. Beyond
//! eps, down to the floor, a row keeps the nearest of its pairs with later rows, so that it has [`ROW_PAIRS`] with them at most unless
//! more lie within eps (and as many with rows of an earlier set): at a low floor a crowd of m rows would fill m²/2 places of a table that nobody asked about. Nothing
//! is decided by a list that was cut: how far all pairs are there stands in `run.json` (`complete_to`), and a greater eps
//! compares again.
//!
//! Memory: a file's pairs, 32 bytes each and their ids, and the pairs of one row.

use std::path::PathBuf;

use super::set::Samples;
use crate::atomic;
use crate::error::{Error, Result};
use crate::ops::tile::Pair;
use crate::store::{RunDir, findings};

/// Pairs in a file.
const PAIRS_A_FILE: usize = 1 << 20;

/// Pairs with later rows that a row keeps, unless more of them lie within eps.
pub(super) const ROW_PAIRS: usize = 1000;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Written {
    pub files: usize,
    pub pairs: u64,
    /// The greatest eps that all pairs are there for; none where none was left out.
    pub complete_to: Option<f64>,
}

/// Writes pairs in files of [`PAIRS_A_FILE`].
pub(super) struct PairFiles<'a> {
    home: &'a RunDir,
    samples: &'a Samples,
    eps: f64,
    row_pairs: usize,
    /// Pairs of the row at hand, which comes as `a` in one stretch.
    row: Vec<Pair>,
    held: Vec<Pair>,
    written: Written,
    /// The greatest cosine of a pair that was left out.
    left_out: f64,
    /// For each row of an earlier set whether a pair names it.
    used: Vec<bool>,
}

impl<'a> PairFiles<'a> {
    /// None yet. Pairs within `eps` are all kept, of others at most `row_pairs` a row.
    pub(super) fn new(home: &'a RunDir, samples: &'a Samples, eps: f64, row_pairs: usize) -> Self {
        PairFiles {
            home,
            samples,
            eps,
            row_pairs,
            row: Vec::new(),
            held: Vec::new(),
            written: Written {
                files: 0,
                pairs: 0,
                complete_to: None,
            },
            left_out: f64::NEG_INFINITY,
            used: vec![false; samples.earlier.len()],
        }
    }

    /// Takes pairs in, all of one `a` in one stretch.
    pub(super) fn take(&mut self, block: &[Pair]) -> Result<()> {
        for list in block.chunk_by(|x, y| x.a == y.a) {
            if self.row.first().is_some_and(|first| first.a != list[0].a) {
                self.end_row()?;
            }
            self.row.extend_from_slice(list);
        }
        Ok(())
    }

    /// Cuts the pairs of the row at hand and puts them with the others.
    fn end_row(&mut self) -> Result<()> {
        let within = |pair: &Pair| pair.identical || pair.cosine >= 1.0 - self.eps;
        let near = |pair: &Pair| !pair.identical && pair.cosine >= 1.0 - self.eps;
        let beyond = self.row.iter().filter(|pair| !within(pair)).count();
        let room = self
            .row_pairs
            .saturating_sub(self.row.iter().filter(|p| near(p)).count());
        if beyond > room {
            let mut others: Vec<Pair> = self.row.iter().filter(|p| !within(p)).copied().collect();
            others.sort_unstable_by(|x, y| y.cosine.total_cmp(&x.cosine).then(x.b.cmp(&y.b)));
            self.left_out = self.left_out.max(others[room].cosine);
            others.truncate(room);
            self.row.retain(within);
            self.row.extend(others);
            self.row.sort_unstable_by_key(Pair::key);
        }
        for pair in std::mem::take(&mut self.row) {
            self.held.push(pair);
            if self.held.len() == PAIRS_A_FILE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is held, the first file even when it is empty; tells for each row of an earlier set whether a pair names it.
    pub(super) fn finish(mut self) -> Result<(Written, Vec<bool>)> {
        self.end_row()?;
        if self.written.files == 0 || !self.held.is_empty() {
            self.flush()?;
        }
        if self.left_out > f64::NEG_INFINITY {
            // Rounded down to a number that text holds exactly; within eps nothing was left out.
            let complete = ((1.0 - self.left_out) * 1e6 - 1.0).floor() / 1e6;
            self.written.complete_to = Some(complete.max(self.eps));
        }
        Ok((self.written, self.used))
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
        atomic::write_parquet(pairs_path(self.home, self.written.files), &table)?;
        self.written.files += 1;
        self.written.pairs += self.held.len() as u64;
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
        let root = home.root().display();
        let table = atomic::read_parquet(&path).map_err(|error| {
            error.with_remedy(|| format!("clipsift dedup {root} finds the pairs again"))
        })?;
        let mut block = Vec::new();
        findings::for_each_pair(&table, |(a, b, run), cosine, identical| {
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
        })
        .map_err(|reason| Error::run(&path, reason))?;
        each(&block)?;
    }
    Ok(())
}
