//! Models and heads by name: the command against a hub that a thread of the test plays. No other network is touched.

mod pull;
mod server;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::*;
use server::*;

#[test]
fn a_model_by_name_is_downloaded_once_and_then_comes_from_the_cache() {
    let user = User::new();
    let hub = Hub::with(vec![place("some/tiny-clip", "main", data("tiny-clip"))]);
    user.good(&hub.endpoint(), &[], "online", "--model some/tiny-clip");
    assert_eq!(
        hub.files("some/tiny-clip", "main"),
        [
            "config.json",
            "preprocessor_config.json",
            "model.safetensors"
        ],
        "what is needed and nothing else"
    );
    let asked = hub.asked().len();
    user.good(&hub.endpoint(), &[], "again", "--model some/tiny-clip");
    assert_eq!(hub.asked().len(), asked, "the cache is asked first");
    drop(hub);

    user.good(NOBODY, OFFLINE, "offline", "--model some/tiny-clip");
    assert_same_tree(&user.run("online"), &user.run("offline"));
    let local = format!("--model {}", data("tiny-clip").display());
    user.good(NOBODY, OFFLINE, "local", &local);
    assert!(user.embeddings("online") == user.embeddings("local"));
}

#[test]
fn an_endpoint_may_end_in_a_slash() {
    let user = User::new();
    let hub = Hub::with(vec![place("some/tiny-clip", "main", data("tiny-clip"))]);
    let endpoint = format!("{}/", hub.endpoint());
    user.good(&endpoint, &[], "run", "--model some/tiny-clip");
}

#[test]
fn sharded_and_pickled_repositories_are_models_too() {
    let user = User::new();
    let hub = Hub::with(vec![
        place("some/sharded", "main", data("tiny-clip-gelu")),
        place("some/pickled", "main", data("tiny-clip-bin")),
    ]);
    for (repo, folder) in [("sharded", "tiny-clip-gelu"), ("pickled", "tiny-clip-bin")] {
        let model = format!("--model some/{repo}");
        user.good(&hub.endpoint(), &[], repo, &model);
        user.good(NOBODY, OFFLINE, &format!("{repo}-offline"), &model);
        assert_same_tree(&user.run(repo), &user.run(&format!("{repo}-offline")));
        let local = format!("--model {}", data(folder).display());
        user.good(NOBODY, OFFLINE, folder, &local);
        assert!(user.embeddings(repo) == user.embeddings(folder), "{repo}");
    }
}

#[test]
fn a_revision_is_asked_for_and_kept_apart() {
    let user = User::new();
    let hub = Hub::with(vec![
        place("some/model", "main", data("tiny-clip")),
        place("some/model", "v2", data("tiny-clip-gelu")),
        place("some/model", "refs%2Fpr%2F3", data("tiny-clip-bin")),
    ]);
    let endpoint = hub.endpoint();
    let model = "--model some/model --revision";
    user.good(&endpoint, &[], "v2", &format!("{model} v2"));
    assert!(hub.files("some/model", "main").is_empty());
    user.good(&endpoint, &[], "main", "--model some/model");
    user.good(&endpoint, &[], "pr", &format!("{model} refs/pr/3"));
    drop(hub);
    for (run, folder) in [
        ("v2", "tiny-clip-gelu"),
        ("main", "tiny-clip"),
        ("pr", "tiny-clip-bin"),
    ] {
        let local = format!("--model {}", data(folder).display());
        user.good(NOBODY, OFFLINE, folder, &local);
        assert!(user.embeddings(run) == user.embeddings(folder), "{run}");
    }
    user.good(NOBODY, OFFLINE, "v2-offline", &format!("{model} v2"));
    assert_same_tree(&user.run("v2"), &user.run("v2-offline"));

    let output = user.curate(NOBODY, OFFLINE, "v9", &format!("{model} v9"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let output = user.curate(NOBODY, OFFLINE, "builtin", "--revision v2");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn the_token_goes_with_every_request() {
    let sent = |user: &User, variables: &[(&str, &str)]| {
        let hub = Hub::start(|request| match request.headers.get("authorization") {
            Some(_) => place_answer(&[place("some/gated", "main", data("tiny-clip"))], request),
            None => Answer::status(401),
        });
        let output = user.curate(&hub.endpoint(), variables, "run", "--model some/gated");
        let mut sent: Vec<Option<String>> = hub
            .asked()
            .iter()
            .map(|request| request.headers.get("authorization").cloned())
            .collect();
        sent.dedup();
        (output, sent)
    };
    let bearer = |token: &str| vec![Some(format!("Bearer {token}"))];

    let user = User::new();
    let (output, tokens) = sent(&user, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("HF_TOKEN"), "{}", stderr(&output));
    assert_eq!(tokens, [None]);
    let (output, tokens) = sent(&user, &[("HF_TOKEN", "hf_secret")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(tokens, bearer("hf_secret"));
    let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("hf_secret"), "{said}");

    // Python's `hf auth login` leaves it in a file; the variable wins over that.
    for (variables, token) in [
        (&[][..], "hf_stored"),
        (&[("HF_TOKEN", " ")][..], "hf_stored"),
        (&[("HF_TOKEN", "hf_named")][..], "hf_named"),
    ] {
        let user = User::new();
        std::fs::create_dir(user.home()).unwrap();
        std::fs::write(user.home().join("token"), "hf_stored\n").unwrap();
        let (output, tokens) = sent(&user, variables);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(tokens, bearer(token));
    }
}

#[test]
fn a_model_that_is_not_to_be_had_is_refused_at_once_with_what_to_do() {
    let user = User::new();
    let folder = user.run("config-alone");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(data("tiny-clip/config.json"), folder.join("config.json")).unwrap();
    let places = Hub::with(vec![place("some/config-alone", "main", folder)]);
    let status = |status| Hub::start(move |_| Answer::status(status));
    let (closed, forbidden, broken) = (status(401), status(403), status(503));
    let cases = [
        (
            places.endpoint(),
            "some/absent",
            &[][..],
            "no such repository",
        ),
        (
            places.endpoint(),
            "some/config-alone",
            &[],
            "no model.safetensors",
        ),
        (closed.endpoint(), "some/model", &[], "HF_TOKEN"),
        (forbidden.endpoint(), "some/model", &[], "HF_TOKEN"),
        (broken.endpoint(), "some/model", &[], "503"),
        (broken.endpoint(), "some/model", &[], "give its folder"),
        (NOBODY.into(), "some/model", &[], "give its folder"),
        (NOBODY.into(), "some/model", &[], "HF_HUB_OFFLINE=1"),
        (
            NOBODY.into(),
            "some/model",
            OFFLINE,
            "HF_HUB_OFFLINE is set",
        ),
        (NOBODY.into(), "some/model", OFFLINE, "give a folder"),
        ("no address".into(), "some/model", &[], "give its folder"),
    ];
    for (endpoint, model, variables, word) in cases {
        for flags in [format!("--model {model}"), format!("--head mine={model}")] {
            let begun = Instant::now();
            let output = user.curate(&endpoint, variables, "run", &flags);
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{flags}\n{message}");
            assert!(
                message.contains(model) && message.contains(word),
                "{endpoint} {flags}\nsays {message}\nbut not {word}"
            );
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{endpoint} {flags} took long to be refused"
            );
            assert!(
                !user.run("run/samples").exists(),
                "{endpoint} {flags}: an image was decoded first"
            );
        }
    }
}

/// A linear head over tiny-clip's 40 dims, its tensor under a prefix.
fn write_head(path: &Path, prefix: &str) {
    let weight: Vec<f32> = (0..40).map(|i| (i % 7) as f32 - 3.0).collect();
    let weight = candle_core::Tensor::from_vec(weight, (1, 40), &candle_core::Device::Cpu).unwrap();
    let tensors = HashMap::from([(format!("{prefix}weight"), weight)]);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn heads_by_name_are_files_of_a_repository() {
    let user = User::new();
    let plan = r#"{"layers": [{"linear": "fc"}, "sigmoid"]}"#;
    let folder = |name: &str| {
        let folder = user.run(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    };
    let (plain, odd) = (folder("plain"), folder("odd"));
    write_head(&plain.join("model.safetensors"), "");
    for stem in ["model", "other"] {
        write_head(&odd.join(format!("{stem}.safetensors")), "fc.");
        std::fs::write(odd.join(format!("{stem}.json")), plan).unwrap();
    }
    let hub = Hub::with(vec![
        place("some/plain", "main", plain.clone()),
        place("some/odd", "main", odd.clone()),
    ]);
    let tower = format!("--model {}", data("tiny-clip").display());
    let by_name = format!(
        "{tower} --head a=some/plain --head b=some/odd --head c=some/odd:other.safetensors"
    );
    user.good(&hub.endpoint(), &[], "online", &by_name);
    assert_eq!(hub.files("some/plain", "main"), ["model.safetensors"]);
    drop(hub);
    user.good(NOBODY, OFFLINE, "offline", &by_name);
    assert_same_tree(&user.run("online"), &user.run("offline"));

    let (plain, odd) = (plain.display(), odd.display());
    let by_path = format!(
        "{tower} --head a={plain}/model.safetensors --head b={odd}/model.safetensors --head c={odd}/other.safetensors"
    );
    user.good(NOBODY, OFFLINE, "local", &by_path);
    let scores = |run: &str| tree(&user.run(run).join("scores"));
    assert!(scores("online") == scores("local"));
    assert_eq!(scores("local").len(), 3);
}
