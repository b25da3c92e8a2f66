//! Killed before and after each file of each stage appears, and two at once.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::shim::{course, shimmed, stderr};
use crate::common::*;

/// A request that has every stage: parts, scores, clusters, pairs, matches, decisions, a set of two shards, a report.
fn whole_request(at: &Path) -> impl Fn(&str) -> String {
    let shards = at.join("shards");
    std::fs::create_dir_all(&shards).unwrap();
    gallery_shards(&shards, 12);
    let (at, head) = (at.display().to_string(), head_for_builtin(at));
    move |out: &str| {
        format!(
            "curate {at}/shards/{{00000..00001}}.tar --out {at}/{out} --part-size 8 --batch-size 4 --threads 1 --head mine={head} \
             --min mine=-9 --dedup semantic --clusters 2 --write tar --shard-size 6"
        )
    }
}

#[test]
fn killed_at_any_file_of_any_stage_the_same_command_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let line = whole_request(dir.path());
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let (synced, _) = course(&line("whole"), &whole);
    let expected = tree(&whole);

    // A file is synced under its temporary name, then its folder when it has its own. Of each folder the first file's two
    // moments and the last one's; the run's own folder has run.json again and again, the decisions and the report: all of it.
    let mut stages: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, name) in synced.iter().enumerate() {
        let stage = match name.rsplit_once("/.clipsift-tmp-") {
            Some((folder, _)) => folder,
            None => name.trim_end_matches('/'),
        };
        stages.entry(stage.to_string()).or_default().push(at + 1);
    }
    let folders = [
        "",
        "/samples",
        "/embeddings",
        "/scores/mine",
        "/clusters",
        "/duplicates",
        "/curated",
    ];
    for folder in folders {
        assert!(stages.contains_key(folder), "{folder}: {stages:?}");
    }
    let moments = stages.iter().flat_map(|(folder, moments)| {
        let last = moments.len() - 1;
        let chosen = moments.iter().enumerate();
        let chosen = chosen.filter(move |(i, _)| folder.is_empty() || *i < 2 || *i == last);
        chosen.map(|(_, moment)| *moment)
    });
    let mut killed = 0;
    for moment in moments {
        let output = shimmed(&line("cut"), &cut)
            .env("SHIM_AT", moment.to_string())
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(9), "{}", stderr(&output));
        good(&line("cut"));
        let name = &synced[moment - 1];
        let after = tree(&cut);
        let names = |tree: &BTreeMap<String, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(&expected), "killed at {name}");
        let differing = after
            .iter()
            .find(|(file, bytes)| expected[*file] != **bytes);
        assert!(
            differing.is_none(),
            "killed at {name}, {} differs",
            differing.unwrap().0
        );
        std::fs::remove_dir_all(&cut).unwrap();
        killed += 1;
    }
    assert!(killed >= 20, "{killed} moments of {}", synced.len());
}

#[test]
fn a_second_process_is_refused_by_name_and_a_dead_one_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let line = whole_request(dir.path());
    let (whole, held) = (dir.path().join("whole"), dir.path().join("held"));
    good(&line("whole"));
    let mut first = shimmed(&line("held"), &held)
        .env("SHIM_AT", "9")
        .env("SHIM_SIGNAL", "STOP")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stat = format!("/proc/{}/stat", first.id());
    for _ in 0..6000 {
        let stat = std::fs::read_to_string(&stat).unwrap();
        if stat.rsplit(')').next().unwrap().trim().starts_with('T') {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for second in [
        line("held"),
        format!("filter {}", held.display()),
        format!("report {}", held.display()),
    ] {
        let message = fails(1, &second);
        let holder = format!("process {}", first.id());
        assert!(message.contains(&holder), "{second}\n{message}");
        assert!(message.contains(held.to_str().unwrap()), "{message}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    good(&line("held"));
    assert_same_tree(&whole, &held);
}
