//! What clusters lose, on clusters that part duplicates on purpose.

use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::{UInt32Type, UInt64Type};
use clipsift::dedup::audit::{Audit, Params};
use clipsift::dedup::semantic::{self, SemanticDedup};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{assert_same_tree, clipsift, fails, good, table, tree, words};
use crate::embeddings::write_npy;

/// Dims: a plane in which the clusters lie, and a direction for each pair or loner, so that no two pairs are near each other.
const D: usize = 2 + LOTS;
const LOTS: usize = 110;

/// Angles of the centroids in the plane; they part it at .2 and 1.2.
const CENTROIDS: [f64; 3] = [0.0, 0.4, 2.0];

/// (how many pairs, angles of the two): 40 and 20 pairs in clusters 0 and 2; 15 cut between 0 and 1, 5 between 1 and 2.
const PAIRS: [(usize, f64, f64); 4] = [
    (40, -0.1, -0.099),
    (15, 0.199, 0.201),
    (5, 1.199, 1.201),
    (20, 2.0, 2.001),
];

/// Rows without a neighbour.
const LONERS: usize = 30;

fn planted() -> Vec<f32> {
    let mut rows = Vec::new();
    let mut lot = 0;
    let mut row = |lot: usize, angle: f64| {
        let mut row = vec![0.0; D];
        row[0] = 0.6 * angle.cos() as f32;
        row[1] = 0.6 * angle.sin() as f32;
        row[2 + lot] = 0.8;
        rows.extend(row);
    };
    for (count, a, b) in PAIRS {
        for _ in 0..count {
            row(lot, a);
            row(lot, b);
            lot += 1;
        }
    }
    for i in 0..LONERS {
        row(lot, i as f64 / 10.0);
        lot += 1;
    }
    assert_eq!(lot, LOTS);
    rows
}

fn centroids() -> Vec<f32> {
    let mut rows = vec![0.0; CENTROIDS.len() * D];
    for (row, angle) in rows.chunks_exact_mut(D).zip(CENTROIDS) {
        (row[0], row[1]) = (angle.cos() as f32, angle.sin() as f32);
    }
    rows
}

/// The planted rows and centroids as files, and a line that searches by them into a run.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let rows = planted();
        write_npy(
            &place.at("rows.npy"),
            &[(rows.len() / D) as u64, D as u64],
            &rows,
        );
        write_npy(&place.at("c.npy"), &[3, D as u64], &centroids());
        place
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn semantic(&self) -> String {
        let c = self.at("c.npy");
        format!("--dedup semantic --centroids {c} --iterations 0 --eps 0.01")
    }

    fn line(&self, run: &str) -> String {
        format!(
            "dedup {} --out {} {}",
            self.at("rows.npy"),
            self.at(run),
            self.semantic()
        )
    }
}

fn audit_of(run: &str) -> Value {
    let text = std::fs::read_to_string(Path::new(run).join("run.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    json["audit"].clone()
}

#[test]
fn the_recall_told_is_the_one_that_was_planted_and_the_worst_cluster_is_named() {
    let place = Place::new();
    let stdout = good(&format!("{} --audit 1000", place.line("run")));
    let run = place.at("run");
    let audit = audit_of(&run);
    assert_eq!(audit["audited"], 190);
    assert_eq!(audit["with_neighbours"], 160);
    // 40 of 160 rows have their only neighbour in another cluster.
    assert_eq!(audit["recall"], 0.75);
    assert_eq!(audit["interval"], serde_json::json!([0.75, 0.75]));
    assert_eq!((&audit["lost"], &audit["cut"]), (&40.into(), &0.into()));
    assert_eq!(
        (&audit["neighbours"], &audit["found"]),
        (&160.into(), &120.into())
    );
    let worst: Vec<_> = audit["worst"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| ["cluster", "audited", "missed"].map(|key| w[key].as_u64().unwrap()))
        .collect();
    assert_eq!(worst, [[1, 20, 20], [0, 95, 15], [2, 45, 5]]);
    let line = |name: &str| -> Vec<&str> {
        let line = stdout
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no line {name} in\n{stdout}"));
        line.split_whitespace().collect()
    };
    assert_eq!(
        line("recall")[1..],
        ["0.7500", "95", "%", "interval", "0.7500", "to", "0.7500"]
    );
    assert_eq!(line("neighbours missed")[2..], ["40", "of", "160"]);
    assert_eq!(line("cluster 1"), ["cluster", "1", "20", "20", "0.0000"]);

    let rows = table(Path::new(&run).join("duplicates/audit.parquet"));
    assert_eq!(rows.num_rows(), 190);
    let counts = |name: &str| {
        let column = rows.column_by_name(name).unwrap();
        column.as_primitive::<UInt64Type>().values().to_vec()
    };
    let clusters = rows.column_by_name("centroid").unwrap();
    let clusters = clusters.as_primitive::<UInt32Type>().values();
    for (row, (neighbours, found)) in counts("neighbours")
        .into_iter()
        .zip(counts("found"))
        .enumerate()
    {
        let expected = match row {
            0..80 => (1, 1, Some(0)),
            80..110 => (1, 0, Some(row as u32 % 2)),
            110..120 => (1, 0, Some(1 + row as u32 % 2)),
            120..160 => (1, 1, Some(2)),
            _ => (0, 0, None),
        };
        assert_eq!((neighbours, found), (expected.0, expected.1), "row {row}");
        assert!(
            expected.2.is_none_or(|cluster| cluster == clusters[row]),
            "row {row}"
        );
    }
    good(&format!("report {run}"));
    let page = std::fs::read_to_string(Path::new(&run).join("report.html")).unwrap();
    assert!(page.contains("recall 0.7500"), "the page tells the recall");
}

#[test]
fn an_interval_covers_what_was_planted_as_often_as_it_says() {
    let (rows, centroids) = (planted(), centroids());
    let labels = clipsift::ops::assign::assign(&rows, D, &centroids)
        .unwrap()
        .labels;
    let params = semantic::Params::default();
    let semantic = SemanticDedup::with_clusters(&rows, D, centroids, labels, params).unwrap();
    let (pairs, _) = semantic.collect().unwrap();
    let (mut covered, mut recalls) = (0, Vec::new());
    for seed in 0..200 {
        let params = Params {
            rows: 60,
            eps: 0.01,
            seed,
            ..Params::default()
        };
        let audit = Audit::search(&rows, D, &params).unwrap();
        let (audited, info) = audit.check(&pairs, &semantic.kmeans().labels).unwrap();
        assert_eq!(audited.len(), 60);
        let (low, high) = info.interval.unwrap();
        assert!(low <= info.recall.unwrap() && info.recall.unwrap() <= high);
        covered += usize::from(low <= 0.75 && 0.75 <= high);
        recalls.push(info.recall.unwrap());
    }
    assert!(
        covered >= 188,
        "{covered} of 200 intervals cover the recall"
    );
    let mean = recalls.iter().sum::<f64>() / 200.0;
    assert!((mean - 0.75).abs() < 0.02, "the mean recall is {mean}");
    recalls.sort_by(f64::total_cmp);
    recalls.dedup();
    assert!(recalls.len() > 10, "another seed draws other rows");
}

#[test]
fn an_audit_is_the_same_bytes_for_any_threads_and_tiles_at_once_or_later() {
    let place = Place::new();
    good(&format!("{} --audit 50 --threads 1", place.line("a")));
    let first = place.at("a");
    for (threads, tile) in [(2, 1), (3, 7), (4, 1000)] {
        let name = format!("b-{threads}");
        good(&format!(
            "{} --audit 50 --threads {threads} --tile {tile}",
            place.line(&name)
        ));
        assert_same_tree(Path::new(&first), Path::new(&place.at(&name)));
    }
    // Afterwards, over what is stored.
    good(&place.line("c"));
    assert_eq!(audit_of(&place.at("c")), Value::Null);
    good(&format!(
        "dedup {} {} --audit 50",
        place.at("c"),
        place.semantic()
    ));
    assert_same_tree(Path::new(&first), Path::new(&place.at("c")));
    let audit = audit_of(&first);
    assert_eq!(audit["audited"], 50);
    let end = |i: usize| audit["interval"][i].as_f64().unwrap();
    assert!(end(0) < 0.75 && 0.75 < end(1), "{audit}");
}

#[test]
fn an_audit_stays_as_long_as_it_is_true() {
    let place = Place::new();
    good(&format!("{} --audit 50", place.line("run")));
    let run = place.at("run");
    let before = tree(Path::new(&run));
    let at = |eps: &str, more: &str| {
        let semantic = place.semantic().replace("--eps 0.01", eps);
        good(&format!("dedup {run} {semantic} {more}"))
    };
    let again = |more: &str| at("--eps 0.01", more);
    // The same clusters, pairs and eps.
    again("");
    assert!(tree(Path::new(&run)) == before);
    good(&format!("filter {run}"));
    assert_eq!(audit_of(&run)["audited"], 50);
    again("--audit 60");
    assert_eq!(audit_of(&run)["audited"], 60);
    assert_eq!(at("--eps 0.02", "").matches("recall").count(), 0);
    assert_eq!(audit_of(&run), Value::Null);
    assert!(!Path::new(&run).join("duplicates/audit.parquet").exists());
    again("--audit 50");
    assert!(tree(Path::new(&run)) == before);
    // A part that was lost is made again.
    std::fs::remove_file(Path::new(&run).join("duplicates/audit.parquet")).unwrap();
    again("--audit 50");
    assert!(tree(Path::new(&run)) == before);
    good(&format!("dedup {run} --dedup off"));
    assert_eq!(audit_of(&run), Value::Null);
    assert!(!Path::new(&run).join("duplicates").exists());
}

#[test]
fn an_exact_search_has_nothing_to_audit() {
    let place = Place::new();
    let (rows, run) = (place.at("rows.npy"), place.at("run"));
    for (flags, says) in [
        ("--dedup exact --audit 5", "an exact search loses nothing"),
        ("--dedup off --audit 5", "--audit is for --dedup semantic"),
        ("--dedup semantic --audit 0", "at least 1"),
    ] {
        let stderr = fails(2, &format!("dedup {rows} --out {run} {flags}"));
        assert!(stderr.contains(says), "{stderr}");
        assert!(!Path::new(&run).exists(), "refused before any work");
    }
    let output = clipsift(words(&format!("dedup {rows} --out {run} --audit 5")));
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("no audit, because every pair was compared"),
        "{stderr}"
    );
    assert_eq!(audit_of(&run), Value::Null);
}

#[test]
fn rows_without_any_neighbour_have_an_unknown_recall() {
    let place = Place::new();
    for (name, rows) in [("none", 0), ("one", 1), ("two", 2)] {
        let values: Vec<f32> = (0..rows).flat_map(|i| [1.0, i as f32]).collect();
        let file = place.at(&format!("{name}.npy"));
        write_npy(&file, &[rows, 2], &values);
        let run = place.at(name);
        let stdout = good(&format!(
            "dedup {file} --out {run} --dedup semantic --clusters 1 --audit 9"
        ));
        let audit = audit_of(&run);
        if rows == 0 {
            assert_eq!(audit, Value::Null);
        } else {
            assert_eq!(
                (&audit["audited"], &audit["recall"]),
                (&rows.into(), &Value::Null)
            );
            assert!(stdout.contains("unknown"), "{stdout}");
        }
    }
    // All rows equal: one class, in one cluster, all of it found.
    write_npy(&place.at("same.npy"), &[300, 2], &[0.6, 0.8].repeat(300));
    let run = place.at("same");
    good(&format!(
        "dedup {} --out {run} --dedup semantic --clusters 3 --eps 0 --audit 20",
        place.at("same.npy")
    ));
    let audit = audit_of(&run);
    assert_eq!(
        (&audit["recall"], &audit["found"]),
        (&1.0.into(), &(20 * 299).into())
    );
}
