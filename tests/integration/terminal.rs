//! What the command says while it works and when it ends: lines, JSON for programs, Ctrl-C, completions, manual pages.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::*;

/// Runs a line that must end well; gives stdout and stderr.
fn both(line: &str) -> (String, String) {
    let output = clipsift(words(line));
    let [out, err] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
    assert!(output.status.success(), "{line}\n{err}");
    (out, err)
}

/// The objects of a `--json` run, one a line.
fn events(stdout: &str) -> Vec<Value> {
    let parsed = stdout.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value["event"].is_string(), "{line}");
        value
    });
    parsed.collect()
}

#[test]
fn without_a_terminal_every_stage_is_a_plain_line_and_the_table_has_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = both(&format!(
        "curate {} --out {}/run",
        data("gallery").display(),
        dir.path().display()
    ));
    for text in [&out, &err] {
        assert!(!text.contains(['\u{1b}', '\r']), "{text:?}");
    }
    assert!(err.contains("embed: 74 samples in "), "{err}");
    let table: BTreeMap<&str, Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .map(|words| (words[0], words))
        .collect();
    assert_eq!(table["stage"], ["stage", "count", "seconds", "a", "second"]);
    for stage in ["embed", "dedup", "decide", "write"] {
        let row = &table[stage];
        let seconds: f64 = row[row.len() - 2].parse().unwrap();
        assert!((0.0..600.0).contains(&seconds), "{row:?}");
        assert!(row[1].parse::<u64>().unwrap() > 0, "{row:?}");
    }
    assert_eq!(table["read"][1], "74");
    assert_eq!(table["bad"][1], "5");

    // Gone on with: what was done before is said, and is not counted as quick.
    let (out, err) = both(&format!(
        "curate {} --out {}/run",
        data("gallery").display(),
        dir.path().display()
    ));
    assert!(err.contains("embed: 74 samples (74 done before)"), "{err}");
    let embed = out.lines().find(|line| line.starts_with("embed")).unwrap();
    assert!(embed.ends_with('-'), "{embed}");
}

#[test]
fn quiet_leaves_the_table_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = format!("{}/run", dir.path().display());
    let (out, err) = both(&format!(
        "curate {} --out {run} -q",
        data("gallery").display()
    ));
    assert_eq!(err, "");
    assert!(out.contains("kept "), "{out}");
    let output = clipsift(words(&format!("filter {run}/absent --quiet")));
    assert!(!output.stderr.is_empty(), "errors are said all the same");
}

#[test]
fn a_program_gets_an_object_a_line_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (at, gallery) = (dir.path().display(), data("gallery").display().to_string());
    let head = head_for_builtin(dir.path());
    let line = format!("curate {gallery} --out {at}/run --head mine={head} --min mine=0 --json");
    let (out, err) = both(&line);
    assert_eq!(err, "");
    let events = events(&out);
    let names: Vec<&str> = events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!((names[0], *names.last().unwrap()), ("start", "summary"));
    assert_eq!(events[0]["command"], "curate");
    assert_eq!(events[0]["arguments"][1], gallery);

    // Stages open and close, one at a time.
    let mut open: Option<&str> = None;
    let mut seen = Vec::new();
    for event in &events {
        let stage = event["stage"].as_str();
        match event["event"].as_str().unwrap() {
            "stage_start" => {
                assert_eq!(open, None, "{event}");
                open = stage;
            }
            "progress" | "stage_end" => assert_eq!(open, stage, "{event}"),
            _ => {}
        }
        if event["event"] == "stage_end" {
            assert!(event["seconds"].as_f64().unwrap() >= 0.0 && event["done"].is_u64());
            seen.push(stage.unwrap());
            open = None;
        }
    }
    assert_eq!(
        seen,
        ["embed", "score", "dedup", "decide", "write", "report"]
    );

    let run = dir.path().join("run");
    let bad: BTreeMap<String, String> = samples(&run)
        .into_iter()
        .filter(|(_, (status, _))| status == "bad")
        .map(|(id, (_, error))| (id, error))
        .collect();
    let told: BTreeMap<String, String> = events
        .iter()
        .filter(|e| e["event"] == "bad_sample")
        .map(|e| {
            assert_eq!(e["source"], gallery);
            (
                e["id"].as_str().unwrap().into(),
                e["reason"].as_str().unwrap().into(),
            )
        })
        .collect();
    assert_eq!(told, bad);

    let summary = events.last().unwrap();
    let decisions = decisions(&run);
    let count = |reason: &str| decisions.values().filter(|d| d.0 == reason).count();
    assert_eq!(summary["read"], 74);
    assert_eq!(summary["kept"], count("kept"));
    assert_eq!(summary["duplicates"], count("duplicate"));
    assert_eq!(summary["not_passing"]["mine"], count("mine"));
    assert_eq!(summary["stages"].as_array().unwrap().len(), seen.len());
    assert!(Path::new(summary["report"].as_str().unwrap()).is_file());

    let (out, _) = both(&format!("dedup {at}/run --sweep 0.01,0.03 --json"));
    let swept: Vec<Value> = self::events(&out);
    let rows = swept.iter().filter(|e| e["event"] == "sweep").count();
    assert_eq!(rows, 2, "{out}");
}

#[test]
fn a_program_is_told_what_went_wrong() {
    for (line, exit) in [
        ("filter /nowhere/run --json", 2),
        ("curate /nowhere --out /tmp/x --json", 1),
    ] {
        let output = clipsift(words(line));
        assert_eq!(output.status.code(), Some(exit), "{line}");
        let told = events(&String::from_utf8_lossy(&output.stdout));
        let last = told.last().unwrap();
        assert_eq!(
            (&last["event"], &last["exit"]),
            (&"error".into(), &exit.into())
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(last["message"].as_str().unwrap()), "{said}");
    }
}

/// A folder of many pictures that takes seconds.
fn many(dir: &Path, pictures: usize) -> String {
    let folder = dir.join("many");
    std::fs::create_dir(&folder).unwrap();
    let mut found = walkdir::WalkDir::new(data("gallery/portraits")).into_iter();
    let picture = found.find_map(|e| {
        let path = e.unwrap().into_path();
        path.extension().is_some_and(|e| e == "jpg").then_some(path)
    });
    let picture = picture.unwrap();
    for i in 0..pictures {
        std::fs::hard_link(&picture, folder.join(format!("{i:06}.jpg")))
            .or_else(|_| std::fs::copy(&picture, folder.join(format!("{i:06}.jpg"))).map(|_| ()))
            .unwrap();
    }
    folder.display().to_string()
}

/// Starts a line with `--json` and waits until its first stage tells of progress.
fn begin(line: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command()
        .args(line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains(r#""progress""#) {
        text.clear();
        let read = out.read_line(&mut text).unwrap();
        assert!(read > 0, "it ended before it was under way");
    }
    (child, out)
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// The rest of stdout, stderr and the exit code.
fn end(
    mut child: Child,
    mut out: BufReader<std::process::ChildStdout>,
) -> (String, String, Option<i32>) {
    let (mut rest, mut err) = (String::new(), String::new());
    out.read_to_string(&mut rest).unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    let code = child.wait().unwrap().code();
    (rest, err, code)
}

fn parts(run: &Path) -> usize {
    let parts = std::fs::read_dir(run.join("samples"))
        .into_iter()
        .flatten()
        .flatten();
    parts
        .filter(|e| e.file_name().to_string_lossy().starts_with("part-"))
        .count()
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_part_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let input = many(dir.path(), 6000);
    let run = dir.path().join("a run");
    // A space in a path: the words of the command must be quoted.
    let out = run.display().to_string();
    let (child, out) = begin(&[
        "embed",
        &input,
        "--part-size",
        "500",
        "--json",
        "--out",
        &out,
    ]);
    interrupt(&child);
    let (rest, err, code) = end(child, out);
    assert_eq!(code, Some(130), "{err}");
    let made = parts(&run);
    assert!((1..12).contains(&made), "{made} parts of 12");
    let last =
        clipsift::atomic::read_parquet(run.join(format!("samples/part-{:05}.parquet", made - 1)));
    assert_eq!(last.unwrap().num_rows(), 500, "the part at hand is whole");
    let told = events(&rest);
    let told = told.last().unwrap();
    assert_eq!(told["event"], "interrupted");
    let command = told["continue"].as_str().unwrap();
    assert!(
        err.contains(command) && err.contains("once more stops at once"),
        "{err}"
    );

    // What it says is a command that goes on.
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told = events(&String::from_utf8_lossy(&output.stdout));
    let embedded = told.iter().find(|e| e["event"] == "stage_end").unwrap();
    assert_eq!(
        (&embedded["done"], &embedded["done_before"]),
        (&6000.into(), &(made * 500).into())
    );
}

#[cfg(unix)]
#[test]
fn a_second_ctrl_c_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let input = many(dir.path(), 6000);
    let run = dir.path().join("run");
    let out = run.display().to_string();
    let (child, out) = begin(&[
        "embed",
        &input,
        "--part-size",
        "6000",
        "--json",
        "--out",
        &out,
    ]);
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(100));
    interrupt(&child);
    let (_, err, code) = end(child, out);
    assert_eq!(code, Some(130), "{err}");
    assert_eq!(parts(&run), 0);
}

/// What a command writes to a terminal that `script` plays; None where there is no `script`.
#[cfg(target_os = "linux")]
fn on_a_terminal(line: &str, variables: &[(&str, &str)]) -> Option<String> {
    let command = format!("{} {line}", env!("CARGO_BIN_EXE_clipsift"));
    // Without a terminal of its own `script` stops where the tests run in the background of one.
    let played = Command::new("setsid")
        .args(["-w", "script", "-qec", &command, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output();
    match played {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) => {
            eprintln!("skipped: a terminal is played by script, which does not start: {error}");
            None
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_there_are_bars_and_colours_unless_they_are_unwanted() {
    let dir = tempfile::tempdir().unwrap();
    let input = many(dir.path(), 1500);
    let run = |name: &str| format!("embed {input} --out {}/{name}", dir.path().display());
    let Some(shown) = on_a_terminal(&run("a"), &[]) else {
        return;
    };
    assert!(
        shown.contains("samples, ") && shown.contains("left"),
        "a bar: {shown:?}"
    );
    assert!(
        shown.contains("\u{1b}[1m") && shown.contains("\u{1b}[36m"),
        "colours: {shown:?}"
    );
    assert!(shown.contains("embed: 1500 samples in "), "{shown:?}");
    let plain = on_a_terminal(&run("b"), &[("NO_COLOR", "1")]).unwrap();
    assert!(plain.contains("left"), "a bar: {plain:?}");
    let colour = |text: &str| {
        text.split("\u{1b}[").any(|t| {
            t.split(|c: char| c.is_alphabetic())
                .next()
                .is_some_and(|n| !n.is_empty() && n != "0" && t[n.len()..].starts_with('m'))
        })
    };
    assert!(!colour(&plain), "no colours: {plain:?}");
    let dumb = on_a_terminal(&run("c"), &[("TERM", "dumb")]).unwrap();
    assert!(
        !dumb.contains('\u{1b}') && !dumb.contains(" left"),
        "lines: {dumb:?}"
    );
}

#[test]
fn completions_are_scripts_that_know_every_command_and_flag() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = good(&format!("completions {shell}"));
        for word in [
            "curate",
            "dedup",
            "models",
            "pull",
            "min-aesthetic",
            "shard-size",
            "semantic",
        ] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    fails(2, "completions tcsh");
    // The script must be one that its shell can read.
    let bash = Command::new("bash")
        .arg("-c")
        .arg(format!(
            "source <({} completions bash) && COMP_WORDS=(clipsift mod) COMP_CWORD=1 && _clipsift clipsift mod clipsift && echo ${{COMPREPLY[@]}}",
            env!("CARGO_BIN_EXE_clipsift")
        ))
        .output();
    match bash {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "models"),
        Err(error) => eprintln!("skipped: bash does not start: {error}"),
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("man1");
    good(&format!("man {}", at.display()));
    let help = good("--help");
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let mut named = 0;
    for command in commands.filter_map(|line| line.split_whitespace().next()) {
        if command == "help" {
            continue;
        }
        let page = std::fs::read_to_string(at.join(format!("clipsift-{command}.1"))).unwrap();
        assert!(
            page.contains(".TH") && page.contains(".SH SYNOPSIS"),
            "{command}"
        );
        named += 1;
    }
    assert!(named >= 12, "{named}");
    let page = std::fs::read_to_string(at.join("clipsift-curate.1")).unwrap();
    // roff writes hyphens as \-.
    for flag in ["min\\-aesthetic", "eps", "threads"] {
        assert!(page.contains(&format!("\\fB\\-\\-{flag}\\fR")), "{flag}");
    }
    assert!(at.join("clipsift-models-pull.1").is_file());
    assert!(good("man").contains("clipsift\\-curate(1)"));
}
