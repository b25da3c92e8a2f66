//! What a head is and whether it can be run: `clipsift models check`.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Head, Plan, PlanStep, Scorer, join, plan_path, recognise};
use crate::clip::check::Findings;
use crate::clip::weights::Weights;
use crate::error::{Error, Result};
use crate::manifest;

/// A head in a `.safetensors` or `.pth` file, called `name` in messages.
pub fn head(name: &str, path: &Path) -> Findings {
    let mut found = Findings::default();
    found.fact("head", name);
    let Some(weights) = found.good(Weights::open_file(path)) else {
        return found;
    };
    found.tensors(&weights);
    let plan_file = plan_path(path);
    let plan = match std::fs::read_to_string(&plan_file) {
        Ok(json) => {
            found.fact("described by", plan_file.display().to_string());
            let parsed = serde_json::from_str(&json).map_err(|e| {
                let reason = format!("{} does not describe a head: {e}", plan_file.display());
                Error::model(name, reason)
            });
            parsed as Result<Plan>
        }
        Err(_) => recognise(name, &weights, &plan_file),
    };
    let names = weights.names();
    let Some(plan) = found.good(plan) else {
        found.keys("has", &names.iter().cloned().collect::<Vec<_>>());
        if names.iter().any(|key| key.starts_with("vision_model.")) {
            let reason = "these are the weights of a CLIP: check the folder that they are in";
            found.problems.push(reason.into());
        }
        return found;
    };
    found.fact("layers", layers(&plan, &weights));
    let asked: BTreeSet<String> = plan.layers.iter().flat_map(keys).collect();
    let (optional, missing): (Vec<String>, Vec<String>) = asked
        .difference(&names)
        .cloned()
        .partition(|key| key == "bias" || key.ends_with(".bias"));
    let unexpected: Vec<String> = names.difference(&asked).cloned().collect();
    found.keys("missing", &missing);
    found.keys("zero for", &optional);
    found.keys("unexpected", &unexpected);
    let Some(head) = found.good(Head::read(name, path)) else {
        return found;
    };
    let d = head.dims;
    let fits: Vec<&str> = manifest::manifest()
        .models
        .iter()
        .filter(|m| m.d == d)
        .map(|m| m.name.as_str())
        .collect();
    let fits = match fits.is_empty() {
        true => String::new(),
        false => format!(", such as {} gives", fits.join(", ")),
    };
    found.fact("takes", format!("{d} dims{fits}"));
    // A unit row that points nowhere in particular.
    let row = vec![1.0 / (d as f32).sqrt(); d];
    match found.good(head.score(&row, d)) {
        Some(scores) if scores.iter().any(|score| !score.is_finite()) => found
            .problems
            .push("the score of a unit row is not a finite number".into()),
        Some(scores) => found.fact("tried", format!("one row scores {:.4}", scores[0])),
        None => {}
    }
    found
}

/// The tensors that a step takes.
fn keys(step: &PlanStep) -> Vec<String> {
    match step {
        PlanStep::Linear { linear } => ["weight", "bias"].map(|n| join(linear, n)).into(),
        PlanStep::Norm { norm } => ["mean", "variance"].map(|n| join(norm, n)).into(),
        PlanStep::Pointwise(_) => Vec::new(),
    }
}

/// The steps with their widths: `norm, 768 -> 64, relu, 64 -> 1, sigmoid`.
fn layers(plan: &Plan, weights: &Weights) -> String {
    let step = |step: &PlanStep| match step {
        PlanStep::Norm { .. } => "norm".to_string(),
        PlanStep::Pointwise(f) => format!("{f:?}").to_lowercase(),
        PlanStep::Linear { linear } => match weights.shape(&join(linear, "weight")).as_deref() {
            Some([out, width]) => format!("{width} -> {out}"),
            Some(other) => format!("{linear} {other:?}"),
            None => format!("{linear} (missing)"),
        },
    };
    plan.layers.iter().map(step).collect::<Vec<_>>().join(", ")
}
