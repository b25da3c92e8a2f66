//! Inputs as users give them: folders, images, lists, tars and parquets on disk.

use std::fs;
use std::path::Path;

use clipsift::read::{Inputs, Kind, Options, Partition};
use clipsift::{Error, Sample};
use tempfile::TempDir;

/// The first bytes of a PNG are enough for reading, which decodes nothing.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and more";

fn folder(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        write(dir.path(), file, PNG);
    }
    dir
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Paths below `dir` as arguments.
fn specs(dir: &TempDir, names: &[&str]) -> Vec<String> {
    let path = |name: &&str| dir.path().join(name).to_str().unwrap().to_string();
    names.iter().map(path).collect()
}

fn open(dir: &TempDir, names: &[&str]) -> Inputs {
    Inputs::open(&specs(dir, names), &Options::default()).unwrap()
}

fn refusal(dir: &TempDir, names: &[&str]) -> Error {
    match Inputs::open(&specs(dir, names), &Options::default()) {
        Ok(inputs) => panic!("{names:?} were taken: {:?}", inputs.describe()),
        Err(error) => error,
    }
}

fn ids(inputs: &Inputs) -> Vec<String> {
    inputs.samples().map(|sample| sample.id).collect()
}

/// Ids, with a `!` before those of bad samples.
fn marked(inputs: &Inputs) -> Vec<String> {
    let mark = |s: Sample| format!("{}{}", if s.problem.is_some() { "!" } else { "" }, s.id);
    inputs.samples().map(mark).collect()
}

fn problem(sample: &Sample) -> &str {
    sample.problem.as_deref().unwrap_or("no problem")
}

fn sidecars(sample: &Sample) -> Vec<(String, Vec<u8>)> {
    let read = |s: &clipsift::Sidecar| (s.suffix.clone(), s.blob.read(1 << 20).unwrap());
    sample.sidecars.iter().map(read).collect()
}

mod parquets;
mod tars;

mod folders {
    use super::*;

    #[test]
    fn images_come_in_the_order_of_their_path_bytes() {
        let dir = folder(&[
            "b.jpg",
            "a/c.png",
            "a.jpg",
            "Z.webp",
            "a/b/x.gif",
            "a-b.jpg",
            "é.tiff",
        ]);
        let expected = [
            "Z.webp",
            "a-b.jpg",
            "a.jpg",
            "a/b/x.gif",
            "a/c.png",
            "b.jpg",
            "é.tiff",
        ];
        let inputs = open(&dir, &[""]);
        assert_eq!(ids(&inputs), expected);
        let mut sorted = expected;
        sorted.sort();
        assert_eq!(sorted, expected);
        assert_eq!(inputs.expected(), Some(7));
        assert_eq!(inputs.kind(), Kind::Files);
        let sample = inputs.samples().nth(3).unwrap();
        assert_eq!(
            (&*sample.key, &*sample.member, sample.length),
            ("a/b/x", "a/b/x.gif", PNG.len() as u64)
        );
        assert_eq!(sample.read(1 << 20).unwrap(), PNG);
    }

    #[test]
    fn what_is_no_image_is_passed_over_and_what_begins_like_one_is_taken() {
        let dir = folder(&[
            "noext",
            "photo.jpg_large",
            "UPPER.JPG",
            ".hidden.jpg",
            ".git/x.jpg",
            "png.csv",
        ]);
        write(dir.path(), "README", b"text");
        write(dir.path(), "text.jpg", b"no image at all");
        write(dir.path(), "empty.png", b"");
        write(dir.path(), "phone.heic", b"\0\0\0 ftypheic");
        let expected = [
            "UPPER.JPG",
            "empty.png",
            "noext",
            "!phone.heic",
            "photo.jpg_large",
            "text.jpg",
        ];
        assert_eq!(marked(&open(&dir, &["."])), expected);
    }

    #[test]
    fn captions_of_the_same_stem_travel_with_the_image() {
        let dir = folder(&["a/x.y.jpg", "a/x.jpg", "a/x.png"]);
        write(dir.path(), "a/x.txt", b"caption");
        write(dir.path(), "a/x.JSON", b"{}");
        write(dir.path(), "a/x.npy", b"other");
        write(dir.path(), "x.txt", b"elsewhere");
        let samples: Vec<_> = open(&dir, &[""]).samples().collect();
        let expected = [
            ("json".into(), b"{}".to_vec()),
            ("txt".into(), b"caption".to_vec()),
        ];
        assert_eq!(sidecars(&samples[0]), expected);
        assert_eq!(sidecars(&samples[1]), expected);
        assert_eq!(sidecars(&samples[2]), []);
        assert_eq!(samples[2].key, "a/x.y");
    }

    #[test]
    fn a_folder_without_images_says_what_it_holds() {
        let dir = folder(&[]);
        write(dir.path(), "s/0.tar", b"");
        write(dir.path(), "s/1.tar", b"");
        write(dir.path(), "p/0.parquet", b"");
        write(dir.path(), "t/0.csv", b"");
        fs::create_dir(dir.path().join("e")).unwrap();
        for (name, part) in [
            ("s", "2 .tar files: give "),
            ("p", "1 .parquet"),
            ("t", "1 other file"),
            ("e", "no images"),
        ] {
            let error = refusal(&dir, &[name]);
            assert!(matches!(error, Error::Input { .. }), "{error:?}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_loops_are_not() {
        use std::os::unix::fs::symlink;
        let dir = folder(&["data/a.jpg", "other/b.jpg"]);
        let at = |name: &str| dir.path().join(name);
        symlink(at("data"), at("data/loop")).unwrap();
        symlink("..", at("data/up")).unwrap();
        symlink(at("other"), at("data/other")).unwrap();
        symlink(at("other/b.jpg"), at("data/c.jpg")).unwrap();
        symlink(at("nowhere"), at("data/gone.jpg")).unwrap();
        let inputs = open(&dir, &["data"]);
        let expected = ["a.jpg", "c.jpg", "!gone.jpg", "other/b.jpg"];
        // `up` holds `data` again, which is being walked, and `other`, which is not.
        let mut with_up = expected.to_vec();
        with_up.push("up/other/b.jpg");
        assert_eq!(marked(&inputs), with_up);
    }

    #[cfg(unix)]
    #[test]
    fn what_would_block_is_not_opened() {
        let dir = folder(&["a.jpg"]);
        for pipe in ["pipe.jpg", "pipe"] {
            let made = std::process::Command::new("mkfifo")
                .arg(dir.path().join(pipe))
                .status();
            assert!(made.unwrap().success());
        }
        assert_eq!(marked(&open(&dir, &[""])), ["a.jpg", "!pipe.jpg"]);
        assert!(
            refusal(&dir, &["pipe"])
                .to_string()
                .contains("regular file")
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_are_not_text_are_escaped_and_still_read() {
        use std::os::unix::ffi::OsStrExt;
        let dir = folder(&["a\nb.jpg"]);
        let odd = std::ffi::OsStr::from_bytes(b"caf\xE9.jpg");
        fs::write(dir.path().join(odd), PNG).unwrap();
        let inputs = open(&dir, &[""]);
        assert_eq!(ids(&inputs), [r"a\x0Ab.jpg", r"caf\xE9.jpg"]);
        assert!(inputs.samples().all(|s| s.read(1 << 20).unwrap() == PNG));
    }
}

mod lists {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_list() {
        let dir = folder(&["in/a.jpg", "in/sub/b c.png", "c.webp", "x.tar"]);
        write(dir.path(), "in/a.txt", b"caption");
        write(dir.path(), "sub/x", b"");
        let absolute = dir.path().join("c.webp").to_str().unwrap().to_string();
        let text = format!(
            "\u{FEFF}a.jpg\r\n\r\nsub/b c.png\n{absolute}\n../c.webp\na.jpg\nno.jpg\n.\n../x.tar\nhttp://x/y.jpg"
        );
        write(dir.path(), "in/list.txt", text.as_bytes());
        let inputs = open(&dir, &["in/list.txt"]);
        let expected = [
            "a.jpg",
            "sub/b c.png",
            &absolute,
            "../c.webp",
            "!a.jpg#2",
            "!no.jpg",
            "!.",
            "!../x.tar",
            "!http://x/y.jpg",
        ];
        assert_eq!(marked(&inputs), expected);
        let samples: Vec<_> = inputs.samples().collect();
        assert!(samples[..4].iter().all(|s| s.read(1 << 20).unwrap() == PNG));
        assert_eq!(sidecars(&samples[0]), [("txt".into(), b"caption".to_vec())]);
        for (sample, part) in samples[4..].iter().zip([
            "came before",
            "no such file",
            "folder",
            "input of its own",
            "URL",
        ]) {
            assert!(problem(sample).contains(part), "{sample:?}");
        }
    }

    #[test]
    fn standard_input_is_a_list_relative_to_the_working_directory() {
        let dir = folder(&["a.jpg"]);
        let path = specs(&dir, &["a.jpg"]).remove(0);
        let options = Options {
            stdin: Some(vec![path.clone(), "Cargo.toml".to_string()]),
            ..Options::default()
        };
        let inputs = Inputs::open(&["-".to_string()], &options).unwrap();
        assert_eq!(ids(&inputs), [&*path, "Cargo.toml"]);
        assert_eq!(inputs.samples().filter(|s| s.problem.is_none()).count(), 2);
        assert_eq!(inputs.stdin_list(), options.stdin.as_deref());
        let twice = Inputs::open(&["-".to_string(), "-".to_string()], &options);
        assert!(matches!(twice.err(), Some(Error::Usage(_))));
    }

    #[test]
    fn an_empty_list_is_no_input() {
        let dir = folder(&[]);
        write(dir.path(), "l.txt", b"\n \n");
        assert!(
            refusal(&dir, &["l.txt"])
                .to_string()
                .contains("lists no paths")
        );
    }
}

mod several {
    use super::*;

    #[test]
    fn ids_begin_with_the_basename() {
        let dir = folder(&["one/a.jpg", "two/a.jpg", "x/p.jpg"]);
        write(dir.path(), "list.txt", b"one/a.jpg\nno.jpg");
        let inputs = open(&dir, &["one/", "x/../two/.", "x/p.jpg", "list.txt"]);
        let expected = [
            "one/a.jpg",
            "two/a.jpg",
            "p.jpg",
            "list/one/a.jpg",
            "!list/no.jpg",
        ];
        assert_eq!(marked(&inputs), expected);
        let keys: Vec<_> = inputs.samples().map(|s| s.key).collect();
        assert_eq!(keys, ["a", "a", "p", "one/a", "no"]);
        assert_eq!(ids(&open(&dir, &["x/p.jpg"])), ["p.jpg"]);
    }

    #[test]
    fn dots_have_a_basename_too() {
        let dir = folder(&["one/in/a.jpg", "two/b.jpg"]);
        let inputs = open(&dir, &["one/in/..", "two/."]);
        assert_eq!(ids(&inputs), ["one/in/a.jpg", "two/b.jpg"]);
    }

    #[test]
    fn equal_basenames_are_refused_with_both_named() {
        let dir = folder(&["one/a.jpg", "x/one/a.jpg", "y/a.jpg", "z/a.jpg"]);
        for names in [
            ["one", "x/one"],
            ["one", "one/"],
            ["y/a.jpg", "z/a.jpg"],
            ["no/0.tar", "no/0.parquet"],
        ] {
            let error = refusal(&dir, &names);
            assert!(matches!(error, Error::Usage(_)), "{error:?}");
            for name in specs(&dir, &names) {
                assert!(error.to_string().contains(&name), "{error}");
            }
        }
    }

    #[test]
    fn one_that_cannot_be_used_is_a_bad_sample_and_none_that_can_is_an_error() {
        let dir = folder(&["one/a.jpg"]);
        write(dir.path(), "b.tar", &[0x1F, 0x8B, 8, 0]);
        let inputs = open(&dir, &["gone{1..2}.tar", "one", "b.tar"]);
        assert_eq!(marked(&inputs), ["!gone1", "!gone2", "one/a.jpg", "!b"]);
        assert_eq!(inputs.unusable().count(), 3);
        assert!(problem(&inputs.samples().last().unwrap()).contains("gunzip"));
        let error = refusal(&dir, &["gone{1..2}.tar", "b.tar"]).to_string();
        for part in [
            "no usable input",
            "gone1.tar: no such file",
            "gone2.tar",
            "gzip",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(refusal(&dir, &["*.tar"]).to_string().contains("unquoted"));
        let url = Inputs::open(&["s3://bucket/x.tar".to_string()], &Options::default());
        assert!(url.err().unwrap().to_string().contains("only local files"));
        assert!(matches!(
            Inputs::open(&[], &Options::default()).err(),
            Some(Error::Usage(_))
        ));
    }

    #[test]
    fn a_path_that_exists_wins_over_its_expansion() {
        let dir = folder(&["{0..1}/a.jpg", "0/b.jpg", "1/c.jpg"]);
        assert_eq!(ids(&open(&dir, &["{0..1}"])), ["a.jpg"]);
        fs::remove_dir_all(dir.path().join("{0..1}")).unwrap();
        assert_eq!(ids(&open(&dir, &["{0..1}"])), ["0/b.jpg", "1/c.jpg"]);
    }

    #[test]
    fn partitions_one_after_the_other_are_the_whole() {
        let dir = folder(&["one/a.jpg", "one/b/c.jpg", "one/d.jpg", "x/p.jpg"]);
        write(
            dir.path(),
            "list.txt",
            b"one/a.jpg\none/d.jpg\none/a.jpg\none/a.jpg\nno.jpg",
        );
        let names = ["one", "gone.tar", "list.txt", "x/p.jpg"];
        let whole = marked(&open(&dir, &names));
        assert_eq!(whole.len(), 10);
        for of in [1, 2, 3, 4, 7, 10, 13] {
            let mut parts = Vec::new();
            for index in 1..=of {
                let inputs = open(&dir, &names)
                    .partition(Partition { index, of })
                    .unwrap();
                let part = marked(&inputs);
                assert_eq!(inputs.expected(), Some(part.len() as u64), "{index}/{of}");
                parts.extend(part);
            }
            assert_eq!(parts, whole, "{of} partitions");
        }
        for (index, of) in [(0, 2), (3, 2)] {
            let refused = open(&dir, &names).partition(Partition { index, of });
            assert!(matches!(refused.err(), Some(Error::Usage(_))));
        }
    }

    #[test]
    fn the_description_changes_with_the_content() {
        let dir = folder(&["one/a.jpg", "two/b.jpg"]);
        let describe = || open(&dir, &["one", "two"]).describe();
        let before = describe();
        assert_eq!(before, describe());
        assert!(
            before[0].contains("one (folder, 1 images, 17 bytes, "),
            "{before:?}"
        );
        fs::rename(dir.path().join("one/a.jpg"), dir.path().join("one/c.jpg")).unwrap();
        let after = describe();
        assert_ne!(before[0], after[0]);
        assert_eq!(before[1], after[1]);
    }
}

mod readers {
    use std::sync::Arc;

    use clipsift::Blob;
    use clipsift::read::Reader;

    use super::*;

    struct Fixed(&'static str, &'static [&'static str]);

    impl Reader for Fixed {
        fn name(&self) -> &str {
            self.0
        }

        fn samples(&self) -> Box<dyn Iterator<Item = Sample> + Send + '_> {
            Box::new(self.1.iter().map(|id| Sample {
                id: id.to_string(),
                key: id.to_string(),
                source: Arc::from(self.0),
                member: String::new(),
                offset: 0,
                length: PNG.len() as u64,
                image: Blob::Bytes(PNG.into()),
                sidecars: Vec::new(),
                problem: None,
            }))
        }
    }

    fn inputs(readers: Vec<Fixed>) -> clipsift::Result<Inputs> {
        let boxed = |reader| Box::new(reader) as Box<dyn Reader>;
        Inputs::from_readers(readers.into_iter().map(boxed).collect())
    }

    #[test]
    fn a_caller_can_bring_a_reader() {
        let one = inputs(vec![Fixed("db", &["a", "b", "a"])]).unwrap();
        assert_eq!(marked(&one), ["a", "b", "!a#2"]);
        assert_eq!(
            (one.kind(), one.expected(), one.describe()),
            (Kind::Packed, None, vec!["db (reader)".to_string()])
        );
        let two = || {
            inputs(vec![
                Fixed("s3://x/one/", &["a"]),
                Fixed("two", &["a", "a"]),
            ])
            .unwrap()
        };
        assert_eq!(marked(&two()), ["one/a", "two/a", "!two/a#2"]);
        let second = two().partition(Partition { index: 2, of: 2 }).unwrap();
        assert_eq!(marked(&second), ["two/a", "!two/a#2"]);
        for readers in [vec![], vec![Fixed("a/x", &[]), Fixed("b/x", &[])]] {
            assert!(matches!(inputs(readers).err(), Some(Error::Usage(_))));
        }
    }
}

#[test]
fn inputs_of_every_kind_are_read_in_the_order_given() {
    let shards = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shards");
    let names = [
        "00001.tar",
        "images",
        "hugging-face.parquet",
        "list.txt",
        "images/one.jpg",
    ];
    let specs = names.map(|name| shards.join(name).to_str().unwrap().to_string());
    let inputs = Inputs::open(&specs, &Options::default()).unwrap();
    let ids = ids(&inputs);
    assert_eq!(ids.len(), 7 + 4 + 6 + 4 + 1);
    assert_eq!(ids[7], "images/one.jpg");
    assert_eq!(ids[17], "list/images/one.jpg");
    assert_eq!(ids[21], "one.jpg");
    assert_eq!(inputs.kind(), Kind::Packed);
    assert!(
        inputs
            .samples()
            .all(|s| s.problem.is_none() && !s.read(1 << 20).unwrap().is_empty())
    );
}

#[test]
fn every_fixture_of_every_format_is_told_by_its_content() {
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats");
    let dir = folder(&[]);
    let mut count = 0;
    for entry in fs::read_dir(formats).unwrap() {
        let path = entry.unwrap().path();
        let suffix = path.extension().unwrap().to_str().unwrap();
        if ["jpg", "png", "webp", "gif", "bmp", "tif"].contains(&suffix) {
            fs::copy(&path, dir.path().join(path.file_stem().unwrap())).unwrap();
            count += 1;
        }
    }
    assert!(count > 50, "{count} fixtures");
    assert_eq!(open(&dir, &[""]).samples().count(), count);
}
