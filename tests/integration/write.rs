//! The curated set, read back the way others read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use arrow::array::{Array, Float32Array, StringArray, UInt32Array, UInt64Array};
use clipsift::atomic::{TEMPORARY_PREFIX, read_parquet};
use clipsift::write::{Kept, Layout, Options, Writer, Written};
use clipsift::{Blob, Error, Result, Sample, Sidecar};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A fresh folder for each test: `in/` to read from, `out/` to write to.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("in")).unwrap();
        Place { root }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.at("out")
    }

    /// A file below `in/` as a folder reader gives it.
    fn file(&self, name: &str, bytes: &[u8]) -> Sample {
        let path = self.at("in").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let key = Path::new(name).with_extension("");
        let key = key.to_str().unwrap();
        sample(name, key, name, Blob::File(path.into()))
    }
}

fn sample(id: &str, key: &str, member: &str, image: Blob) -> Sample {
    Sample {
        id: id.to_string(),
        key: key.to_string(),
        source: "in".into(),
        member: member.to_string(),
        offset: 0,
        length: image.size().unwrap_or(0),
        image,
        sidecars: Vec::new(),
        problem: None,
    }
}

fn in_memory(bytes: &[u8]) -> Blob {
    Blob::Bytes(bytes.to_vec().into())
}

/// A sample as a tar reader gives it, but from memory.
fn member(key: &str, bytes: &[u8]) -> Sample {
    let id = format!("00000/{key}");
    sample(&id, key, &format!("{key}.jpg"), in_memory(bytes))
}

fn with_sidecar(mut sample: Sample, suffix: &str, bytes: &[u8]) -> Sample {
    sample.sidecars.push(Sidecar {
        suffix: suffix.to_string(),
        blob: in_memory(bytes),
    });
    sample
}

fn numbered(count: usize) -> Vec<Sample> {
    let name = |at: usize| format!("{at:04}");
    (0..count)
        .map(|at| {
            let sample = member(&name(at), format!("image {at}").as_bytes());
            with_sidecar(sample, "txt", format!("caption {at}").as_bytes())
        })
        .collect()
}

fn options(fingerprint: &str, shard_size: usize) -> Options {
    Options {
        shard_size,
        scores: vec!["aesthetic".to_string(), "width".to_string()],
        fingerprint: fingerprint.to_string(),
        ..Options::default()
    }
}

/// The bytes as they are now are the ones that the ledger knows.
fn push(writer: &mut Writer, sample: &Sample) -> Result<()> {
    let bytes = sample.image.read(u64::MAX).unwrap_or_default();
    push_known(writer, sample, &bytes)
}

fn push_known(writer: &mut Writer, sample: &Sample, bytes: &[u8]) -> Result<()> {
    writer.push(Kept {
        sample,
        sha256: Sha256::digest(bytes).into(),
        width: 640,
        height: 480,
        format: "jpeg",
        scores: &[5.5, 0.25],
    })
}

fn write(dir: &Path, layout: Layout, options: Options, samples: &[Sample]) -> Result<Written> {
    let mut writer = Writer::create(dir, layout, options)?;
    for sample in samples {
        push(&mut writer, sample)?;
    }
    writer.finish()
}

/// Every file below `dir`, by relative path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, at: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(dir, &path, found);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap();
                found.insert(name.to_string(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    if dir.exists() {
        walk(dir, dir, &mut found);
    }
    found
}

/// [`files`] without the writer's own records.
fn set(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut set = files(dir);
    set.retain(|name, _| !name.starts_with('.'));
    set
}

fn names(dir: &Path) -> Vec<String> {
    set(dir).into_keys().collect()
}

type Group = (String, Vec<(String, Vec<u8>)>);

/// A tar the way WebDataset groups it: the key is the name up to the first dot of the basename, a sample is a consecutive run
/// of one key, a suffix stands once in it, no key comes twice.
fn grouped(tar: &[u8]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut keys = BTreeSet::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(header.entry_type(), tar::EntryType::Regular);
        assert_eq!(
            (header.mode().unwrap(), header.mtime().unwrap()),
            (0o644, 0)
        );
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        for component in name.split('/') {
            assert!(!matches!(component, "" | "." | ".."), "{name:?}");
            assert!(!component.contains(|c: char| c.is_control() || c == '\\'));
            assert!(!component.starts_with('.'), "{name:?}");
        }
        let basename = name.rfind('/').map_or(0, |slash| slash + 1);
        let dot = basename + name[basename..].find('.').expect("a suffix");
        let (key, suffix) = (name[..dot].to_string(), name[dot + 1..].to_string());
        assert!(!key.is_empty() && !suffix.is_empty());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if groups.last().is_none_or(|(last, _)| *last != key) {
            assert!(keys.insert(key.clone()), "{key} comes twice");
            groups.push((key, Vec::new()));
        }
        let (_, members) = groups.last_mut().unwrap();
        assert!(members.iter().all(|(other, _)| *other != suffix));
        members.push((suffix, bytes));
    }
    groups
}

fn shards(dir: &Path) -> Vec<Vec<Group>> {
    let tars = set(dir)
        .into_iter()
        .filter(|(name, _)| name.ends_with(".tar"));
    tars.map(|(_, tar)| grouped(&tar)).collect()
}

fn strings(table: &Path, column: &str) -> Vec<String> {
    let batch = read_parquet(table).unwrap();
    let column = batch.column_by_name(column).unwrap().as_any();
    let column = column.downcast_ref::<StringArray>().unwrap();
    column.iter().map(|s| s.unwrap().to_string()).collect()
}

#[test]
fn shards_hold_the_original_bytes_and_sidecars_under_the_original_keys() {
    let place = Place::new();
    let big = vec![7; 1_300_000];
    let mut odd = sample("00000/b/2", "b/2", "b/2.rgb.PNG", in_memory(&big));
    odd = with_sidecar(with_sidecar(odd, "json", b"{}"), "seg.png", b"mask");
    let file = place.file("a dir/my.photo.JPEG", b"photo");
    let samples = [member("a/1", b"one"), odd, file];
    let written = write(&place.out(), Layout::Tar, options("f", 100), &samples).unwrap();

    let set = set(&place.out());
    assert_eq!(
        set.keys().collect::<Vec<_>>(),
        ["00000.parquet", "00000.tar"]
    );
    let bytes = set.values().map(|bytes| bytes.len() as u64).sum();
    let expected = Written {
        files: 2,
        samples: 3,
        bytes,
        standing: 0,
    };
    assert_eq!(written, expected);
    let group = |key: &str, members: &[(&str, &[u8])]| {
        let members = members.iter().map(|(s, b)| (s.to_string(), b.to_vec()));
        (key.to_string(), members.collect::<Vec<_>>())
    };
    let expected = [
        group("a/1", &[("jpg", b"one")]),
        group(
            "b/2",
            &[("png", &big), ("json", b"{}"), ("seg.png", b"mask")],
        ),
        group("a dir/my_photo", &[("jpeg", b"photo")]),
    ];
    assert!(shards(&place.out()) == [expected]);

    let table = place.out().join("00000.parquet");
    for (column, values) in [
        ("id", ["00000/a/1", "00000/b/2", "a dir/my.photo.JPEG"]),
        ("key", ["a/1", "b/2", "a dir/my_photo"]),
        ("member", ["a/1.jpg", "b/2.png", "a dir/my_photo.jpeg"]),
        ("original_key", ["a/1", "b/2", "a dir/my.photo"]),
        ("source", ["in", "in", "in"]),
        (
            "original_member",
            ["a/1.jpg", "b/2.rgb.PNG", "a dir/my.photo.JPEG"],
        ),
        ("format", ["jpeg"; 3]),
    ] {
        assert_eq!(strings(&table, column), values, "{column}");
    }
    let digest: String = Sha256::digest(b"one")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(strings(&table, "sha256")[0], digest);
    let batch = read_parquet(&table).unwrap();
    let column = |name: &str| batch.column_by_name(name).unwrap().clone();
    let numbers = column("bytes");
    let numbers = numbers.as_any().downcast_ref::<UInt64Array>().unwrap();
    assert_eq!(numbers.values(), &[3, 1_300_000, 5]);
    let widths = column("width");
    let widths = widths.as_any().downcast_ref::<UInt32Array>().unwrap();
    assert_eq!(widths.values(), &[640; 3]);
    for (name, score) in [("aesthetic", 5.5), ("score_width", 0.25)] {
        let scores = column(name);
        let scores = scores.as_any().downcast_ref::<Float32Array>().unwrap();
        assert_eq!(scores.values(), &[score; 3]);
    }
}

#[test]
fn members_inside_a_tar_are_read_from_their_place() {
    let place = Place::new();
    let path = place.at("in/00000.tar");
    fs::write(&path, b"....firstsecond").unwrap();
    let span = |offset, length| Blob::Span {
        path: path.as_path().into(),
        offset,
        length,
    };
    let mut first = sample("00000/1", "1", "1.jpg", span(4, 5));
    first.sidecars.push(Sidecar {
        suffix: "txt".to_string(),
        blob: span(9, 6),
    });
    let second = sample("00000/2", "2", "2.jpg", span(9, 6));
    let samples = [first, second];
    write(&place.out(), Layout::Tar, options("f", 9), &samples).unwrap();
    let found = &shards(&place.out())[0];
    assert_eq!(found[0].1[0].1, b"first");
    assert_eq!(found[0].1[1].1, b"second");
    assert_eq!(found[1].1[0].1, b"second");

    let short = sample("00000/3", "3", "3.jpg", span(9, 7));
    let error = write(&place.at("o2"), Layout::Tar, options("f", 9), &[short]).unwrap_err();
    assert!(error.to_string().contains("ends after 6 of 7"), "{error}");
    assert!(names(&place.at("o2")).is_empty());
}

#[test]
fn shards_are_filled_to_their_size() {
    for (count, sizes) in [
        (0, &[][..]),
        (2, &[2][..]),
        (3, &[3][..]),
        (7, &[3, 3, 1][..]),
    ] {
        let place = Place::new();
        let samples = numbered(count);
        let written = write(&place.out(), Layout::Tar, options("f", 3), &samples).unwrap();
        assert_eq!(written.samples, count as u64);
        assert_eq!(written.files, 2 * sizes.len() as u64);
        let shards = shards(&place.out());
        assert_eq!(shards.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        let keys: Vec<_> = shards.into_iter().flatten().map(|group| group.0).collect();
        let expected: Vec<_> = samples.iter().map(|sample| sample.key.clone()).collect();
        assert_eq!(keys, expected);
        for (number, &size) in sizes.iter().enumerate() {
            let table = place.out().join(format!("{number:05}.parquet"));
            assert_eq!(read_parquet(&table).unwrap().num_rows(), size);
        }
    }
}

#[test]
fn difficult_keys_stay_apart_and_inside() {
    let place = Place::new();
    let long = "x".repeat(150) + "/" + &"y".repeat(180);
    let too_long = "z".repeat(3000);
    let keys = [
        "a.b",
        "a_b",
        "../../a_b",
        "/a_b",
        "a_b_2",
        "",
        "..",
        "ü/日本語",
        &long,
        &too_long,
        "a\nb",
    ];
    let samples: Vec<_> = keys
        .iter()
        .map(|key| member(key, key.as_bytes()))
        .map(|sample| with_sidecar(sample, "txt", b"caption"))
        .collect();
    write(&place.out(), Layout::Tar, options("f", 100), &samples).unwrap();
    let groups = shards(&place.out()).remove(0);
    let found: Vec<_> = groups.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        found[..9],
        [
            "a_b",
            "a_b_2",
            "a_b_3",
            "a_b_4",
            "a_b_2_2",
            "_",
            "__2",
            "ü/日本語",
            &long
        ]
    );
    assert_eq!(found[9].len(), 240);
    assert_eq!(found[10], "a_b_5");
    for (group, key) in groups.iter().zip(keys) {
        assert_eq!(group.1[0].1, key.as_bytes());
    }
    assert_eq!(
        strings(&place.out().join("00000.parquet"), "original_key"),
        keys
    );
}

#[test]
fn the_same_samples_give_the_same_bytes() {
    for layout in [Layout::Tar, Layout::Folder] {
        let place = Place::new();
        let samples = numbered(25);
        write(&place.at("a"), layout, options("f", 10), &samples).unwrap();
        write(&place.at("b"), layout, options("f", 10), &samples).unwrap();
        assert!(files(&place.at("a")) == files(&place.at("b")), "{layout}");
    }
}

#[test]
fn a_cut_off_run_is_gone_on_with_and_what_stands_is_not_read() {
    let place = Place::new();
    let samples = numbered(10);
    write(&place.at("whole"), Layout::Tar, options("f", 3), &samples).unwrap();

    let mut writer = Writer::create(place.out(), Layout::Tar, options("f", 3)).unwrap();
    for sample in &samples[..8] {
        push(&mut writer, sample).unwrap();
    }
    drop(writer);
    assert_eq!(names(&place.out()).len(), 4);
    // As a killed process leaves it: a tar whose table is not there yet, and a temporary file.
    fs::remove_file(place.out().join("00001.parquet")).unwrap();
    fs::write(place.out().join(format!("{TEMPORARY_PREFIX}abc")), "half").unwrap();

    let mut writer = Writer::create(place.out(), Layout::Tar, options("f", 3)).unwrap();
    for (at, sample) in samples.iter().enumerate() {
        let bytes = sample.image.read(100).unwrap();
        let mut sample = sample.clone();
        if at < 3 {
            sample.image = Blob::File(Path::new("/nonexistent").into());
        }
        push_known(&mut writer, &sample, &bytes).unwrap();
    }
    let written = writer.finish().unwrap();
    assert_eq!(written.standing, 3);
    assert!(files(&place.out()) == files(&place.at("whole")));

    let again = write(&place.out(), Layout::Tar, options("f", 3), &samples).unwrap();
    let expected = Written {
        standing: 10,
        ..written
    };
    assert_eq!(again, expected);
    assert!(files(&place.out()) == files(&place.at("whole")));
}

#[test]
fn a_damaged_shard_is_written_anew() {
    let place = Place::new();
    let samples = numbered(9);
    write(&place.out(), Layout::Tar, options("f", 3), &samples).unwrap();
    let whole = files(&place.out());
    fs::write(place.out().join("00000.tar"), "short").unwrap();
    fs::write(place.out().join("00001.parquet"), "damaged").unwrap();
    let written = write(&place.out(), Layout::Tar, options("f", 3), &samples).unwrap();
    assert_eq!(written.standing, 3);
    assert!(files(&place.out()) == whole);
}

#[test]
fn another_request_replaces_the_set_and_leaves_strangers_alone() {
    let place = Place::new();
    let samples = numbered(6);
    for layout in [Layout::Tar, Layout::Folder, Layout::Tar, Layout::None] {
        write(&place.out(), Layout::Tar, options("f", 2), &samples).unwrap();
        fs::write(place.out().join("notes.md"), "mine").unwrap();
        let fresh = place.at("fresh");
        write(&fresh, layout, options("g", 4), &samples[1..]).unwrap();
        write(&place.out(), layout, options("g", 4), &samples[1..]).unwrap();
        let mut found = files(&place.out());
        assert_eq!(found.remove("notes.md").unwrap(), b"mine");
        assert!(found == files(&fresh), "{layout}");
        write(&place.out(), Layout::None, options("", 1), &[]).unwrap();
        assert_eq!(
            files(&place.out()).into_keys().collect::<Vec<_>>(),
            ["notes.md"]
        );
        let _ = fs::remove_dir_all(fresh);
    }
    // Nothing to write is nothing to create.
    write(&place.at("none"), Layout::None, options("", 1), &samples).unwrap();
    assert!(!place.at("none").exists());
}

#[test]
fn other_samples_under_the_same_fingerprint_are_noticed() {
    let place = Place::new();
    let samples = numbered(6);
    write(&place.out(), Layout::Tar, options("f", 4), &samples).unwrap();
    let error = write(&place.out(), Layout::Tar, options("f", 4), &samples[1..]).unwrap_err();
    assert!(error.to_string().contains("--overwrite"), "{error}");
    let overwrite = Options {
        overwrite: true,
        ..options("f", 4)
    };
    let written = write(&place.out(), Layout::Tar, overwrite, &samples[1..]).unwrap();
    assert_eq!((written.samples, written.standing), (5, 0));
    let fewer = write(&place.out(), Layout::Tar, options("f", 4), &samples[1..5]).unwrap();
    assert_eq!((fewer.samples, fewer.standing), (4, 4));
    assert_eq!(names(&place.out()), ["00000.parquet", "00000.tar"]);
}

#[test]
fn strangers_in_the_way_are_refused() {
    for (layout, name) in [
        (Layout::Tar, "00000.tar"),
        (Layout::Tar, "00041.parquet"),
        (Layout::Folder, "curated.parquet"),
        (Layout::Folder, "00000/0000.jpg"),
        (Layout::Folder, "00000/0000.txt/x"),
        (Layout::Folder, "00000"),
        (Layout::List, "list.txt"),
    ] {
        let place = Place::new();
        let path = place.out().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "not clipsift's").unwrap();
        let error = write(&place.out(), layout, options("f", 2), &numbered(1)).unwrap_err();
        assert!(
            error.to_string().contains("move it away"),
            "{name}: {error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"not clipsift's");
        assert!(
            !files(&place.out())
                .keys()
                .any(|name| name.starts_with(TEMPORARY_PREFIX))
        );
    }
}

#[test]
fn a_set_that_is_read_from_is_not_cleared() {
    let place = Place::new();
    write(&place.out(), Layout::Tar, options("f", 2), &numbered(4)).unwrap();
    let before = files(&place.out());
    for input in ["out/00000.tar", "out"] {
        let options = Options {
            inputs: vec![place.at(input)],
            ..options("g", 2)
        };
        let error = Writer::create(place.out(), Layout::Tar, options).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
    }
    assert!(files(&place.out()) == before);
    let options = Options {
        inputs: vec![place.at("in"), place.at("missing")],
        ..options("f", 2)
    };
    Writer::create(place.at("in/curated"), Layout::Folder, options).unwrap();
}

#[test]
fn a_changed_or_missing_input_is_an_error_and_nothing_half_appears() {
    for layout in [Layout::Tar, Layout::Folder, Layout::List] {
        let place = Place::new();
        let sample = place.file("a.jpg", b"before");
        fs::write(place.at("in/a.jpg"), b"after!!").unwrap();
        let mut writer = Writer::create(place.out(), layout, options("f", 2)).unwrap();
        let error = push_known(&mut writer, &sample, b"before").unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Input { .. }), "{message}");
        assert!(
            message.contains("a.jpg") && message.contains("--overwrite"),
            "{message}"
        );
        assert!(push_known(&mut writer, &sample, b"after!!").is_err());
        assert!(writer.finish().is_err());

        fs::remove_file(place.at("in/a.jpg")).unwrap();
        let mut writer = Writer::create(place.out(), layout, options("f", 2)).unwrap();
        let error = push_known(&mut writer, &sample, b"before").unwrap_err();
        assert!(error.to_string().contains("a.jpg"), "{error}");
        drop(writer);
        assert!(names(&place.out()).is_empty());
    }
}

#[test]
fn a_sample_with_a_problem_or_without_its_scores_is_refused() {
    let place = Place::new();
    let mut bad = member("1", b"x");
    let mut writer = Writer::create(place.out(), Layout::Tar, options("f", 2)).unwrap();
    let kept = Kept {
        sample: &bad,
        sha256: [0; 32],
        width: 1,
        height: 1,
        format: "png",
        scores: &[],
    };
    assert!(matches!(
        writer.push(kept).unwrap_err(),
        Error::Shape { .. }
    ));
    drop(writer);
    bad.problem = Some("a repeated key".to_string());
    let error = write(&place.out(), Layout::Tar, options("f", 2), &[bad]).unwrap_err();
    assert!(error.to_string().contains("a repeated key"), "{error}");
    assert!(Writer::create(place.out(), Layout::Tar, options("f", 0)).is_err());
}

#[test]
fn two_writers_do_not_share_a_folder() {
    let place = Place::new();
    let first = Writer::create(place.out(), Layout::Tar, options("f", 2)).unwrap();
    if cfg!(target_os = "linux") {
        assert!(Writer::create(place.out(), Layout::Tar, options("f", 2)).is_err());
    }
    drop(first);
    Writer::create(place.out(), Layout::Tar, options("f", 2)).unwrap();
}

#[test]
fn a_folder_keeps_the_original_paths() {
    let place = Place::new();
    let photo = place.file("trip/my.photo.JPG", b"jpg");
    let photo = with_sidecar(photo, "txt", b"caption");
    let other = place.file("trip/my.photo.png", b"png");
    let same = with_sidecar(other.clone(), "txt", b"caption");
    let mut webp = place.file("trip/my.photo.webp", b"webp");
    webp = with_sidecar(webp, "txt", b"another caption");
    let scan = place.file("scan", b"scan");
    let tar = with_sidecar(member("x/0001", b"tar"), "json", b"{}");
    let row = sample("table.parquet/7", "7", "7", in_memory(b"row"));
    // Differ from others only in what cannot stand in a path.
    let escape = sample("../scan", "scan", "8", in_memory(b"escape"));
    let clash = sample("/scan.jpg/..", "scan", "9", in_memory(b"clash"));
    let below = sample("scan/y", "y", "10", in_memory(b"below"));
    let samples = [photo, same, webp, scan, tar, row, escape, clash, below];
    let written = write(&place.out(), Layout::Folder, options("f", 1), &samples).unwrap();
    let expected: BTreeMap<&str, &[u8]> = BTreeMap::from([
        ("trip/my.photo.JPG", &b"jpg"[..]),
        ("trip/my.photo.txt", b"caption"),
        ("trip/my.photo.png", b"png"),
        ("trip/my.photo_2.webp", b"webp"),
        ("trip/my.photo_2.txt", b"another caption"),
        ("scan", b"scan"),
        ("00000/x/0001.jpg", b"tar"),
        ("00000/x/0001.json", b"{}"),
        ("table.parquet/7.jpg", b"row"),
        ("scan.jpg", b"escape"),
        ("scan.jpg.jpg", b"clash"),
        ("scan_2/y.jpg", b"below"),
    ]);
    let mut found = set(&place.out());
    let bytes: usize = found.values().map(Vec::len).sum();
    assert_eq!(
        (written.files, written.bytes),
        (found.len() as u64, bytes as u64)
    );
    found.remove("curated.parquet").unwrap();
    let found: BTreeMap<&str, &[u8]> = found.iter().map(|(n, b)| (&**n, &**b)).collect();
    assert_eq!(found, expected);

    let table = place.out().join("curated.parquet");
    assert_eq!(strings(&table, "member")[2], "trip/my.photo_2.webp");
    assert_eq!(strings(&table, "key")[2], "trip/my.photo_2");
    assert_eq!(strings(&table, "original_member")[2], "trip/my.photo.webp");
    assert_eq!(strings(&table, "id").len(), samples.len());
}

#[test]
fn a_cut_off_folder_is_gone_on_with_and_cleared_whole() {
    let place = Place::new();
    let samples = numbered(9);
    write(
        &place.at("whole"),
        Layout::Folder,
        options("f", 1),
        &samples,
    )
    .unwrap();
    let mut writer = Writer::create(place.out(), Layout::Folder, options("f", 1)).unwrap();
    for sample in &samples[..4] {
        push(&mut writer, sample).unwrap();
    }
    drop(writer);
    assert!(!place.out().join("curated.parquet").exists());
    // A line that was cut off, and an own file that was damaged.
    let journal = place.out().join(".clipsift-files");
    let mut lines = fs::read(&journal).unwrap();
    lines.extend_from_slice(b"\"00000/00");
    fs::write(&journal, lines).unwrap();
    fs::write(place.out().join("00000/0001.jpg"), "damaged").unwrap();
    let written = write(&place.out(), Layout::Folder, options("f", 1), &samples).unwrap();
    assert_eq!(written.standing, 3);
    assert!(set(&place.out()) == set(&place.at("whole")));

    // The journal cannot make the writer remove what lies elsewhere.
    fs::write(place.at("in/precious"), "").unwrap();
    let mut lines = fs::read_to_string(&journal).unwrap();
    lines += "\"../in/precious\"\n\"/etc/hostname-of-nobody\"\n";
    fs::write(&journal, lines).unwrap();
    fs::write(place.out().join("00000/mine.txt"), "").unwrap();
    write(&place.out(), Layout::Folder, options("g", 1), &[]).unwrap();
    assert_eq!(names(&place.out()), ["00000/mine.txt", "curated.parquet"]);
    assert!(place.at("in/precious").exists());
}

#[test]
fn a_stranger_that_is_equal_is_left_and_never_removed() {
    let place = Place::new();
    let path = place.out().join("00000/0000.jpg");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "image 0").unwrap();
    write(&place.out(), Layout::Folder, options("f", 1), &numbered(2)).unwrap();
    write(&place.out(), Layout::None, options("f", 1), &[]).unwrap();
    assert_eq!(names(&place.out()), ["00000/0000.jpg"]);
}

#[test]
#[cfg(unix)]
fn a_link_does_not_lead_out_of_the_folder() {
    let place = Place::new();
    fs::create_dir_all(place.out()).unwrap();
    std::os::unix::fs::symlink(place.at("in"), place.out().join("00000")).unwrap();
    let error = write(&place.out(), Layout::Folder, options("f", 1), &numbered(1)).unwrap_err();
    assert!(error.to_string().contains("move it away"), "{error}");
    assert!(names(&place.at("in")).is_empty());
}

#[test]
fn a_list_names_each_file_once_with_its_absolute_path() {
    let place = Place::new();
    let a = place.file("a b/1.jpg", b"one");
    let b = place.file("ü.png", b"two");
    let samples = [b.clone(), a.clone(), b.clone()];
    let written = write(&place.out(), Layout::List, options("f", 1), &samples).unwrap();
    let list = fs::read_to_string(place.out().join("list.txt")).unwrap();
    let expected = [place.at("in/ü.png"), place.at("in/a b/1.jpg")]
        .map(|path| format!("{}\n", path.display()))
        .concat();
    assert_eq!(list, expected);
    assert_eq!((written.files, written.samples), (1, 3));
    assert_eq!(written.bytes, list.len() as u64);
    write(&place.out(), Layout::List, options("g", 1), &[a]).unwrap();
    let list = fs::read_to_string(place.out().join("list.txt")).unwrap();
    assert_eq!(list.lines().count(), 1);
}

#[test]
fn what_a_list_cannot_name_is_refused_before_any_work() {
    let place = Place::new();
    let row = member("1", b"x");
    let error = Layout::List.accepts(&row).unwrap_err();
    assert!(matches!(error, Error::Usage(_)));
    assert!(error.to_string().contains("`tar` or `folder`"), "{error}");
    Layout::Tar.accepts(&row).unwrap();
    let image = Blob::File(Path::new("/in/a\nb.jpg").into());
    let broken = sample("a\nb.jpg", "a\nb", "a\nb.jpg", image);
    let error = Layout::List.accepts(&broken).unwrap_err();
    assert!(error.to_string().contains("line break"), "{error}");
    assert!(write(&place.out(), Layout::List, options("f", 1), &[row]).is_err());
    assert!(names(&place.out()).is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn an_unusable_folder_is_named() {
    for layout in [Layout::Tar, Layout::Folder, Layout::List] {
        let place = Place::new();
        fs::write(place.at("file"), "").unwrap();
        let error = Writer::create(place.at("file/out"), layout, options("f", 1)).unwrap_err();
        assert!(error.to_string().contains("file/out"), "{error}");
    }
}

/// Names made of what goes wrong in names.
fn name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a"),
        Just("A"),
        Just("_2"),
        Just("__"),
        Just("."),
        Just(".."),
        Just("/"),
        Just("\\"),
        Just("\n"),
        Just("\0"),
        Just("ü"),
        Just(".jpg"),
        Just(".txt"),
        Just("curated.parquet"),
        Just(
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        ),
    ];
    prop_oneof![
        4 => prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat()),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_names_nothing_leaves_the_folder_and_no_samples_merge(
        names in prop::collection::vec((name(), name(), name()), 1..20),
        shard_size in 1_usize..12,
    ) {
        let place = Place::new();
        let samples: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(at, (id, member, suffix))| {
                let image = in_memory(format!("image {at}").as_bytes());
                // Ids are unique in a run; keys need not be.
                let unique = names[..at].iter().all(|(other, ..)| other != id);
                let id = if unique { id.clone() } else { format!("{id}#{at}") };
                let key = names[at / 2].0.as_str();
                let sample = sample(&id, key, member, image);
                let sample = with_sidecar(sample, suffix, format!("first {at}").as_bytes());
                with_sidecar(sample, "txt", format!("second {at}").as_bytes())
            })
            .collect();

        write(&place.at("tar"), Layout::Tar, options("f", shard_size), &samples).unwrap();
        let shards = shards(&place.at("tar"));
        for (at, shard) in shards.iter().enumerate() {
            let left = samples.len() - at * shard_size;
            prop_assert_eq!(shard.len(), left.min(shard_size));
        }
        let groups: Vec<_> = shards.into_iter().flatten().collect();
        prop_assert_eq!(groups.len(), samples.len());
        for (at, (_, members)) in groups.iter().enumerate() {
            let bytes: Vec<_> = members.iter().map(|(_, bytes)| bytes.clone()).collect();
            let expected = ["image", "first", "second"].map(|kind| format!("{kind} {at}").into_bytes());
            prop_assert_eq!(bytes, expected);
        }

        let written = write(&place.at("folder"), Layout::Folder, options("f", 1), &samples).unwrap();
        let found = set(&place.at("folder"));
        prop_assert_eq!(found.len(), samples.len() * 3 + 1);
        prop_assert_eq!(written.files, found.len() as u64);
        let members = strings(&place.at("folder/curated.parquet"), "member");
        for (at, member) in members.iter().enumerate() {
            prop_assert_eq!(&found[member], &format!("image {at}").into_bytes());
        }
        let again = write(&place.at("folder"), Layout::Folder, options("f", 1), &samples).unwrap();
        prop_assert_eq!(again.standing, samples.len() as u64);
        write(&place.at("folder"), Layout::None, options("f", 1), &[]).unwrap();
        prop_assert_eq!(files(&place.at("folder")).len(), 0);

        let mut around: Vec<_> = fs::read_dir(place.at("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        around.sort();
        prop_assert_eq!(around, ["folder", "in", "tar"]);
    }
}
