//! Events for programs, documented in docs/events.md: names and fields here are a contract.

use clipsift::pipeline::Stage;
use serde_json::{Value, json};

use super::pace::Pace;
use super::{Done, unit};

pub(super) fn stage_start(stage: Stage, total: Option<u64>) -> Value {
    json!({"event": "stage_start", "stage": stage.as_str(), "unit": unit(stage), "total": total})
}

pub(super) fn progress(stage: Stage, done: u64, total: Option<u64>, pace: &Pace) -> Value {
    json!({
        "event": "progress",
        "stage": stage.as_str(),
        "done": done,
        "total": total,
        "per_second": pace.rate(),
        "seconds_left": pace.left(done, total),
    })
}

pub(super) fn download(file: &str, done: u64, total: Option<u64>, pace: &Pace) -> Value {
    json!({
        "event": "download",
        "file": file,
        "done": done,
        "total": total,
        "per_second": pace.rate(),
        "seconds_left": pace.left(done, total),
    })
}

pub(super) fn bad_sample(id: &str, source: &str, reason: &str) -> Value {
    json!({"event": "bad_sample", "id": id, "source": source, "reason": reason})
}

pub(super) fn stage_end(done: &Done) -> Value {
    json!({
        "event": "stage_end",
        "stage": done.stage.as_str(),
        "unit": unit(done.stage),
        "done": done.items,
        "done_before": done.passed,
        "seconds": done.seconds,
        "per_second": done.rate(),
    })
}
