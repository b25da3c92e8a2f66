//! Growing sets: new rows against those of an earlier set, which are never compared with each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::{ArrayRef, AsArray, Int8Array, Int64Array, LargeStringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use clipsift::dedup::decide::{PairGraph, Removal};
use clipsift::dedup::exact::{self, ExactPairs, Pair};
use clipsift::dedup::kmeans;
use clipsift::dedup::semantic::{self, SemanticDedup};
use clipsift::ops::dot::cosine;
use clipsift::ops::normalize_rows;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tempfile::TempDir;

use crate::common::{assert_same_tree, clipsift, data, fails, good, table, tree};
use crate::embeddings::write_npy;

/// Unit rows around a few directions: near ones, some identical.
fn draw(seed: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
    let directions: Vec<f32> = (0..4 * d).map(|_| uniform()).collect();
    let mut rows = Vec::new();
    for _ in 0..n {
        let which = ((uniform() + 0.5) * 3.99) as usize;
        let noise = [0.0, 0.0, 0.1, 0.3][((uniform() + 0.5) * 3.99) as usize];
        rows.extend(
            directions[which * d..(which + 1) * d]
                .iter()
                .map(|x| x + noise * uniform()),
        );
    }
    assert!(normalize_rows(&mut rows, d).is_empty());
    rows
}

/// What each new row falls to, from the definitions, one cosine at a time. `related` says which rows a search compares.
fn brute(
    rows: &[f32],
    d: usize,
    own: usize,
    eps: f64,
    removal: Removal,
    related: impl Fn(usize, usize) -> bool,
) -> Vec<Option<(u64, f64)>> {
    let n = rows.len() / d;
    let row = |i: usize| &rows[i * d..(i + 1) * d];
    let mut fallen: Vec<Option<(u64, f64)>> = vec![None; own];
    for new in 0..own {
        let before = (own..n).chain(0..new);
        for other in before.filter(|&other| related(new, other)) {
            let counts = removal == Removal::Chain || other >= own || fallen[other].is_none();
            let c = cosine(row(new), row(other));
            let alike = c >= 1.0 - eps || row(new) == row(other);
            if counts && alike && fallen[new].is_none_or(|(_, best)| c > best) {
                fallen[new] = Some((other as u64, c));
            }
        }
    }
    fallen
}

fn decided(
    pairs: &[Pair],
    n: usize,
    own: usize,
    eps: f64,
    removal: Removal,
) -> Vec<Option<(u64, f64)>> {
    let mut graph = PairGraph::new(n, eps).unwrap();
    graph.add(pairs).unwrap();
    let earlier: Vec<bool> = (0..n).map(|row| row >= own).collect();
    let order: Vec<u64> = (own as u64..n as u64).chain(0..own as u64).collect();
    let fallen = graph
        .decide(&vec![true; n], &earlier, &order, removal)
        .unwrap();
    assert!(
        fallen[own..].iter().all(Option::is_none),
        "an earlier set stays whole"
    );
    fallen[..own]
        .iter()
        .map(|fell| fell.map(|fell| (fell.row, fell.cosine)))
        .collect()
}

proptest! {
    #[test]
    fn decisions_against_an_earlier_set_are_those_of_all_cosines_one_by_one(
        seed in any::<u64>(),
        n in 0usize..50,
        share in 0.0f64..=1.0,
        d in 2usize..12,
        tile in 1usize..12,
        eps in prop::sample::select(vec![0.0, 0.001, 0.02, 0.1]),
        clusters in 1usize..4,
        chain in any::<bool>(),
    ) {
        let rows = draw(seed, n, d);
        let own = (n as f64 * share) as usize;
        let removal = if chain { Removal::Chain } else { Removal::Group };
        let search = ExactPairs::new(&rows, d, exact::Params { floor: 0.1, tile }).unwrap();
        let (pairs, info) = search.against(own).unwrap().collect().unwrap();
        prop_assert_eq!(info.rows, n as u64);
        prop_assert_eq!(info.pairs, pairs.len() as u64);
        prop_assert!(pairs.iter().all(|p| p.a < own as u64 && p.a < p.b), "never old with old");
        let expected = brute(&rows, d, own, eps, removal, |_, _| true);
        prop_assert_eq!(decided(&pairs, n, own, eps, removal), expected);

        prop_assume!(n >= clusters);
        let params = semantic::Params {
            kmeans: kmeans::Params { clusters: Some(clusters), ..Default::default() },
            floor: 0.1,
            tile,
        };
        let semantic = SemanticDedup::fit(&rows, d, params).unwrap().against(own).unwrap();
        let labels = semantic.kmeans().labels.clone();
        let (pairs, _) = semantic.collect().unwrap();
        prop_assert!(pairs.iter().all(|p| p.a < own as u64 && p.a < p.b), "never old with old");
        let expected = brute(&rows, d, own, eps, removal, |a, b| labels[a] == labels[b]);
        prop_assert_eq!(decided(&pairs, n, own, eps, removal), expected);

        // The best earlier match: the earlier set first, then new rows in their order.
        let order: Vec<u64> = (0..n as u64).rev().collect();
        let matches = semantic.matches(&order).unwrap();
        let row = |i: u64| &rows[i as usize * d..(i as usize + 1) * d];
        for new in 0..n as u64 {
            let mut best = (new, 0.0, f64::NEG_INFINITY);
            let before = order.iter().filter(|&&o| o >= own as u64).chain(order.iter().filter(|&&o| o < own as u64 && o > new));
            for &other in before.filter(|&&o| new < own as u64 && labels[o as usize] == labels[new as usize]) {
                let c = cosine(row(new), row(other));
                if c > best.2 {
                    best = (other, c, c);
                }
            }
            let got = matches[new as usize];
            prop_assert_eq!((got.row, got.cosine), (best.0, best.1), "row {}", new);
        }
    }
}

#[test]
fn an_earlier_set_beyond_the_rows_is_refused() {
    let rows = [1.0, 0.0, 0.0, 1.0];
    let exact = ExactPairs::new(&rows, 2, exact::Params::default()).unwrap();
    assert!(
        exact
            .clone()
            .against(3)
            .unwrap_err()
            .to_string()
            .contains("at most 2")
    );
    assert!(exact.against(2).is_ok());
    let semantic = SemanticDedup::fit(&rows, 2, semantic::Params::default()).unwrap();
    assert!(semantic.against(3).is_err());
}

/// A folder of files for one test.
struct Place(TempDir);

/// (reason, duplicate_of, duplicate_of_run) by id.
type Fates = BTreeMap<String, (String, String, String)>;

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A `.npy` of unit rows in a plane, at angles of thousandths of a radian.
    fn angles(&self, name: &str, angles: &[i32]) -> String {
        let rows: Vec<f32> = angles
            .iter()
            .map(|a| f64::from(*a) / 1000.0)
            .flat_map(|a| [a.cos() as f32, a.sin() as f32])
            .collect();
        write_npy(&self.at(name), &[angles.len() as u64, 2], &rows);
        self.at(name)
    }

    fn npy(&self, name: &str, rows: &[f32], d: usize) -> String {
        write_npy(&self.at(name), &[(rows.len() / d) as u64, d as u64], rows);
        self.at(name)
    }
}

/// Ids and texts of a column, as texts; "" for null.
fn shown(table: &RecordBatch, name: &str) -> Vec<String> {
    let column = table
        .column_by_name(name)
        .unwrap_or_else(|| panic!("no column {name}"));
    let texts = cast(column, &DataType::Utf8).unwrap();
    texts
        .as_string::<i32>()
        .iter()
        .map(|t| t.unwrap_or("").to_string())
        .collect()
}

fn fates(run: &Path) -> Fates {
    let table = table(run.join("decisions.parquet"));
    let columns =
        ["id", "reason", "duplicate_of", "duplicate_of_run"].map(|name| shown(&table, name));
    let [ids, reasons, of, runs] = columns;
    let rows = ids
        .into_iter()
        .zip(reasons.into_iter().zip(of.into_iter().zip(runs)));
    rows.map(|(id, (reason, (of, run)))| (id, (reason, of, run)))
        .collect()
}

fn fate(reason: &str, of: &str, run: &str) -> (String, String, String) {
    let run = match run {
        "" => String::new(),
        run => Path::new(run).canonicalize().unwrap().display().to_string(),
    };
    (reason.into(), of.into(), run)
}

/// Every file of a folder with its bytes and its time of change.
fn untouched(root: &str) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let files = walkdir::WalkDir::new(root)
        .into_iter()
        .map(|entry| entry.unwrap().into_path());
    files
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let time = std::fs::metadata(&path).unwrap().modified().unwrap();
            (path, (bytes, time))
        })
        .collect()
}

#[test]
fn new_rows_fall_to_what_an_earlier_run_kept_and_to_each_other() {
    let place = Place::new();
    // eps .0002 is 20 thousandths of a radian. In the old run row 1 falls to row 0.
    let old = place.angles("old.npy", &[0, 15, 500]);
    let new = place.angles("new.npy", &[-10, 30, 500, 900, 905, 1300]);
    let (earlier, run) = (place.at("earlier"), place.at("run"));
    good(&format!("dedup {old} --out {earlier} --eps 0.0002"));
    let before = untouched(&earlier);
    for mode in ["exact", "semantic --clusters 1"] {
        let stdout = good(&format!(
            "dedup {new} --out {run} --eps 0.0002 --dedup {mode} --against {earlier}"
        ));
        assert!(
            untouched(&earlier) == before,
            "the earlier run stays as it was"
        );
        let expected: Fates = [
            // Both runs call their rows by numbers; the run tells them apart.
            ("0", fate("duplicate", "0", &earlier)),
            // Near to row 1 of the old run, which is not in its set.
            ("1", fate("kept", "", "")),
            ("2", fate("duplicate", "2", &earlier)),
            ("3", fate("kept", "", "")),
            ("4", fate("duplicate", "3", "")),
            ("5", fate("kept", "", "")),
        ]
        .map(|(id, fate)| (id.to_string(), fate))
        .into();
        assert_eq!(fates(Path::new(&run)), expected, "{mode}");
        let line = stdout
            .lines()
            .find(|line| line.contains("of an earlier set"))
            .unwrap();
        assert_eq!(line.split_whitespace().last(), Some("2"));

        let duplicates = Path::new(&run).join("duplicates");
        let removed = table(duplicates.join("removed.parquet"));
        assert_eq!(shown(&removed, "id"), ["0", "2", "4"]);
        assert_eq!(shown(&removed, "kept_id"), ["0", "2", "3"]);
        let name = Path::new(&earlier)
            .canonicalize()
            .unwrap()
            .display()
            .to_string();
        assert_eq!(
            shown(&removed, "kept_run"),
            [name.as_str(), name.as_str(), ""]
        );
        let pairs = table(duplicates.join("pairs-00000.parquet"));
        assert_eq!(
            *pairs.column_by_name("b").unwrap().data_type(),
            DataType::Int64
        );
        let known = table(duplicates.join("against.parquet"));
        assert!(
            shown(&known, "id").iter().all(|id| id != "1"),
            "row 1 is not in the set"
        );
        if mode != "exact" {
            let matches = table(duplicates.join("matches.parquet"));
            assert_eq!(shown(&matches, "id"), ["0", "1", "2", "3", "4", "5"]);
            assert_eq!(shown(&matches, "max_id"), ["0", "0", "2", "2", "3", "4"]);
            let of_earlier: Vec<bool> = shown(&matches, "max_run")
                .iter()
                .map(|run| !run.is_empty())
                .collect();
            assert_eq!(of_earlier, [true, true, true, true, false, false]);
        }
    }
}

/// Decisions of a run over `old` and `new` together, old rows first: those about the new rows, as if made against `earlier`.
fn together(place: &Place, flags: &str, earlier: &str) -> Fates {
    let all = place.at("all");
    let (old, new) = (place.at("old.npy"), place.at("new.npy"));
    good(&format!(
        "dedup {old} {new} --out {all} --keep first {flags}"
    ));
    let table = table(Path::new(&all).join("decisions.parquet"));
    let rows = shown(&table, "id")
        .into_iter()
        .zip(shown(&table, "reason"))
        .zip(shown(&table, "duplicate_of"));
    rows.filter_map(|((id, reason), of)| {
        let id = id.strip_prefix("new#")?.to_string();
        let fate = match (of.strip_prefix("old#"), of.strip_prefix("new#")) {
            (Some(of), _) => fate(&reason, of, earlier),
            (_, of) => fate(&reason, of.unwrap_or(""), ""),
        };
        Some((id, fate))
    })
    .collect()
}

#[test]
fn a_grown_set_is_decided_as_if_all_had_been_there_at_once() {
    let place = Place::new();
    let d = 6;
    place.npy("old.npy", &draw(1, 300, d), d);
    // Some of the old rows again, and others with copies among themselves.
    let new = [&draw(1, 300, d)[150 * d..], &draw(2, 150, d)].concat();
    place.npy("new.npy", &new, d);
    let (earlier, run) = (place.at("earlier"), place.at("run"));
    for eps in ["0", "0.001", "0.01"] {
        let flags = format!("--eps {eps} --floor 0.05 --dedup exact");
        good(&format!(
            "dedup {} --out {earlier} {flags}",
            place.at("old.npy")
        ));
        // The same run again, against what is another set now.
        good(&format!(
            "dedup {} --out {run} {flags} --against {earlier}",
            place.at("new.npy")
        ));
        let got = fates(Path::new(&run));
        assert_eq!(got, together(&place, &flags, &earlier), "eps {eps}");
        assert!(got.values().any(|fate| !fate.2.is_empty()));
        assert!(
            got.values()
                .any(|fate| fate.0 == "duplicate" && fate.2.is_empty())
        );
    }
}

#[test]
fn another_eps_a_filter_a_sweep_and_a_report_need_no_new_search() {
    let place = Place::new();
    let d = 6;
    place.npy("old.npy", &draw(1, 100, d), d);
    let new = place.npy("new.npy", &draw(1, 150, d)[50 * d..], d);
    let (earlier, run) = (place.at("earlier"), place.at("run"));
    good(&format!(
        "dedup {} --out {earlier} --dedup exact --eps 0.01",
        place.at("old.npy")
    ));
    let flags = format!("--dedup exact --floor 0.05 --against {earlier}");
    good(&format!("dedup {new} --out {run} {flags} --eps 0.01"));
    let first = tree(Path::new(&run));
    let pairs = Path::new(&run).join("duplicates/pairs-00000.parquet");
    let found = std::fs::metadata(&pairs).unwrap().modified().unwrap();
    let mut rows = Vec::new();
    for eps in ["0.02", "0", "0.05", "0.01"] {
        let stdout = good(&format!("dedup {run} {flags} --eps {eps}"));
        let count = |name: &str| {
            let line = stdout.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().last().unwrap().to_string()
        };
        rows.push([eps.to_string(), count("duplicates"), count("kept")]);
        // As if it had been asked for at once.
        let at_once = place.at(&format!("at-{eps}"));
        good(&format!("dedup {new} --out {at_once} {flags} --eps {eps}"));
        assert_same_tree(Path::new(&run), Path::new(&at_once));
    }
    assert_eq!(
        std::fs::metadata(&pairs).unwrap().modified().unwrap(),
        found,
        "found once"
    );
    assert!(tree(Path::new(&run)) == first);
    // From here on the earlier run need not even be there.
    std::fs::rename(&earlier, place.at("elsewhere")).unwrap();
    let swept = good(&format!("dedup {run} --sweep 0.02,0,0.05,0.01"));
    let swept: Vec<Vec<&str>> = swept
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(swept, rows);
    good(&format!("filter {run}"));
    assert!(tree(Path::new(&run)) == first);
    good(&format!("report {run}"));
    let page = std::fs::read_to_string(Path::new(&run).join("report.html")).unwrap();
    assert!(
        page.contains("Decided against what was kept in"),
        "the page names the earlier set"
    );
    let words = fails(2, &format!("dedup {run} {flags}"));
    assert!(words.contains("does not exist"), "{words}");
    // Without it, on purpose.
    let output = clipsift(["dedup", &run, "--eps", "0.01"]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("decided before against"), "{words}");
    let table = table(Path::new(&run).join("decisions.parquet"));
    assert!(table.column_by_name("duplicate_of_run").is_none());
    assert!(!Path::new(&run).join("duplicates/against.parquet").exists());
}

#[test]
fn an_earlier_set_that_has_changed_is_compared_again() {
    let place = Place::new();
    let (old, new) = (
        place.angles("old.npy", &[0, 15]),
        place.angles("new.npy", &[30]),
    );
    let (earlier, run) = (place.at("earlier"), place.at("run"));
    let line = format!("dedup {new} --out {run} --eps 0.0002 --against {earlier}");
    for (eps, expected) in [
        ("0.0002", fate("kept", "", "")),
        // Now both old rows are kept, and one of them is near.
        ("0", fate("duplicate", "1", &place.at("."))),
    ] {
        good(&format!("dedup {old} --out {earlier} --eps {eps}"));
        good(&line);
        let got = &fates(Path::new(&run))["0"];
        assert_eq!((&got.0, &got.1), (&expected.0, &expected.1), "eps {eps}");
    }
    // Embedded and nothing decided: every good row counts.
    let plain = place.at("plain");
    good(&format!("dedup {old} --out {plain} --dedup off"));
    good(&format!(
        "dedup {new} --out {run} --eps 0.0002 --against {plain}"
    ));
    assert_eq!(fates(Path::new(&run))["0"], fate("duplicate", "1", &plain));
    std::fs::remove_file(place.path("plain/decisions.parquet")).unwrap();
    let words = fails(2, &format!("dedup {new} --out {run} --against {plain}"));
    assert!(
        words.contains("no decisions about what it is now"),
        "{words}"
    );
}

#[test]
fn several_earlier_sets_and_several_new_runs_count_together() {
    let place = Place::new();
    let sets = [
        ("a", [0, 300]),
        ("b", [5, 600]),
        ("c", [301, 900]),
        ("d", [601, 905]),
    ];
    for (name, angles) in sets {
        let file = place.angles(&format!("{name}.npy"), &angles);
        // Two files, so that ids differ between the runs that are one set.
        let other = place.angles(&format!("{name}-more.npy"), &[2000 + angles[0]]);
        good(&format!(
            "dedup {file} {other} --out {} --dedup exact --eps 0.00001",
            place.at(name)
        ));
    }
    let [a, b, c, d] = sets.map(|(name, _)| place.at(name));
    let all = place.at("all");
    let line = format!("dedup {c} {d} --out {all} --dedup exact --eps 0.00002");
    good(&format!("{line} --against {a} --against {b}"));
    let got = fates(Path::new(&all));
    assert_eq!(got["c#0"], fate("duplicate", "a#1", &a));
    assert_eq!(got["d#0"], fate("duplicate", "b#1", &b));
    assert_eq!(got["c#1"], fate("kept", "", ""));
    assert_eq!(got["d#1"], fate("duplicate", "c#1", ""));
    // A set of runs can be an earlier set too.
    let next = place.at("next");
    let file = place.angles("e.npy", &[899, 908, 1500]);
    let line_of = |files: &str| format!("dedup {files} --out {next} --eps 0.00002 --against {all}");
    let words = fails(2, &line_of(&file));
    assert!(
        words.contains("does not fit among ids of type int64"),
        "{words}"
    );
    assert!(!Path::new(&next).exists(), "refused before any work");
    let other = place.angles("e-more.npy", &[3000]);
    good(&line_of(&format!("{file} {other}")));
    let got = fates(Path::new(&next));
    // d#1 fell, so what is near to it alone is new.
    assert_eq!(got["e#0"], fate("duplicate", "c#1", &all));
    assert_eq!(got["e#1"].0, "kept");
    assert_eq!(got["e#2"].0, "kept");
    let words = fails(2, &format!("{line} --against {a} --against {a}"));
    assert!(words.contains("named twice"), "{words}");
    for own in [&all, &c] {
        let words = fails(2, &format!("{line} --against {own}"));
        assert!(
            words.contains("is the run itself, or one of its members"),
            "{words}"
        );
    }
}

#[test]
fn what_cannot_be_compared_is_refused_before_any_work() {
    let place = Place::new();
    let (old, new) = (place.angles("old.npy", &[0]), place.angles("new.npy", &[0]));
    let (earlier, run) = (place.at("earlier"), place.at("run"));
    good(&format!("dedup {old} --out {earlier}"));
    let wide = place.npy("wide.npy", &[1.0, 0.0, 0.0], 3);
    let pictures = data("gallery/portraits");
    for (line, code, says) in [
        (
            format!("dedup {wide} --out {run} --against {earlier}"),
            2,
            "has embeddings of 2 dims, here they have 3",
        ),
        (
            format!(
                "curate {} --out {run} --against {earlier}",
                pictures.display()
            ),
            2,
            "dims",
        ),
        (
            format!("dedup {new} --out {run} --against {}", place.at("none")),
            2,
            "does not exist",
        ),
        (
            format!("dedup {new} --out {run} --against {old}"),
            2,
            "is not a run directory",
        ),
        (
            format!("dedup {new} --out {run} --against {earlier} --dedup off"),
            2,
            "leave it out with --dedup off",
        ),
    ] {
        let words = fails(code, &line);
        assert!(words.contains(says), "{line}\n{words}");
        assert!(!Path::new(&run).exists(), "{line}");
    }
    // As many dims, but another model.
    let text = std::fs::read_to_string(place.path("earlier/run.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["embed"]["fingerprint"] = "another".into();
    json["embed"]["model"] = "of-another-kind".into();
    std::fs::write(place.path("earlier/run.json"), json.to_string()).unwrap();
    let words = fails(2, &format!("dedup {new} --out {run} --against {earlier}"));
    assert!(
        words.contains("another model") && words.contains("of-another-kind"),
        "{words}"
    );
    assert!(!Path::new(&run).exists());
    // A run that is not complete.
    json["embed"]["fingerprint"] = "given".into();
    json["parts"] = 2.into();
    std::fs::write(place.path("earlier/run.json"), json.to_string()).unwrap();
    let words = fails(2, &format!("dedup {new} --out {run} --against {earlier}"));
    assert!(words.contains("is not complete"), "{words}");
}

#[test]
fn ids_of_other_types_fit_or_are_refused_by_name() {
    let place = Place::new();
    let ids = |name: &str, ids: ArrayRef| {
        let rows = place.angles("rows.npy", &[0, 500]);
        let run = place.at(&format!("{name}-rows"));
        good(&format!("dedup {rows} --out {run} --overwrite"));
        let embeddings = table(Path::new(&run).join("embeddings/part-00000.parquet"));
        let columns = [("id", ids), ("embedding", embeddings.column(1).clone())];
        let path = place.at(&format!("{name}.parquet"));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        clipsift::atomic::write_parquet(&path, &batch).unwrap();
        path
    };
    let texts = ids("texts", Arc::new(LargeStringArray::from(vec!["x", "7"])));
    let numbers = ids("numbers", Arc::new(Int64Array::from(vec![7, -1])));
    let small = ids("small", Arc::new(Int8Array::from(vec![7, -1])));
    let (a, b, c) = (place.at("a"), place.at("b"), place.at("c"));
    good(&format!("dedup {texts} --out {a}"));
    good(&format!("dedup {numbers} --out {b}"));
    // Numbers among texts, and wide numbers among narrow ones where they fit.
    good(&format!("dedup {texts} --out {c} --against {b}"));
    assert_eq!(fates(Path::new(&c))["7"], fate("duplicate", "-1", &b));
    let of = table(Path::new(&c).join("decisions.parquet"));
    assert_eq!(
        *of.column_by_name("duplicate_of").unwrap().data_type(),
        DataType::LargeUtf8
    );
    good(&format!(
        "dedup {small} --out {c} --overwrite --against {b}"
    ));
    assert_eq!(fates(Path::new(&c))["7"], fate("duplicate", "7", &b));
    let before = untouched(&c);
    let words = fails(2, &format!("dedup {c} --against {a}"));
    assert!(
        words.contains("its id x does not fit among ids of type int8"),
        "{words}"
    );
    assert_eq!(untouched(&c).len(), before.len());
}

#[test]
fn no_rows_bad_rows_and_equal_rows_have_right_answers_against_each_other() {
    let place = Place::new();
    let rows: [(&str, Vec<f32>); 5] = [
        ("none", vec![]),
        ("one", vec![1.0, 0.0]),
        ("same", [0.6, 0.8].repeat(200)),
        ("bad", vec![0.0, 0.0, f32::NAN, 1.0]),
        ("mixed", vec![f32::NAN, 0.0, 0.6, 0.8, 1.0, 0.0]),
    ];
    for (name, rows) in &rows {
        let file = place.npy(&format!("{name}.npy"), rows, 2);
        good(&format!("dedup {file} --out {} --eps 0", place.at(name)));
    }
    // The same rows again, kept whole: copies within an earlier set.
    good(&format!(
        "dedup {} --out {} --dedup off",
        place.at("same.npy"),
        place.at("whole")
    ));
    for (new, old, kept) in [
        ("none", "same", 0),
        ("same", "none", 1),
        ("same", "same", 0),
        ("same", "whole", 0),
        ("one", "same", 1),
        ("bad", "one", 0),
        ("one", "bad", 1),
        ("mixed", "one", 1),
        ("mixed", "whole", 1),
        ("one", "one", 0),
    ] {
        for mode in [
            "exact",
            "semantic --clusters 1",
            "semantic --clusters 1 --audit 300",
            "auto --removal chain",
        ] {
            let run = place.at("run");
            let file = place.at(&format!("{new}.npy"));
            good(&format!(
                "dedup {file} --out {run} --overwrite --eps 0 --dedup {mode} --against {}",
                place.at(old)
            ));
            let table = table(Path::new(&run).join("decisions.parquet"));
            let got = shown(&table, "reason")
                .iter()
                .filter(|reason| *reason == "kept")
                .count();
            assert_eq!(got, kept, "{new} against {old}, {mode}");
            good(&format!("report {run}"));
            if mode.contains("audit") && new != "none" && new != "bad" {
                let text = std::fs::read_to_string(Path::new(&run).join("run.json")).unwrap();
                let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                let audit = &json["audit"];
                assert_eq!(
                    audit["neighbours"], audit["found"],
                    "{new} against {old}: {audit}"
                );
            }
        }
    }
    // As many clusters as rows of both together, and one more.
    let line = format!(
        "dedup {} --against {} --eps 0",
        place.at("one"),
        place.at("same")
    );
    good(&format!("{line} --clusters 2"));
    let words = fails(2, &format!("{line} --clusters 3"));
    assert!(words.contains("3 clusters of 2 rows"), "{words}");
}

#[test]
fn threads_tiles_and_scratch_files_change_nothing_and_an_audit_sees_both_sets() {
    let place = Place::new();
    let d = 6;
    place.npy("old.npy", &draw(1, 200, d), d);
    let new = place.npy("new.npy", &draw(1, 300, d)[100 * d..], d);
    let earlier = place.at("earlier");
    good(&format!(
        "dedup {} --out {earlier} --dedup exact --eps 0",
        place.at("old.npy")
    ));
    for mode in ["exact", "semantic --clusters 3 --audit 60"] {
        let line = |name: &str, more: &str| {
            let run = place.at(name);
            good(&format!(
                "dedup {new} --out {run} --overwrite --eps 0.01 --dedup {mode} --against {earlier} {more}"
            ));
            run
        };
        let first = line("first", "--threads 1");
        for more in [
            "--threads 3 --tile 1",
            "--threads 2 --tile 33 --part-size 7",
        ] {
            let other = line("other", more);
            if !more.contains("part-size") {
                assert_same_tree(Path::new(&first), Path::new(&other));
            }
            assert_eq!(
                fates(Path::new(&first)),
                fates(Path::new(&other)),
                "{mode} {more}"
            );
        }
        // Another order of preference only ranks anew.
        if mode.starts_with("semantic") {
            let flags = format!("--eps 0.01 --dedup {mode} --against {earlier}");
            good(&format!("dedup {first} {flags} --keep hard"));
            let at_once = line("hard", "--keep hard");
            assert_same_tree(Path::new(&first), Path::new(&at_once));
        }
    }
}

#[test]
fn an_audit_looks_for_neighbours_in_the_earlier_set_too() {
    let place = Place::new();
    // The clusters part the plane at 100 thousandths: 99 and 101 are neighbours that they cut.
    let centroids = place.angles("c.npy", &[0, 200]);
    let (old, new) = (
        place.angles("old.npy", &[101, 1, 1, 900]),
        place.angles("new.npy", &[99, 0, 1500]),
    );
    let (earlier, run) = (place.at("earlier"), place.at("run"));
    // Copies of the earlier set count, as rows that are there.
    good(&format!("dedup {old} --out {earlier} --dedup off"));
    good(&format!(
        "dedup {new} --out {run} --eps 0.0002 --dedup semantic --centroids {centroids} --iterations 0 --audit 9 --against {earlier}"
    ));
    let audit = |run: &str| {
        let text = std::fs::read_to_string(Path::new(run).join("run.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["audit"].clone()
    };
    let audit = audit(&run);
    assert_eq!(
        (&audit["audited"], &audit["with_neighbours"]),
        (&3.into(), &2.into())
    );
    assert_eq!(audit["recall"], 0.5);
    assert_eq!(
        (&audit["neighbours"], &audit["found"]),
        (&2.into(), &1.into())
    );
    let worst = &audit["worst"][0];
    assert_eq!(
        (&worst["cluster"], &worst["missed"]),
        (&0.into(), &1.into())
    );
}

#[test]
fn pictures_are_curated_against_an_earlier_run_and_stages_leave_the_same_bytes() {
    let place = Place::new();
    let gallery = data("gallery");
    let (old, new, earlier) = (place.path("old"), place.path("new"), place.at("earlier"));
    std::fs::create_dir_all(&old).unwrap();
    std::fs::create_dir_all(&new).unwrap();
    let copy = |from: &str, to: &Path| {
        std::fs::copy(gallery.join(from), to).unwrap();
    };
    copy("landscapes/desert-dunes.jpg", &old.join("dunes.jpg"));
    copy("landscapes/misty-forest.jpg", &old.join("forest.jpg"));
    copy("landscapes/desert-dunes.jpg", &new.join("dunes.jpg"));
    copy(
        "landscapes/misty-forest-resized.jpg",
        &new.join("smaller.jpg"),
    );
    copy("landscapes/city-dusk.jpg", &new.join("city.jpg"));
    copy(
        "landscapes/city-dusk-resized.jpg",
        &new.join("city-small.jpg"),
    );
    good(&format!("curate {} --out {earlier}", old.display()));
    let before = untouched(&earlier);
    let (at_once, steps) = (place.at("at-once"), place.at("steps"));
    good(&format!(
        "curate {} --out {at_once} --against {earlier}",
        new.display()
    ));
    good(&format!("embed {} --out {steps}", new.display()));
    good(&format!("dedup {steps} --against {earlier}"));
    good(&format!("write {steps}"));
    good(&format!("report {steps}"));
    assert_same_tree(Path::new(&at_once), Path::new(&steps));
    assert!(
        untouched(&earlier) == before,
        "the earlier run stays as it was"
    );

    let got = fates(Path::new(&at_once));
    let name = |file: &str| got.keys().find(|id| id.ends_with(file)).unwrap().clone();
    let fell = |file: &str| got[&name(file)].clone();
    assert_eq!(fell("dunes.jpg").2, fate("", "", &earlier).2);
    assert!(fell("dunes.jpg").1.ends_with("dunes.jpg"));
    assert!(fell("smaller.jpg").1.ends_with("forest.jpg"), "{got:?}");
    assert_eq!(
        fell("city-small.jpg"),
        fate("duplicate", &name("city.jpg"), "")
    );
    assert_eq!(fell("city.jpg").0, "kept");
    let removed = table(Path::new(&at_once).join("duplicates/removed.parquet"));
    assert_eq!(
        shown(&removed, "match")
            .iter()
            .filter(|word| *word == "bytes")
            .count(),
        1
    );
    let page = |run: &str| std::fs::read_to_string(Path::new(run).join("report.html")).unwrap();
    let pictures = |run: &str| page(run).matches("<img src=").count();
    let shown_once = page(&at_once);
    assert!(shown_once.contains("in <bdi title=") && shown_once.contains("byte-identical"));
    let with_old = pictures(&at_once);
    // The old pictures are gone: the page says so, and shows the others.
    std::fs::remove_dir_all(&old).unwrap();
    good(&format!("report {steps}"));
    assert!(page(&steps).contains("no picture"));
    assert!(pictures(&steps) < with_old && pictures(&steps) > 0);
    good(&format!("write {steps} --to {}", place.at("again")));
}

#[test]
fn the_library_takes_earlier_runs_too() {
    let place = Place::new();
    let files = [
        place.angles("old.npy", &[0]),
        place.angles("new.npy", &[1, 700]),
    ];
    let context = clipsift::pipeline::Context::quiet();
    let run = |file: &str, name: &str, dedup: &clipsift::Dedup| {
        let columns = clipsift::read::embeddings::Columns::default();
        let files =
            clipsift::read::embeddings::Embeddings::open(&[PathBuf::from(file)], &columns).unwrap();
        let import = clipsift::pipeline::Import::default();
        let mut run = clipsift::Run::import(&files, &place.path(name), &import, context).unwrap();
        run.dedup(dedup, &[], context).unwrap()
    };
    run(&files[0], "earlier", &clipsift::Exact::within(0.01));
    for dedup in [
        clipsift::Exact::within(0.01),
        clipsift::Semantic::within(0.01),
    ] {
        let summary = run(&files[1], "run", &dedup.against(place.path("earlier")));
        assert_eq!(
            (summary.duplicates, summary.earlier, summary.kept),
            (1, 1, 1)
        );
        let decisions = clipsift::Run::open(&place.path("run"))
            .unwrap()
            .decisions()
            .unwrap();
        assert!(
            decisions[0]
                .duplicate_of_run
                .as_deref()
                .unwrap()
                .ends_with("earlier")
        );
        assert_eq!(decisions[1].duplicate_of_run, None);
    }
}
