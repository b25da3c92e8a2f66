//! WebDataset tars, whole and broken.

use std::collections::BTreeMap;
use std::io::Write;

use clipsift::Blob;
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::*;

pub(super) fn fixtures(folder: &str) -> (std::path::PathBuf, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(folder);
    let manifest = fs::read_to_string(path.join("manifest.json")).unwrap();
    (path, serde_json::from_str(&manifest).unwrap())
}

pub(super) fn open_path(path: &Path) -> clipsift::Result<Inputs> {
    Inputs::open(&[path.to_str().unwrap().to_string()], &Options::default())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// A tar of files, in order.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in files {
        append(&mut builder, name, EntryType::Regular, bytes);
    }
    builder.into_inner().unwrap()
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    // Not through `set_path`, which refuses what a hostile archive holds.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

/// The samples of a tar that is called `s.tar`, with what is good of them loaded.
fn samples(bytes: &[u8]) -> Vec<Sample> {
    let dir = folder(&[]);
    write(dir.path(), "s.tar", bytes);
    let mut samples: Vec<_> = match Inputs::open(&specs(&dir, &["s.tar"]), &Options::default()) {
        Ok(inputs) => inputs.samples().collect(),
        Err(_) => Vec::new(),
    };
    for sample in samples.iter_mut().filter(|s| s.problem.is_none()) {
        sample.image = Blob::Bytes(sample.read(1 << 30).unwrap().into());
        for sidecar in &mut sample.sidecars {
            sidecar.blob = Blob::Bytes(sidecar.blob.read(1 << 30).unwrap().into());
        }
    }
    samples
}

fn all_marked(samples: &[Sample]) -> Vec<String> {
    let mark = |s: &Sample| format!("{}{}", if s.problem.is_some() { "!" } else { "" }, s.id);
    samples.iter().map(mark).collect()
}

#[test]
fn every_shard_gives_what_its_manifest_says() {
    let (folder, manifest) = fixtures("shards");
    for (name, expected) in manifest["tars"].as_object().unwrap() {
        let inputs = open_path(&folder.join(name)).unwrap();
        let samples: Vec<_> = inputs.samples().collect();
        let expected = expected.as_array().unwrap();
        assert_eq!(samples.len(), expected.len(), "{name}");
        for (sample, expected) in samples.iter().zip(expected) {
            let shard = name.trim_end_matches(".tar");
            assert_eq!(problem(sample), "no problem");
            assert_eq!(sample.key, expected["key"].as_str().unwrap());
            assert_eq!(sample.id, format!("{shard}/{}", sample.key));
            assert_eq!(sample.member, expected["member"].as_str().unwrap());
            assert_eq!(Some(sample.offset), expected["offset"].as_u64());
            assert_eq!(Some(sample.length), expected["length"].as_u64());
            let suffixes: Vec<_> = sample.sidecars.iter().map(|s| s.suffix.as_str()).collect();
            let listed: Vec<_> = expected["sidecars"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| s.as_str().unwrap())
                .collect();
            assert_eq!(suffixes, listed, "{}", sample.id);
            assert_eq!(
                sha256(&sample.read(1 << 20).unwrap()),
                expected["sha256"].as_str().unwrap()
            );
        }
        assert_eq!(inputs.kind(), Kind::Packed);
        assert_eq!(inputs.expected(), None);
    }
}

#[test]
fn brace_ranges_read_one_shard_after_the_other() {
    let (folder, manifest) = fixtures("shards");
    let spec = folder
        .join("{00000..00002}.tar")
        .to_str()
        .unwrap()
        .to_string();
    let open = || Inputs::open(std::slice::from_ref(&spec), &Options::default()).unwrap();
    let whole = ids(&open());
    let count: usize = manifest["tars"]
        .as_object()
        .unwrap()
        .values()
        .map(|t| t.as_array().unwrap().len())
        .sum();
    assert_eq!(whole.len(), count);
    for of in [2, 3, 5] {
        let part = |index| ids(&open().partition(Partition { index, of }).unwrap());
        assert_eq!(
            (1..=of).flat_map(part).collect::<Vec<_>>(),
            whole,
            "{of} partitions"
        );
    }
}

#[test]
fn broken_tars_give_what_is_whole_in_them() {
    // What one bad sample says of the rest, for the tars that break off between samples.
    let rests = BTreeMap::from([
        ("cut-in-header.tar", "cut off at byte"),
        ("bad-checksum.tar", "no header where one belongs"),
    ]);
    let (folder, manifest) = fixtures("hostile");
    for (name, expected) in manifest["tars"].as_object().unwrap() {
        let path = folder.join("tars").join(name);
        let inputs = match open_path(&path) {
            Ok(inputs) => inputs,
            Err(error) => {
                assert!(
                    matches!(&**name, "zero-bytes.tar" | "not-a-tar.tar"),
                    "{name}: {error}"
                );
                assert!(matches!(error, Error::Input { .. }));
                continue;
            }
        };
        let mut samples: Vec<_> = inputs.samples().collect();
        if let Some(rest) = rests.get(&**name) {
            let last = samples.pop().unwrap();
            assert_eq!(last.id, name.trim_end_matches(".tar"));
            assert!(problem(&last).contains(rest), "{name}: {last:?}");
        }
        if name == "evil-paths.tar" {
            let reasons = samples.iter().filter(|s| s.problem.is_some()).map(problem);
            let expected = [
                "leads out",
                "leads out",
                "leads out",
                "symbolic link",
                "link to good1.jpg",
                "pipe",
            ];
            for (reason, part) in reasons.zip(expected) {
                assert!(reason.contains(part), "{reason}");
            }
            samples.retain(|s| s.problem.is_none());
        }
        let expected = expected["samples"].as_array().unwrap();
        assert_eq!(
            samples.len(),
            expected.len(),
            "{name}: {:?}",
            all_marked(&samples)
        );
        for (sample, expected) in samples.iter().zip(expected) {
            let shard = name.trim_end_matches(".tar");
            let key = expected["key"].as_str().unwrap().trim_start_matches("./");
            assert_eq!(sample.id, format!("{shard}/{key}"), "{name}");
            // Whether pixels are whole is for the decoder to say.
            let bad = expected["expect"] == "bad" && expected["why"] != "truncated";
            if expected["expect"] != "open" {
                assert_eq!(sample.problem.is_some(), bad, "{name}: {}", problem(sample));
            }
        }
    }
}

#[test]
fn a_tar_without_its_suffix_is_told_by_its_content() {
    let dir = folder(&[]);
    write(dir.path(), "shard", &tar(&[("a.jpg", PNG)]));
    write(dir.path(), "names.tar", &tar(&[("BM.jpg", PNG)]));
    assert_eq!(ids(&open(&dir, &["names.tar"])), ["names/BM"]);
    write(dir.path(), "zeros.tar", &[0; 1024]);
    assert_eq!(ids(&open(&dir, &["shard"])), ["shard/a"]);
    assert!(ids(&open(&dir, &["zeros.tar"])).is_empty());
    write(dir.path(), "text.tar", &[b'x'; 600]);
    assert!(
        refusal(&dir, &["text.tar"])
            .to_string()
            .contains("not a tar")
    );
}

#[test]
fn repeated_keys_are_numbered() {
    let files = ["a.jpg", "b.jpg", "a.png", "c.jpg", "./a.jpg", "a.txt"];
    let bytes = tar(&files.map(|name| (name, PNG)));
    let samples = samples(&bytes);
    assert_eq!(
        all_marked(&samples),
        ["s/a", "s/b", "!s/a#2", "s/c", "!s/a#3"]
    );
    assert_eq!(samples[2].key, "a");
    assert!(problem(&samples[2]).contains("came before"));
    assert_eq!(samples[4].sidecars.len(), 1);
}

#[test]
fn the_first_member_with_an_image_suffix_is_the_image() {
    let bytes = tar(&[
        ("a.seg.png", b"mask"),
        ("a.JPG", b"image"),
        ("a.png", b"second"),
        ("b.seg.png", b"mask"),
        ("c.heic", b"other"),
    ]);
    let samples = samples(&bytes);
    assert_eq!(all_marked(&samples), ["s/a", "!s/b", "!s/c"]);
    assert_eq!(samples[0].read(100).unwrap(), b"image");
    assert_eq!(
        sidecars(&samples[0]),
        [
            ("seg.png".into(), b"mask".to_vec()),
            ("png".into(), b"second".to_vec())
        ]
    );
    assert_eq!(problem(&samples[1]), "no image among its members: .seg.png");
}

#[test]
fn names_that_are_not_text_are_escaped() {
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..8].copy_from_slice(b"\xE9\na.jpg\0");
    header.set_size(3);
    header.set_cksum();
    builder.append(&header, &b"abc"[..]).unwrap();
    let samples = samples(&builder.into_inner().unwrap());
    assert_eq!(all_marked(&samples), [r"s/\xE9\x0Aa"]);
    assert_eq!(samples[0].member, r"\xE9\x0Aa.jpg");
}

#[test]
fn extended_headers_carry_names_and_sizes() {
    let mut builder = Builder::new(Vec::new());
    append(
        &mut builder,
        "comment",
        EntryType::XGlobalHeader,
        b"19 comment=for all\n",
    );
    let long = format!("{}.jpg", "x".repeat(300));
    let mut header = Header::new_gnu();
    header.set_size(3);
    builder
        .append_data(&mut header, &long, &b"abc"[..])
        .unwrap();
    let records: [(&str, &[u8]); 2] = [("path", "dir/ü\n.jpg".as_bytes()), ("size", b"5")];
    builder.append_pax_extensions(records).unwrap();
    // The size that counts is the one in the records.
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..5].copy_from_slice(b"short");
    header.set_size(0);
    header.set_cksum();
    builder.get_mut().write_all(header.as_bytes()).unwrap();
    builder.get_mut().write_all(&[b'y'; 512]).unwrap();
    append(&mut builder, "last.png", EntryType::Regular, b"end");
    let samples = samples(&builder.into_inner().unwrap());
    let x = format!("s/{}", "x".repeat(300));
    assert_eq!(all_marked(&samples), [&*x, r"s/dir/ü\x0A", "s/last"]);
    assert_eq!(samples[1].read(100).unwrap(), b"yyyyy");
}

#[test]
fn what_no_file_can_be_read_from_is_bad_and_named() {
    let mut builder = Builder::new(Vec::new());
    append(&mut builder, "dir/", EntryType::Regular, b"");
    append(&mut builder, "a.jpg", EntryType::Regular, PNG);
    append(&mut builder, "a.txt", EntryType::Symlink, b"");
    append(&mut builder, "b.jpg", EntryType::GNUSparse, b"data");
    append(&mut builder, "c.jpg", EntryType::Block, b"");
    append(&mut builder, "d.jpg", EntryType::Continuous, PNG);
    append(&mut builder, r"e\..\..\f.jpg", EntryType::Regular, PNG);
    let samples = samples(&builder.into_inner().unwrap());
    assert_eq!(
        all_marked(&samples),
        ["!s/a", "!s/b", "!s/c", "s/d", r"!s/e\"]
    );
    for (sample, part) in samples
        .iter()
        .zip(["a.txt: is a symbolic link", "sparse", "device"])
    {
        assert!(problem(sample).contains(part), "{sample:?}");
    }
}

#[test]
fn joined_archives_are_pointed_out() {
    let mut bytes = tar(&[("a.jpg", PNG)]);
    bytes.extend(tar(&[("b.jpg", PNG)]));
    let samples = samples(&bytes);
    assert_eq!(all_marked(&samples), ["s/a", "!s"]);
    assert!(problem(&samples[1]).contains("another archive follows"));
}

#[test]
fn a_name_that_claims_to_be_huge_is_not_read() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(u64::MAX / 2);
    header.set_cksum();
    let mut bytes = tar(&[("a.jpg", PNG)]);
    bytes.truncate(1024);
    bytes.extend(header.as_bytes());
    assert_eq!(all_marked(&samples(&bytes)), ["s/a", "!s"]);
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..5].copy_from_slice(b"b.jpg");
    header.set_size(u64::MAX);
    header.set_cksum();
    bytes.truncate(1024);
    bytes.extend(header.as_bytes());
    assert_eq!(all_marked(&samples(&bytes)), ["s/a", "!s"]);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        keys in prop::collection::btree_set("[a-zé0-9_ -]{1,8}(/[a-z]{1,5}){0,2}", 1..20),
        suffixes in prop::collection::btree_set("[a-z]{1,3}(\\.[a-z]{1,3})?", 0..4),
        content in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        let mut files = Vec::new();
        let mut contents = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            contents.push([&[at as u8], &content[..content.len() * at / keys.len()]].concat());
            files.push((format!("{key}.jpg"), at));
            files.extend(suffixes.iter().filter(|s| *s != "jpg").map(|s| (format!("{key}.{s}"), at)));
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, at)| (name.as_str(), &*contents[*at])).collect();
        let dir = folder(&[]);
        write(dir.path(), "s.tar", &tar(&files));
        let samples: Vec<_> = open(&dir, &["s.tar"]).samples().collect();
        prop_assert_eq!(samples.len(), keys.len());
        for ((sample, key), content) in samples.iter().zip(&keys).zip(&contents) {
            prop_assert_eq!(problem(sample), "no problem");
            prop_assert_eq!(&sample.key, key);
            prop_assert_eq!(&sample.read(1 << 20).unwrap(), content);
            let expected: Vec<_> = suffixes.iter().filter(|s| *s != "jpg").map(|s| (s.clone(), content.clone())).collect();
            prop_assert_eq!(sidecars(sample), expected);
        }
    }

    #[test]
    fn a_tar_that_is_cut_anywhere_keeps_what_is_whole(cut in 0usize..6000) {
        let whole = tar(&[("a.jpg", &[1; 700]), ("b.jpg", &[2; 600]), ("b.txt", b"text")]);
        let cut = cut.min(whole.len());
        let found = all_marked(&samples(&whole[..cut]));
        // The first content ends at 512 + 700, the second at 1536 + 512 + 600, the caption at 3072 + 512 + 4.
        if cut >= 512 + 700 {
            prop_assert_eq!(&*found[0], "s/a");
        }
        if cut >= 3072 + 512 + 4 {
            prop_assert_eq!(found, ["s/a", "s/b"]);
        } else if (3072 + 512..).contains(&cut) {
            prop_assert_eq!(found, ["s/a", "!s/b"]);
        } else if (1536 + 512..1536 + 512 + 600).contains(&cut) {
            prop_assert_eq!(found, ["s/a", "!s/b"]);
        } else if (512..512 + 700).contains(&cut) {
            prop_assert_eq!(found, ["!s/a"]);
        }
    }

    #[test]
    fn damage_anywhere_is_no_panic(at in 0usize..4096, bytes in prop::collection::vec(any::<u8>(), 1..600)) {
        let mut whole = tar(&[("a.jpg", &[1; 700]), ("b.jpg", &[2; 600]), ("b.txt", b"text")]);
        let end = (at + bytes.len()).min(whole.len());
        whole[at..end].copy_from_slice(&bytes[..end - at]);
        samples(&whole);
    }

    #[test]
    fn any_header_with_a_good_checksum_is_no_panic(fields in prop::collection::vec(any::<u8>(), 512), kind in any::<u8>(), size in any::<u64>()) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&fields);
        header.as_old_mut().linkflag = [kind];
        header.set_size(size >> (size % 64));
        header.set_cksum();
        let mut whole = header.as_bytes().to_vec();
        whole.extend(tar(&[("a.jpg", PNG)]));
        samples(&whole);
    }

    #[test]
    fn any_records_are_no_panic(records in prop::collection::vec(prop_oneof!["[0-9]{1,3} [a-z]{1,4}=[a-z0-9]{0,9}\n", "1[0-9] (path|size)=[a-z0-9]{0,9}\n"], 0..4), noise: Vec<u8>) {
        let mut builder = Builder::new(Vec::new());
        let content = [records.concat().as_bytes(), &noise].concat();
        append(&mut builder, "x", EntryType::XHeader, &content);
        append(&mut builder, "a.jpg", EntryType::Regular, PNG);
        samples(&builder.into_inner().unwrap());
    }
}
