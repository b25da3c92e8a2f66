//! `decisions.parquet` and `duplicates/removed.parquet`, written and read a block of samples at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::copies::Sums;
use super::progress::Context;
use super::run::{FIXED_COUNTS, Run};
use super::set::Samples;
use arrow::array::RecordBatch;

use crate::atomic::{self, PendingTable};
use crate::dedup::decide::DuplicateOf;
use crate::digest::sha256_file;
use crate::error::{Error, Result};
use crate::sample::{Decision, Reason};
use crate::store::RunDir;
use crate::store::findings::{self, DecisionRow};

/// Samples written at a time.
const BLOCK: usize = 65_536;

const DECISIONS: &str = "decisions.parquet";

/// What is decided about the good rows.
pub(super) struct Decided<'a> {
    /// `[n]`: the threshold or filter that a row fails.
    pub failed: &'a [Option<&'a str>],
    /// `[n]`: what a row falls to.
    pub fallen: &'a [Option<DuplicateOf>],
    /// By name, `[n]` each.
    pub scores: &'a [(String, Vec<f32>)],
    /// Which rows have the same bytes.
    pub sums: &'a Sums,
}

/// Rows of a table of an id, another id and a number, such as `removed.parquet`; with earlier sets a column more, the run that
/// the other is of. `finish` may add columns to a block.
pub(super) fn write_matched(
    path: PathBuf,
    samples: &Samples,
    names: [&str; 4],
    rows: impl Iterator<Item = (usize, usize, f64)>,
    finish: impl Fn(RecordBatch, &[(usize, usize, f64)]) -> Result<RecordBatch>,
) -> Result<()> {
    let [row_name, other_name, value_name, run_name] = names;
    let mut rows = rows.peekable();
    let mut table: Option<PendingTable> = None;
    loop {
        let block: Vec<_> = rows.by_ref().take(BLOCK).collect();
        let named: Vec<_> = block
            .iter()
            .map(|(row, other, value)| (samples.id(*row), samples.id(*other), *value))
            .collect();
        let columns = [row_name, other_name, value_name];
        let mut batch = findings::matched_to_batch(samples.id_type, columns, &named)?;
        if samples.is_against() {
            let runs = block.iter().map(|(_, other, _)| samples.run(*other));
            batch = findings::with_runs(batch, run_name, runs)?;
        }
        let batch = finish(batch, &block)?;
        let table = match &mut table {
            Some(table) => table,
            none => none.insert(PendingTable::create(&path, batch.schema())?),
        };
        table.write(&batch)?;
        if rows.peek().is_none() {
            break;
        }
    }
    table.map_or(Ok(()), PendingTable::commit)
}

/// Writes both tables; gives how often each reason was given.
pub(super) fn write(
    home: &RunDir,
    samples: &Samples,
    decided: &Decided,
    removed: bool,
) -> Result<BTreeMap<String, u64>> {
    if removed {
        let fallen = decided.fallen.iter().enumerate().filter_map(|(row, fell)| {
            let fell = (*fell).filter(|_| decided.failed[row].is_none())?;
            Some((row, fell.row as usize, fell.cosine))
        });
        let path = home.path("duplicates/removed.parquet");
        let names = ["id", "kept_id", "cosine", "kept_run"];
        write_matched(path, samples, names, fallen, |batch, block| {
            let bytes = |&(row, of, _): &(usize, usize, f64)| decided.sums.same(row, of);
            findings::with_matches(batch, block.iter().map(bytes))
        })?;
    }
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut table: Option<PendingTable> = None;
    let mut good = samples.good.iter().copied().enumerate().peekable();
    let mut start = 0;
    while start < samples.ids.len() || table.is_none() {
        let end = (start + BLOCK).min(samples.ids.len());
        let mut rows: Vec<DecisionRow> = Vec::with_capacity(end - start);
        let mut scores: Vec<(String, Vec<Option<f32>>)> = decided
            .scores
            .iter()
            .map(|(name, _)| (name.clone(), vec![None; end - start]))
            .collect();
        for at in start..end {
            let row = good.next_if(|(_, place)| *place == at).map(|(row, _)| row);
            let (reason, duplicate_of) =
                match row.map(|row| (decided.failed[row], decided.fallen[row])) {
                    None => (Reason::Corrupt.as_str(), None),
                    Some((Some(name), _)) => (name, None),
                    Some((None, Some(fell))) => (Reason::Duplicate.as_str(), Some(fell.row)),
                    Some((None, None)) => (Reason::Kept.as_str(), None),
                };
            *counts.entry(reason.to_string()).or_default() += 1;
            if let (Some(row), Some(of)) = (row, duplicate_of) {
                let (of, count) = (of as usize, |yes| u64::from(yes));
                *counts.entry("copies".into()).or_default() += count(decided.sums.same(row, of));
                *counts.entry("earlier".into()).or_default() += count(of >= samples.len());
            }
            rows.push(DecisionRow {
                id: samples.ids.get(at).into(),
                reason: reason.into(),
                duplicate_of: duplicate_of.map(|row| samples.id(row as usize).into()),
                duplicate_of_run: duplicate_of
                    .and_then(|row| samples.run(row as usize).map(String::from)),
            });
            if let Some(row) = row {
                for ((_, column), (_, values)) in scores.iter_mut().zip(decided.scores) {
                    column[at - start] = Some(values[row]);
                }
            }
        }
        let batch =
            findings::decisions_to_batch(samples.id_type, &rows, &scores, samples.is_against())?;
        let table = match &mut table {
            Some(table) => table,
            none => none.insert(PendingTable::create(home.path(DECISIONS), batch.schema())?),
        };
        table.write(&batch)?;
        start = end;
    }
    table.map_or(Ok(()), PendingTable::commit)?;
    Ok(counts)
}

/// What tells the decisions that are there from others; none where there are none.
pub(super) fn fingerprint(home: &RunDir) -> Option<String> {
    sha256_file(&home.path(DECISIONS)).ok()
}

/// What makes damaged decisions anew.
pub(super) fn remedy(home: &RunDir) -> String {
    format!("clipsift filter {} decides again", home.root().display())
}

impl Run {
    /// Decides again where the stored decisions are damaged and `run.json` has all that it takes.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a caller's own tests were among the reasons, which only the caller knows.
    pub(super) fn mend_decisions(&mut self, context: Context) -> Result<()> {
        let path = self.home.path(DECISIONS);
        if !path.is_file() {
            return Ok(());
        }
        let Some(trouble) = atomic::trouble(&path)? else {
            return Ok(());
        };
        let is_threshold = |name: &str| self.file.thresholds.iter().any(|t| t.score == name);
        let counts = self.file.counts.keys();
        if counts
            .into_iter()
            .any(|name| !FIXED_COUNTS.contains(&name.as_str()) && !is_threshold(name))
        {
            return Err(Error::damaged(path, trouble).with_remedy(|| {
                "run the pipeline that made them again, whose own tests are not stored".to_string()
            }));
        }
        context.note(&format!(
            "{}: {trouble}; it is decided anew",
            path.display()
        ));
        self.decide(&[], context).map(drop)
    }

    /// The decisions, in read order.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are none yet.
    pub fn decisions(&self) -> Result<Vec<Decision>> {
        self.each_decision()?.collect()
    }

    /// The decisions, in read order, a block in memory at a time.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are none yet.
    pub(super) fn each_decision(&self) -> Result<impl Iterator<Item = Result<Decision>> + use<>> {
        let path = self.home.path(DECISIONS);
        if !path.is_file() {
            let root = self.home.root().display();
            return Err(Error::usage(format!(
                "{root} has no decisions yet; clipsift dedup {root} or clipsift filter {root} makes them"
            )));
        }
        let columns = ["id", "reason", "duplicate_of", "duplicate_of_run"];
        let remedy = remedy(&self.home);
        let again = move |error: Error| error.with_remedy(|| remedy.clone());
        let batches = atomic::read_parquet_batches(&path, &columns).map_err(&again)?;
        Ok(batches.flat_map(move |batch| {
            let rows = batch.and_then(|batch| {
                let rows = findings::decisions_from_batch(&batch);
                rows.map_err(|reason| Error::damaged(&path, reason))
            });
            let rows = rows.map_err(&again);
            match rows {
                Ok(rows) => rows.into_iter().map(|row| Ok(decision(row))).collect(),
                Err(error) => vec![Err(error)],
            }
        }))
    }
}

fn decision(row: DecisionRow) -> Decision {
    Decision {
        reason: match row.reason.as_str() {
            "kept" => Reason::Kept,
            "corrupt" => Reason::Corrupt,
            "duplicate" => Reason::Duplicate,
            score => Reason::Score(score.into()),
        },
        id: row.id,
        duplicate_of: row.duplicate_of,
        duplicate_of_run: row.duplicate_of_run,
    }
}
