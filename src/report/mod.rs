//! The report: one self-contained HTML page about a run, from what the run stored.
//!
//! It goes like this: the pipeline gathers [`Facts`] from the tables, [`Shown::choose`] says which samples are worth a picture,
//! the pipeline reads those again and [`thumbnails`] makes them small, [`page::write`] puts everything together. The page loads
//! nothing from anywhere: its policy forbids it, and its pictures, style and script stand in it.
//!
//! The page is the same for the same run, but for one line: the one that names the run directory and the seconds, which
//! begins with [`THIS_RUN`].
//!
//! Sizes are bounded. At most [`choose::GROUPS`] groups of duplicates are shown, spread over their cosines; the sliders work on
//! at most [`pairs::PAIRS`] pairs and [`data::VALUES`] scores. Where a run has more, the page says so, and offers no slider
//! whose numbers would not be those of the commands.

pub(crate) mod choose;
mod data;
mod histogram;
mod html;
pub(crate) mod page;
pub(crate) mod pairs;
mod sections;
pub(crate) mod thumbnails;

use crate::sample::Reason;
use crate::store::run_file::{Bound, EmbedRequest, RunFile, Threshold};
use crate::store::tables::SampleRow;

pub(crate) use choose::Shown;
pub(crate) use pairs::Pairs;

/// How the one line of the page begins that differs between runs of the same request.
pub(crate) const THIS_RUN: &str = r#"<script type="application/json" id="this-run">"#;

/// What is known of a run.
pub(crate) struct Facts<'a> {
    /// The run directory as the user wrote it.
    pub run: String,
    /// What `run.json` says.
    pub file: &'a RunFile,
    /// What made the embeddings; of a set of runs, those of the first.
    pub embed: Option<EmbedRequest>,
    /// All samples, good and bad, in read order.
    pub samples: &'a [SampleRow],
    /// Positions in `samples` of the good ones, which are the rows of everything below.
    pub good: &'a [usize],
    /// Rows of earlier sets, which count from n on: their run and what stands in its `samples/`.
    pub earlier: Vec<(String, SampleRow)>,
    /// Scores by name, `[n]` each.
    pub scores: Vec<(String, Vec<f32>)>,
    /// What was decided, once it is.
    pub decided: Option<Decided>,
    /// The stored pairs, where duplicates were looked for.
    pub pairs: Option<Pairs>,
}

/// What was decided about the good rows.
pub(crate) struct Decided {
    /// Why a row is kept or not, `[n]`.
    pub reasons: Vec<Reason>,
    /// What a row fell to, `[n + m]`, nothing for rows of earlier sets: the row, and their cosine where the stored pairs have it.
    pub fallen: Vec<Option<(usize, Option<f64>)>>,
    /// All rows in order of preference, earlier sets first; empty where duplicates were not looked for.
    pub order: Vec<u64>,
}

impl Facts<'_> {
    /// n: good rows.
    fn rows(&self) -> usize {
        self.good.len()
    }

    /// n + m: good rows and those of earlier sets.
    fn all(&self) -> usize {
        self.good.len() + self.earlier.len()
    }

    /// A row's sample.
    fn sample(&self, row: usize) -> &SampleRow {
        match row.checked_sub(self.rows()) {
            None => &self.samples[self.good[row]],
            Some(earlier) => &self.earlier[earlier].1,
        }
    }

    /// The earlier run that a row is of.
    fn run_of(&self, row: usize) -> Option<&str> {
        let earlier = row.checked_sub(self.rows())?;
        Some(&self.earlier[earlier].0)
    }

    /// Where a row's picture stands among the thumbnails: its place in `samples`, those of earlier sets after all.
    pub(crate) fn place(&self, row: usize) -> usize {
        match row.checked_sub(self.rows()) {
            None => self.good[row],
            Some(earlier) => self.samples.len() + earlier,
        }
    }

    /// The eps that was decided with; none where duplicates were not looked for.
    fn eps(&self) -> Option<f64> {
        self.pairs.as_ref()?;
        self.file.decide.as_ref()?.eps
    }

    fn reason(&self, row: usize) -> Option<&Reason> {
        self.decided
            .as_ref()
            .and_then(|decided| decided.reasons.get(row))
    }

    /// The thresholds on a score.
    fn thresholds(&self, score: &str) -> impl Iterator<Item = &Threshold> {
        let of = move |t: &&Threshold| t.score == score;
        self.file.thresholds.iter().filter(of)
    }

    /// Whether a row's picture is to be blurred: its score `nsfw` fails its threshold, or is at least .5 without one.
    fn veiled(&self, row: usize) -> bool {
        let Some((name, scores)) = self.scores.iter().find(|(name, _)| name == "nsfw") else {
            return false;
        };
        let Some(score) = scores.get(row) else {
            // Nothing is known of it here.
            return true;
        };
        let upper = |t: &Threshold| matches!(t.bound, Bound::Max(_));
        let mut bounds = self.thresholds(name).filter(|t| upper(t)).peekable();
        if bounds.peek().is_none() {
            // What is not a number is not known to be harmless.
            return score.is_nan() || *score >= 0.5;
        }
        bounds.any(|t| !t.keeps(*score))
    }

    /// Whether what was decided follows from the thresholds as they are now.
    fn current(&self) -> bool {
        let thresholds: Vec<(&Threshold, Option<&[f32]>)> = self
            .file
            .thresholds
            .iter()
            .map(|t| (t, self.scores.iter().find(|(name, _)| *name == t.score)))
            .map(|(t, score)| (t, score.map(|(_, values)| values.as_slice())))
            .collect();
        let fails = |row: usize| {
            let passes =
                |t: &Threshold, values: Option<&[f32]>| values.is_some_and(|v| t.keeps(v[row]));
            let first = thresholds.iter().find(|(t, values)| !passes(t, *values));
            first.map(|(t, _)| t.score.as_str())
        };
        let reasons = self.decided.iter().flat_map(|decided| &decided.reasons);
        reasons
            .enumerate()
            .all(|(row, reason)| match (fails(row), reason) {
                (Some(fails), Reason::Score(name)) => fails == name,
                (Some(_), _) => false,
                // Else a test of the program's own, which has no threshold.
                (None, Reason::Score(name)) => self.thresholds(name).next().is_none(),
                (None, _) => true,
            })
    }

    /// Names of tests that a program of the user's own made and that samples fell to.
    fn filters(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for reason in self.decided.iter().flat_map(|decided| &decided.reasons) {
            if let Reason::Score(name) = reason
                && self.thresholds(name).next().is_none()
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }
}
