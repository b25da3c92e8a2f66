//! A disk that fills up, places that cannot be written to, inputs that vanish.

use std::fs;
use std::path::Path;
use std::process::Command;

use clipsift::{Clip, Device, Pipeline};

use super::shim::{course, shimmed, stderr};
use crate::common::*;

/// Names of unfinished files below a folder.
fn leftovers(folder: &Path) -> Vec<String> {
    let Ok(root) = folder.canonicalize() else {
        return Vec::new();
    };
    let entries = walkdir::WalkDir::new(root).into_iter();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with(".clipsift-tmp"))
        .collect()
}

fn request(at: &Path) -> impl Fn(&str) -> String {
    let (gallery, head) = (data("gallery/portraits"), head_for_builtin(at));
    let at = at.display().to_string();
    move |out: &str| {
        format!(
            "curate {} --out {at}/{out} --part-size 4 --threads 1 --head mine={head} --dedup semantic --clusters 2 --write folder",
            gallery.display()
        )
    }
}

#[test]
fn a_full_disk_is_said_and_with_room_the_same_command_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let line = request(dir.path());
    let whole = dir.path().join("whole");
    let (_, bytes) = course(&line("whole"), &whole);
    let expected = tree(&whole);
    let cut = dir.path().join("cut");
    // From none at all to a little too few; the seconds in run.json have more digits at one time than at another.
    let rooms = (0..12).map(|n| bytes * n / 12).chain([bytes * 31 / 32]);
    for room in rooms {
        let output = shimmed(&line("cut"), &cut)
            .env("SHIM_DISK", room.to_string())
            .output()
            .unwrap();
        let message = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{room} of {bytes}: {message}"
        );
        assert!(
            message.contains("cannot write") && message.contains("No space left on device"),
            "{room} of {bytes}: {message}"
        );
        assert!(message.contains(cut.to_str().unwrap()), "{message}");
        assert_eq!(leftovers(&cut), [""; 0], "{room} of {bytes}");
        good(&line("cut"));
        assert!(tree(&cut) == expected, "{room} of {bytes}");
        fs::remove_dir_all(&cut).unwrap();
    }
}

/// The same on a real file system, where this process may mount one.
#[test]
fn a_full_file_system_is_said_too() {
    let dir = tempfile::tempdir().unwrap();
    let (line, disk) = (request(dir.path()), dir.path().join("disk"));
    fs::create_dir(&disk).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64k none {} || exit 77; {} {}",
        disk.display(),
        env!("CARGO_BIN_EXE_clipsift"),
        line("disk/run")
    );
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .output();
    match output {
        Ok(output) if output.status.code() == Some(1) && stderr(&output).contains("No space") => {}
        Ok(output) if [Some(77), Some(1)].contains(&output.status.code()) => {
            println!(
                "skipped, no file system can be mounted here: {}",
                stderr(&output)
            );
        }
        Ok(output) => panic!("{:?}: {}", output.status, stderr(&output)),
        Err(error) => println!("skipped, no unshare: {error}"),
    }
}

#[test]
fn a_place_that_cannot_be_written_to_is_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = data("gallery/portraits").display().to_string();
    // No folder can be made in /sys, whoever asks.
    let message = fails(1, &format!("curate {gallery} --out /sys/clipsift-run"));
    assert!(
        message.contains("cannot create /sys/clipsift-run"),
        "{message}"
    );
    let run = dir.path().join("run");
    good(&format!(
        "curate {gallery} --out {} --write none",
        run.display()
    ));
    fs::write(dir.path().join("file"), b"x").unwrap();
    let to = dir.path().join("file/set");
    let line = format!(
        "write {} --write folder --to {}",
        run.display(),
        to.display()
    );
    let message = fails(1, &line);
    assert!(message.contains(to.to_str().unwrap()), "{message}");

    // A run that has become read-only. Root may write all the same, unless it gives that up.
    let before = tree(&run);
    let folders = ["", "samples", "embeddings", "duplicates"].map(|name| run.join(name));
    let mode = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        for folder in &folders {
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode));
        }
    };
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata(dir.path()).unwrap()) == 0;
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        command.arg(env!("CARGO_BIN_EXE_clipsift"));
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_clipsift"))
    };
    command.args(words(&format!("dedup {} --eps 0.3", run.display())));
    mode(0o555);
    let output = command.output();
    mode(0o755);
    match output {
        Ok(output) if stderr(&output).contains("setpriv:") => {
            println!("skipped, {}", stderr(&output));
        }
        Ok(output) => {
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(message.contains("Permission denied"), "{message}");
            assert!(tree(&run) == before, "a refused command changed something");
        }
        Err(error) => println!("skipped, no setpriv: {error}"),
    }
}

#[test]
fn images_that_vanish_in_the_middle_are_bad_samples_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    fs::create_dir(&photos).unwrap();
    let jpeg = data("hostile/images/good.jpg");
    for i in 0..40 {
        fs::copy(&jpeg, photos.join(format!("{i:02}.jpg"))).unwrap();
    }
    let run = dir.path().join("run");
    // When the first samples are done, the last have not been touched: two batches wait and one is worked on.
    let gone: Vec<_> = (32..40)
        .map(|i| photos.join(format!("{i:02}.jpg")))
        .collect();
    let vanish = gone.clone();
    let clip = Clip::load("builtin", &Device::cpu()).unwrap();
    Pipeline::over([photos.to_str().unwrap()])
        .unwrap()
        .embed(clip)
        .part_size(4)
        .batch_size(4)
        .on_event(move |_| vanish.iter().for_each(|path| drop(fs::remove_file(path))))
        .run(&run)
        .unwrap();
    let (bad, good_ones): (Vec<_>, Vec<_>) = samples(&run)
        .into_iter()
        .partition(|sample| sample.1.0 == "bad");
    assert_eq!(good_ones.len(), 32);
    // Each by its name where the folder had been listed by then, else one for all of them.
    let each = |id: &str| gone.iter().any(|path| path.ends_with(id));
    match &bad[..] {
        [(id, (_, error))] => {
            assert_eq!(id, "photos");
            assert!(
                error.contains("8 images") && error.contains("gone"),
                "{error}"
            );
        }
        named => {
            assert_eq!(named.len(), 8);
            for (id, (_, error)) in named {
                assert!(
                    each(id) && error.to_lowercase().contains("no such file"),
                    "{id}: {error}"
                );
            }
        }
    }

    // A whole archive: what is left of it is bad too, and nothing is written that is not what was embedded.
    let shards = dir.path().join("shards");
    fs::create_dir(&shards).unwrap();
    gallery_shards(&shards, 12);
    let tar = shards.join("00000.tar");
    let at = dir.path().display().to_string();
    good(&format!(
        "curate {} --out {at}/tar --write none --part-size 4",
        tar.display()
    ));
    fs::remove_file(&tar).unwrap();
    let message = fails(1, &format!("write {at}/tar --write folder"));
    assert!(
        message.contains("00000.tar") && message.contains("no such file"),
        "{message}"
    );
    assert_eq!(leftovers(&dir.path().join("tar")), [""; 0]);
}
