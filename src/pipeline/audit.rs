//! What clustering lost: `duplicates/audit.parquet` and `audit` in `run.json`.

use super::against::Against;
use super::dedup::Dedup;
use super::duplicates::Mode;
use super::matrix::Matrix;
use super::pairs;
use super::progress::{Context, Stage};
use super::run::Run;
use super::set::{Samples, read_clusters};
use crate::atomic;
use crate::dedup::audit::{self, Audit};
use crate::error::Result;
use crate::ops::identical::first_identical;
use crate::ops::rows::Rows;
use crate::store::findings;
use crate::store::run_file::{AuditResult, WORST, WorstCluster};

/// Where the rows looked at stand.
const AUDIT: &str = "duplicates/audit.parquet";

impl Run {
    /// The audit that is to be made: none where none was asked for, or it is there. One of other clusters, pairs or another eps
    /// goes.
    pub(super) fn audit_wanted(
        &mut self,
        dedup: &Dedup,
        mode: Mode,
        eps: f64,
        context: Context,
    ) -> Result<Option<audit::Params>> {
        if mode != Mode::Semantic && dedup.audit.is_some() {
            context.note("dedup: no audit, because every pair was compared");
        }
        let asked = dedup.audit.filter(|_| mode == Mode::Semantic);
        let wanted = asked.map(|rows| audit::Params {
            rows,
            eps,
            seed: dedup.seed,
            tile: dedup.tile,
        });
        let serves = |stored: &AuditResult| {
            let same = |p: &audit::Params| stored.rows == p.rows && stored.seed == p.seed;
            let there = self.home.path(AUDIT).is_file();
            stored.eps == eps && wanted.as_ref().is_none_or(same) && there
        };
        if self.file.audit.as_ref().is_some_and(serves) {
            return Ok(None);
        }
        self.file.audit = None;
        atomic::remove_file(self.home.path(AUDIT))?;
        Ok(wanted)
    }

    /// Holds the stored pairs against the true neighbours of some rows.
    pub(super) fn audit(
        &mut self,
        samples: &Samples,
        against: &Against,
        d: usize,
        params: &audit::Params,
        held: Option<u64>,
        context: Context,
    ) -> Result<()> {
        if samples.len() == 0 {
            return Ok(());
        }
        let drawn = params.rows.min(samples.len()) as u64;
        let mut running = context.begin(Stage::Audit, Some(drawn));
        let matrix = Matrix::read(&self.home, &self.dirs(), samples, against, d, held, context)?;
        let all = Rows::all(&matrix, d)?;
        // Of identical rows of earlier sets one stands for all, in pairs too.
        let own = samples.len();
        let earlier: Vec<u64> = (own as u64..samples.all() as u64).collect();
        let first = first_identical(all.select(&earlier)?);
        let distinct = (0..earlier.len()).filter(|&p| first[p] == p as u64);
        let rows: Vec<u64> = (0..own as u64)
            .chain(distinct.map(|p| earlier[p]))
            .collect();
        let view = all.select(&rows)?;
        let mut audit =
            Audit::search_among(view, samples.len(), params, |rows| running.advance(rows))?;
        drop(matrix);
        let (_, files) = self.found()?;
        pairs::read_pairs(&self.home, samples, files, |block| Ok(audit.link(block)?))?;
        pairs::read_pairs(&self.home, samples, files, |block| Ok(audit.mark(block)?))?;
        let (labels, _) = read_clusters(&self.home, samples)?;
        let (audited, info) = audit.finish(&labels)?;
        let id = |row: u64| samples.id(row as usize);
        let table: Vec<_> = audited
            .iter()
            .map(|row| (id(row.row), row.cluster, row.neighbours, row.found))
            .collect();
        let table = findings::audit_to_batch(samples.id_type, &table)?;
        atomic::write_parquet(self.home.path(AUDIT), &table)?;
        self.file.audit = Some(result(params, info));
        self.took(Stage::Audit, running.finish());
        self.save()
    }
}

fn result(params: &audit::Params, info: audit::Info) -> AuditResult {
    let worst = info.worst.into_iter().take(WORST);
    AuditResult {
        rows: params.rows,
        eps: params.eps,
        seed: params.seed,
        audited: info.audited,
        with_neighbours: info.with_neighbours,
        recall: info.recall,
        interval: info.interval,
        lost: info.lost,
        cut: info.cut,
        neighbours: info.neighbours,
        found: info.found,
        worst: worst
            .map(|worst| WorstCluster {
                cluster: worst.cluster,
                audited: worst.audited,
                missed: worst.missed,
                recall: worst.recall,
            })
            .collect(),
    }
}
