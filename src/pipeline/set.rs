//! The rows of one run, or of several taken as one set, in read order.
//!
//! What grows with the set is kept small: of a sample its id and whether it is good. All else that stands in `samples/` is read
//! again by those who need it, part by part.

use std::collections::HashMap;

use super::against::Earlier;
use crate::error::{Error, Result};
use crate::store::RunDir;
use crate::store::ids::{IdType, Ids};
use crate::store::run_file::RunFile;
use crate::store::tables::SampleRow;

/// Samples of a set, without embeddings. Memory: 16 bytes a sample, and its id.
#[derive(Debug)]
pub(super) struct Samples {
    /// The ids of all samples, good and bad.
    pub ids: Ids,
    /// Positions in `ids` of the good ones: the rows of every matrix and score.
    pub good: Vec<usize>,
    /// The type of the ids in every table.
    pub id_type: IdType,
    /// Good samples of each part, all runs' parts one after the other.
    pub part_sizes: Vec<usize>,
    /// Rows of earlier sets, from n on.
    pub earlier: Earlier,
}

impl Samples {
    /// Reads all samples of all runs.
    ///
    /// # Errors
    /// [`Error::Usage`] where two runs have the same id; [`Error::Run`] where a table is damaged.
    pub(super) fn read(dirs: &[&RunDir]) -> Result<Samples> {
        let file = match dirs.first() {
            Some(dir) => dir.read_run_file()?.unwrap_or_default(),
            None => RunFile::default(),
        };
        let mut samples = Samples {
            id_type: file.embed.map(|e| e.id_type).unwrap_or_default(),
            ids: Ids::default(),
            good: Vec::new(),
            part_sizes: Vec::new(),
            earlier: Earlier::default(),
        };
        for dir in dirs {
            for part in 0..dir.parts() {
                let before = samples.good.len();
                dir.for_each_id(part, |id, good| {
                    if good {
                        samples.good.push(samples.ids.len());
                    }
                    samples.ids.push(id);
                })?;
                samples.part_sizes.push(samples.good.len() - before);
            }
        }
        if dirs.len() > 1 {
            samples.check_ids(dirs)?;
        }
        Ok(samples)
    }

    fn check_ids(&self, dirs: &[&RunDir]) -> Result<()> {
        let mut ids: Vec<&str> = self.ids.iter().collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                let runs: Vec<_> = dirs
                    .iter()
                    .map(|d| d.root().display().to_string())
                    .collect();
                Err(Error::usage(format!(
                    "the id {} stands in more than one of {}; runs of one set have different ids, as partitions of one input have",
                    pair[0],
                    runs.join(", ")
                )))
            }
        }
    }

    /// A good row's id, or that of a row of an earlier set.
    pub(super) fn id(&self, row: usize) -> &str {
        match row.checked_sub(self.len()) {
            None => self.ids.get(self.good[row]),
            Some(earlier) => self.earlier.id(earlier),
        }
    }

    /// The earlier run that a row is of; none for one of the set itself.
    pub(super) fn run(&self, row: usize) -> Option<&str> {
        let earlier = row.checked_sub(self.len())?;
        Some(self.earlier.run(earlier))
    }

    /// Whether there are earlier sets, so that tables name the run of a row.
    pub(super) fn is_against(&self) -> bool {
        !self.earlier.runs.is_empty()
    }

    /// n + m: good rows and those of earlier sets.
    pub(super) fn all(&self) -> usize {
        self.len() + self.earlier.len()
    }

    /// n: good rows.
    pub(super) fn len(&self) -> usize {
        self.good.len()
    }

    /// Good row numbers by id.
    pub(super) fn by_id(&self) -> HashMap<&str, u64> {
        (0..self.len())
            .map(|row| (self.id(row), row as u64))
            .collect()
    }
}

/// All samples of all runs with all that stands in `samples/`, a part in memory at a time.
pub(super) fn sample_rows<'a>(dirs: &'a [&RunDir]) -> impl Iterator<Item = Result<SampleRow>> + 'a {
    let parts = dirs
        .iter()
        .flat_map(|dir| (0..dir.parts()).map(move |part| (*dir, part)));
    parts.flat_map(|(dir, part)| match dir.read_samples(part) {
        Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    })
}

/// A score of all good rows.
///
/// # Errors
/// [`Error::Run`] where a table is damaged or missing.
pub(super) fn read_scores(dirs: &[&RunDir], samples: &Samples, name: &str) -> Result<Vec<f32>> {
    let mut scores = Vec::with_capacity(samples.len());
    for dir in dirs {
        for part in 0..dir.parts() {
            scores.extend(dir.read_scores(name, part)?);
        }
    }
    if scores.len() != samples.len() {
        let reason = format!(
            "{} scores of {name} for {} samples; run clipsift score again",
            scores.len(),
            samples.len()
        );
        return Err(Error::run(dirs[0].path("scores"), reason));
    }
    Ok(scores)
}

/// Centroid numbers and cosine distances of all good rows, from `clusters/`.
///
/// # Errors
/// [`Error::Run`] where a table is damaged or missing.
pub(super) fn read_clusters(home: &RunDir, samples: &Samples) -> Result<(Vec<u32>, Vec<f32>)> {
    let (mut labels, mut distances) = (Vec::new(), Vec::new());
    for part in 0..samples.part_sizes.len() {
        let (l, d) = home.read_clusters(part)?;
        labels.extend(l);
        distances.extend(d);
    }
    Ok((labels, distances))
}
