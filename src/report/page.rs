//! The page as a whole: the template with everything in its place.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::data;
use super::html::{base64, count, count_of, escape, fill, json as json_text, number, push};
use super::sections;
use super::thumbnails::Thumbnails;
use super::{Facts, Shown, THIS_RUN};
use crate::sample::Reason;

const TEMPLATE: &str = include_str!("assets/report.html");
const STYLE: &str = include_str!("assets/report.css");
const DECIDE: &str = include_str!("assets/decide.js");
const SCRIPT: &str = include_str!("assets/page.js");

/// Inputs that are named at most.
const INPUTS: usize = 3;

/// The page. `notes` are sentences on what could not be shown.
pub(crate) fn page(
    facts: &Facts,
    shown: &Shown,
    thumbnails: &Thumbnails,
    notes: &[String],
) -> String {
    let mut notes = notes.to_vec();
    let filters = facts.filters();
    if !filters.is_empty() {
        notes.push(format!(
            "Some samples fell to tests of the program that made this run ({}). The sliders and the commands do not know these \
             tests: their counts leave them out.",
            filters.join(", ")
        ));
    }
    if !facts.current() {
        notes.push(
            "The thresholds have changed since this was decided: clipsift filter RUN with the thresholds wanted decides anew."
                .into(),
        );
    }
    if facts.decided.is_none() {
        notes.push(
            "Nothing has been decided yet: clipsift dedup RUN or clipsift filter RUN does.".into(),
        );
    }
    let (sliders, off) = match data::sliders(facts) {
        Ok(data) => (data, String::new()),
        Err(reason) => (json!({"off": true}), format!("No sliders: {reason}.")),
    };
    if off.is_empty() {
        notes.extend(facts.pairs.as_ref().and_then(data::reach));
    }
    let notes: String = notes
        .iter()
        .map(|note| format!(r#"<p class="note warn">{}</p>"#, escape(note)))
        .collect();
    let title = title(facts);
    let steps = steps(facts);
    // What there is comes before what there could be.
    let scored = !facts.scores.is_empty();
    let scores = format!(
        "<section id=\"scores\">\n<h2>Scores</h2>\n{}\n</section>",
        sections::scores(facts, shown, thumbnails)
    );
    let stored: Vec<_> = steps.iter().map(|s| json!([s.key, s.count])).collect();
    let mut sliders = sliders;
    sliders["stored"] = json!(stored);
    fill(
        TEMPLATE,
        &[
            ("decide-hash", &hash(DECIDE)),
            ("script-hash", &hash(SCRIPT)),
            ("title", &escape(&title)),
            ("style", STYLE),
            ("lede", &lede(facts)),
            ("tiles", &tiles(&steps)),
            ("notes", &notes),
            ("funnel", &funnel(&steps)),
            ("off", &escape(&off)),
            ("scores-first", if scored { &scores } else { "" }),
            ("scores-last", if scored { "" } else { &scores }),
            (
                "duplicates",
                &sections::duplicates(facts, shown, thumbnails),
            ),
            ("near", &sections::near_misses(facts, shown, thumbnails)),
            ("bad", &sections::bad(facts)),
            ("this-run", &this_run(facts)),
            ("data", &json_text(&sliders)),
            ("decide", DECIDE),
            ("script", SCRIPT),
        ],
    )
}

/// How the page's policy names the only scripts that may run.
fn hash(script: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(script)))
}

/// What differs between runs of one request, in one line.
fn this_run(facts: &Facts) -> String {
    let seconds = facts.file.seconds.iter();
    let seconds: serde_json::Map<String, serde_json::Value> = seconds
        .filter(|(stage, _)| *stage != "report")
        .map(|(stage, seconds)| (stage.clone(), json!(seconds)))
        .collect();
    let value = json!({"run": facts.run, "seconds": seconds});
    format!("{THIS_RUN}{}</script>", json_text(&value))
}

/// What the run is over, by the last name of each input.
fn title(facts: &Facts) -> String {
    let own = facts.embed.as_ref().map(|e| &e.inputs[..]).unwrap_or(&[]);
    let inputs = if facts.file.members.is_empty() {
        own
    } else {
        &facts.file.members[..]
    };
    let name = |input: &String| {
        let path = Path::new(input).file_name();
        path.map_or_else(|| input.clone(), |name| name.to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = inputs.iter().take(INPUTS).map(name).collect();
    if inputs.len() > INPUTS {
        names.push(format!("{} more", inputs.len() - INPUTS));
    }
    if names.is_empty() {
        "clipsift".into()
    } else {
        names.join(", ")
    }
}

/// How the run was made, in one line.
fn lede(facts: &Facts) -> String {
    let mut parts = Vec::new();
    if let Some(embed) = &facts.embed {
        let model = Path::new(&embed.model);
        // A hub id stays whole, a folder is called by its name.
        let model = match (model.is_absolute(), model.file_name()) {
            (true, Some(name)) => name.to_string_lossy().into_owned(),
            _ => embed.model.clone(),
        };
        if embed.imported {
            parts.push("embeddings made by others".into());
        } else {
            parts.push(format!("model <b>{}</b>", escape(&model)));
        }
        parts.push(format!("{} dims, {}", embed.dims, escape(&embed.dtype)));
        parts.extend(
            embed
                .partition
                .as_ref()
                .map(|p| format!("partition {}", escape(p))),
        );
    }
    if let (Some(eps), Some(decide), Some(dedup)) =
        (facts.eps(), &facts.file.decide, &facts.file.dedup)
    {
        parts.push(format!(
            "{} duplicates within eps <b>{eps}</b>",
            escape(&dedup.mode)
        ));
        parts.push(format!(
            "keep {}, removal {}",
            escape(&decide.keep),
            escape(&decide.removal)
        ));
    }
    if !facts.file.members.is_empty() {
        parts.push(format!("a set of {} runs", facts.file.members.len()));
    }
    parts.join(" · ")
}

/// A step of the funnel.
struct Step {
    /// As the page's script calls it.
    key: String,
    label: String,
    count: u64,
    /// Samples that are left after it.
    left: u64,
    /// Samples that fall here, rather than stay.
    falls: bool,
}

fn steps(facts: &Facts) -> Vec<Step> {
    let read = facts.samples.len() as u64;
    let mut left = read;
    let mut steps = Vec::new();
    let mut step = |key: &str, label: String, count: u64, falls: bool| {
        left -= if falls { count } else { 0 };
        let key = key.to_string();
        steps.push(Step {
            key,
            label,
            count,
            left,
            falls,
        });
    };
    step("read", "read".into(), read, false);
    step("bad", "bad".into(), read - facts.rows() as u64, true);
    let Some(decided) = &facts.decided else {
        return steps;
    };
    let count = |reason: &Reason| decided.reasons.iter().filter(|r| *r == reason).count() as u64;
    let mut names: Vec<&str> = Vec::new();
    for threshold in &facts.file.thresholds {
        if !names.contains(&threshold.score.as_str()) {
            names.push(&threshold.score);
        }
    }
    names.extend(facts.filters());
    for name in names {
        let fell = count(&Reason::Score(name.into()));
        step(
            &format!("score:{name}"),
            format!("not passing {name}"),
            fell,
            true,
        );
    }
    step(
        "duplicates",
        "duplicates".into(),
        count(&Reason::Duplicate),
        true,
    );
    step("kept", "kept".into(), count(&Reason::Kept), false);
    steps
}

/// The numbers at the top.
fn tiles(steps: &[Step]) -> String {
    let read = steps.first().map_or(0, |step| step.count);
    let mut out = String::new();
    for step in steps {
        let class = if step.key == "kept" { " main" } else { "" };
        let share = if read == 0 || step.key == "read" {
            "&nbsp;".into()
        } else {
            format!(
                "{} %",
                number((step.count as f64 / read as f64 * 1000.0).round() / 10.0)
            )
        };
        push(
            &mut out,
            format_args!(
                r#"<div class="tile{class}"><b>{}</b><span>{}</span><small>{share}</small></div>"#,
                count(step.count),
                escape(&step.label)
            ),
        );
    }
    out
}

fn funnel(steps: &[Step]) -> String {
    let read = steps.first().map_or(0, |step| step.count).max(1) as f64;
    let share = |n: u64| n as f64 / read * 100.0;
    let mut out = String::new();
    for step in steps {
        let (kept, fell) = if step.falls {
            (step.left, step.count)
        } else {
            (step.count, 0)
        };
        push(
            &mut out,
            format_args!(
                r#"<div class="step" title="{}"><span>{}</span><span class="bar"><i style="width:{:.3}%"></i><i class="fell" style="width:{:.3}%"></i></span><b>{}{}</b></div>"#,
                count_of(step.left, "sample"),
                escape(&step.label),
                share(kept),
                share(fell),
                if step.falls && step.count > 0 {
                    "−"
                } else {
                    ""
                },
                count(step.count)
            ),
        );
    }
    out
}
