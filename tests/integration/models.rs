//! `models check`: what it says of models and heads, good and damaged.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use clipsift::clip::check;

use crate::common::*;

/// A copy of tiny-clip whose tensors went through `change`.
fn changed(change: impl Fn(&mut HashMap<String, Tensor>)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = data("tiny-clip");
    for file in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    let mut tensors =
        candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn problems(dir: &Path) -> (Vec<String>, String) {
    let found = check::model("m", dir);
    let facts: Vec<String> = found
        .facts
        .iter()
        .map(|(a, t)| format!("{a}: {t}"))
        .collect();
    (found.problems, facts.join("\n"))
}

#[test]
fn good_models_are_described_and_tried() {
    let says = good("models check builtin");
    for word in [
        "architecture",
        "320 dims",
        "GFLOP",
        "of f16",
        "tried",
        "runs          yes",
    ] {
        assert!(says.contains(word), "{says}\nlacks {word}");
    }
    for (name, words) in [
        (
            "tiny-clip",
            [
                "40 dims",
                "CLIPModel (clip)",
                "tensors beside the vision tower",
            ],
        ),
        ("tiny-clip-gelu", ["24 dims", "(clip_vision_model)", "Gelu"]),
        ("tiny-clip-bin", ["dims", "clip", "tensors"]),
    ] {
        let says = good(&format!("models check {}", data(name).display()));
        for word in words
            .into_iter()
            .chain(["of f32", "tried", "runs          yes"])
        {
            assert!(says.contains(word), "{name}: {says}\nlacks {word}");
        }
        for word in ["missing", "unexpected", "problem"] {
            assert!(!says.contains(word), "{name}: {says}\nhas {word}");
        }
    }
}

#[test]
fn every_tensor_that_the_tower_needs_is_missed() {
    let whole =
        candle_core::safetensors::load(data("tiny-clip/model.safetensors"), &Device::Cpu).unwrap();
    let of_tower = |key: &str| {
        (key.starts_with("vision_model.") || key == "visual_projection.weight")
            && !key.ends_with("position_ids")
    };
    let mut tried = 0;
    for key in whole.keys() {
        let dir = changed(|tensors| drop(tensors.remove(key)));
        let (problems, facts) = problems(dir.path());
        if of_tower(key) {
            assert_eq!(
                problems,
                ["1 tensor of the vision tower is missing"],
                "{key}"
            );
            assert!(facts.contains(&format!("missing: {key}")), "{facts}");
            tried += 1;
        } else {
            assert!(problems.is_empty(), "{key}: {problems:?}");
        }
    }
    assert!(tried > 30);
}

#[test]
fn what_is_wrong_with_a_model_is_said_by_its_tensors() {
    let key = "vision_model.post_layernorm.weight";
    let width = |tensors: &HashMap<String, Tensor>| tensors[key].dims()[0];
    let other = changed(|tensors| {
        let wider = Tensor::zeros(width(tensors) + 1, DType::F32, &Device::Cpu).unwrap();
        tensors.insert(key.into(), wider);
        tensors.insert(
            "vision_model.extra".into(),
            Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap(),
        );
    });
    let (other, facts) = problems(other.path());
    assert_eq!(other, ["1 tensor of the vision tower is of another shape"]);
    assert!(
        facts.contains(key) && facts.contains("unexpected: vision_model.extra"),
        "{facts}"
    );

    let whole_numbers = changed(|tensors| {
        let numbers = Tensor::zeros(width(tensors), DType::I64, &Device::Cpu).unwrap();
        tensors.insert(key.into(), numbers);
    });
    let (numbers, facts) = problems(whole_numbers.path());
    assert_eq!(numbers, ["1 tensor of the vision tower is not of floats"]);
    assert!(
        facts.contains(&format!("no floats: {key} (i64)")),
        "{facts}"
    );

    // Nothing is wrong with the form; only trying shows it.
    let nan = changed(|tensors| {
        let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
        let nan = nan
            .broadcast_as(width(tensors))
            .unwrap()
            .contiguous()
            .unwrap();
        tensors.insert(key.into(), nan);
    });
    let (nan, _) = problems(nan.path());
    assert!(nan[0].contains("not finite"), "{nan:?}");

    let half = changed(|tensors| {
        for tensor in tensors.values_mut().filter(|t| t.dtype() == DType::F32) {
            *tensor = tensor.to_dtype(DType::BF16).unwrap();
        }
    });
    let (none, facts) = problems(half.path());
    assert!(
        none.is_empty() && facts.contains("of bf16"),
        "{none:?} {facts}"
    );
}

#[test]
fn a_folder_or_file_that_is_no_model_fails_with_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let fails = |line: &str| {
        let output = clipsift(words(line));
        assert_eq!(output.status.code(), Some(1), "{line}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text + &String::from_utf8_lossy(&output.stderr)
    };
    let says = fails(&format!("models check {at}"));
    assert!(
        says.contains("no config.json") && says.contains("no model.safetensors"),
        "{says}"
    );
    assert!(says.contains("runs          no"), "{says}");

    std::fs::write(
        dir.path().join("config.json"),
        r#"{"model_type": "siglip"}"#,
    )
    .unwrap();
    let says = fails(&format!("models check {at}"));
    assert!(
        says.contains("siglip") && says.contains("is not a CLIP"),
        "{says}"
    );

    // Cut short.
    let whole = std::fs::read(data("tiny-clip/model.safetensors")).unwrap();
    std::fs::write(
        dir.path().join("model.safetensors"),
        &whole[..whole.len() / 2],
    )
    .unwrap();
    std::fs::copy(
        data("tiny-clip/config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    let says = fails(&format!("models check {at}"));
    assert!(says.contains("not a whole safetensors file"), "{says}");

    let says = fails(&format!(
        "models check {}",
        data("tiny-clip/model.safetensors").display()
    ));
    assert!(says.contains("check the folder"), "{says}");
    std::fs::write(dir.path().join("notes.txt"), "notes").unwrap();
    let says = fails(&format!("models check {at}/notes.txt"));
    assert!(says.contains(".safetensors, .pth"), "{says}");
    let says = fails(&format!("models check {at}/absent"));
    assert!(says.contains("no such folder or file"), "{says}");
}

#[test]
fn heads_are_described_and_tried() {
    let dir = tempfile::tempdir().unwrap();
    let head = head_for_builtin(dir.path());
    let says = good(&format!("models check {head}"));
    for word in [
        "320 -> 1",
        "takes         320 dims, such as builtin gives",
        "2 of f32",
        "one row scores",
        "yes",
    ] {
        assert!(says.contains(word), "{says}\nlacks {word}");
    }
    let json = good(&format!("models check {head} --json"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["runs"], true);
    assert_eq!(json["facts"]["layers"], "320 -> 1");

    // A description that names what is not there, and leaves out what is.
    let plan = r#"{"layers": [{"linear": "fc"}, "sigmoid"]}"#;
    std::fs::write(dir.path().join("mine.json"), plan).unwrap();
    let output = clipsift(["models", "check", &head]);
    let says = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{says}");
    for word in [
        "missing       fc.weight",
        "unexpected    bias, weight",
        "has no tensor fc.weight",
        "no",
    ] {
        assert!(says.contains(word), "{says}\nlacks {word}");
    }
}
