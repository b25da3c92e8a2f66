//! What a command came to: the table at the end, or one JSON object.

use std::io::Write;
use std::path::PathBuf;

use clipsift::pipeline::{Run, Summary};
use clipsift::store::run_file::AuditResult;
use serde_json::{Map, Value, json};

use super::terminal::{Done, Terminal, unit};

/// Prints it on stdout.
pub(crate) fn print(run: &Run, summary: &Summary, terminal: &Terminal) {
    let stages = terminal.finished();
    if terminal.is_json() {
        terminal.tell(object(run, summary, &stages));
        return;
    }
    table(&stages);
    let row = |name: &str, value: String| out!("{name:<22} {value:>10}");
    row("read", summary.read.to_string());
    row("bad", summary.bad.to_string());
    if summary.decided {
        for (name, count) in &summary.below {
            row(&format!("not passing {name}"), count.to_string());
        }
        row("duplicates", summary.duplicates.to_string());
        if summary.copies > 0 {
            row("  byte-identical", summary.copies.to_string());
        }
        if summary.earlier > 0 {
            row("  of an earlier set", summary.earlier.to_string());
        }
        row("kept", summary.kept.to_string());
    }
    if let Some(audit) = &run.file().audit {
        print_audit(audit);
    }
    if let Some(rate) = summary.images_per_second {
        row("images/s", format!("{rate:.1}"));
    }
    out!("run                    {}", run.root().display());
    if let Some(curated) = curated(run) {
        out!("curated                {}", curated.display());
    }
    if let Some(report) = report(run) {
        out!("report                 {}", report.display());
    }
}

/// The stages that went by in this command.
fn table(stages: &[Done]) {
    if stages.is_empty() {
        return;
    }
    out!(
        "{:<10} {:>14} {:<14} {:>9} {:>12}",
        "stage",
        "count",
        "",
        "seconds",
        "a second"
    );
    for done in stages {
        let rate = done.rate().map_or("-".into(), |rate| {
            // Of what took no time to speak of a rate says nothing.
            if done.seconds < 0.001 {
                "-".into()
            } else {
                format!("{rate:.1}")
            }
        });
        out!(
            "{:<10} {:>14} {:<14} {:>9.2} {rate:>12}",
            done.stage.as_str(),
            done.items,
            unit(done.stage),
            done.seconds
        );
    }
    out!();
}

/// The same for a program; fields that do not apply are null or absent.
fn object(run: &Run, summary: &Summary, stages: &[Done]) -> Value {
    let stages: Vec<Value> = stages
        .iter()
        .map(|done| {
            json!({
                "stage": done.stage.as_str(),
                "unit": unit(done.stage),
                "done": done.items,
                "done_before": done.passed,
                "seconds": done.seconds,
                "per_second": done.rate(),
            })
        })
        .collect();
    let mut object = json!({
        "event": "summary",
        "run": run.root().display().to_string(),
        "read": summary.read,
        "bad": summary.bad,
        "decided": summary.decided,
        "images_per_second": summary.images_per_second,
        "stages": stages,
        "audit": run.file().audit,
        "curated": curated(run).map(|path| path.display().to_string()),
        "report": report(run).map(|path| path.display().to_string()),
    });
    if let (true, Some(fields)) = (summary.decided, object.as_object_mut()) {
        let below = summary.below.iter();
        let below: Map<String, Value> = below.map(|(name, n)| (name.clone(), json!(n))).collect();
        fields.insert("not_passing".into(), below.into());
        for (name, count) in [
            ("duplicates", summary.duplicates),
            ("byte_identical", summary.copies),
            ("of_an_earlier_set", summary.earlier),
            ("kept", summary.kept),
        ] {
            fields.insert(name.into(), count.into());
        }
    }
    object
}

/// What clustering lost.
fn print_audit(audit: &AuditResult) {
    let row = |name: &str, value: String| out!("{name:<22} {value:>10}");
    row("audited at eps", audit.eps.to_string());
    row("audited rows", audit.audited.to_string());
    row("with a neighbour", audit.with_neighbours.to_string());
    let (Some(recall), Some((low, high))) = (audit.recall, audit.interval) else {
        row("recall", "unknown".into());
        return;
    };
    out!(
        "{:<22} {recall:>10.4}  95 % interval {low:.4} to {high:.4}",
        "recall"
    );
    row("rows that lost all", audit.lost.to_string());
    row("rows that lost some", audit.cut.to_string());
    let missed = audit.neighbours - audit.found;
    out!(
        "{:<22} {missed:>10}  of {}",
        "neighbours missed",
        audit.neighbours
    );
    if !audit.worst.is_empty() {
        out!(
            "{:<22} {:>10} {:>10} {:>10}",
            "worst clusters",
            "audited",
            "missed",
            "recall"
        );
    }
    for worst in &audit.worst {
        let name = format!("  cluster {}", worst.cluster);
        let (audited, missed, recall) = (worst.audited, worst.missed, worst.recall);
        out!("{name:<22} {audited:>10} {missed:>10} {recall:>10.4}");
    }
}

/// The curated set in the run, where there is one.
fn curated(run: &Run) -> Option<PathBuf> {
    let written = run.file().write.as_ref()?;
    (written.layout != "none").then(|| run.root().join("curated"))
}

/// The run's page, where there is one.
pub(crate) fn report(run: &Run) -> Option<PathBuf> {
    Some(run.root().join("report.html")).filter(|path| path.is_file())
}
