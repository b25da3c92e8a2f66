//! Wrong use, hostile input, and everything that can go wrong on the way.
//!
//! | fault | where | what happens | test |
//! |---|---|---|---|
//! | wrong use | any command | refused before an image is decoded, with the remedy; exit 2 | `wrong_use_is_refused_at_once_with_what_to_do` |
//! | hostile bytes | reading | bad samples with a reason, nothing outside the output | `hostile_input_costs_the_bad_samples_and_nothing_else`, `fuzzing::tests` |
//! | input changed | going on, writing | refused; never a part of two inputs | `a_changed_input_is_noticed_when_a_run_goes_on` |
//! | input gone | embedding | the rest are bad samples | `disk::images_that_vanish_in_the_middle_are_bad_samples_and_nothing_else` |
//! | input gone | writing | error with its name; nothing half-written | the same |
//! | disk full | any stage | exit 1 with the file, no leftovers; with room it goes on to the same bytes | `disk::a_full_disk_is_said_and_with_room_the_same_command_goes_on` |
//! | disk full, a real file system | any stage | the same, where one can be mounted | `disk::a_full_file_system_is_said_too` |
//! | unwritable | any command | refused before the work | `disk::a_place_that_cannot_be_written_to_is_refused_before_the_work` |
//! | two processes on a run | any command | the second is refused, with the first one's id | `kill::a_second_process_is_refused_by_name_and_a_dead_one_holds_nothing` |
//! | `kill -9` | at each file of each stage | the same command ends with the same bytes | `kill::killed_at_any_file_of_any_stage_the_same_command_ends_with_the_same_bytes` |
//! | `kill -9` | at any moment | the same, and no finished part is done again | `killed_at_any_moment_the_same_command_ends_with_the_same_bytes` |
//! | damaged samples, embeddings | `curate`, `embed` | found by checksum, that part is made anew, said | `damage::the_command_that_made_a_run_makes_what_is_damaged_anew_and_says_so` |
//! | damaged samples, embeddings | other commands | error that names the command which makes them | `damage::what_a_command_cannot_make_is_an_error_with_the_command_that_can` |
//! | damaged scores | `curate`, `score` | that part is made anew, said; `filter`: error that names `score` | both, and `damage::what_follows_from_stored_rows_is_found_anew_without_the_images` |
//! | damaged clusters, pairs, matches | `curate`, `dedup` | found anew, said; `filter`: error that names `dedup` | the same |
//! | damaged decisions | `write`, `report` | decided anew, said | `damage::damaged_decisions_are_made_anew_where_they_are_read` |
//! | damaged `run.json` | any command | error: nothing else says what the run is | `damage::a_damaged_run_json_says_that_nothing_else_can_tell` |
//!
//! Damage is a flipped bit, a cut end, an empty file, a missing one. The disk is full by a library that stands before the C
//! library of the command (`faults/shim.cpp`), so that no test needs to be root.

mod damage;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod kill;
#[cfg(target_os = "linux")]
mod shim;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::*;

#[test]
fn wrong_use_is_refused_at_once_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (at, gallery) = (
        dir.path().display().to_string(),
        data("gallery").display().to_string(),
    );
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::write(dir.path().join("file"), b"x").unwrap();
    std::fs::create_dir(dir.path().join("full")).unwrap();
    std::fs::write(dir.path().join("full/thesis.txt"), b"x").unwrap();
    good(&format!("embed {gallery}/portraits --out {at}/portraits"));
    let head = data("tiny-clip/model.safetensors").display().to_string();
    let shard = data("shards/00000.tar").display().to_string();

    let cases: Vec<(i32, String, &str)> = vec![
        (
            1,
            format!("curate {gallery} --out {at}/r --model {at}/no-model"),
            "no such folder",
        ),
        (
            1,
            format!("curate {gallery} --out {at}/r --model some/model"),
            "HF_HUB_OFFLINE",
        ),
        (
            1,
            format!("curate {gallery} --out {at}/r --head mine={at}/absent.pth"),
            "no such file",
        ),
        (
            1,
            format!("curate {gallery} --out {at}/r --head mine={head}"),
            "a layout that is not known",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --aesthetic"),
            "--model openai/clip-vit-large-patch14",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --min-aesthetic 5"),
            "add --aesthetic",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --max mine=1"),
            "--head mine=SPEC",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --min mine"),
            "NAME=NUMBER",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --dedup exact --keep hard"),
            "needs clusters",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --keep best:mine"),
            "--head mine",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --eps 0.1 --floor 0.05"),
            "floor",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --keep nicest"),
            "nicest",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --partition 4/3"),
            "4/3",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --part-size 0"),
            "part size",
        ),
        (
            2,
            format!("curate {shard} --out {at}/r --write list"),
            "tar or folder",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --device cuda"),
            "--device cpu",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/r --device gpu"),
            "cuda:N",
        ),
        (
            2,
            format!("curate {gallery} --out {at}/full"),
            "not a run directory",
        ),
        (
            1,
            format!("curate {gallery} --out {at}/file"),
            "cannot create",
        ),
        (
            1,
            format!("curate {gallery} --out {at}/file/below"),
            "cannot create",
        ),
        (
            2,
            format!("curate {gallery} {gallery} --out {at}/r"),
            "same ids",
        ),
        (
            1,
            format!("curate {at}/nothing-there --out {at}/r"),
            "nothing-there",
        ),
        (1, format!("curate {at}/empty --out {at}/r"), "empty"),
        (
            2,
            format!("curate {gallery}/portraits --out {at}/portraits --part-size 9"),
            "part size is 4096, now it is 9",
        ),
        (
            2,
            format!("curate {gallery}/patterns --out {at}/portraits"),
            "--overwrite",
        ),
        (2, "curate".into(), "INPUT"),
        (2, format!("dedup {at}/empty"), "not a run directory"),
        (2, format!("score {at}/portraits"), "no head"),
        (2, format!("write {at}/portraits"), "no decisions"),
        (
            2,
            format!("filter {at}/portraits --min aesthetic=5"),
            "no scores",
        ),
        (2, format!("dedup {at}/portraits {at}/portraits"), "--out"),
    ];
    for (code, line, word) in cases {
        let begun = Instant::now();
        let message = fails(code, &line);
        assert!(
            message.contains(word),
            "{line}\nsays {message}\nbut not {word}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{line} took long to be refused"
        );
        assert!(
            !dir.path().join("r/samples").exists(),
            "{line}: an image was decoded first"
        );
    }
}

#[test]
fn a_head_of_the_wrong_width_is_refused_by_name_and_size() {
    let dir = tempfile::tempdir().unwrap();
    let weight =
        candle_core::Tensor::zeros((1, 768), candle_core::DType::F32, &candle_core::Device::Cpu)
            .unwrap();
    let path = dir.path().join("wide.safetensors");
    candle_core::safetensors::save(
        &std::collections::HashMap::from([("weight", weight)]),
        &path,
    )
    .unwrap();
    let line = format!(
        "curate {} --out {} --head mine={}",
        data("gallery").display(),
        dir.path().join("r").display(),
        path.display()
    );
    let message = fails(2, &line);
    assert!(
        message.contains("mine") && message.contains("768") && message.contains("320"),
        "{message}"
    );
}

#[test]
fn hostile_input_costs_the_bad_samples_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    let manifest: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(data("hostile/manifest.json")).unwrap())
            .unwrap();
    let hostile = data("hostile").display().to_string();
    let mut inputs = format!("{hostile}/images");
    for kind in ["tars", "parquet"] {
        for name in manifest[kind].as_object().unwrap().keys() {
            // Two names with one stem cannot stand side by side.
            if name != "not-a-parquet.parquet" {
                inputs += &format!(" {hostile}/{kind}/{name}");
            }
        }
    }
    good(&format!("curate {inputs} --out {at}/run --write tar"));
    let (samples, decisions) = (
        samples(&dir.path().join("run")),
        decisions(&dir.path().join("run")),
    );
    for (name, row) in manifest["images"].as_object().unwrap() {
        let (status, error) = &samples[&format!("images/{name}")];
        assert_eq!(status, row["expect"].as_str().unwrap(), "{name}: {error}");
        assert_eq!(
            status == "bad",
            !error.is_empty(),
            "{name} has a reason when it is bad"
        );
    }
    for (tar, row) in manifest["tars"].as_object().unwrap() {
        for sample in row["samples"].as_array().unwrap() {
            let key = sample["key"].as_str().unwrap().trim_start_matches("./");
            let id = format!("{}/{key}", tar.trim_end_matches(".tar"));
            let expect = sample["expect"].as_str().unwrap();
            let found = samples.get(&id);
            match expect {
                "open" => {}
                _ => {
                    let (status, error) = found
                        .unwrap_or_else(|| panic!("{id} is not in samples/: {:?}", samples.keys()));
                    assert_eq!(status, expect, "{id}: {error}");
                }
            }
        }
    }
    for (id, (status, error)) in &samples {
        let (reason, _) = &decisions[id];
        assert_eq!(status == "bad", reason == "corrupt", "{id}: {reason}");
        assert!(
            status == "good" || error.len() > 8,
            "{id}: {error:?} is no reason that a person understands"
        );
    }
    let message = fails(1, &format!("curate {inputs} --out {at}/strict --strict"));
    assert!(message.contains("--strict"), "{message}");
    for path in ["evil.jpg", "../evil.jpg", "abs/evil.jpg"] {
        assert!(!dir.path().join(path).exists());
    }
    assert!(!Path::new("/abs/evil.jpg").exists());
}

#[test]
fn killed_at_any_moment_the_same_command_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    gallery_shards(dir.path(), 12);
    let at = dir.path().display().to_string();
    let line = |out: &str| {
        format!(
            "curate {at}/{{00000..00006}}.tar --out {at}/{out} --part-size 8 --batch-size 4 --shard-size 10 --threads 1"
        )
    };
    let begun = Instant::now();
    good(&line("whole"));
    let mut length = begun.elapsed();
    let (expected, cut) = (tree(&dir.path().join("whole")), dir.path().join("cut"));

    // A fixed sequence of moments over the length of a run, which is guessed anew when a run ends before its moment: other
    // tests on the machine make runs longer and shorter.
    let mut moment = 0x2545_f491_4f6c_dd1du64;
    let mut killed = 0;
    for _ in 0..200 {
        moment = moment
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let wait = length.mul_f64((moment >> 40) as f64 / (1u64 << 24) as f64);
        let mut child = command()
            .args(words(&line("cut")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(wait);
        if child.try_wait().unwrap().is_some() {
            length = length.mul_f64(0.8);
            std::fs::remove_dir_all(&cut).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        let done = stamps(&cut);
        good(&line("cut"));
        let after = stamps(&cut);
        assert!(
            done.iter().all(|part| after.contains(part)),
            "a finished part was done again"
        );
        assert_eq!(names(&expected), names(&tree(&cut)));
        assert!(
            tree(&cut) == expected,
            "killed after {wait:?}, the bytes differ"
        );
        std::fs::remove_dir_all(&cut).unwrap();
        if killed == 20 {
            return;
        }
    }
    panic!("only {killed} runs of 200 were still running when they were to be killed");
}

fn names(tree: &std::collections::BTreeMap<String, Vec<u8>>) -> Vec<&String> {
    tree.keys().collect()
}

/// Finished parts with the time that they were written.
fn stamps(run: &Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let Ok(entries) = std::fs::read_dir(run.join("samples")) else {
        return Vec::new();
    };
    let parts = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"));
    parts
        .map(|path| {
            (
                path.clone(),
                std::fs::metadata(&path).unwrap().modified().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_changed_input_is_noticed_when_a_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, run) = (dir.path().join("photos"), dir.path().join("run"));
    std::fs::create_dir(&photos).unwrap();
    for (i, name) in ["owl.jpg", "owl-copy.jpg"].iter().enumerate() {
        let source = walkdir::WalkDir::new(data("gallery/portraits"))
            .into_iter()
            .map(|e| e.unwrap().into_path());
        let source = source
            .filter(|p| p.extension().is_some_and(|e| e == "jpg"))
            .nth(i)
            .unwrap();
        std::fs::copy(source, photos.join(name)).unwrap();
    }
    let line = format!(
        "curate {} --out {} --write tar",
        photos.display(),
        run.display()
    );
    good(&line);
    std::fs::copy(
        data("gallery/portraits").join(first_jpg()),
        photos.join("new.jpg"),
    )
    .unwrap();
    let message = fails(2, &line);
    assert!(
        message.contains("content of the inputs") && message.contains("--overwrite"),
        "{message}"
    );
    good(&format!("{line} --overwrite"));
    assert_eq!(samples(&run).len(), 3);

    // The set is written from the files themselves; one that changed since cannot slip in.
    let kept = decisions(&run)
        .into_iter()
        .find(|d| d.1.0 == "kept")
        .unwrap()
        .0;
    std::fs::write(photos.join(&kept), b"another content").unwrap();
    let message = fails(
        1,
        &format!(
            "write {} --to {} --write folder",
            run.display(),
            dir.path().join("set").display()
        ),
    );
    assert!(message.contains(&kept), "{message}");
}

fn first_jpg() -> std::path::PathBuf {
    let mut all: Vec<_> = std::fs::read_dir(data("gallery/portraits"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "jpg"));
    all.sort();
    all[0].file_name().unwrap().into()
}
