//! Each command: check, run, print.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clipsift::clip::BUILTIN;
use clipsift::device::{DTypeSpec, DeviceSpec};
use clipsift::pipeline::{Context, Run, Summary};
use clipsift::read::Options;
use clipsift::read::embeddings::Embeddings;
use clipsift::store::run_file::AuditResult;
use clipsift::{Clip, Device, Embedder, Error, Head, Pipeline, Result, Scorer, manifest};

use super::STOP;
use super::args::{
    CurateArgs, DedupArgs, EmbedArgs, FilterArgs, HeadFlags, ImportFlags, ModelsArgs,
    ModelsCommand, ReportArgs, ScoreArgs, WriteArgs,
};
use super::flags::{self, Thresholds};
use super::terminal::Terminal;

pub(crate) fn curate(
    args: CurateArgs,
    thresholds: Thresholds,
    terminal: Terminal,
) -> Result<ExitCode> {
    flags::check_thresholds(&args.heads, &thresholds)?;
    let dedup = args.dedup.to_dedup()?;
    let shards = args.write.to_shards()?;
    let (mut pipeline, model) = begin(&args.embed, terminal)?;
    for (name, head) in flags::heads(&args.heads, &args.embed.model, model)? {
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
    finish(pipeline, &args.embed)
}

pub(crate) fn embed(args: EmbedArgs, terminal: Terminal) -> Result<ExitCode> {
    let (pipeline, _) = begin(&args, terminal)?;
    finish(pipeline, &args)
}

/// A pipeline up to the embeddings, and d.
fn begin(args: &EmbedArgs, terminal: Terminal) -> Result<(Pipeline, usize)> {
    let options = Options {
        id_column: args.id_column.clone(),
        ..Options::default()
    };
    // Inputs first: a wrong path should be said before a model of gigabytes is loaded.
    let mut pipeline = Pipeline::over_with(args.inputs.clone(), options)?;
    if let Some(partition) = args.partition {
        pipeline = pipeline.partition(partition)?;
    }
    let device = open_device(args.device, args.dtype, &terminal)?;
    let clip = Clip::load_revision(
        args.model.trim_end_matches('/'),
        args.revision.as_deref(),
        &device,
    )?;
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
    let terminal = Arc::new(terminal);
    let pipeline = pipeline
        .embed(clip)
        .part_size(args.part_size)
        .scaled_decode(args.scaled_decode)
        .device_kind(device.kind())
        .overwrite(args.overwrite)
        .stop_when(&STOP)
        .on_event(move |event| terminal.show(event));
    Ok((pipeline, dims))
}

fn finish(pipeline: Pipeline, args: &EmbedArgs) -> Result<ExitCode> {
    let summary = pipeline.run(&args.out)?;
    let run = Run::open(&args.out)?;
    print_summary(&run, &summary);
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
            return score_one(run.on_device(&device), &args.heads, &thresholds, context);
        }
        if args.out.is_some() {
            return Err(Error::usage(
                "--out is for embeddings that others made; scores of a run stand in the run",
            ));
        }
        args.runs.iter().try_for_each(|path| {
            let run = Run::open(path)?.on_device(&device);
            score_one(run, &args.heads, &thresholds, context)
        })
    })
}

fn score_one(
    mut run: Run,
    flags: &HeadFlags,
    thresholds: &Thresholds,
    context: Context,
) -> Result<()> {
    let name = run.root().display().to_string();
    let heads = flags::heads(flags, &name, run.dims()?)?;
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
    print_summary(&run, &summary);
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
        return sweep(&args);
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
        let reported = has_report(&run);
        if !thresholds.0.is_empty() {
            run.set_thresholds(thresholds.0)?;
        }
        let summary = run.dedup(&dedup, &[], context)?;
        print_summary(&run, &summary);
        say_report_is_gone(&run, reported, terminal);
        Ok(())
    })
}

/// The table of what other eps would remove, on stdout.
fn sweep(args: &DedupArgs) -> Result<ExitCode> {
    let ([path], None) = (&args.runs[..], &args.out) else {
        return Err(Error::usage(
            "--sweep reads the pairs of one run directory and changes nothing: give that alone",
        ));
    };
    let rows = Run::open(path)?.sweep(&args.sweep)?;
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
    let reported = has_report(&run);
    with_context(terminal, |context| {
        run.set_thresholds(thresholds.0)?;
        let summary = run.decide(&[], context)?;
        print_summary(&run, &summary);
        say_report_is_gone(&run, reported, terminal);
        Ok(())
    })
}

pub(crate) fn write(args: WriteArgs, terminal: &Terminal) -> Result<ExitCode> {
    let shards = args.write.to_shards()?;
    let mut run = Run::open(&args.run)?;
    with_context(terminal, |context| {
        run.write(&shards, args.to.as_deref(), context)?;
        print_summary(&run, &run.summary()?);
        if let Some(to) = &args.to {
            out!("curated                {}", to.display());
        }
        Ok(())
    })
}

pub(crate) fn report(args: &ReportArgs, terminal: &Terminal) -> Result<ExitCode> {
    let mut run = Run::open(&args.run)?;
    with_context(terminal, |context| {
        println!("{}", run.report(context)?.display());
        Ok(())
    })
}

pub(crate) fn models(args: ModelsArgs) -> Result<ExitCode> {
    match args.command {
        ModelsCommand::List => {
            out!("{:<36} {:>5} {:>5}  about", "model", "d", "eps");
            for m in &manifest::manifest().models {
                out!(
                    "{:<36} {:>5} {:>5}  {} ({})",
                    m.name,
                    m.d,
                    m.default_eps,
                    m.about,
                    m.licence
                );
            }
            out!("\n{:<36} {:>5}        about", "head", "d");
            for h in &manifest::manifest().heads {
                out!(
                    "{:<36} {:>5}        {} ({})",
                    h.name,
                    h.d,
                    h.about,
                    h.licence
                );
            }
        }
        ModelsCommand::Check { spec } => check(&spec)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads a model or a head and says what it is.
fn check(spec: &str) -> Result<()> {
    let path = Path::new(spec);
    if path.is_file() || manifest::head(spec).is_some() {
        let head = Head::load(spec)?;
        out!("head    {}", head.name());
        out!("takes   {} dims", head.dims().unwrap_or(0));
        out!("weights {}", head.fingerprint());
        return Ok(());
    }
    let clip = Clip::load(spec, &Device::cpu())?;
    let c = clip.config();
    out!("model   {}", clip.name());
    out!(
        "tower   {} layers, {} wide, {} heads, {:?}",
        c.num_hidden_layers,
        c.hidden_size,
        c.num_attention_heads,
        c.hidden_act
    );
    out!(
        "image   {0} x {0} pixels, patches of {1}",
        c.image_size,
        c.patch_size
    );
    out!("gives   {} dims", c.projection_dim);
    out!("work    {:.2} GFLOP an image", c.flop() as f64 / 1e9);
    out!("eps     {} by default", clip.default_eps());
    out!("weights {}", clip.fingerprint());
    Ok(())
}

fn with_context(terminal: &Terminal, work: impl FnOnce(Context) -> Result<()>) -> Result<ExitCode> {
    let observer = |event: clipsift::pipeline::Event<'_>| terminal.show(event);
    work(Context {
        observer: &observer,
        stop: &STOP,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What clustering lost, on stdout.
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

/// The table at the end, on stdout.
fn print_summary(run: &Run, summary: &Summary) {
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
    if run
        .file()
        .write
        .as_ref()
        .is_some_and(|w| w.layout != "none")
    {
        out!(
            "curated                {}",
            run.root().join("curated").display()
        );
    }
    if has_report(run) {
        println!("report                 {}", report_of(run).display());
    }
}

fn report_of(run: &Run) -> PathBuf {
    run.root().join("report.html")
}

fn has_report(run: &Run) -> bool {
    report_of(run).is_file()
}

/// After new decisions: the page showed the earlier ones.
fn say_report_is_gone(run: &Run, reported: bool, terminal: &Terminal) {
    if reported && !has_report(run) {
        terminal.say(&format!(
            "report.html showed the earlier decisions and is removed; clipsift report {} makes it anew",
            run.root().display()
        ));
    }
}
