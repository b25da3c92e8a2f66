//! What is stored -> `report.html`, with the samples that it shows read again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::curated::reopen;
use super::progress::{Context, Running, Stage};
use super::run::Run;
use super::set::{Samples, read_scores, sample_rows};
use super::{duplicates, pairs};
use crate::atomic;
use crate::error::{Error, Result};
use crate::read::Inputs;
use crate::report::thumbnails::{Thumbnails, thumbnail};
use crate::report::{Decided, Facts, Pairs, Shown, page};
use crate::sample::{Decision, Sample};
use crate::store::RunDir;
use crate::store::run_file::RunFile;
use crate::store::tables::SampleRow;

/// The file's name in the run directory.
pub(super) const REPORT: &str = "report.html";

/// Samples that are read again at a time: what bounds the memory.
const CHUNK: usize = 64;

impl Run {
    /// Makes `RUN/report.html`, one self-contained page about what is stored, and gives its path. Only the samples that it
    /// shows are read again. Where the inputs are gone, or the
    /// embeddings were made by others, the page says so and has no pictures.
    ///
    /// # Errors
    /// [`Error::Run`] where a table is damaged.
    pub fn report(&mut self, context: Context) -> Result<PathBuf> {
        self.mend_decisions(context)?;
        if self.embed_request()?.imported {
            let reason = "the embeddings were made by others, without images";
            return self.report_from(Err(reason.into()), context);
        }
        let opened: Result<Vec<Inputs>> = self.dirs().into_iter().map(reopen).collect();
        match &opened {
            Ok(inputs) => self.report_from(Ok(&inputs.iter().collect::<Vec<_>>()), context),
            Err(error) => self.report_from(Err(error.to_string()), context),
        }
    }

    /// [`Run::report`] from inputs that are open already, one for each member, or the reason why they are not.
    pub(super) fn report_from(
        &mut self,
        inputs: Result<&[&Inputs], String>,
        context: Context,
    ) -> Result<PathBuf> {
        let samples = self.samples()?;
        let rows = sample_rows(&self.dirs()).collect::<Result<Vec<_>>>()?;
        let facts = self.facts(&samples, &rows)?;
        let shown = Shown::choose(&facts);
        let wanted: BTreeSet<usize> = shown.rows().iter().map(|row| facts.place(*row)).collect();
        let mut running = context.begin(Stage::Report, Some(wanted.len() as u64));
        let mut notes = Vec::new();
        let (own, of_earlier): (Vec<usize>, Vec<usize>) =
            wanted.iter().partition(|place| **place < rows.len());
        let mut thumbnails = match inputs {
            Ok(inputs) => {
                let wanted = own.iter().map(|at| (*at, (*at, &rows[*at]))).collect();
                look_again(inputs, &wanted, &mut running)?
            }
            Err(reason) => {
                context.note(&format!("report: no pictures, {reason}"));
                notes.push(format!("No pictures: {reason}."));
                BTreeMap::new()
            }
        };
        if !thumbnails.is_empty() && !of_earlier.is_empty() {
            let places = of_earlier.iter().map(|place| place - rows.len());
            let pictures = self.earlier_pictures(places.collect(), &mut running)?;
            let pictures = pictures
                .into_iter()
                .map(|(at, made)| (at + rows.len(), made));
            thumbnails.extend(pictures);
        }
        if let Some(complete) = self.file.complete_to {
            notes.push(format!(
                "Some rows have too many pairs for all to be stored: beyond an eps of {complete} the histogram counts only the nearest of them."
            ));
        }
        let page = page::page(&facts, &shown, &thumbnails, &notes);
        drop(facts);
        let path = self.home.path(REPORT);
        atomic::write(&path, |out| std::io::Write::write_all(out, page.as_bytes()))?;
        self.took(Stage::Report, running.finish());
        self.save()?;
        Ok(path)
    }

    fn facts<'a>(&'a self, samples: &'a Samples, rows: &'a [SampleRow]) -> Result<Facts<'a>> {
        let first: Option<RunFile> = match self.dirs().first() {
            Some(dir) => dir.read_run_file()?,
            None => None,
        };
        let mut scores = Vec::new();
        for score in &self.file.scores {
            let values = read_scores(&self.dirs(), samples, &score.name)?;
            scores.push((score.name.clone(), values));
        }
        let (mut pairs, mut order) = (None, Vec::new());
        if let (Some(dedup), Some(decide)) = (&self.file.dedup, &self.file.decide)
            && let Some(pair_files) = self.file.pair_files.filter(|_| decide.eps.is_some())
        {
            let mut found = Pairs::new(dedup.floor, self.file.complete_to);
            pairs::read_pairs(&self.home, samples, pair_files, |block| {
                found.add(block);
                Ok(())
            })?;
            found.finish();
            pairs = Some(found);
            let keep = decide.keep.parse();
            let keep = keep.map_err(|reason: String| Error::run(self.home.root(), reason))?;
            order = (samples.len() as u64..samples.all() as u64).collect();
            let own = duplicates::order(&self.home, &self.dirs(), samples, &keep, decide.seed)?;
            order.extend(own);
        }
        let earlier = self.earlier_places()?.into_iter();
        let earlier = earlier.map(|(run, _, row)| (run, row)).collect();
        let decided = if self.home.path("decisions.parquet").is_file() {
            Some(self.decided(samples, order)?)
        } else {
            None
        };
        Ok(Facts {
            run: self.home.root().display().to_string(),
            file: &self.file,
            embed: first.and_then(|file| file.embed),
            samples: rows,
            good: &samples.good,
            earlier,
            scores,
            decided,
            pairs,
        })
    }

    /// The stored decisions about the good rows, with the cosines that they were made by.
    fn decided(&self, samples: &Samples, order: Vec<u64>) -> Result<Decided> {
        let decisions = self.decisions()?;
        let same = |(decision, id): (&Decision, &str)| decision.id == id;
        if decisions.len() != samples.ids.len()
            || !decisions.iter().zip(samples.ids.iter()).all(same)
        {
            let path = self.home.path("decisions.parquet");
            return Err(Error::run(
                path,
                "does not fit samples/; decide again with clipsift filter",
            ));
        }
        let good = || samples.good.iter().map(|at| &decisions[*at]);
        let survivors: Vec<bool> = good()
            .map(|decision| decision.keep() || decision.duplicate_of.is_some())
            .collect();
        let fallen = self.fallen(samples, &survivors)?;
        let (rows, earlier) = (samples.by_id(), samples.earlier.by_id());
        let fell = |(row, decision): (usize, &Decision)| {
            let id = decision.duplicate_of.as_deref()?;
            let of = match decision.duplicate_of_run.as_deref() {
                None => *rows.get(id)? as usize,
                Some(run) => samples.len() + *earlier.get(&(run, id))? as usize,
            };
            let cosine = fallen[row]
                .filter(|f| f.row as usize == of)
                .map(|f| f.cosine);
            Some((of, cosine))
        };
        Ok(Decided {
            fallen: good()
                .enumerate()
                .map(fell)
                .chain((0..samples.earlier.len()).map(|_| None))
                .collect(),
            reasons: good().map(|decision| decision.reason.clone()).collect(),
            order,
        })
    }
}

impl Run {
    /// Pictures of rows of earlier sets, by their number there; a sentence for those whose run or inputs cannot be read.
    fn earlier_pictures(&self, rows: BTreeSet<usize>, running: &mut Running) -> Result<Thumbnails> {
        let places = self.earlier_places()?;
        let mut runs: BTreeMap<&str, Wanted> = BTreeMap::new();
        for row in rows {
            let (run, place, sample) = &places[row];
            let wanted = runs.entry(run).or_default();
            wanted.insert(*place as usize, (row, sample));
        }
        let mut thumbnails = BTreeMap::new();
        for (run, wanted) in runs {
            let inputs = reopen_run(Path::new(run));
            let made = match &inputs {
                Ok(inputs) => look_again(&inputs.iter().collect::<Vec<_>>(), &wanted, running)?,
                Err(_) => BTreeMap::new(),
            };
            let reason = match &inputs {
                Ok(_) => "the inputs have changed since the run".to_string(),
                Err(error) => error.to_string(),
            };
            let missing = wanted.values().map(|(row, _)| (*row, Err(reason.clone())));
            thumbnails.extend(missing);
            thumbnails.extend(made);
        }
        Ok(thumbnails)
    }
}

/// The inputs of an earlier run, one for each member.
fn reopen_run(root: &Path) -> Result<Vec<Inputs>> {
    let home = RunDir::open_to_read(root)?;
    let file = home.read_run_file()?.unwrap_or_default();
    if file.members.is_empty() {
        return Ok(vec![reopen(&home)?]);
    }
    let members = file.members.iter();
    members
        .map(|member| reopen(&RunDir::open_to_read(Path::new(member))?))
        .collect()
}

/// Samples to be seen again, by their place among those of the inputs: what they are called in the page, and their row.
type Wanted<'a> = BTreeMap<usize, (usize, &'a SampleRow)>;

/// Reads the wanted samples again, some at a time, and makes them small.
fn look_again(inputs: &[&Inputs], wanted: &Wanted, running: &mut Running) -> Result<Thumbnails> {
    let mut thumbnails = BTreeMap::new();
    let Some(last) = wanted.keys().last() else {
        return Ok(thumbnails);
    };
    let mut chunk: Vec<(usize, Sample)> = Vec::new();
    let mut make = |chunk: &mut Vec<(usize, Sample)>| {
        let made: Vec<_> = chunk
            .par_iter()
            .map(|(at, sample)| {
                let (name, row) = &wanted[at];
                let made = if row.id == sample.id {
                    thumbnail(sample, &row.sha256)
                } else {
                    Err("the inputs have changed since the run".into())
                };
                (*name, made)
            })
            .collect();
        chunk.clear();
        let done = made.len() as u64;
        thumbnails.extend(made);
        running.advance(done)
    };
    let again = inputs.iter().flat_map(|i| i.samples()).take(last + 1);
    for (at, sample) in again.enumerate() {
        if wanted.contains_key(&at) {
            chunk.push((at, sample));
        }
        if chunk.len() == CHUNK {
            make(&mut chunk)?;
        }
    }
    make(&mut chunk)?;
    Ok(thumbnails)
}
