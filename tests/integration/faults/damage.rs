//! Files of a finished run that are damaged: found by their checksum, made anew where that can be, and said.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Cut,
    Empty,
    Missing,
}

const DAMAGES: [Damage; 4] = [Damage::Flip, Damage::Cut, Damage::Empty, Damage::Missing];

fn damage(path: &Path, damage: Damage) {
    let mut bytes = fs::read(path).unwrap();
    match damage {
        Damage::Flip => {
            // Among the values, where nothing but the checksum can tell.
            let at = bytes.len() / 3;
            bytes[at] ^= 4;
            fs::write(path, bytes).unwrap();
        }
        Damage::Cut => fs::write(path, &bytes[..bytes.len() - 9]).unwrap(),
        Damage::Empty => fs::write(path, b"").unwrap(),
        Damage::Missing => fs::remove_file(path).unwrap(),
    }
}

/// A finished run to be damaged, and the command that made it.
struct Finished {
    _dir: tempfile::TempDir,
    run: PathBuf,
    whole: PathBuf,
    line: String,
    head: String,
}

impl Finished {
    fn new() -> Finished {
        let dir = tempfile::tempdir().unwrap();
        let (run, whole) = (dir.path().join("run"), dir.path().join("whole"));
        let head = head_for_builtin(dir.path());
        let line = format!(
            "curate {} --out {} --part-size 4 --threads 1 --head mine={head} --min mine=-9 --dedup semantic --clusters 2 --write list",
            data("gallery/portraits").display(),
            run.display()
        );
        good(&line);
        fs::rename(&run, &whole).unwrap();
        Finished {
            _dir: dir,
            run,
            whole,
            line,
            head,
        }
    }

    /// The run as it was, but for one file.
    fn with(&self, file: &str, how: Damage) {
        let _ = fs::remove_dir_all(&self.run);
        for entry in walkdir::WalkDir::new(&self.whole) {
            let entry = entry.unwrap();
            let to = self
                .run
                .join(entry.path().strip_prefix(&self.whole).unwrap());
            match entry.file_type().is_dir() {
                true => fs::create_dir(to).unwrap(),
                false => drop(fs::copy(entry.path(), to).unwrap()),
            }
        }
        damage(&self.run.join(file), how);
    }

    /// Runs a line that must end well and leave what an undisturbed run left; gives stderr.
    fn mends(&self, line: &str, what: &str) -> String {
        let output = clipsift(words(line));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{what}: {line}\n{message}");
        let (mended, whole) = (tree(&self.run), tree(&self.whole));
        for (name, bytes) in whole {
            // The run's place stands in it; and commands other than the first leave out the page on what they change.
            if name == "report.html" || name == "run.json" {
                continue;
            }
            assert!(
                mended.get(&name) == Some(&bytes),
                "{what}: {name}\n{message}"
            );
        }
        message
    }
}

const SAMPLES: &str = "samples/part-00001.parquet";
const EMBEDDINGS: &str = "embeddings/part-00001.parquet";
const SCORES: &str = "scores/mine/part-00001.parquet";
const CLUSTERS: &str = "clusters/part-00000.parquet";
const CENTROIDS: &str = "clusters/centroids.safetensors";
const PAIRS: &str = "duplicates/pairs-00000.parquet";
const MATCHES: &str = "duplicates/matches.parquet";
const REMOVED: &str = "duplicates/removed.parquet";
const DECISIONS: &str = "decisions.parquet";

#[test]
fn the_command_that_made_a_run_makes_what_is_damaged_anew_and_says_so() {
    let finished = Finished::new();
    for file in [
        SAMPLES, EMBEDDINGS, SCORES, CLUSTERS, CENTROIDS, PAIRS, MATCHES,
    ] {
        for how in DAMAGES {
            finished.with(file, how);
            let message = finished.mends(&finished.line, &format!("{file}, {how:?}"));
            // A part that is not there is one that was not made yet.
            let is_part = [SAMPLES, EMBEDDINGS, SCORES].contains(&file);
            let said = message.contains(file) && message.contains("anew");
            assert!(
                said || (is_part && matches!(how, Damage::Missing)),
                "{file}, {how:?}: {message}"
            );
        }
    }
    // These are made anew whenever it is decided.
    for file in [REMOVED, DECISIONS] {
        for how in DAMAGES {
            finished.with(file, how);
            finished.mends(&finished.line, &format!("{file}, {how:?}"));
        }
    }
}

#[test]
fn what_follows_from_stored_rows_is_found_anew_without_the_images() {
    let finished = Finished::new();
    let run = finished.run.display().to_string();
    let dedup = format!("dedup {run} --dedup semantic --clusters 2");
    for file in [CLUSTERS, CENTROIDS, PAIRS, MATCHES] {
        for how in DAMAGES {
            finished.with(file, how);
            let message = finished.mends(&dedup, &format!("{file}, {how:?}"));
            assert!(
                message.contains(file) && message.contains("anew"),
                "{message}"
            );
        }
    }
    for how in DAMAGES {
        finished.with(SCORES, how);
        let line = format!("score {run} --head mine={}", finished.head);
        finished.mends(&line, &format!("scores, {how:?}"));
    }
    // Undamaged, nothing is found anew.
    finished.with(SCORES, Damage::Missing);
    fs::copy(finished.whole.join(SCORES), finished.run.join(SCORES)).unwrap();
    let message = finished.mends(&dedup, "undamaged");
    for word in ["checksum", "missing", "found anew"] {
        assert!(!message.contains(word), "{message}");
    }
}

#[test]
fn what_a_command_cannot_make_is_an_error_with_the_command_that_can() {
    let finished = Finished::new();
    let run = finished.run.display().to_string();
    for (file, line, remedy) in [
        (
            SAMPLES,
            format!("filter {run}"),
            "repeat the command that made the run",
        ),
        (
            SAMPLES,
            format!("report {run}"),
            "repeat the command that made the run",
        ),
        (
            EMBEDDINGS,
            format!("dedup {run} --dedup exact"),
            "repeat the command that made the run",
        ),
        (
            EMBEDDINGS,
            format!("score {run} --head other={}", finished.head),
            "repeat the command that made the run",
        ),
        (
            SCORES,
            format!("filter {run} --min mine=0"),
            "clipsift score",
        ),
        (
            PAIRS,
            format!("filter {run} --min mine=0"),
            "clipsift dedup",
        ),
        (
            CLUSTERS,
            format!("dedup {run} --dedup semantic --clusters 2 --keep hard"),
            "anew",
        ),
    ] {
        for how in DAMAGES {
            finished.with(file, how);
            let output = clipsift(words(&line));
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            let what = format!("{file}, {how:?}: {line}\n{message}");
            if file == CLUSTERS {
                // The one here that can: an order that needs clusters makes them.
                assert!(output.status.success(), "{what}");
            } else {
                // A missing part of samples or embeddings is a run that is not complete, which is wrong use.
                let incomplete = matches!(how, Damage::Missing) && file != SCORES && file != PAIRS;
                let code = if incomplete { 2 } else { 1 };
                assert_eq!(output.status.code(), Some(code), "{what}");
            }
            let incomplete = message.contains("repeat the command that began it");
            assert!(message.contains(remedy) || incomplete, "{what}");
            assert!(message.contains(file) || incomplete, "{what}");
        }
    }
}

#[test]
fn damaged_decisions_are_made_anew_where_they_are_read() {
    let finished = Finished::new();
    let run = finished.run.display().to_string();
    for how in [Damage::Flip, Damage::Cut, Damage::Empty] {
        for line in [format!("write {run} --write list"), format!("report {run}")] {
            finished.with(DECISIONS, how);
            let message = finished.mends(&line, &format!("{how:?}: {line}"));
            assert!(message.contains("decided anew"), "{message}");
        }
    }
    finished.with(DECISIONS, Damage::Missing);
    let message = fails(2, &format!("write {run} --write list"));
    assert!(message.contains("no decisions yet"), "{message}");
}

#[test]
fn a_damaged_run_json_says_that_nothing_else_can_tell() {
    let finished = Finished::new();
    for how in [Damage::Cut, Damage::Empty] {
        finished.with("run.json", how);
        for line in [
            finished.line.clone(),
            format!("filter {}", finished.run.display()),
        ] {
            let message = fails(1, &line);
            assert!(
                message.contains("run.json") && message.contains("another --out"),
                "{message}"
            );
        }
    }
    finished.with("run.json", Damage::Missing);
    let message = fails(2, &finished.line);
    assert!(message.contains("not a run directory"), "{message}");
}
