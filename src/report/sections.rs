//! The parts of the page that show samples: duplicate groups, near misses, contact sheets, bad samples.

use std::collections::BTreeMap;

use super::choose::{Group, Member, Shown};
use super::data::{Control, controls, range};
use super::histogram::{Histogram, Mark};
use super::html::{cosine, count, count_of, escape, number, push};
use super::thumbnails::Thumbnails;
use super::{Facts, Pairs};
use crate::sample::Reason;
use crate::store::run_file::Bound;

/// Reasons of bad samples that are listed at most, and samples named for each.
const REASONS: usize = 60;
const NAMED: usize = 5;

/// A sample's picture with its name, its pixel size and a line of its own.
fn card(facts: &Facts, thumbnails: &Thumbnails, row: usize, class: &str, line: &str) -> String {
    let sample = facts.sample(row);
    let picture = match thumbnails.get(&facts.place(row)) {
        Some(Ok(t)) => {
            let image = format!(
                r#"<img src="{}" width="{}" height="{}" alt="" decoding="async">"#,
                t.address, t.width, t.height
            );
            if facts.veiled(row) {
                format!(
                    r#"<label class="frame veil"><input type="checkbox" aria-label="show the picture">{image}<span>nsfw: show</span></label>"#
                )
            } else {
                format!(r#"<span class="frame">{image}</span>"#)
            }
        }
        Some(Err(reason)) => {
            format!(
                r#"<span class="frame none">no picture: {}</span>"#,
                escape(reason)
            )
        }
        None => r#"<span class="frame none">no picture</span>"#.into(),
    };
    let id = escape(&sample.id);
    let name = sample.id.rsplit('/').next().unwrap_or(&sample.id);
    let size = match (sample.width, sample.height) {
        (0, 0) => String::new(),
        (width, height) => format!(r#"<span class="size">{width} × {height}</span>"#),
    };
    format!(
        r#"<figure class="card {class}">{picture}<figcaption><bdi title="{id}">{}</bdi>{size}{line}</figcaption></figure>"#,
        escape(name)
    )
}

/// The section on duplicates; empty where they were not looked for.
pub(super) fn duplicates(facts: &Facts, shown: &Shown, thumbnails: &Thumbnails) -> String {
    let (Some(eps), Some(pairs)) = (facts.eps(), &facts.pairs) else {
        return r#"<p class="note">Duplicates were not looked for: <code>clipsift dedup RUN</code> does that.</p>"#.into();
    };
    let mut out = among(facts);
    out += &cosines(pairs, eps);
    out += &audit(facts);
    if shown.groups.is_empty() {
        out += r#"<p class="note">No sample is a duplicate of another.</p>"#;
        return out;
    }
    let total: usize = shown.groups.iter().map(|group| group.total).sum();
    if shown.groups.len() < shown.groups_total {
        push(
            &mut out,
            format_args!(
                r#"<p class="note">This is a sample: {} of {}, spread evenly from the least similar to the most similar.</p>"#,
                count(shown.groups.len() as u64),
                count_of(shown.groups_total as u64, "group")
            ),
        );
    } else {
        push(
            &mut out,
            format_args!(
                r#"<p class="note">{} with {}, the least similar first.</p>"#,
                count_of(shown.groups_total as u64, "group"),
                count_of(total as u64, "duplicate")
            ),
        );
    }
    out += r#"<div class="groups">"#;
    for group in &shown.groups {
        out += &group_of(facts, thumbnails, group);
    }
    out += "</div>";
    out
}

fn group_of(facts: &Facts, thumbnails: &Thumbnails, group: &Group) -> String {
    let mut out = String::from(r#"<article class="group">"#);
    let kept = match facts.run_of(group.kept) {
        None => r#"<b class="mark">kept</b>"#.to_string(),
        Some(run) => format!(
            r#"<b class="mark">kept</b><span class="size">in <bdi title="{}">{}</bdi></span>"#,
            escape(run),
            escape(run.rsplit('/').next().unwrap_or(run))
        ),
    };
    out += &card(facts, thumbnails, group.kept, "kept", &kept);
    for Member { row, of, cosine: c } in &group.members {
        let mut line = match c {
            Some(c) => format!(r#"<b class="cosine">{}</b>"#, cosine(*c)),
            None => String::new(),
        };
        let (sum, other) = (&facts.sample(*row).sha256, &facts.sample(*of).sha256);
        if !sum.is_empty() && sum == other {
            line += r#"<span class="size">byte-identical</span>"#;
        }
        if *of != group.kept {
            // With chains a row may have fallen to another duplicate.
            let other = &facts.sample(*of).id;
            let name = other.rsplit('/').next().unwrap_or(other);
            push(
                &mut line,
                format_args!(
                    r#"<span class="size">to <bdi>{}</bdi></span>"#,
                    escape(name)
                ),
            );
        }
        out += &card(facts, thumbnails, *row, "", &line);
    }
    if group.members.len() < group.total {
        push(
            &mut out,
            format_args!(
                r#"<p class="more">{} of {} duplicates, spread over their cosines</p>"#,
                group.members.len(),
                count(group.total as u64)
            ),
        );
    }
    out + "</article>"
}

/// Of the duplicates those whose files are the same, and those of earlier sets.
fn among(facts: &Facts) -> String {
    let count = |name: &str| facts.file.counts.get(name).copied().unwrap_or(0);
    let mut out = String::new();
    if count("copies") > 0 {
        push(
            &mut out,
            format_args!(
                r#"<p class="note">{} byte-identical to what they fell to.</p>"#,
                count_of(count("copies"), "duplicate")
            ),
        );
    }
    let runs = facts.file.dedup.iter().flat_map(|found| &found.against);
    let runs: Vec<String> = runs
        .map(|earlier| format!("<bdi>{}</bdi>", escape(&earlier.run)))
        .collect();
    if !runs.is_empty() {
        push(
            &mut out,
            format_args!(
                r#"<p class="note">Decided against what was kept in {}: {} fell to it.</p>"#,
                runs.join(", "),
                count_of(count("earlier"), "duplicate")
            ),
        );
    }
    out
}

/// What clusters lost, where that was looked at.
fn audit(facts: &Facts) -> String {
    let Some(audit) = &facts.file.audit else {
        return String::new();
    };
    let looked = count_of(audit.audited, "row");
    let (Some(recall), Some((low, high))) = (audit.recall, audit.interval) else {
        return format!(
            r#"<p class="note">Audit: none of {looked} drawn at random has a neighbour within eps {}.</p>"#,
            audit.eps
        );
    };
    let worst: Vec<String> = audit
        .worst
        .iter()
        .map(|w| format!("{} ({} of {})", w.cluster, w.missed, w.audited))
        .collect();
    let worst = match worst.is_empty() {
        true => String::new(),
        false => format!(
            " Clusters that lost most, with rows that lost a neighbour: {}.",
            worst.join(", ")
        ),
    };
    format!(
        r#"<p class="note">Audit of {looked} against all: recall {recall:.4}, 95 % interval {low:.4} to {high:.4}; {} lost all their neighbours to other clusters, {} lost some.{worst}</p>"#,
        count_of(audit.lost, "row"),
        count_of(audit.cut, "row"),
    )
}

/// How near the stored pairs are to each other.
fn cosines(pairs: &Pairs, eps: f64) -> String {
    let mut out = String::new();
    if pairs.identical_total > 0 {
        push(
            &mut out,
            format_args!(
                r#"<p class="note">{} identical to another, to the bit of the embedding or byte for byte.</p>"#,
                count_of(pairs.identical_total, "row")
            ),
        );
    }
    // A floor of 0 leaves no range to draw.
    if pairs.total == 0 || pairs.floor <= 0.0 {
        return out;
    }
    push(
        &mut out,
        format_args!(
            "<h3>Cosines of {}, down to the floor of {}</h3>",
            count_of(pairs.total, "stored pair"),
            number(pairs.floor)
        ),
    );
    let histogram = Histogram {
        low: 1.0 - pairs.floor,
        high: 1.0,
        bins: pairs.histogram.clone(),
        root: true,
    };
    let mark = Mark {
        at: 1.0 - eps,
        control: "eps".into(),
        on: true,
    };
    let label = "histogram of the cosines of stored pairs";
    out += &histogram.svg("eps", label, &[mark], |c| c >= 1.0 - eps);
    out += r#"<p class="note">Heights by the square root. Pairs to the right of the line, in colour, are duplicates.</p>"#;
    out
}

/// Pairs of kept samples that are nearest to being duplicates.
pub(super) fn near_misses(facts: &Facts, shown: &Shown, thumbnails: &Thumbnails) -> String {
    if shown.near_misses.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        r#"<section id="near"><h2>Just not duplicates</h2><p class="note">The pairs of kept samples that are most alike: what a somewhat larger eps would merge.</p><div class="groups">"#,
    );
    for (a, b, c) in &shown.near_misses {
        let line = format!(r#"<b class="cosine">{}</b>"#, cosine(*c));
        out += r#"<article class="group">"#;
        out += &card(facts, thumbnails, *a, "", "");
        out += &card(facts, thumbnails, *b, "", &line);
        out += "</article>";
    }
    out + "</div></section>"
}

/// A histogram and contact sheets for each score.
pub(super) fn scores(facts: &Facts, shown: &Shown, thumbnails: &Thumbnails) -> String {
    if facts.scores.is_empty() {
        return r#"<p class="note">The run has no scores: <code>clipsift score RUN --head NAME=SPEC</code> adds them.</p>"#
            .into();
    }
    let controls = controls(facts);
    let mut out = String::new();
    for (i, (name, values)) in facts.scores.iter().enumerate() {
        let own: Vec<(usize, &Control)> = controls
            .iter()
            .enumerate()
            .filter(|(_, control)| control.score == i)
            .collect();
        push(&mut out, format_args!("<h3>{}</h3>", escape(name)));
        let (low, high) = range(facts, name, values);
        let marks: Vec<Mark> = own
            .iter()
            .map(|(number, control)| Mark {
                at: match control.bound {
                    Bound::Min(x) | Bound::Max(x) => x,
                },
                control: number.to_string(),
                on: control.on,
            })
            .collect();
        let fails = |x: f64| facts.thresholds(name).any(|t| !t.keeps(x as f32));
        let label = format!("histogram of the score {}", escape(name));
        out += &Histogram::of(values, low, high, 48).svg(&i.to_string(), &label, &marks, fails);
        out += &bounds(facts, name, values);
        let sheets = &shown.sheets[i];
        out += &sheet(facts, thumbnails, values, "Lowest", &sheets.lowest);
        for (bound, rows) in &sheets.borderline {
            let title = match facts.thresholds(name).next() {
                Some(_) => format!("Around the threshold of {}", number(*bound)),
                None => format!("Around the median of {}", number(*bound)),
            };
            out += &sheet(facts, thumbnails, values, &title, rows);
        }
        out += &sheet(facts, thumbnails, values, "Highest", &sheets.highest);
    }
    out
}

/// A sentence on the thresholds of a score.
fn bounds(facts: &Facts, name: &str, values: &[f32]) -> String {
    let bounds: Vec<String> = facts
        .thresholds(name)
        .map(|t| match t.bound {
            Bound::Min(x) => format!("at least {x}"),
            Bound::Max(x) => format!("below {x}"),
        })
        .collect();
    let mut text = match bounds.len() {
        0 => "No threshold.".to_string(),
        _ => format!("Kept where {}.", bounds.join(" and ")),
    };
    if facts.decided.is_some() {
        text += " Below, one of each lot of copies; faded pictures are not in the curated set, for this reason or another.";
    }
    let odd = values.iter().filter(|value| !value.is_finite()).count() as u64;
    if odd > 0 {
        push(
            &mut text,
            format_args!(" {} not a finite number.", count_of(odd, "score")),
        );
    }
    format!(r#"<p class="note">{text}</p>"#)
}

fn sheet(
    facts: &Facts,
    thumbnails: &Thumbnails,
    values: &[f32],
    title: &str,
    rows: &[usize],
) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = format!(r#"<h4>{title}</h4><div class="sheet">"#);
    for &row in rows {
        let class = match facts.reason(row) {
            None | Some(Reason::Kept) => "",
            Some(_) => "fallen",
        };
        let line = format!(
            r#"<b class="cosine">{}</b>"#,
            number(f64::from(values[row]))
        );
        out += &card(facts, thumbnails, row, class, &line);
    }
    out + "</div>"
}

/// Bad samples by reason, the most frequent first.
pub(super) fn bad(facts: &Facts) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for sample in facts.samples {
        if let Some(error) = &sample.error {
            reasons.entry(error).or_default().push(&sample.id);
        }
    }
    if reasons.is_empty() {
        return r#"<p class="note">Every sample could be read, decoded and embedded.</p>"#.into();
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(reason, ids)| (std::cmp::Reverse(ids.len()), *reason));
    let mut out = String::from(
        r#"<div class="scroll"><table><thead><tr><th class="n">samples</th><th>reason</th><th>which</th></tr></thead><tbody>"#,
    );
    for (reason, ids) in reasons.iter().take(REASONS) {
        let named: Vec<String> = ids
            .iter()
            .take(NAMED)
            .map(|id| format!("<bdi>{}</bdi>", escape(id)))
            .collect();
        let more = if ids.len() > NAMED { ", …" } else { "" };
        push(
            &mut out,
            format_args!(
                r#"<tr><td class="n">{}</td><td>{}</td><td class="ids">{}{more}</td></tr>"#,
                count(ids.len() as u64),
                escape(reason),
                named.join(", ")
            ),
        );
    }
    out += "</tbody></table></div>";
    if reasons.len() > REASONS {
        push(
            &mut out,
            format_args!(
                r#"<p class="note">{} more stand in samples/.</p>"#,
                count_of((reasons.len() - REASONS) as u64, "reason")
            ),
        );
    }
    out
}
