//! Parquet files: those of the fixtures, and ones with every oddity.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, DictionaryArray, Float32Array,
    Float64Array, Int32Array, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray,
    StringViewArray, StructArray, TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tars::{fixtures, open_path};
use super::*;

fn table(dir: &TempDir, name: &str, columns: &[(&str, ArrayRef)]) {
    let columns = columns
        .iter()
        .map(|(name, column)| (*name, column.clone(), true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(3))
        .build();
    let file = File::create(dir.path().join(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// `struct<bytes, path>`.
fn images(bytes: Vec<Option<&[u8]>>, paths: Vec<Option<&str>>) -> ArrayRef {
    let bytes: ArrayRef = Arc::new(BinaryArray::from(bytes));
    let paths: ArrayRef = Arc::new(StringArray::from(paths));
    let field = |name: &str, column: &ArrayRef| {
        Arc::new(Field::new(name, column.data_type().clone(), true))
    };
    Arc::new(StructArray::from(vec![
        (field("bytes", &bytes), bytes.clone()),
        (field("path", &paths), paths.clone()),
    ]))
}

fn with(dir: &TempDir, name: &str, options: Options) -> clipsift::Result<Vec<Sample>> {
    Ok(Inputs::open(&specs(dir, &[name]), &options)?
        .samples()
        .collect())
}

fn with_id(dir: &TempDir, name: &str, column: &str) -> clipsift::Result<Vec<Sample>> {
    let options = Options {
        id_column: Some(column.to_string()),
        ..Options::default()
    };
    with(dir, name, options)
}

fn json_of(sample: &Sample) -> Value {
    let [(suffix, bytes)] = &sidecars(sample)[..] else {
        panic!("one sidecar, got {:?}", sample.sidecars);
    };
    assert_eq!(suffix, "json");
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn every_table_gives_what_its_manifest_says() {
    let (folder, manifest) = fixtures("shards");
    for (name, expected) in manifest["parquet"].as_object().unwrap() {
        let inputs = open_path(&folder.join(name)).unwrap();
        let rows = expected["rows"].as_array().unwrap();
        assert_eq!(inputs.expected(), Some(rows.len() as u64));
        assert_eq!(inputs.kind(), Kind::Packed);
        let samples: Vec<_> = inputs.samples().collect();
        assert_eq!(samples.len(), rows.len(), "{name}");
        for (at, (sample, row)) in samples.iter().zip(rows).enumerate() {
            let bytes = sample.read(1 << 20).unwrap();
            let digest: String = Sha256::digest(&bytes)
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(digest, row["sha256"].as_str().unwrap());
            assert_eq!(
                (sample.offset, sample.length),
                (at as u64, bytes.len() as u64)
            );
            assert_eq!(sample.member, at.to_string());
        }
    }
    let options = Options {
        id_column: Some("id".to_string()),
        ..Options::default()
    };
    let spec = folder.join("binary.parquet").to_str().unwrap().to_string();
    let ids = ids(&Inputs::open(&[spec], &options).unwrap());
    assert_eq!(ids, ["70", "3", "11", "9000000000"]);
}

#[test]
fn broken_tables_give_what_is_whole_in_them() {
    let (folder, manifest) = fixtures("hostile");
    for (name, expected) in manifest["parquet"].as_object().unwrap() {
        let opened = open_path(&folder.join("parquet").join(name));
        let Some(rows) = expected["rows"].as_array() else {
            assert!(matches!(opened.err(), Some(Error::Input { .. })), "{name}");
            continue;
        };
        let samples: Vec<_> = opened.unwrap().samples().collect();
        assert_eq!(samples.len(), rows.len());
        for (at, (sample, row)) in samples.iter().zip(rows).enumerate() {
            // The fifth holds text, which the decoder finds out.
            assert_eq!(
                sample.problem.is_some(),
                row == "bad" && at != 4,
                "{name}: {sample:?}"
            );
        }
    }
}

#[test]
fn the_stored_path_is_the_key_and_is_read_where_there_are_no_bytes() {
    let dir = folder(&["in/sub/c.jpg"]);
    write(dir.path(), "in/text.avif", b"");
    let absolute = dir.path().join("in/sub/c.jpg");
    let image = images(
        vec![
            Some(PNG),
            Some(PNG),
            None,
            None,
            None,
            None,
            None,
            Some(b""),
        ],
        vec![
            Some("a.jpg"),
            None,
            Some("sub/c.jpg"),
            absolute.to_str(),
            Some("no.jpg"),
            Some("text.avif"),
            Some("http://x/y"),
            Some("e"),
        ],
    );
    table(&dir, "in/t.parquet", &[("image", image)]);
    let samples = with(&dir, "in/t.parquet", Options::default()).unwrap();
    let keys: Vec<_> = samples.iter().map(|s| s.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "a.jpg",
            "1",
            "sub/c.jpg",
            absolute.to_str().unwrap(),
            "no.jpg",
            "text.avif",
            "http://x/y",
            "e"
        ]
    );
    assert!(
        samples[..4]
            .iter()
            .all(|s| s.read(1 << 20).unwrap() == PNG && s.sidecars.is_empty())
    );
    for (sample, part) in
        samples[4..]
            .iter()
            .zip(["no.jpg: no such file", "AVIF", "URL", "no bytes"])
    {
        assert!(problem(sample).contains(part), "{sample:?}");
    }
}

#[test]
fn where_stored_paths_repeat_row_numbers_are_the_keys() {
    let dir = folder(&[]);
    let image = images(
        vec![Some(PNG); 4],
        vec![Some("a/1.jpg"), Some("1.jpg"), None, Some("1.jpg")],
    );
    let label: ArrayRef = Arc::new(StringArray::from(vec![
        Some("x"),
        Some("y"),
        None,
        Some("x"),
    ]));
    table(&dir, "t.parquet", &[("label", label), ("image", image)]);
    let samples = with(&dir, "t.parquet", Options::default()).unwrap();
    assert_eq!(
        samples.iter().map(|s| &*s.id).collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    assert!(samples.iter().all(|s| s.problem.is_none()));
    // Asked for, a repeated id is a repeated id.
    let samples = with_id(&dir, "t.parquet", "label").unwrap();
    assert_eq!(
        samples.iter().map(|s| &*s.id).collect::<Vec<_>>(),
        ["x", "y", "2", "x#2"]
    );
    assert_eq!(samples.iter().filter(|s| s.problem.is_some()).count(), 2);
    assert!(problem(&samples[2]).contains("has no id"));
}

#[test]
fn other_columns_become_one_json_sidecar() {
    let dir = folder(&[]);
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), None]);
    table(
        &dir,
        "t.parquet",
        &[
            (
                "text",
                Arc::new(LargeStringArray::from(vec![Some("ü \"q\""), None])),
            ),
            ("view", Arc::new(StringViewArray::from(vec!["v", "w"]))),
            (
                "word",
                Arc::new(
                    vec!["cat", "dog"]
                        .into_iter()
                        .collect::<DictionaryArray<Int32Type>>(),
                ),
            ),
            ("image", Arc::new(BinaryViewArray::from(vec![PNG, PNG]))),
            ("int", Arc::new(Int64Array::from(vec![Some(-5), None]))),
            ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
            ("half", Arc::new(Float32Array::from(vec![0.1, f32::NAN]))),
            (
                "double",
                Arc::new(Float64Array::from(vec![0.25, f64::INFINITY])),
            ),
            ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
            ("when", Arc::new(TimestampSecondArray::from(vec![0, 86400]))),
            ("list", Arc::new(list)),
            ("other", Arc::new(BinaryArray::from(vec![&b"x"[..], b"y"]))),
        ],
    );
    let samples = with(&dir, "t.parquet", Options::default()).unwrap();
    let expected = [
        json!({"text": "ü \"q\"", "view": "v", "word": "cat", "int": -5, "big": u64::MAX, "half": 0.1, "double": 0.25, "flag": true,
               "when": "1970-01-01T00:00:00"}),
        json!({"text": null, "view": "w", "word": "dog", "int": null, "big": 0, "half": null, "double": null, "flag": false,
               "when": "1970-01-02T00:00:00"}),
    ];
    for (sample, expected) in samples.iter().zip(&expected) {
        assert_eq!(json_of(sample), *expected);
        assert_eq!(sample.read(100).unwrap(), PNG);
    }
    let text = String::from_utf8(sidecars(&samples[0])[0].1.clone()).unwrap();
    assert!(
        text.starts_with(r#"{"text":"#),
        "in the table's order: {text}"
    );
    for (column, ids) in [
        ("word", ["cat", "dog"]),
        ("int", ["-5", "1"]),
        ("view", ["v", "w"]),
    ] {
        let samples = with_id(&dir, "t.parquet", column).unwrap();
        assert_eq!(samples.iter().map(|s| &*s.id).collect::<Vec<_>>(), ids);
    }
    for column in ["double", "list", "nothing"] {
        let error = with_id(&dir, "t.parquet", column).unwrap_err();
        assert!(error.to_string().contains(column), "{error}");
    }
}

#[test]
fn a_column_can_be_asked_for() {
    let dir = folder(&["b.jpg"]);
    table(
        &dir,
        "t.parquet",
        &[
            ("one", Arc::new(BinaryArray::from(vec![PNG]))),
            ("two", Arc::new(StringArray::from(vec!["b.jpg"]))),
            ("three", Arc::new(BinaryArray::from(vec![&b"third"[..]]))),
        ],
    );
    assert!(
        with(&dir, "t.parquet", Options::default())
            .unwrap_err()
            .to_string()
            .contains("one, three")
    );
    let with_image = |column: &str| {
        let options = Options {
            image_column: Some(column.to_string()),
            ..Options::default()
        };
        with(&dir, "t.parquet", options).map(|samples| samples[0].read(100).unwrap())
    };
    assert_eq!(with_image("two").unwrap(), PNG);
    assert_eq!(with_image("three").unwrap(), b"third");
    assert!(
        with_image("four")
            .unwrap_err()
            .to_string()
            .contains("no column `four`")
    );
}

#[test]
fn many_rows_come_in_order_and_several_tables_are_kept_apart() {
    let dir = folder(&["img/a.jpg"]);
    let bytes: Vec<_> = (0..1000i32).map(|i| i.to_le_bytes()).collect();
    let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(&bytes));
    table(
        &dir,
        "a.b.parquet",
        &[
            ("jpg", column),
            ("n", Arc::new(Int32Array::from_iter_values(0..1000))),
        ],
    );
    fs::copy(dir.path().join("a.b.parquet"), dir.path().join("c.parquet")).unwrap();
    let names = ["a.b.parquet", "img", "c.parquet"];
    let inputs = open(&dir, &names);
    assert_eq!(inputs.expected(), Some(2001));
    let samples: Vec<_> = inputs.samples().collect();
    assert_eq!(samples.len(), 2001);
    for (at, sample) in samples[..1000].iter().enumerate() {
        assert_eq!(sample.id, format!("a.b/{at}"));
        assert_eq!(sample.key, at.to_string());
        assert_eq!(sample.read(4).unwrap(), bytes[at]);
        assert_eq!(json_of(sample), json!({ "n": at }));
    }
    assert_eq!(samples[1000].id, "img/a.jpg");
    assert_eq!(samples[2000].id, "c/999");
    let whole = marked(&inputs);
    for of in [2, 3, 4] {
        let part = |index| {
            marked(
                &open(&dir, &names)
                    .partition(Partition { index, of })
                    .unwrap(),
            )
        };
        assert_eq!((1..=of).flat_map(part).collect::<Vec<_>>(), whole);
    }
}

#[test]
fn a_table_that_is_damaged_inside_gives_what_comes_before() {
    let dir = folder(&[]);
    let bytes: Vec<_> = (0..600u32).map(|i| vec![i as u8; 100]).collect();
    let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(&bytes));
    assert_eq!(column.data_type(), &DataType::Binary);
    table(&dir, "t.parquet", &[("jpg", column)]);
    let mut file = fs::read(dir.path().join("t.parquet")).unwrap();
    // The footer is whole, but pages are not.
    let (from, to) = (file.len() / 8, file.len() / 6);
    file[from..to].fill(0xFF);
    write(dir.path(), "t.parquet", &file);
    let samples = with(&dir, "t.parquet", Options::default()).unwrap();
    let last = samples.last().unwrap();
    assert_eq!(last.id, "t");
    assert!(problem(last).contains("of 600 cannot be read"), "{last:?}");
    assert!(
        samples[..samples.len() - 1]
            .iter()
            .all(|s| s.problem.is_none())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damage_anywhere_is_no_panic(at in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 1..40)) {
        let (folder, _) = fixtures("shards");
        let mut file = fs::read(folder.join("hugging-face.parquet")).unwrap();
        let at = at.index(file.len());
        let end = (at + noise.len()).min(file.len());
        file[at..end].copy_from_slice(&noise[..end - at]);
        let dir = super::folder(&[]);
        write(dir.path(), "t.parquet", &file);
        let _ = with(&dir, "t.parquet", Options::default());
    }

    #[test]
    fn any_bytes_between_the_marks_are_no_panic(noise: Vec<u8>, length in 0u32..200) {
        let dir = folder(&[]);
        write(dir.path(), "t.parquet", &[&b"PAR1"[..], &noise, &length.to_le_bytes(), b"PAR1"].concat());
        let _ = with(&dir, "t.parquet", Options::default());
    }
}
