//! Sums of rows by label, in one order whatever the number of threads: the update step of k-means.

use crate::{Error, Result};
use rayon::prelude::*;

/// Rows sorted by label: the rows of label `j` are `rows[offsets[j]..offsets[j + 1]]`, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// k + 1 positions in `rows`.
    pub offsets: Vec<usize>,
    /// n row numbers.
    pub rows: Vec<u64>,
}

impl Groups {
    /// A counting sort of `labels` `[n]`, each below `k`.
    ///
    /// # Errors
    /// [`Error::Shape`] when a label is not below `k`.
    pub fn new(labels: &[u32], k: usize) -> Result<Groups> {
        let mut offsets = vec![0; k + 1];
        for (row, &label) in labels.iter().enumerate() {
            match offsets.get_mut(label as usize + 1) {
                Some(count) => *count += 1,
                None => {
                    return Err(Error::shape(
                        "labels",
                        format!("labels below {k}"),
                        format!("{label} for row {row}"),
                    ));
                }
            }
        }
        for j in 0..k {
            offsets[j + 1] += offsets[j];
        }
        let mut next = offsets.clone();
        let mut rows = vec![0; labels.len()];
        for (row, &label) in labels.iter().enumerate() {
            let place = &mut next[label as usize];
            rows[*place] = row as u64;
            *place += 1;
        }
        Ok(Groups { offsets, rows })
    }

    /// The number of labels k.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of one label, ascending.
    pub fn rows_of(&self, label: usize) -> &[u64] {
        &self.rows[self.offsets[label]..self.offsets[label + 1]]
    }
}

/// The sum of the rows of each label: `[k, d]` in f64.
///
/// `data` is `[n, d]`. Each sum runs over its rows in ascending order, one row after another; labels are taken in parallel, so
/// the same bytes come out for any number of threads. Memory: `8 k d` bytes.
///
/// # Errors
/// [`Error::Shape`] when `data` is not n rows of `d`.
pub fn accumulate(data: &[f32], d: usize, groups: &Groups) -> Result<Vec<f64>> {
    if d == 0 || data.len() != groups.rows.len() * d {
        return Err(Error::shape(
            "accumulate",
            format!("{} rows of d = {d} values", groups.rows.len()),
            format!("{} values", data.len()),
        ));
    }
    let mut sums = vec![0.0; groups.len() * d];
    sums.par_chunks_exact_mut(d)
        .enumerate()
        .for_each(|(label, sum)| {
            for &row in groups.rows_of(label) {
                let row = row as usize;
                for (total, &x) in sum.iter_mut().zip(&data[row * d..(row + 1) * d]) {
                    *total += f64::from(x);
                }
            }
        });
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_summed_by_label() {
        let groups = Groups::new(&[2, 0, 2, 2], 4).unwrap();
        assert_eq!(groups.offsets, [0, 1, 1, 4, 4]);
        assert_eq!(groups.rows, [1, 0, 2, 3]);
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let sums = accumulate(&data, 2, &groups).unwrap();
        assert_eq!(sums, [3.0, 4.0, 0.0, 0.0, 13.0, 16.0, 0.0, 0.0]);
        assert!(Groups::new(&[0, 4], 4).is_err());
        assert!(accumulate(&data, 3, &groups).is_err());
    }
}
