//! Runs made of embeddings by others keep the rules of every run directory.

use std::path::Path;

use tempfile::TempDir;

use crate::common::{fails, good, tree};
use crate::embeddings::write_npy;

/// The first and the last row are a duplicate, the second is bad.
const ROWS: [[f32; 2]; 4] = [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.001]];

fn stored() -> (TempDir, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (rows, run) = (at("rows.npy"), at("run"));
    write_npy(&rows, &[4, 2], ROWS.as_flattened());
    (dir, rows, run)
}

fn run_json(run: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(Path::new(run).join("run.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn claim(run: &str, key: &str, value: serde_json::Value) {
    let mut file = run_json(run);
    file[key] = value;
    std::fs::write(Path::new(run).join("run.json"), file.to_string()).unwrap();
}

#[test]
fn a_report_says_that_there_are_no_pictures() {
    let (_dir, rows, run) = stored();
    good(&format!("dedup {rows} --out {run}"));
    good(&format!("report {run}"));
    let report = Path::new(&run).join("report.html");
    let page = std::fs::read_to_string(&report).unwrap();
    let (_, groups) = page.split_once(r#"<section id="duplicates">"#).unwrap();
    let groups = groups.split_once("</section>").unwrap().0;
    assert_eq!(groups.matches(r#"<article class="group">"#).count(), 1);
    for words in [
        "No pictures: the embeddings were made by others, without images",
        "its embedding is zero",
        "embeddings made by others",
        "2 dims, f32",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // Other decisions, no stale page.
    good(&format!("dedup {run} --eps 0"));
    assert!(!report.exists());
}

#[test]
fn a_sweep_reads_all_pairs_or_none() {
    let (_dir, rows, run) = stored();
    good(&format!("dedup {rows} --out {run}"));
    let json = run_json(&run);
    assert_eq!(
        (&json["parts"], &json["pair_files"]),
        (&1.into(), &1.into())
    );
    let swept = good(&format!("dedup {run} --sweep 0,0.01"));
    let last: Vec<&str> = swept.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last, ["0.01", "1", "2"]);

    // What a search leaves that was cut off.
    claim(&run, "pair_files", serde_json::Value::Null);
    let words = fails(2, &format!("dedup {run} --sweep 0.01"));
    assert!(words.contains("not complete"), "{words}");
    claim(&run, "pair_files", 1.into());
    std::fs::remove_file(Path::new(&run).join("duplicates/pairs-00000.parquet")).unwrap();
    let words = fails(1, &format!("dedup {run} --sweep 0.01"));
    assert!(words.contains("finds the pairs again"), "{words}");
    good(&format!("dedup {run}"));
    assert_eq!(good(&format!("dedup {run} --sweep 0,0.01")), swept);

    good(&format!("dedup {run} --dedup off"));
    let words = fails(2, &format!("dedup {run} --sweep 0.01"));
    assert!(words.contains("has no pairs yet"), "{words}");
}

#[test]
fn a_missing_part_is_missed_and_made_again() {
    let (_dir, rows, run) = stored();
    good(&format!("dedup {rows} --out {run} --part-size 1"));
    let before = tree(Path::new(&run));
    std::fs::remove_file(Path::new(&run).join("samples/part-00002.parquet")).unwrap();
    let words = fails(2, &format!("dedup {run}"));
    assert!(words.contains("part 2 is not there"), "{words}");
    good(&format!("dedup {rows} --out {run} --part-size 1"));
    assert!(tree(Path::new(&run)) == before);
}

#[test]
fn an_input_in_the_run_directory_and_a_folder_of_others_stay_untouched() {
    let (dir, rows, run) = stored();
    good(&format!("dedup {rows} --out {run}"));
    let inside = format!("{run}/rows.npy");
    std::fs::copy(&rows, &inside).unwrap();
    let before = tree(Path::new(&run));
    for input in [inside, format!("{run}/embeddings/part-00000.parquet")] {
        let words = fails(2, &format!("dedup {input} --out {run} --overwrite"));
        assert!(words.contains("lies in the run directory"), "{words}");
        assert!(tree(Path::new(&run)) == before);
    }
    let words = fails(2, &format!("dedup {rows} --out {}", dir.path().display()));
    assert!(words.contains("not a run directory"), "{words}");
    assert!(Path::new(&rows).is_file());
    // With --overwrite the run's own files go, and nothing else.
    good(&format!(
        "dedup {rows} --out {run} --overwrite --part-size 2"
    ));
    assert!(Path::new(&run).join("rows.npy").is_file());
    assert!(Path::new(&run).join("samples/part-00001.parquet").is_file());
}
