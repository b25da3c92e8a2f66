//! `models pull` and `models list`: what ends up in the cache, and what never does.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::server::*;
use crate::common::*;

const WEIGHTS: &str = "model.safetensors";

/// A name of the manifest whose checksums it does not know.
const KNOWN: &str = "openai/clip-vit-base-patch16";

fn whole() -> usize {
    std::fs::metadata(data("tiny-clip").join(WEIGHTS))
        .unwrap()
        .len() as usize
}

fn tiny() -> Vec<Place> {
    vec![place("some/tiny-clip", "main", data("tiny-clip"))]
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// Files of a user's cache whose name ends like this.
fn cached(user: &User, end: &str) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(user.home()).into_iter().flatten();
    let paths = files.map(|entry| entry.into_path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

/// Where blobs lie that are not of these names.
fn blobs(user: &User) -> Vec<String> {
    let files = walkdir::WalkDir::new(user.home()).into_iter().flatten();
    let blobs =
        files.filter(|e| e.file_type().is_file() && e.path().parent().unwrap().ends_with("blobs"));
    let names = blobs.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

#[test]
fn pull_brings_into_the_cache_what_model_and_head_take_from_there() {
    let user = User::new();
    let heads = user.run("head");
    std::fs::create_dir(&heads).unwrap();
    super::write_head(&heads.join(WEIGHTS), "");
    super::write_head(&heads.join("b.safetensors"), "");
    let mut places = tiny();
    places.push(place("some/heads", "main", heads));
    places.push(place("some/tiny-clip", "v2", data("tiny-clip-gelu")));
    let hub = Hub::with(places);
    let pull = |what: &str| {
        let output = user.ask(&hub.endpoint(), &[], &format!("models pull {what}"));
        assert!(output.status.success(), "{}", stderr(&output));
        PathBuf::from(stdout(&output))
    };
    let output = user.ask(&hub.endpoint(), &[], "models pull some/tiny-clip");
    assert!(
        stderr(&output).contains("model.safetensors: 0.3 MB in "),
        "{}",
        stderr(&output)
    );
    let model = pull("some/tiny-clip");
    assert!(model.join(WEIGHTS).is_file() && model.join("config.json").is_file());
    assert!(model.starts_with(user.home()), "{}", model.display());
    let other = pull("some/tiny-clip --revision v2");
    assert!(other.join("model-00002-of-00002.safetensors").is_file());
    assert!(pull("some/heads").ends_with(WEIGHTS));
    assert!(pull("some/heads:b.safetensors").ends_with("b.safetensors"));
    drop(hub);

    let again = user.ask(NOBODY, &[], "models pull some/tiny-clip");
    assert!(again.status.success(), "the cache is asked first");
    let flags = "--model some/tiny-clip --head a=some/heads --head b=some/heads:b.safetensors";
    user.good(NOBODY, OFFLINE, "offline", flags);
}

#[test]
fn list_says_what_is_in_the_cache() {
    let user = User::new();
    let hub = Hub::with(vec![place(KNOWN, "main", data("tiny-clip"))]);
    let row = || {
        let listed = stdout(&user.ask(&hub.endpoint(), &[], "models list"));
        let row = listed.lines().find(|line| line.starts_with(KNOWN));
        let words: Vec<String> = row.unwrap().split_whitespace().map(String::from).collect();
        words[3].clone()
    };
    assert_eq!(row(), "no");
    assert!(hub.asked().is_empty(), "list asks nobody");
    let output = user.ask(&hub.endpoint(), &[], &format!("models pull {KNOWN}"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(row(), "yes");
    std::fs::remove_dir_all(
        user.home()
            .join("hub/models--openai--clip-vit-base-patch16/blobs"),
    )
    .unwrap();
    assert_eq!(row(), "no", "links that lead nowhere are no model");
    let output = user.ask(&hub.endpoint(), &[], &format!("models pull {KNOWN}"));
    assert!(output.status.success(), "{}", stderr(&output));

    let json = user.ask(&hub.endpoint(), &[], "models list --json");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let models = json["models"].as_array().unwrap();
    let known = models.iter().find(|m| m["name"] == KNOWN).unwrap();
    assert_eq!(known["cached"], "yes");
    assert_eq!(models[0]["cached"], "inside");
}

#[test]
fn a_connection_that_breaks_off_is_gone_on_with_by_itself() {
    let user = User::new();
    let whole = whole();
    // Each connection brings a third of the file, whatever it was asked for.
    let hub = Hub::start(move |request| {
        let mut answer = place_answer(&tiny(), request);
        if request.path.starts_with("/large/") && answer.body.len() > whole / 3 {
            answer.cut = Some(whole / 3);
        }
        answer
    });
    user.good(&hub.endpoint(), &[], "run", "--model some/tiny-clip");
    let ranges: Vec<String> = hub
        .asked()
        .iter()
        .filter(|r| r.path.starts_with("/large/"))
        .map(|r| r.headers["range"].clone())
        .collect();
    let third = whole / 3;
    let mut expected = vec!["bytes=0-0".to_string()];
    expected.extend(
        (0..4)
            .map(|i| format!("bytes={}-", i * third))
            .take(ranges.len() - 1),
    );
    assert_eq!(ranges, expected);
    assert!(ranges.len() >= 4);
    let local = format!("--model {}", data("tiny-clip").display());
    user.good(NOBODY, OFFLINE, "local", &local);
    assert!(user.embeddings("run") == user.embeddings("local"));
    assert!(cached(&user, ".part").is_empty());
}

#[test]
fn what_has_come_is_kept_and_the_next_command_asks_for_the_rest() {
    let user = User::new();
    let half = whole() / 2;
    let bodies = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&bodies);
    // One half, then nothing but refusals, until the command has given up.
    let hub = Hub::start(move |request| {
        let mut answer = place_answer(&tiny(), request);
        if answer.body.len() > 1 && request.path.starts_with("/large/") {
            match seen.fetch_add(1, Ordering::SeqCst) {
                0 => answer.cut = Some(half),
                1..=3 => return Answer::status(503),
                _ => {}
            }
        }
        answer
    });
    let pull = || user.ask(&hub.endpoint(), &[], "models pull some/tiny-clip");
    let output = pull();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("503") && message.contains(&format!("{half} bytes are kept")),
        "{message}"
    );
    let [part] = &cached(&user, ".part")[..] else {
        panic!("one begun file");
    };
    assert_eq!(std::fs::metadata(part).unwrap().len() as usize, half);
    assert!(cached(&user, WEIGHTS).is_empty());

    let output = pull();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        hub.asked().pop().unwrap().headers["range"],
        format!("bytes={half}-")
    );
    let got = std::fs::read(Path::new(&stdout(&output)).join(WEIGHTS)).unwrap();
    assert!(got == std::fs::read(data("tiny-clip").join(WEIGHTS)).unwrap());
}

#[test]
fn a_server_that_does_not_know_ranges_sends_the_whole_again() {
    let user = User::new();
    let hub = Hub::start(move |request| {
        let mut answer = place_answer(&tiny(), request);
        if request.path.starts_with("/large/") && answer.status == 206 {
            let mut all = request.clone();
            all.headers.remove("range");
            answer = place_answer(&tiny(), &all);
            answer.status = 200;
            answer.headers.retain(|(name, _)| *name != "Content-Range");
        }
        answer
    });
    let begun = user.home().join("hub/models--some--tiny-clip/blobs");
    std::fs::create_dir_all(&begun).unwrap();
    let sum = place_sum(&data("tiny-clip").join(WEIGHTS));
    std::fs::write(
        begun.join(format!("{sum}.part")),
        b"the beginning of something",
    )
    .unwrap();
    let output = user.ask(&hub.endpoint(), &[], "models pull some/tiny-clip");
    assert!(output.status.success(), "{}", stderr(&output));
    let got = std::fs::read(Path::new(&stdout(&output)).join(WEIGHTS)).unwrap();
    assert!(got == std::fs::read(data("tiny-clip").join(WEIGHTS)).unwrap());
}

#[test]
fn another_content_than_was_promised_is_not_kept() {
    let user = User::new();
    // One byte differs from what the hub has said of the file.
    let hub = Hub::start(move |request| {
        let mut answer = place_answer(&tiny(), request);
        if request.path.starts_with("/large/") && answer.body.len() > 1 {
            let last = answer.body.len() - 1;
            answer.body[last] ^= 1;
        }
        answer
    });
    for line in [
        "models pull some/tiny-clip".to_string(),
        format!(
            "curate {} --out {} --model some/tiny-clip",
            data("gallery/portraits").display(),
            user.run("run").display()
        ),
    ] {
        let output = user.ask(&hub.endpoint(), &[], &line);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("sha256") && message.contains("nothing was kept"),
            "{message}"
        );
        let sum = place_sum(&data("tiny-clip").join(WEIGHTS));
        assert!(
            blobs(&user).iter().all(|name| !name.starts_with(&sum)),
            "{:?}",
            blobs(&user)
        );
        assert!(cached(&user, WEIGHTS).is_empty() && cached(&user, ".part").is_empty());
    }
}

#[test]
fn a_known_model_must_have_the_checksum_of_the_manifest() {
    let user = User::new();
    let known = "openai/clip-vit-large-patch14";
    let hub = Hub::with(vec![place(known, "main", data("tiny-clip"))]);
    let output = user.ask(&hub.endpoint(), &[], &format!("models pull {known}"));
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let sum = "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb";
    assert!(
        message.contains("manifest") && message.contains(sum),
        "{message}"
    );
    assert!(cached(&user, WEIGHTS).is_empty());
    assert!(
        !hub.asked()
            .iter()
            .any(|r| r.headers["range"] == "bytes=0-" && r.path.contains(WEIGHTS)),
        "a gigabyte is not downloaded to be thrown away"
    );
    // Whoever wants it all the same says which.
    let output = user.ask(
        &hub.endpoint(),
        &[],
        &format!("models pull {known} --revision main"),
    );
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_server_that_falls_silent_is_not_waited_for() {
    let user = User::new();
    let half = whole() / 2;
    let hub = Hub::start(move |request| {
        let mut answer = place_answer(&tiny(), request);
        if request.path.starts_with("/large/") && answer.body.len() > 1 {
            answer.cut = Some(if request.headers["range"] == "bytes=0-" {
                half
            } else {
                0
            });
            answer.stall = Duration::from_millis(700);
        }
        answer
    });
    let begun = Instant::now();
    let output = user.ask(
        &hub.endpoint(),
        &[("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")],
        "models pull some/tiny-clip",
    );
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("HF_HUB_DOWNLOAD_TIMEOUT") && message.contains("bytes are kept"),
        "{message}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn offline_errors_name_the_place_in_the_cache() {
    let user = User::new();
    let place = user.home().join("hub/models--some--tiny-clip");
    for line in ["models pull some/tiny-clip", "models check some/tiny-clip"] {
        let output = user.ask(NOBODY, OFFLINE, line);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(&place.display().to_string()), "{message}");
    }
    let output = user.ask(NOBODY, OFFLINE, "models pull nsfw-l14");
    let place = user
        .home()
        .join("clipsift/clip_ViT-L-14_openai_binary_nsfw_head.pth");
    assert!(
        stderr(&output).contains(&place.display().to_string()),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_cannot_be_pulled_is_refused_by_what_is_wrong_with_it() {
    let user = User::new();
    let absent = Hub::with(Vec::new());
    let closed = Hub::start(|_| Answer::status(401));
    let here = data("tiny-clip").display().to_string();
    for (endpoint, what, code, word) in [
        (absent.endpoint(), "some/absent", 1, "no such repository"),
        (absent.endpoint(), "some/absent:x.pth", 1, "no x.pth"),
        (closed.endpoint(), "some/gated", 1, "HF_TOKEN"),
        (absent.endpoint(), "builtin", 2, "inside this program"),
        (absent.endpoint(), &here, 2, "models check"),
        (absent.endpoint(), "clip", 2, "aesthetic-v2"),
        (absent.endpoint(), "nsfw-l14 --revision v2", 2, "manifest"),
    ] {
        let output = user.ask(&endpoint, &[], &format!("models pull {what}"));
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{what}\n{message}");
        assert!(
            message.contains(word),
            "{what}\nsays {message}\nbut not {word}"
        );
    }
    assert!(blobs(&user).is_empty());
}

#[test]
fn a_hub_names_no_file_outside_the_cache() {
    for (etag, commit) in [
        ("../../../evil", "c0ffee"),
        ("e", "../../evil"),
        ("", "c0ffee"),
        (".lock", "c"),
    ] {
        let user = User::new();
        let hub = Hub::start(move |_| {
            let mut answer = Answer::status(206);
            answer.body = b"x".to_vec();
            answer.headers = vec![
                ("ETag", format!("\"{etag}\"")),
                ("X-Repo-Commit", commit.into()),
                ("Content-Range", "bytes 0-0/1".into()),
            ];
            answer
        });
        let output = user.ask(&hub.endpoint(), &[], "models pull some/evil");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("no usable"), "{}", stderr(&output));
        assert!(
            !walkdir::WalkDir::new(user.dir.path())
                .into_iter()
                .flatten()
                .any(|e| e.file_type().is_file())
        );
    }
}

#[test]
fn the_token_stays_with_the_hub_that_it_is_for() {
    let user = User::new();
    let elsewhere = Hub::with(tiny());
    let there = elsewhere.endpoint();
    let hub = Hub::start(move |request| {
        let mut answer = place_answer(&tiny(), request);
        for (name, value) in &mut answer.headers {
            if *name == "Location" && value.starts_with("http") {
                let path = value.splitn(4, '/').nth(3).unwrap();
                *value = format!("{there}/{path}");
            }
        }
        answer
    });
    let variables = [("HF_TOKEN", "hf_secret")];
    let output = user.ask(&hub.endpoint(), &variables, "models pull some/tiny-clip");
    assert!(output.status.success(), "{}", stderr(&output));
    let carried = |hub: &Hub| {
        hub.asked()
            .iter()
            .filter(|r| r.headers.contains_key("authorization"))
            .count()
    };
    assert_eq!(carried(&hub), hub.asked().len());
    assert!(elsewhere.asked().len() >= 2, "the weights came from there");
    assert_eq!(carried(&elsewhere), 0);
}

#[test]
fn two_that_pull_the_same_share_one_download() {
    let user = User::new();
    let hub = Hub::with(tiny());
    std::thread::scope(|scope| {
        let pull = || user.ask(&hub.endpoint(), &[], "models pull some/tiny-clip");
        let both = [scope.spawn(pull), scope.spawn(pull)];
        for output in both.map(|one| one.join().unwrap()) {
            assert!(output.status.success(), "{}", stderr(&output));
        }
    });
    let whole = |r: &&Request| r.path.starts_with("/large/") && r.headers["range"] == "bytes=0-";
    assert_eq!(hub.asked().iter().filter(whole).count(), 1);
}
