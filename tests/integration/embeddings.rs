//! Embeddings made by others: `.npy` and parquet in, a run directory out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, Float32Array, Float64Array,
    Int32Array, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use half::f16;
use npyz::WriterBuilder;
use tempfile::TempDir;

use crate::common::{assert_same_tree, fails, good, table};

/// Rows of the reference system's own tests, whose answers are known.
const SIX: [[f32; 3]; 6] = [
    [1.0, 2.0, 3.0],
    [4.0, 5.0, 6.0],
    [7.0, 8.0, 9.0],
    [10.0, 11.0, 12.0],
    [1.0, 2.0, 3.0],
    [1.0, 2.0, 3.0],
];

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn npy<const D: usize>(&self, name: &str, rows: &[[f32; D]]) -> String {
        let path = self.at(name);
        write_npy(&path, &[rows.len() as u64, D as u64], rows.as_flattened());
        path
    }

    /// A parquet of an id column and an embedding column.
    fn parquet(&self, name: &str, ids: ArrayRef, embeddings: ArrayRef) -> String {
        let path = self.at(name);
        let columns = [("id", ids, true), ("embedding", embeddings, true)];
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    }

    /// A head whose score is a row's first value.
    fn head(&self, d: usize) -> String {
        let mut weight = vec![0.0f32; d];
        weight[0] = 1.0;
        let device = candle_core::Device::Cpu;
        let tensors = std::collections::HashMap::from([
            (
                "weight".to_string(),
                candle_core::Tensor::from_vec(weight, (1, d), &device).unwrap(),
            ),
            (
                "bias".to_string(),
                candle_core::Tensor::zeros(1, candle_core::DType::F32, &device).unwrap(),
            ),
        ]);
        let path = self.at("first.safetensors");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        path
    }
}

pub(crate) fn write_npy(path: &str, shape: &[u64], values: &[f32]) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(shape)
        .writer(file)
        .begin_nd()
        .unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
}

/// A `.npy` of the given dtype and bytes, as numpy.save writes it.
fn raw_npy(path: &str, descr: &str, shape: &str, data: &[u8]) {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let padded = format!("{dict:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

fn list(rows: &[&[f32]]) -> ArrayRef {
    let values = Float32Array::from(rows.concat());
    let item = Arc::new(Field::new("element", DataType::Float32, true));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.len()));
    Arc::new(ListArray::try_new(item, offsets, Arc::new(values), None).unwrap())
}

fn fixed<const D: usize>(rows: &[[f32; D]], kind: &DataType) -> ArrayRef {
    let flat = rows.as_flattened();
    let values: ArrayRef = match kind {
        DataType::Float16 => Arc::new(Float16Array::from_iter_values(
            flat.iter().map(|x| f16::from_f32(*x)),
        )),
        DataType::Float64 => Arc::new(Float64Array::from_iter_values(
            flat.iter().map(|x| f64::from(*x)),
        )),
        _ => Arc::new(Float32Array::from(flat.to_vec())),
    };
    let item = Arc::new(Field::new("item", kind.clone(), true));
    Arc::new(FixedSizeListArray::try_new(item, D as i32, values, None).unwrap())
}

fn int64(column: &RecordBatch, name: &str) -> Vec<i64> {
    let column = column.column_by_name(name).unwrap();
    assert_eq!(*column.data_type(), DataType::Int64, "{name}");
    let values = column.as_primitive::<arrow::datatypes::Int64Type>();
    values.values().to_vec()
}

/// Ids and texts alike, as texts; "" for null.
fn shown(table: &RecordBatch, name: &str) -> Vec<String> {
    let column = cast(table.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
    let texts = column.as_string::<i32>();
    texts.iter().map(|t| t.unwrap_or("").to_string()).collect()
}

fn numbers(table: &RecordBatch, name: &str) -> Vec<f64> {
    let column = cast(table.column_by_name(name).unwrap(), &DataType::Float64).unwrap();
    let values = column.as_primitive::<arrow::datatypes::Float64Type>();
    values.values().to_vec()
}

fn assert_near(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    let near = got
        .iter()
        .zip(expected)
        .all(|(a, b)| (a - b).abs() <= tolerance);
    assert!(near, "expected {expected:?}, got {got:?}");
}

fn matches(run: &str) -> RecordBatch {
    table(Path::new(run).join("duplicates/matches.parquet"))
}

fn decided(run: &str) -> RecordBatch {
    table(Path::new(run).join("decisions.parquet"))
}

fn reasons(run: &str) -> Vec<String> {
    shown(&decided(run), "reason")
}

/// Why samples are bad; "" for good ones.
fn errors(run: &str) -> Vec<String> {
    let samples = table(Path::new(run).join("samples/part-00000.parquet"));
    shown(&samples, "error")
}

/// `matches.parquet` of every tile size and number of threads is the expected one.
fn assert_matches(
    place: &Place,
    line: &str,
    ids: &[i64],
    max_ids: &[i64],
    scores: &[f64],
    tolerance: f64,
) {
    let mut first: Option<PathBuf> = None;
    for tile in 1..=6 {
        for threads in 1..=4 {
            let run = place.at(&format!("run-{tile}-{threads}"));
            good(&format!(
                "dedup {line} --out {run} --tile {tile} --threads {threads}"
            ));
            let table = matches(&run);
            assert_eq!(int64(&table, "id"), ids, "tile {tile}, {threads} threads");
            assert_eq!(
                int64(&table, "max_id"),
                max_ids,
                "tile {tile}, {threads} threads"
            );
            assert_near(&numbers(&table, "cosine_sim_score"), scores, tolerance);
            match &first {
                None => first = Some(run.into()),
                Some(first) => assert_same_tree(first, Path::new(&run)),
            }
        }
    }
}

#[test]
fn in_file_order_every_row_finds_its_best_earlier_match() {
    let scores = [0.0, 0.974631, 0.998190, 0.999618, 1.0, 1.0];
    let place = Place::new();
    let (rows, centroid) = (place.npy("rows.npy", &SIX), place.npy("c.npy", &SIX[..1]));
    let semantic = "--dedup semantic --iterations 0 --keep first";
    let line = format!("{rows} {semantic} --centroids {centroid}");
    assert_matches(
        &place,
        &line,
        &[0, 1, 2, 3, 4, 5],
        &[0, 0, 1, 2, 0, 0],
        &scores,
        1e-6,
    );
}

#[test]
fn half_precision_stays_half_and_finds_the_same_matches() {
    let place = Place::new();
    let (rows, centroid) = (place.at("rows.npy"), place.npy("c.npy", &SIX[..1]));
    let bytes: Vec<u8> = SIX
        .as_flattened()
        .iter()
        .flat_map(|x| f16::from_f32(*x).to_le_bytes())
        .collect();
    raw_npy(&rows, "<f2", "(6, 3)", &bytes);
    let run = place.at("run");
    good(&format!(
        "dedup {rows} --out {run} --dedup semantic --iterations 0 --centroids {centroid}"
    ));
    let table = matches(&run);
    assert_eq!(int64(&table, "max_id"), [0, 0, 1, 2, 0, 0]);
    let scores = [0.0, 0.974631, 0.998190, 0.999618, 1.0, 1.0];
    assert_near(&numbers(&table, "cosine_sim_score"), &scores, 2e-3);
    let stored = crate::common::table(Path::new(&run).join("embeddings/part-00000.parquet"));
    let kind = stored.column_by_name("embedding").unwrap().data_type();
    assert!(
        matches!(kind, DataType::FixedSizeList(item, 3) if *item.data_type() == DataType::Float16),
        "{kind}"
    );
}

#[test]
fn hard_and_easy_rank_by_the_distance_to_the_centroid() {
    for (keep, ids, max_ids, scores) in [
        (
            "hard",
            [3, 2, 1, 5, 4, 0],
            [3, 3, 2, 1, 5, 5],
            [0.0, 0.999618, 0.998190, 0.974631, 1.0, 1.0],
        ),
        (
            "easy",
            [0, 4, 5, 1, 2, 3],
            [0, 0, 0, 0, 1, 2],
            [0.0, 1.0, 1.0, 0.974631, 0.998190, 0.999618],
        ),
    ] {
        let place = Place::new();
        let (rows, centroid) = (place.npy("rows.npy", &SIX), place.npy("c.npy", &SIX[..1]));
        let line = format!("{rows} --iterations 0 --centroids {centroid} --keep {keep}");
        assert_matches(&place, &line, &ids, &max_ids, &scores, 1e-5);
    }
}

#[test]
fn a_score_ranks_rows_descending() {
    let place = Place::new();
    let rows = [0.1f32, 0.8, 0.3, 0.9, 0.2, 0.15].map(|x| [x, (1.0 - x * x).sqrt()]);
    let (rows, head, run) = (place.npy("rows.npy", &rows), place.head(2), place.at("run"));
    good(&format!("score {rows} --head first={head} --out {run}"));
    let scores = table(Path::new(&run).join("scores/first/part-00000.parquet"));
    assert_eq!(int64(&scores, "id"), [0, 1, 2, 3, 4, 5]);
    let expected = [0.1, 0.8, 0.3, 0.9, 0.2, 0.15];
    assert_near(&numbers(&scores, "score"), &expected, 1e-6);
    for line in [run.clone(), format!("{rows} --out {run}")] {
        good(&format!(
            "dedup {line} --dedup semantic --clusters 1 --keep best:first"
        ));
        assert_eq!(int64(&matches(&run), "id"), [3, 1, 2, 4, 5, 0]);
    }
}

#[test]
fn five_rows_in_a_chain_fall_as_the_reference_says() {
    let rows = [
        [1.0, 0.0, 0.0, 0.0],
        [0.96, 0.28, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.96, 0.0, 0.28],
    ];
    let place = Place::new();
    let (rows, centroid) = (place.npy("rows.npy", &rows), place.npy("c.npy", &rows[..1]));
    let line = format!(
        "{rows} --eps 0.1 --removal chain --dedup semantic --iterations 0 --centroids {centroid}"
    );
    let scores = [0.0, 0.96, 0.28, 0.0, 0.96];
    assert_matches(
        &place,
        &line,
        &[0, 1, 2, 3, 4],
        &[0, 0, 1, 0, 2],
        &scores,
        1e-6,
    );
    for mode in ["exact", "semantic --clusters 1"] {
        for removal in ["chain", "group"] {
            let run = place.at(&format!(
                "{}-{removal}",
                mode.split_once(' ').map_or(mode, |m| m.0)
            ));
            good(&format!(
                "dedup {rows} --out {run} --eps 0.1 --dedup {mode} --removal {removal}"
            ));
            let expected = ["kept", "duplicate", "kept", "kept", "duplicate"];
            assert_eq!(reasons(&run), expected, "{mode}, {removal}");
            assert_eq!(
                shown(&decided(&run), "duplicate_of"),
                ["", "0", "", "", "2"]
            );
            let removed = table(Path::new(&run).join("duplicates/removed.parquet"));
            assert_eq!(int64(&removed, "id"), [1, 4]);
            assert_eq!(int64(&removed, "kept_id"), [0, 2]);
            let pairs = table(Path::new(&run).join("duplicates/pairs-00000.parquet"));
            assert_eq!(
                (int64(&pairs, "a"), int64(&pairs, "b")),
                (vec![0, 2], vec![1, 4])
            );
        }
    }
}

#[test]
fn opposite_rows_keep_their_negative_cosine() {
    let place = Place::new();
    let rows = place.npy("rows.npy", &[[1.0, 0.0], [-1.0, 0.0]]);
    let run = place.at("run");
    good(&format!(
        "dedup {rows} --out {run} --dedup semantic --clusters 1"
    ));
    assert_near(
        &numbers(&matches(&run), "cosine_sim_score"),
        &[0.0, -1.0],
        1e-6,
    );
}

#[test]
fn given_centroids_label_rows_and_give_the_distances() {
    let place = Place::new();
    let rows = place.npy("rows.npy", &[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]);
    let centroids = place.npy("c.npy", &[[1.0, 0.0], [0.0, 2.0]]);
    let run = place.at("run");
    good(&format!(
        "dedup {rows} --out {run} --dedup semantic --iterations 0 --centroids {centroids}"
    ));
    let clusters = table(Path::new(&run).join("clusters/part-00000.parquet"));
    assert_eq!(int64(&clusters, "id"), [0, 1, 2]);
    assert_eq!(shown(&clusters, "centroid"), ["0", "1", "0"]);
    let l2 = numbers(&clusters, "l2_dist_to_cent");
    assert_near(&l2, &[0.0, 1.0, 0.8f64.sqrt()], 1e-6);
    let cosine = numbers(&clusters, "cosine_dist_to_cent");
    assert_near(&cosine, &[0.0, 0.0, 0.4], 1e-6);
}

/// Every table of a run with an id in it has ids of the type.
fn assert_id_type(run: &str, kind: &DataType, score: bool) {
    let mut tables = vec![
        ("samples/part-00000.parquet", vec!["id"]),
        ("embeddings/part-00000.parquet", vec!["id"]),
        ("clusters/part-00000.parquet", vec!["id"]),
        ("duplicates/pairs-00000.parquet", vec!["a", "b"]),
        ("duplicates/matches.parquet", vec!["id", "max_id"]),
        ("duplicates/removed.parquet", vec!["id", "kept_id"]),
        ("decisions.parquet", vec!["id", "duplicate_of"]),
    ];
    if score {
        tables.push(("scores/first/part-00000.parquet", vec!["id"]));
    }
    for (path, columns) in tables {
        let table = table(Path::new(run).join(path));
        for name in columns {
            let column = table.column_by_name(name).unwrap();
            assert_eq!(column.data_type(), kind, "{path}: {name}");
        }
    }
}

#[test]
fn ids_of_a_parquet_keep_their_type_and_order_in_every_table() {
    let rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.001], [0.6, 0.8]];
    let ids: [ArrayRef; 5] = [
        Arc::new(Int32Array::from(vec![100, -5, 20, 3])),
        Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN, 9, 10])),
        Arc::new(UInt64Array::from(vec![u64::MAX, 0, 9, 10])),
        Arc::new(StringArray::from(vec!["z", "a", "b/ü", ""])),
        Arc::new(LargeStringArray::from(vec!["z", "a", "10", "9"])),
    ];
    for (at, ids) in ids.into_iter().enumerate() {
        let place = Place::new();
        let kinds = [DataType::Float16, DataType::Float32, DataType::Float64];
        let embeddings = fixed(&rows, &kinds[at % 3]);
        let (file, head) = (
            place.parquet("e.parquet", ids.clone(), embeddings),
            place.head(2),
        );
        let run = place.at("run");
        good(&format!("score {file} --out {run} --head first={head}"));
        good(&format!(
            "dedup {file} --out {run} --dedup semantic --clusters 1 --eps 0.01"
        ));
        assert_id_type(&run, ids.data_type(), true);
        let decided = decided(&run);
        assert!(decided.column_by_name("id").unwrap() == &ids);
        assert_eq!(reasons(&run), ["kept", "kept", "duplicate", "kept"]);
        let expected = cast(&ids, &DataType::Utf8).unwrap();
        let first = expected.as_string::<i32>().value(0);
        assert_eq!(shown(&decided, "duplicate_of")[2], first);
        good(&format!("filter {run} --min first=0.5"));
        assert_id_type(&run, ids.data_type(), true);
        // A set over it has the same ids.
        let all = place.at("all");
        good(&format!("dedup {run} --out {all} --dedup exact --eps 0.01"));
        let column = table(Path::new(&all).join("decisions.parquet"));
        assert!(column.column_by_name("id").unwrap() == &ids);
    }
}

#[test]
fn ties_end_at_the_number_and_not_at_its_digits() {
    let place = Place::new();
    let same = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]];
    for (ids, kept) in [
        (
            Arc::new(Int64Array::from(vec![10, 9, -1])) as ArrayRef,
            "-1",
        ),
        (Arc::new(StringArray::from(vec!["10", "9", "90"])), "10"),
    ] {
        let name = ids.data_type().to_string();
        let file = place.parquet(
            &format!("{name}.parquet"),
            ids,
            fixed(&same, &DataType::Float32),
        );
        let run = place.at(&name);
        good(&format!(
            "dedup {file} --out {run} --keep easy --clusters 1"
        ));
        let decided = decided(&run);
        let kept_rows = shown(&decided, "reason").iter().position(|r| r == "kept");
        assert_eq!(shown(&decided, "id")[kept_rows.unwrap()], kept);
    }
}

#[test]
fn lists_without_a_fixed_size_read_like_matrices() {
    let place = Place::new();
    let rows: Vec<&[f32]> = SIX.iter().map(|row| &row[..]).collect();
    let ids = Arc::new(Int64Array::from((0..6).collect::<Vec<_>>()));
    let file = place.parquet("part.0.parquet", ids, list(&rows));
    let matrix = place.npy("rows.npy", &SIX);
    let (a, b) = (place.at("a"), place.at("b"));
    for (input, run) in [(&file, &a), (&matrix, &b)] {
        good(&format!(
            "dedup {input} --out {run} --dedup exact --floor 1"
        ));
    }
    for path in ["duplicates/pairs-00000.parquet", "decisions.parquet"] {
        let read = |run: &str| table(Path::new(run).join(path));
        assert_eq!(read(&a), read(&b), "{path}");
    }
}

#[test]
fn columns_can_be_named() {
    let place = Place::new();
    let path = place.at("e.parquet");
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let columns = [
        ("name", ids.clone(), true),
        (
            "text_embedding",
            fixed(&[[0.0f32, 1.0], [1.0, 0.0]], &DataType::Float32),
            true,
        ),
        (
            "image_embedding",
            fixed(&[[1.0f32, 0.0], [1.0, 0.0]], &DataType::Float32),
            true,
        ),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    clipsift::atomic::write_parquet(&path, &batch).unwrap();
    let run = place.at("run");
    let words = fails(1, &format!("dedup {path} --out {run}"));
    assert!(
        words.contains("--id-column") && words.contains("name (Utf8)"),
        "{words}"
    );
    let words = fails(1, &format!("dedup {path} --out {run} --id-column name"));
    assert!(words.contains("--embedding-column"), "{words}");
    let columns = "--id-column name --embedding-column image_embedding";
    good(&format!("dedup {path} --out {run} {columns}"));
    assert_eq!(reasons(&run), ["kept", "duplicate"]);
    let words = fails(
        2,
        &format!("dedup {path} --out {run} --id-column name --embedding-column text_embedding"),
    );
    assert!(
        words.contains("embedding column") && words.contains("--overwrite"),
        "{words}"
    );
}

#[test]
fn several_files_are_one_set_whatever_the_part_size() {
    let place = Place::new();
    place.npy("img_emb_0.npy", &SIX[..4]);
    place.npy("img_emb_1.npy", &SIX[4..]);
    let files = place.at("img_emb_{0..1}.npy");
    for part_size in [1, 2, 4096] {
        let run = place.at(&format!("run-{part_size}"));
        good(&format!(
            "dedup {files} --out {run} --part-size {part_size} --eps 0.00001"
        ));
        let decided = decided(&run);
        let ids = [
            "img_emb_0#0",
            "img_emb_0#1",
            "img_emb_0#2",
            "img_emb_0#3",
            "img_emb_1#0",
            "img_emb_1#1",
        ];
        assert_eq!(shown(&decided, "id"), ids);
        let first = "img_emb_0#0";
        assert_eq!(
            shown(&decided, "duplicate_of"),
            ["", "", "", "", first, first]
        );
        let samples = table(Path::new(&run).join("samples/part-00000.parquet"));
        assert!(shown(&samples, "source")[0].ends_with("img_emb_0.npy"));
        assert_eq!(shown(&samples, "member")[0], "0");
    }
}

#[test]
fn what_is_there_is_not_read_again_and_another_file_is_refused() {
    let place = Place::new();
    let (rows, run) = (place.npy("rows.npy", &SIX), place.at("run"));
    good(&format!("dedup {rows} --out {run}"));
    let once = crate::common::tree(Path::new(&run));
    good(&format!("dedup {rows} --out {run}"));
    assert!(once == crate::common::tree(Path::new(&run)));
    // Stored pairs serve another eps.
    good(&format!("dedup {run} --eps 0.00001"));
    place.npy("rows.npy", &SIX[..4]);
    let words = fails(2, &format!("dedup {rows} --out {run}"));
    assert!(words.contains("content of the inputs"), "{words}");
    good(&format!("dedup {rows} --out {run} --overwrite"));
    assert_eq!(reasons(&run).len(), 4);
}

#[test]
fn embeddings_without_images_have_no_sizes_and_nothing_to_write() {
    let place = Place::new();
    let (rows, run) = (place.npy("rows.npy", &SIX), place.at("run"));
    let output = crate::common::clipsift(["dedup", &rows, "--out", &run]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("eps 0.01"), "{words}");
    let words = fails(2, &format!("dedup {rows} --out {run} --keep largest"));
    assert!(words.contains("have no sizes"), "{words}");
    let (other, narrow) = (place.at("new"), place.npy("narrow.npy", &[[1.0f32, 0.0]]));
    for (flags, part) in [
        ("--keep largest".to_string(), "have no sizes"),
        (format!("--centroids {narrow}"), "[k, 3]"),
    ] {
        let words = fails(2, &format!("dedup {rows} --out {other} {flags}"));
        assert!(
            words.contains(part) && !Path::new(&other).exists(),
            "{words}"
        );
    }
    let words = fails(2, &format!("write {run}"));
    assert!(words.contains("without images"), "{words}");
    let words = fails(2, &format!("dedup {rows}"));
    assert!(words.contains("--out"), "{words}");
    let words = fails(
        2,
        &format!("dedup {rows} {run} --out {}", place.at("other")),
    );
    assert!(words.contains("give files, or run directories"), "{words}");
    let words = fails(2, &format!("dedup {run} --id-column x"));
    assert!(words.contains("not for run directories"), "{words}");
}

#[test]
fn rows_without_a_direction_are_bad_samples_with_a_reason() {
    let place = Place::new();
    let rows = [
        [1.0, 0.0],
        [0.0, 0.0],
        [f32::NAN, 1.0],
        [1.0, f32::INFINITY],
        [1e-30, 0.0],
        [3e38, 3e38],
    ];
    let (file, run) = (place.npy("rows.npy", &rows), place.at("run"));
    for mode in ["exact", "semantic --clusters 2"] {
        let stdout = good(&format!("dedup {file} --out {run} --dedup {mode}"));
        let bad = stdout.lines().find(|line| line.starts_with("bad"));
        assert_eq!(bad.unwrap().split_whitespace().last(), Some("3"));
        let bad = "its embedding holds a NaN or an infinity";
        assert_eq!(
            errors(&run),
            ["", "its embedding is zero", bad, bad, "", ""]
        );
        let expected = ["kept", "corrupt", "corrupt", "corrupt", "duplicate", "kept"];
        assert_eq!(reasons(&run), expected);
    }
    let ids = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
    let ragged = list(&[&[], &[1.0, 0.0], &[1.0, 0.0, 0.0], &[0.0, 0.0]]);
    let (file, run) = (
        place.parquet("ragged.parquet", ids, ragged),
        place.at("ragged"),
    );
    good(&format!("dedup {file} --out {run}"));
    let expected = [
        "its embedding has 0 values, others have 2",
        "",
        "its embedding has 3 values, others have 2",
        "its embedding is zero",
    ];
    assert_eq!(errors(&run), expected);
}

#[test]
fn all_rows_bad_is_a_run_of_which_nothing_is_kept() {
    let place = Place::new();
    let (file, run) = (
        place.npy("rows.npy", &[[0.0, 0.0], [f32::NAN, 0.0]]),
        place.at("run"),
    );
    for mode in [
        "exact",
        "semantic",
        "semantic --keep hard",
        "semantic --clusters 2",
    ] {
        good(&format!("dedup {file} --out {run} --dedup {mode}"));
        assert_eq!(reasons(&run), ["corrupt", "corrupt"]);
    }
}

#[test]
fn no_row_one_row_and_equal_rows_have_right_answers() {
    let place = Place::new();
    let none = place.at("none.npy");
    write_npy(&none, &[0, 4], &[]);
    let one = place.npy("one.npy", &[[3.0, 4.0]]);
    let same = place.npy("same.npy", &[[1.0f32, 2.0, 2.0]; 700]);
    for (at, mode) in [
        "exact",
        "semantic",
        "semantic --keep easy",
        "semantic --init random",
        "semantic --init kmeans-parallel",
        "auto --keep random --removal chain",
    ]
    .into_iter()
    .enumerate()
    {
        let run = |name: &str| place.at(&format!("{name}-{at}"));
        good(&format!(
            "dedup {none} --out {} --dedup {mode}",
            run("none")
        ));
        assert_eq!(decided(&run("none")).num_rows(), 0);
        assert!(int64(&decided(&run("none")), "id").is_empty());
        good(&format!("dedup {one} --out {} --dedup {mode}", run("one")));
        assert_eq!(reasons(&run("one")), ["kept"]);
        good(&format!(
            "dedup {same} --out {} --dedup {mode}",
            run("same")
        ));
        let kept = reasons(&run("same"))
            .iter()
            .filter(|r| *r == "kept")
            .count();
        assert_eq!(kept, 1, "{mode}");
    }
    let run = place.at("k-same");
    good(&format!(
        "dedup {same} --out {run} --dedup semantic --clusters 50 --eps 0"
    ));
    let kept = reasons(&run).iter().filter(|r| *r == "kept").count();
    assert_eq!(kept, 1);
    // Scores of no rows are a table of none.
    let (head, run) = (place.head(4), place.at("scored"));
    good(&format!("score {none} --out {run} --head first={head}"));
    let lists = place.parquet(
        "none.parquet",
        Arc::new(Int64Array::from(Vec::<i64>::new())),
        list(&[]),
    );
    let words = fails(1, &format!("dedup {lists} --out {}", place.at("lists")));
    assert!(words.contains("has no rows"), "{words}");
}

#[test]
fn more_clusters_than_rows_are_refused_and_the_run_stays_usable() {
    let place = Place::new();
    let (rows, run) = (place.npy("rows.npy", &SIX), place.at("run"));
    let words = fails(
        2,
        &format!("dedup {rows} --out {run} --dedup semantic --clusters 7"),
    );
    assert!(words.contains("7 clusters of 6 rows"), "{words}");
    // Before anything is taken in; and of a run that is there.
    assert!(!Path::new(&run).exists());
    good(&format!("dedup {rows} --out {run} --dedup off"));
    let words = fails(2, &format!("dedup {run} --dedup semantic --clusters 7"));
    assert!(words.contains("7 clusters of 6 rows"), "{words}");
    good(&format!("dedup {run} --dedup semantic --clusters 6"));
    // Centroids that only label may be more than the rows.
    let many = place.npy("many.npy", &[[1.0f32, 0.0, 0.0]; 9]);
    good(&format!(
        "dedup {run} --dedup semantic --centroids {many} --iterations 0"
    ));
    let words = fails(
        2,
        &format!("dedup {run} --dedup semantic --centroids {many}"),
    );
    assert!(words.contains("9 clusters of 6 rows"), "{words}");
    let narrow = place.npy("narrow.npy", &[[1.0f32, 0.0]]);
    let words = fails(
        2,
        &format!("dedup {run} --dedup semantic --centroids {narrow}"),
    );
    assert!(
        words.contains("[1, 2]") && words.contains("[k, 3]"),
        "{words}"
    );
}

#[test]
fn files_that_do_not_fit_together_are_refused_by_name_and_size() {
    let place = Place::new();
    let (a, b) = (
        place.npy("a.npy", &[[1.0f32, 0.0]]),
        place.npy("b.npy", &SIX),
    );
    let run = place.at("run");
    let words = fails(2, &format!("dedup {a} {b} --out {run}"));
    for part in ["a.npy", "b.npy", "of 2 values", "of 3"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let numbers = Arc::new(Int64Array::from(vec![1, 2]));
    let e = fixed(&[[1.0f32, 0.0], [0.0, 1.0]], &DataType::Float32);
    let p = place.parquet("p.parquet", numbers.clone(), e.clone());
    let words = fails(2, &format!("dedup {a} {p} --out {run}"));
    assert!(
        words.contains("int64") && words.contains("string"),
        "{words}"
    );
    assert!(!Path::new(&run).exists());

    // Ids that repeat, in one file and in two.
    let q = place.parquet(
        "q.parquet",
        Arc::new(Int64Array::from(vec![3, 2])),
        e.clone(),
    );
    let words = fails(2, &format!("dedup {p} {q} --out {run}"));
    for part in ["the id 2", "row 1 of", "p.parquet", "q.parquet"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let r = place.parquet(
        "r.parquet",
        Arc::new(StringArray::from(vec!["x", "x"])),
        e.clone(),
    );
    let words = fails(2, &format!("dedup {r} --out {run}"));
    assert!(words.contains("the id x stands twice"), "{words}");
    let null = Arc::new(Int64Array::from(vec![Some(1), None]));
    let null = place.parquet("null.parquet", null, e);
    let words = fails(1, &format!("dedup {null} --out {run}"));
    assert!(words.contains("row 1 has no id"), "{words}");
    std::fs::create_dir(place.at("more")).unwrap();
    let twin = place.npy("more/a.npy", &[[1.0f32, 0.0]]);
    let words = fails(2, &format!("dedup {a} {twin} --out {run}"));
    assert!(words.contains("rename one"), "{words}");
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused_and_nothing_is_left() {
    let place = Place::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = place.at(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(place.npy("whole.npy", &SIX)).unwrap();
    let ids = Arc::new(Int64Array::from((0..6).collect::<Vec<_>>()));
    let parquet = place.parquet(
        "whole.parquet",
        ids.clone(),
        fixed(&SIX, &DataType::Float32),
    );
    let parquet = std::fs::read(parquet).unwrap();
    let ints = place.at("ints.npy");
    raw_npy(&ints, "<i4", "(2, 2)", &[0; 16]);
    let flat = place.at("flat.npy");
    write_npy(&flat, &[6], &[1.0; 6]);
    let texts = place.parquet("texts.parquet", ids.clone(), ids);
    for (path, part) in [
        (write("empty.npy", b""), "not a .npy"),
        (write("text.npy", b"hello, this is no matrix"), "not a .npy"),
        (write("cut.npy", &whole[..whole.len() - 1]), "cut off"),
        (write("head.npy", &whole[..30]), "cut off"),
        (
            write("long.npy", &[&whole[..], b"x"].concat()),
            "more in it",
        ),
        (write("empty.parquet", b""), "not a whole parquet"),
        (
            write("cut.parquet", &parquet[..parquet.len() / 2]),
            "not a whole parquet",
        ),
        (
            write("notes.txt", b"notes"),
            "neither a .npy nor a .parquet",
        ),
        (place.at("absent.npy"), "no such file"),
        (ints, "<i4"),
        (flat, "[6]"),
        (texts, "lists of f16, f32 or f64"),
    ] {
        let run = place.at("run");
        for line in [
            format!("dedup {path} --out {run}"),
            format!("score {path} --out {run} --head x=y"),
        ] {
            let words = fails(1, &line);
            assert!(words.contains(part), "{line}: expected {part}, got {words}");
            assert!(!words.contains("panicked"), "{words}");
            assert!(!Path::new(&run).exists(), "{line}");
        }
    }
}

#[test]
fn a_damaged_parquet_is_an_error_and_never_a_panic() {
    let place = Place::new();
    let ids = Arc::new(Int64Array::from((0..40).collect::<Vec<_>>()));
    let rows: Vec<[f32; 3]> = (0..40).map(|i| [1.0, i as f32, 0.5]).collect();
    let path = place.parquet("e.parquet", ids, fixed(&rows, &DataType::Float32));
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(37) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&path, bytes).unwrap();
        let run = place.at(&format!("run-{at}"));
        let output = crate::common::clipsift(["dedup", &path, "--out", &run, "--quiet"]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        assert!(matches!(code, Some(0..=2)), "byte {at}: {code:?} {words}");
    }
}

#[test]
fn a_sweep_says_what_each_eps_would_remove_and_changes_nothing() {
    let place = Place::new();
    let (rows, run) = (place.npy("rows.npy", &SIX), place.at("run"));
    let words = fails(2, &format!("dedup {rows} --out {run} --sweep 0.1"));
    assert!(words.contains("one run directory"), "{words}");
    good(&format!("dedup {rows} --out {run} --floor 0.04"));
    let before = crate::common::tree(Path::new(&run));
    let swept = good(&format!("dedup {run} --sweep 0,.001,.01,.03"));
    let mut lines = swept.lines().skip(1);
    for eps in ["0", "0.001", "0.01", "0.03"] {
        let again = place.at(&format!("at-{eps}"));
        good(&format!("dedup {rows} --out {again} --eps {eps}"));
        let count = |reason: &str| reasons(&again).iter().filter(|r| *r == reason).count();
        let expected = [
            eps.to_string(),
            count("duplicate").to_string(),
            count("kept").to_string(),
        ];
        let got: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(got, expected);
    }
    assert!(before == crate::common::tree(Path::new(&run)));
    let words = fails(2, &format!("dedup {run} --sweep 0.05"));
    assert!(words.contains("--floor 0.05"), "{words}");
}
