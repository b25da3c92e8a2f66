//! The command end to end: on the gallery, in stages, in partitions, in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::common::*;

/// The gallery's group of each file, from `gallery.json`; None for broken files.
fn groups() -> BTreeMap<String, Option<(String, String)>> {
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(data("gallery.json")).unwrap()).unwrap();
    let files = json["files"].as_object().unwrap();
    let of = |v: &serde_json::Value| {
        Some((
            v["group"].as_str()?.to_string(),
            v["edit"].as_str()?.to_string(),
        ))
    };
    files
        .iter()
        .map(|(name, value)| (name.clone(), of(value)))
        .collect()
}

#[test]
fn the_first_command_of_the_readme_finds_the_copies_and_keeps_the_originals() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let output = clipsift([
        Path::new("curate"),
        &data("gallery"),
        Path::new("--out"),
        &run,
    ]);
    assert!(output.status.success());
    let (stdout, stderr) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(
        stderr.lines().next().unwrap().contains("near-duplicates"),
        "the first line says what builtin is for: {stderr}"
    );

    let (groups, decisions) = (groups(), decisions(&run));
    assert_eq!(decisions.len(), groups.len());
    for (id, group) in &groups {
        let (reason, of) = &decisions[id];
        match group {
            None => assert_eq!(reason, "corrupt", "{id}"),
            Some((group, edit)) => {
                assert!(reason == "kept" || reason == "duplicate", "{id}: {reason}");
                if reason == "duplicate" {
                    let other = groups[of].as_ref().unwrap();
                    assert_eq!(&other.0, group, "{id} fell to {of}, another picture");
                }
                if edit == "copy" {
                    let twin = groups.iter().find(|(other, g)| {
                        *other != id
                            && g.as_ref()
                                .is_some_and(|g| g.0 == *group && g.1 == "original")
                    });
                    let twin = &decisions[twin.unwrap().0].0;
                    assert!(
                        reason == "duplicate" || twin == "duplicate",
                        "{id}: kept beside its byte-identical twin"
                    );
                }
            }
        }
    }
    let kept_groups: BTreeSet<_> = decisions
        .iter()
        .filter(|d| d.1.0 == "kept")
        .filter_map(|d| groups[d.0].as_ref().map(|g| &g.0))
        .collect();
    let all_groups: BTreeSet<_> = groups.values().flatten().map(|g| &g.0).collect();
    assert_eq!(
        kept_groups, all_groups,
        "every picture is kept once at least"
    );

    let count = |reason: &str| decisions.values().filter(|d| d.0 == reason).count();
    for (name, n) in [
        ("read", groups.len()),
        ("bad", count("corrupt")),
        ("duplicates", count("duplicate")),
        ("kept", count("kept")),
    ] {
        let line = stdout
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in\n{stdout}"));
        assert_eq!(
            line.split_whitespace().last().unwrap(),
            n.to_string(),
            "{stdout}"
        );
    }
    assert!(stdout.contains("images/s"), "{stdout}");
    let list = std::fs::read_to_string(run.join("curated/list.txt")).unwrap();
    assert_eq!(list.lines().count(), count("kept"));
    assert!(list.lines().all(|path| Path::new(path).is_file()));
}

#[test]
fn curate_equals_its_stages_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    gallery_shards(dir.path(), 20);
    let at = dir.path().display().to_string();
    let head = head_for_builtin(dir.path());
    let inputs = format!("{at}/{{00000..00003}}.tar --part-size 16");
    let dedup = "--eps 0.06 --keep largest";
    for (name, mode) in [("exact", "exact"), ("semantic", "semantic --clusters 5")] {
        let (whole, staged) = (format!("{at}/{name}-whole"), format!("{at}/{name}-staged"));
        good(&format!(
            "curate {inputs} --out {whole} --head mine={head} --min mine=-0.1 --dedup {mode} {dedup} --shard-size 10"
        ));
        good(&format!("embed {inputs} --out {staged}"));
        good(&format!(
            "score {staged} --head mine={head} --min mine=-0.1"
        ));
        good(&format!("dedup {staged} --dedup {mode} {dedup}"));
        good(&format!("write {staged} --shard-size 10"));
        good(&format!("report {staged}"));
        assert_same_tree(Path::new(&whole), Path::new(&staged));
    }
}

#[test]
fn three_partitions_decide_like_one_run() {
    let dir = tempfile::tempdir().unwrap();
    gallery_shards(dir.path(), 9);
    let at = dir.path().display().to_string();
    for (input, keep) in [
        (format!("{at}/{{00000..00008}}.tar"), "largest"),
        (data("gallery").display().to_string(), "first"),
    ] {
        let name = format!("{at}/{keep}");
        good(&format!(
            "curate {input} --out {name}-one --keep {keep} --write tar"
        ));
        let mut members = String::new();
        for i in 1..=3 {
            good(&format!(
                "curate {input} --out {name}-{i} --partition {i}/3 --keep {keep}"
            ));
            assert!(
                !Path::new(&format!("{name}-{i}/decisions.parquet")).exists(),
                "a partition stops after the scores"
            );
            members += &format!(" {name}-{i}");
        }
        good(&format!("dedup {members} --out {name}-all --keep {keep}"));
        good(&format!("write {name}-all --write tar"));
        let (one, all) = (format!("{name}-one"), format!("{name}-all"));
        for file in [
            "decisions.parquet",
            "duplicates/removed.parquet",
            "duplicates/pairs-00000.parquet",
        ] {
            let read = |run: &str| std::fs::read(Path::new(run).join(file)).unwrap();
            assert!(read(&one) == read(&all), "{file} differs for {keep}");
        }
        let curated = |run: &str| {
            let mut files = tree(&Path::new(run).join("curated"));
            files.retain(|name, _| name.ends_with(".tar"));
            files
        };
        assert!(
            !curated(&one).is_empty() && curated(&one) == curated(&all),
            "the curated sets differ for {keep}"
        );
    }
}

#[test]
fn batch_sizes_decide_alike_and_thread_counts_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (at, gallery) = (
        dir.path().display().to_string(),
        data("gallery").display().to_string(),
    );
    for (name, flags) in [
        ("a", "--threads 1"),
        ("b", "--threads 2"),
        ("c", "--threads 5"),
        ("d", "--batch-size 7"),
    ] {
        good(&format!(
            "curate {gallery} --out {at}/{name} --part-size 25 {flags}"
        ));
    }
    assert_same_tree(&dir.path().join("a"), &dir.path().join("b"));
    assert_same_tree(&dir.path().join("a"), &dir.path().join("c"));
    assert_eq!(
        decisions(&dir.path().join("a")),
        decisions(&dir.path().join("d"))
    );
}

#[test]
fn a_finished_run_is_not_done_again_and_a_new_eps_only_decides() {
    let dir = tempfile::tempdir().unwrap();
    let (run, gallery) = (
        dir.path().join("run"),
        data("gallery").display().to_string(),
    );
    let line = format!("curate {gallery} --out {} --part-size 30", run.display());
    good(&line);
    let stamps = || {
        let mut stamps = BTreeMap::new();
        for name in [
            "samples/part-00000.parquet",
            "embeddings/part-00002.parquet",
            "duplicates/pairs-00000.parquet",
        ] {
            stamps.insert(
                name,
                std::fs::metadata(run.join(name))
                    .unwrap()
                    .modified()
                    .unwrap(),
            );
        }
        stamps
    };
    let (before, first) = (stamps(), decisions(&run));
    good(&line);
    good(&format!("dedup {} --eps 0.0001", run.display()));
    let strict = decisions(&run);
    assert!(strict != first, "a smaller eps keeps more");
    good(&format!("{line} --eps 0.0001"));
    assert_eq!(decisions(&run), strict);
    good(&line);
    assert_eq!(decisions(&run), first);
    assert_eq!(
        stamps(),
        before,
        "parts and pairs are as they were first written"
    );
}

#[test]
fn a_part_that_is_gone_is_made_again_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (run, gallery) = (
        dir.path().join("run"),
        data("gallery").display().to_string(),
    );
    let line = format!("curate {gallery} --out {} --part-size 20", run.display());
    good(&line);
    let before = tree(&run);
    let other = run.join("samples/part-00000.parquet");
    let stamp = std::fs::metadata(&other).unwrap().modified().unwrap();
    std::fs::remove_file(run.join("samples/part-00001.parquet")).unwrap();
    good(&line);
    assert_eq!(tree(&run), before);
    assert_eq!(
        std::fs::metadata(&other).unwrap().modified().unwrap(),
        stamp
    );
}

#[test]
fn filter_decides_anew_without_computing() {
    let dir = tempfile::tempdir().unwrap();
    let (run, gallery) = (
        dir.path().join("run"),
        data("gallery").display().to_string(),
    );
    let head = head_for_builtin(dir.path());
    good(&format!(
        "curate {gallery} --out {} --head mine={head}",
        run.display()
    ));
    let all = decisions(&run);
    good(&format!("filter {} --min mine=0.0", run.display()));
    let filtered = decisions(&run);
    let scores = table(run.join("decisions.parquet"));
    let scores = arrow::array::AsArray::as_primitive::<arrow::datatypes::Float32Type>(
        scores.column_by_name("mine").unwrap(),
    )
    .clone();
    for ((i, (id, (reason, _))), before) in filtered.iter().enumerate().zip(all.values()) {
        if before.0 == "corrupt" {
            assert_eq!(reason, "corrupt", "{id}");
        } else {
            // decisions() sorts by id; the gallery is read in that order too.
            assert_eq!(reason == "mine", scores.value(i) < 0.0, "{id}");
        }
    }
    assert!(filtered.values().any(|d| d.0 == "mine") && filtered.values().any(|d| d.0 == "kept"));
    good(&format!("filter {}", run.display()));
    assert_eq!(decisions(&run), all);
}

#[test]
fn lists_stdin_and_written_sets_are_inputs_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    good(&format!(
        "curate {} --out {at}/a",
        data("gallery").display()
    ));
    good(&format!(
        "curate {at}/a/curated/list.txt --out {at}/b --write tar --shard-size 7"
    ));
    let kept = |run: &str| {
        decisions(Path::new(run))
            .values()
            .filter(|d| d.0 == "kept")
            .count()
    };
    let n = kept(&format!("{at}/a"));
    assert_eq!(
        kept(&format!("{at}/b")),
        n,
        "a curated set has no duplicates left"
    );
    good(&format!(
        "curate {at}/b/curated/{{00000..0000{}}}.tar --out {at}/c",
        (n - 1) / 7
    ));
    assert_eq!(
        kept(&format!("{at}/c")),
        n,
        "and comes back from shards whole"
    );

    let paths = std::fs::read_to_string(dir.path().join("a/curated/list.txt")).unwrap();
    let mut child = command()
        .args(words(&format!(
            "curate - --out {at}/d --write tar --shard-size 7"
        )))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), paths.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(kept(&format!("{at}/d")), n);
    good(&format!("write {at}/d --to {at}/e --write folder"));
}
