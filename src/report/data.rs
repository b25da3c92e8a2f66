//! What the sliders work on: scores and pairs as compact arrays in JSON, and whether they are complete.
//!
//! Rows are renumbered for the page: those that occur in a pair come first, in order of preference, then the others, of which
//! only the scores matter. Numbers are little-endian arrays in base64: u32 for rows, f64 for cosines, f32 for scores, each as
//! stored, so that the page compares the very numbers that the commands compare.

use serde_json::{Value, json};

use super::html::base64;
use super::{Facts, Pairs};
use crate::dedup::decide::Pair;
use crate::store::run_file::{Bound, ClusterRequest, DedupRequest};

/// Scores that a page holds for its sliders: 13 MB of text.
pub(crate) const VALUES: usize = 2_500_000;

/// The data of the sliders, or a sentence on why there are none.
pub(super) fn sliders(facts: &Facts) -> Result<Value, String> {
    let Some(decided) = &facts.decided else {
        return Err("nothing has been decided yet".into());
    };
    let n = facts.rows();
    if facts.scores.is_empty() && facts.eps().is_none() {
        return Err("there are no scores and no pairs to decide by".into());
    }
    if n * facts.scores.len() > VALUES {
        return Err(format!(
            "{n} samples with {} scores are more than this page holds; use clipsift filter and clipsift dedup, which recompute \
             nothing but the decisions",
            facts.scores.len()
        ));
    }
    let mut eps = Value::Null;
    let mut identical: &[Pair] = &[];
    let mut near: &[Pair] = &[];
    if let (Some(value), Some(pairs)) = (facts.eps(), &facts.pairs) {
        let Some(max) = pairs.complete_to().filter(|max| *max >= value) else {
            return Err(format!(
                "{} pairs within reach of the eps of {value} are more than this page holds; clipsift dedup with another --eps \
                 decides anew without comparing again",
                pairs.total + pairs.identical_total
            ));
        };
        eps = json!({"value": value, "max": max});
        (identical, near) = (&pairs.identical, &pairs.near);
    }
    let (rows, nodes) = renumber(facts.all(), n, &decided.order, identical, near);
    let earlier = rows.iter().take_while(|row| **row >= n).count();
    let mut place = vec![0_u32; facts.all()];
    for (number, row) in rows.iter().enumerate() {
        place[*row] = number as u32;
    }
    let u32s = |of: fn(&Pair) -> u64| {
        let numbers = identical.iter().chain(near).map(|p| place[of(p) as usize]);
        base64(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
    };
    let cosines = near.iter().flat_map(|p| p.cosine.to_le_bytes());
    let scores = facts.scores.iter().map(|(name, values)| {
        let bytes: Vec<u8> = rows
            .iter()
            .flat_map(|row| values.get(*row).unwrap_or(&f32::NAN).to_le_bytes())
            .collect();
        let (low, high) = range(facts, name, values);
        json!({"name": name, "low": low, "high": high, "values": base64(&bytes)})
    });
    Ok(json!({
        "read": facts.samples.len(),
        "bad": facts.samples.len() - n,
        "rows": rows.len(),
        "earlier": earlier,
        "nodes": nodes,
        "eps": eps,
        "removal": facts.file.decide.as_ref().map(|d| d.removal.clone()),
        "identical": identical.len(),
        "a": u32s(|p| p.a),
        "b": u32s(|p| p.b),
        "cosine": base64(&cosines.collect::<Vec<u8>>()),
        "scores": scores.collect::<Vec<_>>(),
        "thresholds": thresholds(facts),
        "dedup": facts.file.dedup.as_ref().map(|dedup| flags(facts, dedup)),
    }))
}

/// Rows in the page's order, and how many of them occur in a pair. Those of earlier sets, from n on, are first in the order of
/// preference, and here where they occur in a pair.
fn renumber(
    all: usize,
    n: usize,
    order: &[u64],
    identical: &[Pair],
    near: &[Pair],
) -> (Vec<usize>, usize) {
    let mut paired = vec![false; all];
    for pair in identical.iter().chain(near) {
        paired[pair.a as usize] = true;
        paired[pair.b as usize] = true;
    }
    let ranked = order.iter().map(|row| *row as usize);
    let mut rows: Vec<usize> = ranked.filter(|row| paired[*row]).collect();
    let nodes = rows.len();
    rows.extend((0..n).filter(|row| !paired[*row]));
    (rows, nodes)
}

/// The range of a score for charts and sliders: its values, and thresholds that are not too far from them, rounded outwards to
/// what a person would write.
pub(super) fn range(facts: &Facts, name: &str, values: &[f32]) -> (f64, f64) {
    let values = values.iter().map(|x| f64::from(*x));
    let values = values.filter(|x| x.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
        (low.min(x), high.max(x))
    });
    if low > high {
        return (0.0, 1.0);
    }
    let reach = if low == high { 0.5 } else { high - low };
    let bounds = facts.thresholds(name).map(|t| match t.bound {
        Bound::Min(x) | Bound::Max(x) => x,
    });
    let near = bounds.filter(|x| (low - reach..=high + reach).contains(x));
    let (low, high) = near.fold((low, high), |(low, high), x| (low.min(x), high.max(x)));
    let places = (-(reach / 100.0).log10()).ceil().clamp(0.0, 12.0);
    let unit = 10_f64.powf(places);
    // Next to the ends, so that no value lies on them.
    let outwards = (
        (low * unit - 0.5).floor() / unit,
        (high * unit + 0.5).ceil() / unit,
    );
    if outwards.0.is_finite() && outwards.1.is_finite() {
        outwards
    } else {
        (low, high)
    }
}

/// A control of a threshold: those of the run in the order of the request, then one that is off for each other score.
pub(super) struct Control {
    /// Place of the score among the scores.
    pub score: usize,
    /// What is kept.
    pub bound: Bound,
    /// Whether the run has it.
    pub on: bool,
}

/// The controls, in the order in which the page numbers them.
pub(super) fn controls(facts: &Facts) -> Vec<Control> {
    let mut controls = Vec::new();
    for threshold in &facts.file.thresholds {
        let score = facts.scores.iter().position(|s| s.0 == threshold.score);
        controls.extend(score.map(|score| Control {
            score,
            bound: threshold.bound,
            on: true,
        }));
    }
    for (score, (name, values)) in facts.scores.iter().enumerate() {
        if facts.thresholds(name).next().is_none() {
            let (low, high) = range(facts, name, values);
            let bound = match name.as_str() {
                "nsfw" => Bound::Max(high),
                _ => Bound::Min(low),
            };
            controls.push(Control {
                score,
                bound,
                on: false,
            });
        }
    }
    controls
}

fn thresholds(facts: &Facts) -> Vec<Value> {
    let control = |c: &Control| {
        let (bound, value) = match c.bound {
            Bound::Min(x) => ("min", x),
            Bound::Max(x) => ("max", x),
        };
        // JSON has no infinity.
        let value = value.clamp(f64::MIN, f64::MAX);
        json!({"score": c.score, "bound": bound, "value": value, "on": c.on})
    };
    controls(facts).iter().map(control).collect()
}

/// The flags with which `clipsift dedup` finds the same clusters and pairs and ranks alike.
fn flags(facts: &Facts, dedup: &DedupRequest) -> String {
    let mut flags = format!("--dedup {}", dedup.mode);
    let mut seeded = false;
    if let Some(clusters) = &dedup.clusters {
        flags += &cluster_flags(clusters);
        seeded = true;
    }
    for earlier in &dedup.against {
        let run = shlex::try_quote(&earlier.run).unwrap_or(earlier.run.as_str().into());
        flags += &format!(" --against {run}");
    }
    if let Some(decide) = &facts.file.decide {
        for (flag, value, usual) in [
            ("keep", &decide.keep, "largest"),
            ("removal", &decide.removal, "group"),
        ] {
            if value != usual {
                flags += &format!(" --{flag} {value}");
            }
        }
        if decide.seed != 42 && (seeded || decide.keep == "random") {
            flags += &format!(" --seed {}", decide.seed);
        }
    }
    flags
}

fn cluster_flags(clusters: &ClusterRequest) -> String {
    let mut flags = format!(" --clusters {}", clusters.clusters);
    for (flag, value, usual) in [
        ("init", clusters.init.clone(), "k-means++"),
        ("iterations", clusters.iterations.to_string(), "300"),
        ("tol", clusters.tol.to_string(), "0.0001"),
        ("fit-fraction", clusters.fit_fraction.to_string(), "1"),
        ("restarts", clusters.restarts.to_string(), "1"),
    ] {
        if value != usual {
            flags += &format!(" --{flag} {value}");
        }
    }
    if clusters.centroids.is_some() {
        flags += " --centroids FILE";
    }
    flags
}

/// What the page says of the reach of its eps slider; none where it goes to the floor.
pub(super) fn reach(pairs: &Pairs) -> Option<String> {
    let max = pairs.complete_to()?;
    (max < pairs.floor).then(|| {
        format!(
            "The run has {} pairs down to its floor of {}; this page holds the nearest {}, so its eps slider ends at {max}.",
            super::html::count(pairs.total),
            pairs.floor,
            super::html::count(pairs.near.len() as u64),
        )
    })
}
