//! `clipsift models`: what is known, what is in the cache, and what a model or head is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clipsift::clip::BUILTIN;
use clipsift::clip::check::{self, Findings};
use clipsift::clip::hub::{self, HubRepo, Watch};
use clipsift::manifest::{HeadEntry, ModelEntry};
use clipsift::{Clip, Error, Head, Result, heads, manifest};
use serde_json::{Map, Value, json};

use super::args::{ModelsArgs, ModelsCommand};
use super::terminal::Terminal;

pub(crate) fn models(args: ModelsArgs, terminal: &Terminal) -> Result<ExitCode> {
    match args.command {
        ModelsCommand::List => Ok(list(terminal)),
        ModelsCommand::Pull { spec, revision } => {
            let watch = |transfer: &hub::Transfer| terminal.transfer(transfer);
            let path = pull(&spec, revision.as_deref(), &watch);
            terminal.no_more_transfers();
            let path = path?.display().to_string();
            match terminal.is_json() {
                true => terminal.tell(json!({"event": "pulled", "spec": spec, "path": path})),
                false => out!("{path}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        ModelsCommand::Check { spec } => {
            let watch = |transfer: &hub::Transfer| terminal.transfer(transfer);
            let found = findings(&spec, &watch);
            terminal.no_more_transfers();
            Ok(print_findings(&found?, terminal))
        }
    }
}

fn list(terminal: &Terminal) -> ExitCode {
    let known = manifest::manifest();
    if terminal.is_json() {
        let models = known.models.iter().map(|m| {
            json!({
                "name": m.name, "hub": m.hub, "d": m.d, "default_eps": m.default_eps, "sha256": m.sha256,
                "cached": model_cached(m), "about": m.about, "licence": m.licence,
            })
        });
        let heads = known.heads.iter().map(|h| {
            json!({
                "name": h.name, "hub": h.hub, "url": h.url, "file": h.file, "d": h.d, "sha256": h.sha256,
                "default_for": h.default_for, "cached": head_cached(h), "about": h.about, "licence": h.licence,
            })
        });
        let (models, heads): (Vec<Value>, Vec<Value>) = (models.collect(), heads.collect());
        terminal.tell(json!({"models": models, "heads": heads}));
        return ExitCode::SUCCESS;
    }
    out!(
        "{:<36} {:>5} {:>5} {:>6}  about",
        "model",
        "d",
        "eps",
        "cached"
    );
    for m in &known.models {
        let (name, d, eps) = (&m.name, m.d, m.default_eps);
        let cached = model_cached(m);
        out!(
            "{name:<36} {d:>5} {eps:>5} {cached:>6}  {} ({})",
            m.about,
            m.licence
        );
    }
    out!(
        "\n{:<36} {:>5} {:>5} {:>6}  about",
        "head",
        "d",
        "",
        "cached"
    );
    for h in &known.heads {
        let (name, d) = (&h.name, h.d);
        let cached = head_cached(h);
        out!(
            "{name:<36} {d:>5} {:>5} {cached:>6}  {} ({})",
            "",
            h.about,
            h.licence
        );
    }
    ExitCode::SUCCESS
}

/// Whether nothing of a model would have to be downloaded.
fn model_cached(model: &ModelEntry) -> &'static str {
    match &model.hub {
        None => "inside",
        Some(id) => yes(HubRepo::new(id, None).cache_only().model().is_ok()),
    }
}

fn head_cached(head: &HeadEntry) -> &'static str {
    yes(match &head.hub {
        Some(id) => HubRepo::new(id, None).cache_only().get(&head.file).is_ok(),
        None => hub::kept(&head.file).is_file(),
    })
}

fn yes(there: bool) -> &'static str {
    if there { "yes" } else { "no" }
}

/// Brings a model or head into the cache; gives the folder of a model, the file of a head.
fn pull(spec: &str, revision: Option<&str>, watch: &Watch) -> Result<PathBuf> {
    if spec == BUILTIN {
        return Err(Error::usage(
            "builtin is inside this program; there is nothing to pull",
        ));
    }
    if Path::new(spec).exists() {
        return Err(Error::usage(format!(
            "{spec} is on this machine already; clipsift models check {spec} says what it is"
        )));
    }
    if manifest::head(spec).is_some() {
        if revision.is_some() {
            return Err(Error::usage(format!(
                "--revision: {spec} is a head of the manifest, which names its file; give OWNER/NAME[:FILE] for another"
            )));
        }
        return found(Head::pull(spec, watch)?, spec);
    }
    let (id, file) = match spec.split_once(':') {
        Some((id, file)) => (id, Some(file)),
        None => (spec, None),
    };
    if !hub::is_id(id) {
        let known = manifest::manifest();
        let names = known
            .models
            .iter()
            .filter(|m| m.hub.is_some())
            .map(|m| m.name.as_str());
        let names: Vec<&str> = names
            .chain(known.heads.iter().map(|h| h.name.as_str()))
            .collect();
        return Err(Error::usage(format!(
            "{spec} is neither known nor OWNER/NAME[:FILE] of a hub; known are {}",
            names.join(", ")
        )));
    }
    let repo = HubRepo::watched(id, revision, watch);
    match file {
        Some(file) => Head::pull_file(spec, &repo, file),
        None if manifest::model(id).is_some() || repo.find("config.json")?.is_some() => {
            repo.model()
        }
        // A repository of one head, as `--head NAME=OWNER/NAME` takes it.
        None => Head::pull_file(spec, &repo, "model.safetensors"),
    }
}

fn found(path: Option<PathBuf>, spec: &str) -> Result<PathBuf> {
    path.ok_or_else(|| Error::model(spec, "is no file of a hub"))
}

/// What a model or head is: a folder or file, or what a name stands for, which is downloaded where it is not in the cache.
fn findings(spec: &str, watch: &Watch) -> Result<Findings> {
    let path = Path::new(spec);
    if spec == BUILTIN || path.is_dir() {
        return Ok(check::model(spec.trim_end_matches('/'), path));
    }
    if path.is_file() {
        return Ok(heads::check::head(spec, path));
    }
    if manifest::head(spec).is_some() || spec.contains(':') {
        let file = found(Head::pull(spec, watch)?, spec)?;
        return Ok(heads::check::head(spec, &file));
    }
    match Clip::pull(spec, None, watch)? {
        Some(dir) => Ok(check::model(spec, &dir)),
        None => Err(Error::model(
            spec,
            "no such folder or file; give a model's folder, a head's file, a known name or a hub id",
        )),
    }
}

fn print_findings(found: &Findings, terminal: &Terminal) -> ExitCode {
    if terminal.is_json() {
        let facts = found.facts.iter();
        let facts: Map<String, Value> = facts
            .map(|(about, text)| (about.replace(' ', "_"), json!(text)))
            .collect();
        terminal.tell(json!({"facts": facts, "problems": found.problems, "runs": found.runs()}));
        return ExitCode::from(u8::from(!found.runs()));
    }
    for (about, text) in &found.facts {
        out!("{about:<13} {text}");
    }
    if found.runs() {
        out!("{:<13} yes", "runs");
        return ExitCode::SUCCESS;
    }
    for problem in &found.problems {
        out!("{:<13} {problem}", "problem");
    }
    out!("{:<13} no", "runs");
    ExitCode::from(1)
}
