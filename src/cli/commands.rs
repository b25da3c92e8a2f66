//! Each command: check, run, print.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clipsift::clip::BUILTIN;
use clipsift::clip::hub::Transfer;
use clipsift::device::{DTypeSpec, DeviceSpec};
use clipsift::pipeline::{Context, Run};
use clipsift::read::Options;
use clipsift::read::embeddings::Embeddings;
use clipsift::{Clip, Device, Embedder, Error, Pipeline, Result};
use serde_json::json;

use super::args::{
    CurateArgs, DedupArgs, EmbedArgs, FilterArgs, HeadFlags, ImportFlags, ReportArgs, ScoreArgs,
    WriteArgs,
};
use super::flags::{self, Thresholds};
use super::stop::STOP;
use super::summary;
use super::terminal::Terminal;

pub(crate) fn curate(
    args: CurateArgs,
    thresholds: Thresholds,
    terminal: &Arc<Terminal>,
) -> Result<ExitCode> {
    flags::check_thresholds(&args.heads, &thresholds)?;
    let dedup = args.dedup.to_dedup()?;
    let shards = args.write.to_shards()?;
    let (mut pipeline, model) = begin(&args.embed, terminal)?;
    for (name, head) in flags::heads(&args.heads, &args.embed.model, model, terminal)? {
        pipeline = pipeline.score(&name, head);
    }
    for threshold in thresholds.0 {
        pipeline = match threshold.bound {
            clipsift::store::run_file::Bound::Min(x) => pipeline.min(&threshold.score, x),
            clipsift::store::run_file::Bound::Max(x) => pipeline.max(&threshold.score, x),
        };
    }
    pipeline = pipeline.dedup(dedup).write(shards);
    if !args.no_report {
        pipeline = pipeline.report();
    }
    finish(pipeline, &args.embed, terminal)
}

pub(crate) fn embed(args: &EmbedArgs, terminal: &Arc<Terminal>) -> Result<ExitCode> {
    let (pipeline, _) = begin(args, terminal)?;
    finish(pipeline, args, terminal)
}

/// A pipeline up to the embeddings, and d.
fn begin(args: &EmbedArgs, terminal: &Arc<Terminal>) -> Result<(Pipeline, usize)> {
    let options = Options {
        id_column: args.id_column.clone(),
        ..Options::default()
    };
    // Inputs first: a wrong path should be said before a model of gigabytes is loaded.
    let mut pipeline = Pipeline::over_with(args.inputs.clone(), options)?;
    if let Some(partition) = args.partition {
        pipeline = pipeline.partition(partition)?;
    }
    let device = open_device(args.device, args.dtype, terminal)?;
    let clip = load(args, &device, terminal)?;
    if args.model == BUILTIN {
        terminal.say(
            "model builtin: finds near-duplicates (resized, recompressed, re-encoded copies, light edits); it knows nothing of what \
             images mean, so no aesthetic or NSFW scores: those need --model openai/clip-vit-large-patch14",
        );
    }
    let dims = clip.dims();
    if let Some(batch) = args.batch_size {
        pipeline = pipeline.batch_size(batch);
    }
    let shown = Arc::clone(terminal);
    let pipeline = pipeline
        .embed(clip)
        .part_size(args.part_size)
        .scaled_decode(args.scaled_decode)
        .device_kind(device.kind())
        .overwrite(args.overwrite)
        .stop_when(&STOP)
        .on_event(move |event| shown.show(event));
    Ok((pipeline, dims))
}

/// The model, from a hub with its downloads shown.
fn load(args: &EmbedArgs, device: &Device, terminal: &Terminal) -> Result<Clip> {
    let name = args.model.trim_end_matches('/');
    let revision = args.revision.as_deref();
    let watch = |transfer: &Transfer| terminal.transfer(transfer);
    let pulled = Clip::pull(name, revision, &watch);
    terminal.no_more_transfers();
    match pulled? {
        Some(dir) => Clip::from_dir(name, &dir, device),
        None => Clip::load_revision(name, revision, device),
    }
}

fn finish(pipeline: Pipeline, args: &EmbedArgs, terminal: &Terminal) -> Result<ExitCode> {
    let summary = pipeline.run(&args.out)?;
    let run = Run::open(&args.out)?;
    summary::print(&run, &summary, terminal);
    if args.strict && summary.bad > 0 {
        eprintln!(
            "clipsift: --strict: {} bad samples; their reasons are in {}",
            summary.bad,
            args.out.join("samples").display()
        );
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens a device, saying why where `auto` came to the CPU in spite of CUDA support.
fn open_device(device: DeviceSpec, dtype: DTypeSpec, terminal: &Terminal) -> Result<Device> {
    let device = Device::open(device, dtype)?;
    if let Some(why) = device.note() {
        terminal.say(why);
    }
    Ok(device)
}

pub(crate) fn score(
    args: ScoreArgs,
    thresholds: Thresholds,
    terminal: &Terminal,
) -> Result<ExitCode> {
    if args.heads.aesthetic.is_none() && args.heads.nsfw.is_none() && args.heads.heads.is_empty() {
        return Err(Error::usage(
            "no head: give --aesthetic, --nsfw or --head NAME=SPEC",
        ));
    }
    let device = open_device(args.device, DTypeSpec::Auto, terminal)?;
    with_context(terminal, |context| {
        let check = |_: &Embeddings| Ok(());
        if let Some(run) = import(
            &args.runs,
            args.out.as_deref(),
            &args.import,
            check,
            context,
        )? {
            return score_one(
                run.on_device(&device),
                &args.heads,
                &thresholds,
                terminal,
                context,
            );
        }
        if args.out.is_some() {
            return Err(Error::usage(
                "--out is for embeddings that others made; scores of a run stand in the run",
            ));
        }
        args.runs.iter().try_for_each(|path| {
            let run = Run::open(path)?.on_device(&device);
            score_one(run, &args.heads, &thresholds, terminal, context)
        })
    })
}

fn score_one(
    mut run: Run,
    flags: &HeadFlags,
    thresholds: &Thresholds,
    terminal: &Terminal,
    context: Context,
) -> Result<()> {
    let name = run.root().display().to_string();
    let heads = flags::heads(flags, &name, run.dims()?, terminal)?;
    for (name, head) in &heads {
        clipsift::pipeline::check_dims(name, head, run.dims()?)?;
    }
    let decided = run.summary()?.decided;
    for (name, head) in &heads {
        run.score(name, head, context)?;
    }
    if !thresholds.0.is_empty() {
        run.set_thresholds(thresholds.0.clone())?;
    }
    let summary = match decided {
        // Decisions that were there know nothing of what is new.
        true => run.decide(&[], context)?,
        false => run.summary()?,
    };
    summary::print(&run, &summary, terminal);
    Ok(())
}

/// The run that is made of embeddings by others, where such files are named and pass a check; none for run directories.
fn import(
    paths: &[PathBuf],
    out: Option<&Path>,
    flags: &ImportFlags,
    check: impl FnOnce(&Embeddings) -> Result<()>,
    context: Context,
) -> Result<Option<Run>> {
    let is_file = |path: &&PathBuf| {
        let known = path
            .extension()
            .is_some_and(|e| e == "npy" || e == "parquet");
        path.is_file() || known && !path.is_dir()
    };
    let Some(file) = paths.iter().find(is_file) else {
        flags.check_unused()?;
        return Ok(None);
    };
    if let Some(other) = paths.iter().find(|path| !is_file(path)) {
        return Err(Error::usage(format!(
            "{} is a file of embeddings, {} is not: give files, or run directories",
            file.display(),
            other.display()
        )));
    }
    let out = out.ok_or_else(|| {
        Error::usage(format!(
            "{} is not a run directory; give --out for the one that is made of it",
            file.display()
        ))
    })?;
    let import = flags.to_import();
    let files = Embeddings::open(paths, &import.columns)?;
    check(&files)?;
    Run::import(&files, out, &import, context).map(Some)
}

pub(crate) fn dedup(
    args: DedupArgs,
    thresholds: Thresholds,
    terminal: &Terminal,
) -> Result<ExitCode> {
    if !args.sweep.is_empty() {
        return sweep(&args, terminal);
    }
    let dedup = args.dedup.to_dedup()?;
    let device = open_device(args.device, DTypeSpec::Auto, terminal)?;
    with_context(terminal, |context| {
        let check = |files: &Embeddings| dedup.check_for(files);
        let mut run = match import(
            &args.runs,
            args.out.as_deref(),
            &args.import,
            check,
            context,
        )? {
            Some(run) => run,
            None => one_set(&args.runs, args.out.as_deref())?,
        }
        .on_device(&device);
        let reported = summary::report(&run).is_some();
        if !thresholds.0.is_empty() {
            run.set_thresholds(thresholds.0)?;
        }
        let summary = run.dedup(&dedup, &[], context)?;
        summary::print(&run, &summary, terminal);
        say_report_is_gone(&run, reported, terminal);
        Ok(())
    })
}

/// The table of what other eps would remove, on stdout.
fn sweep(args: &DedupArgs, terminal: &Terminal) -> Result<ExitCode> {
    let ([path], None) = (&args.runs[..], &args.out) else {
        return Err(Error::usage(
            "--sweep reads the pairs of one run directory and changes nothing: give that alone",
        ));
    };
    let rows = Run::open(path)?.sweep(&args.sweep)?;
    if terminal.is_json() {
        for row in rows {
            let (eps, duplicates, kept) = (row.eps, row.duplicates, row.kept);
            terminal.tell(
                json!({"event": "sweep", "eps": eps, "duplicates": duplicates, "kept": kept}),
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    out!("{:>8} {:>12} {:>12}", "eps", "duplicates", "kept");
    for row in rows {
        out!("{:>8} {:>12} {:>12}", row.eps, row.duplicates, row.kept);
    }
    Ok(ExitCode::SUCCESS)
}

/// A run, or several as one set.
fn one_set(runs: &[PathBuf], out: Option<&Path>) -> Result<Run> {
    match (runs, out) {
        ([run], None) => Run::open(run),
        ([run], Some(out)) if out == run => Run::open(run),
        (_, None) => Err(Error::usage(
            "several runs are one set: give --out for what is decided about them",
        )),
        (runs, Some(out)) => {
            Run::union(&runs.iter().map(AsRef::as_ref).collect::<Vec<&Path>>(), out)
        }
    }
}

pub(crate) fn filter(
    args: FilterArgs,
    thresholds: Thresholds,
    terminal: &Terminal,
) -> Result<ExitCode> {
    let mut run = Run::open(&args.run)?;
    let reported = summary::report(&run).is_some();
    with_context(terminal, |context| {
        run.set_thresholds(thresholds.0)?;
        let summary = run.decide(&[], context)?;
        summary::print(&run, &summary, terminal);
        say_report_is_gone(&run, reported, terminal);
        Ok(())
    })
}

pub(crate) fn write(args: WriteArgs, terminal: &Terminal) -> Result<ExitCode> {
    let shards = args.write.to_shards()?;
    let mut run = Run::open(&args.run)?;
    with_context(terminal, |context| {
        run.write(&shards, args.to.as_deref(), context)?;
        summary::print(&run, &run.summary()?, terminal);
        if let Some(to) = &args.to {
            match terminal.is_json() {
                true => terminal.tell(json!({"event": "written", "to": to.display().to_string()})),
                false => out!("curated                {}", to.display()),
            }
        }
        Ok(())
    })
}

pub(crate) fn report(args: &ReportArgs, terminal: &Terminal) -> Result<ExitCode> {
    let mut run = Run::open(&args.run)?;
    with_context(terminal, |context| {
        let path = run.report(context)?.display().to_string();
        match terminal.is_json() {
            true => terminal.tell(json!({"event": "written", "to": path})),
            false => out!("{path}"),
        }
        Ok(())
    })
}

fn with_context(terminal: &Terminal, work: impl FnOnce(Context) -> Result<()>) -> Result<ExitCode> {
    let observer = |event: clipsift::pipeline::Event<'_>| terminal.show(event);
    work(Context {
        observer: &observer,
        stop: &STOP,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// After new decisions: the page showed the earlier ones.
fn say_report_is_gone(run: &Run, reported: bool, terminal: &Terminal) {
    if reported && summary::report(run).is_none() {
        terminal.say(&format!(
            "report.html showed the earlier decisions and is removed; clipsift report {} makes it anew",
            run.root().display()
        ));
    }
}
