//! The rows of one run, or of several taken as one set, in read order.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::store::ids::IdType;
use crate::store::run_file::RunFile;
use crate::store::tables::SampleRow;
use crate::store::{RunDir, Table, findings};

/// Samples of a set and what is known of them, without embeddings.
pub(super) struct Samples {
    /// All samples, good and bad.
    pub rows: Vec<SampleRow>,
    /// Positions in `rows` of the good ones: the rows of every matrix and score.
    pub good: Vec<usize>,
    /// The type of the ids in every table.
    pub id_type: IdType,
    /// Good samples of each part, all runs' parts one after the other.
    pub part_sizes: Vec<usize>,
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
            rows: Vec::new(),
            good: Vec::new(),
            part_sizes: Vec::new(),
        };
        for dir in dirs {
            for part in 0..dir.parts() {
                let before = samples.good.len();
                for row in dir.read_samples(part)? {
                    if row.good() {
                        samples.good.push(samples.rows.len());
                    }
                    samples.rows.push(row);
                }
                samples.part_sizes.push(samples.good.len() - before);
            }
        }
        if dirs.len() > 1 {
            samples.check_ids(dirs)?;
        }
        Ok(samples)
    }

    fn check_ids(&self, dirs: &[&RunDir]) -> Result<()> {
        let mut ids: Vec<&str> = self.rows.iter().map(|r| r.id.as_str()).collect();
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

    /// A good row's sample.
    pub(super) fn sample(&self, row: usize) -> &SampleRow {
        &self.rows[self.good[row]]
    }

    /// n: good rows.
    pub(super) fn len(&self) -> usize {
        self.good.len()
    }

    /// Values of good rows -> one for each sample, none for bad ones.
    pub(super) fn spread(&self, values: &[f32]) -> Vec<Option<f32>> {
        let mut all = vec![None; self.rows.len()];
        self.good
            .iter()
            .zip(values)
            .for_each(|(at, value)| all[*at] = Some(*value));
        all
    }

    /// Good row numbers by id.
    pub(super) fn by_id(&self) -> HashMap<&str, u64> {
        self.good
            .iter()
            .enumerate()
            .map(|(row, at)| (self.rows[*at].id.as_str(), row as u64))
            .collect()
    }
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
        let path = home.part(Table::Clusters, part);
        let table = crate::atomic::read_parquet(&path)?;
        let (l, d) =
            findings::clusters_from_batch(&table).map_err(|reason| Error::run(&path, reason))?;
        labels.extend(l);
        distances.extend(d);
    }
    Ok((labels, distances))
}
