//! What large sets need: a scratch file instead of the matrix, pairs that do not grow without end, a search that goes on.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::{assert_same_tree, clipsift, fails, good, table, tree, words};
use crate::embeddings::write_npy;

/// Rows around directions that repeat every seven rows, a little apart from each other; some the same.
fn near_rows(n: usize, d: usize) -> Vec<f32> {
    let value = |row: usize, i: usize| {
        let direction = ((row % 7 * 31 + i * 17) % 23) as f32 - 11.0;
        let noise = ((row / 7 % 5 * 13 + i * 29) % 19) as f32 - 9.0;
        direction + 0.1 * noise
    };
    (0..n * d).map(|at| value(at / d, at % d)).collect()
}

fn stored(n: usize, d: usize) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.npy").display().to_string();
    write_npy(&rows, &[n as u64, d as u64], &near_rows(n, d));
    (dir, rows)
}

#[test]
fn a_matrix_in_a_scratch_file_gives_the_same_bytes_as_one_in_memory() {
    let (dir, rows) = stored(200, 16);
    let at = |name: &str| dir.path().join(name).display().to_string();
    for how in [
        "exact",
        "semantic --clusters 5",
        "semantic --clusters 5 --fit-fraction 0.5",
    ] {
        let (held, mapped) = (at("held"), at("mapped"));
        for (run, bytes) in [(&held, 200 * 16 * 4), (&mapped, 200 * 16 * 4 - 1)] {
            good(&format!(
                "dedup {rows} --out {run} --part-size 64 --dedup {how} --held {bytes}"
            ));
            // Another order makes the matches anew.
            good(&format!(
                "dedup {run} --dedup {how} --keep random --held {bytes}"
            ));
        }
        assert!(tree(Path::new(&held))["duplicates/removed.parquet"].len() > 500);
        // Nothing of the scratch file stays behind either.
        assert_same_tree(Path::new(&held), Path::new(&mapped));
        for run in [held, mapped] {
            std::fs::remove_dir_all(run).unwrap();
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_scratch_file_that_does_not_fit_is_an_error_with_its_size() {
    // Rows of zeros but one value: small as parts, 1 MiB as a matrix.
    let (n, d) = (1024, 256);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mut values = vec![0.0; n * d];
    (0..n).for_each(|row| values[row * d + row % d] = 1.0);
    write_npy(&at("rows.npy"), &[n as u64, d as u64], &values);
    good(&format!(
        "dedup {} --out {} --dedup off --part-size 64",
        at("rows.npy"),
        at("run")
    ));
    let before = tree(&dir.path().join("run"));
    // Writing beyond 512 KiB of a file fails as it does on a full disk.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ && ulimit -f 1024 && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_clipsift"))
        .args(["dedup", &at("run"), "--dedup", "exact", "--held", "0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a scratch file of 1 MiB for the embeddings"),
        "{said}"
    );
    assert!(tree(&dir.path().join("run")) == before);
}

fn run_json(run: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(Path::new(run).join("run.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn decided(run: &str) -> Vec<u8> {
    std::fs::read(Path::new(run).join("decisions.parquet")).unwrap()
}

fn pairs(run: &str) -> usize {
    let files = run_json(run)["pair_files"].as_u64().unwrap();
    let file = |file| table(Path::new(run).join(format!("duplicates/pairs-{file:05}.parquet")));
    (0..files).map(|at| file(at).num_rows()).sum()
}

/// Unit rows in a crowd: all cosines between 0.985 and 1, no two the same.
fn crowd(n: usize) -> Vec<f32> {
    let row = |i: usize| {
        let turn = i as f32 * 2.399_963;
        let far = 0.06 * ((i as f32 + 1.0) / n as f32).sqrt();
        [1.0, far * turn.cos(), far * turn.sin(), 0.0]
    };
    (0..n).flat_map(row).collect()
}

#[test]
fn a_crowd_is_cut_beyond_eps_and_never_decided_by_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let n = 3000;
    write_npy(&at("rows.npy"), &[n, 4], &crowd(n as usize));
    let (rows, cut, whole) = (at("rows.npy"), at("cut"), at("whole"));
    for how in ["exact", "semantic --clusters 2"] {
        let line =
            |run: &str| format!("dedup {rows} --out {run} --dedup {how} --eps 0.0001 --floor 0.02");
        good(&line(&cut));
        good(&format!("{} --row-pairs 1000000", line(&whole)));
        // No more than a thousand for each row, of up to three million.
        assert!(pairs(&cut) <= 1000 * n as usize);
        assert!(
            pairs(&cut) < pairs(&whole),
            "{} {}",
            pairs(&cut),
            pairs(&whole)
        );
        let complete = run_json(&cut)["complete_to"].as_f64().unwrap();
        assert!((0.0001..0.02).contains(&complete), "{complete}");
        assert!(run_json(&whole).get("complete_to").is_none());
        assert!(decided(&cut) == decided(&whole));

        // Within what is complete nothing is searched again, and the answers are those of all pairs.
        let files = || tree(&Path::new(&cut).join("duplicates"))["pairs-00000.parquet"].clone();
        let before = files();
        let within = format!("--dedup {how} --eps {complete} --floor 0.02");
        good(&format!("dedup {cut} {within}"));
        good(&format!("dedup {whole} {within}"));
        assert!(files() == before);
        assert!(decided(&cut) == decided(&whole));
        let sweep = format!("0,0.0001,{complete}");
        assert_eq!(
            good(&format!("dedup {cut} --sweep {sweep}")),
            good(&format!("dedup {whole} --sweep {sweep}"))
        );

        // Beyond it a sweep is refused and a search made anew.
        let said = fails(2, &format!("dedup {cut} --sweep 0.001"));
        assert!(
            said.contains("up to") && said.contains("compares again"),
            "{said}"
        );
        let beyond = format!("--dedup {how} --eps 0.001 --floor 0.02");
        good(&format!("dedup {cut} {beyond}"));
        good(&format!("dedup {whole} {beyond}"));
        assert!(files() != before);
        assert!(decided(&cut) == decided(&whole));
        for run in [&cut, &whole] {
            std::fs::remove_dir_all(run).unwrap();
        }
    }
}

#[test]
fn pairs_within_eps_are_never_cut() {
    let (dir, rows) = stored(300, 16);
    let at = |name: &str| dir.path().join(name).display().to_string();
    // Seven directions of 43 rows, 9 equal ones in each of five places.
    for (run, cap) in [("all", "1000"), ("none", "0")] {
        let eps = "--eps 0.05 --floor 0.05";
        good(&format!(
            "dedup {rows} --out {} --dedup exact {eps} --row-pairs {cap}",
            at(run)
        ));
    }
    assert!(pairs(&at("all")) > 300);
    assert_same_tree(Path::new(&at("all")), Path::new(&at("none")));
}

#[test]
fn a_hundred_thousand_equal_rows_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let n = 100_000;
    write_npy(
        &at("rows.npy"),
        &[n, 4],
        &[0.5, -0.25, 0.125, 1.0].repeat(n as usize),
    );
    for how in ["exact", "semantic"] {
        let said = good(&format!(
            "dedup {} --out {} --dedup {how}",
            at("rows.npy"),
            at(how)
        ));
        let kept: Vec<&str> = said
            .lines()
            .find(|line| line.starts_with("kept"))
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(kept, ["kept", "1"]);
        // One pair a row, with the first.
        assert_eq!(pairs(&at(how)), n as usize - 1);
    }
}

#[test]
fn clusters_that_are_there_serve_a_search_for_other_pairs() {
    let (dir, rows) = stored(400, 16);
    let at = |name: &str| dir.path().join(name).display().to_string();
    let line = |run: &str, floor: f64| {
        format!("dedup {rows} --out {run} --dedup semantic --clusters 9 --eps 0.01 --floor {floor}")
    };
    good(&line(&at("twice"), 0.02));
    let clusters = || tree(&Path::new(&at("twice")).join("clusters"));
    let before = clusters();
    // Its fit is told of in run.json.
    let fit = run_json(&at("twice"))["clusters"].clone();
    assert_eq!(fit["converged"], true);
    assert_eq!(
        fit["inertias"].as_array().unwrap().len(),
        fit["shifts"].as_array().unwrap().len()
    );
    let output = clipsift(words(&line(&at("twice"), 0.2)));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("the clusters are there already") && !said.contains("iteration"),
        "{said}"
    );
    assert!(clusters() == before);
    good(&line(&at("once"), 0.2));
    assert_same_tree(Path::new(&at("once")), Path::new(&at("twice")));

    // Damaged ones are made anew.
    std::fs::write(
        Path::new(&at("twice")).join("clusters/part-00000.parquet"),
        "",
    )
    .unwrap();
    good(&line(&at("twice"), 0.1));
    assert!(clusters() == before);
}
