//! Heads: published weights against PyTorch's scores, layouts, refusals.

use std::path::PathBuf;

use candle_core::{Device as Candle, Tensor};
use clipsift::{Head, Scorer};

/// Public weights and their expected scores; None, saying so, where they are not at hand.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var("CLIPSIFT_TEST_DATA")
        .map(PathBuf::from)
        .unwrap_or_else(|_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    if folder.join("expected-heads.json").is_file() {
        return Some(folder);
    }
    eprintln!(
        "skipped: {} has no expected-heads.json; CLIPSIFT_TEST_DATA names another folder",
        folder.display()
    );
    None
}

#[test]
fn published_heads_give_the_scores_of_pytorch_to_1e_4() {
    let Some(folder) = shared() else { return };
    let mut rows = Vec::new();
    for i in 0..10 {
        let bytes = std::fs::read(folder.join(format!("ratings/l14-rating{i}.npy"))).unwrap();
        rows.extend(
            npyz::NpyFile::new(&bytes[..])
                .unwrap()
                .into_vec::<f32>()
                .unwrap(),
        );
    }
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected-heads.json")).unwrap())
            .unwrap();
    let heads = json["expected"].as_object().unwrap();
    assert_eq!(heads.len(), 3);
    for (name, scores) in heads {
        let head = Head::from_file(&folder.join(format!("heads/{name}.pth"))).unwrap();
        let got = head.score(&rows, 768).unwrap();
        for (i, (got, expected)) in got.iter().zip(scores.as_array().unwrap()).enumerate() {
            let expected = expected.as_f64().unwrap() as f32;
            assert!(
                (got - expected).abs() <= 1e-4,
                "{name}, rating {i}: expected {expected}, got {got}"
            );
        }
    }
}

#[test]
fn heads_for_b32_take_512_dims_and_refuse_768() {
    let Some(folder) = shared() else { return };
    for name in ["aesthetic-v1-b32-linear", "nsfw-b32"] {
        let head = Head::from_file(&folder.join(format!("heads/{name}.pth"))).unwrap();
        assert_eq!(head.dims(), Some(512), "{name}");
        let score = head.score(&[1.0 / 512f32.sqrt(); 512], 512).unwrap()[0];
        assert!(
            score.is_finite() && (name != "nsfw-b32" || (0.0..=1.0).contains(&score)),
            "{name}: {score}"
        );
        let message = head.score(&[0.0; 768], 768).unwrap_err().to_string();
        assert!(
            message.contains("512") && message.contains("768") && message.contains(name),
            "{message}"
        );
    }
}

fn save(path: &std::path::Path, tensors: &[(&str, Vec<f32>, &[usize])]) {
    let tensors: std::collections::HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, data, shape)| {
            (
                name.to_string(),
                Tensor::from_vec(data.clone(), *shape, &Candle::Cpu).unwrap(),
            )
        })
        .collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn any_other_mlp_is_described_by_a_json_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.safetensors");
    save(
        &path,
        &[
            ("fc1.weight", vec![1.0, 0.0, 0.0, -1.0], &[2, 2]),
            ("fc1.bias", vec![0.0, 0.5], &[2]),
            ("out.weight", vec![2.0, 3.0], &[1, 2]),
        ],
    );
    let message = Head::from_file(&path).unwrap_err().to_string();
    assert!(message.contains("mine.json"), "{message}");

    std::fs::write(
        dir.path().join("mine.json"),
        r#"{"layers": [{"linear": "fc1"}, "relu", {"linear": "out"}, "sigmoid"]}"#,
    )
    .unwrap();
    let head = Head::from_file(&path).unwrap();
    // fc1 of (0.6, 0.8) is (0.6, -0.3), relu (0.6, 0), out 1.2.
    let expected = 1.0 / (1.0 + (-1.2f32).exp());
    assert!((head.score(&[0.6, 0.8], 2).unwrap()[0] - expected).abs() < 1e-6);

    std::fs::write(
        dir.path().join("mine.json"),
        r#"{"layers": [{"linear": "fc1"}]}"#,
    )
    .unwrap();
    assert!(
        Head::from_file(&path)
            .unwrap_err()
            .to_string()
            .contains("gives 1 value, this one 2")
    );
    std::fs::write(dir.path().join("mine.json"), r#"{"layers": ["swish"]}"#).unwrap();
    assert!(
        Head::from_file(&path)
            .unwrap_err()
            .to_string()
            .contains("does not describe a head")
    );
}

#[test]
fn layers_that_do_not_fit_each_other_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.safetensors");
    save(
        &path,
        &[
            ("layers.0.weight", vec![0.0; 6], &[3, 2]),
            ("layers.1.weight", vec![0.0; 2], &[1, 2]),
        ],
    );
    let message = Head::from_file(&path).unwrap_err().to_string();
    assert!(
        message.contains("gives 3 values, the next takes 2"),
        "{message}"
    );
}

#[test]
fn layers_without_values_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, tensors) in [
        ("takes", vec![("weight", vec![], &[1, 0][..])]),
        (
            "gives",
            vec![
                ("layers.0.weight", vec![], &[0, 4]),
                ("layers.1.weight", vec![], &[1, 0]),
            ],
        ),
    ] {
        let path = dir.path().join(format!("{name}.safetensors"));
        save(&path, &tensors);
        let message = Head::from_file(&path).unwrap_err().to_string();
        assert!(message.contains("no values"), "{message}");
    }
}

#[test]
fn damaged_and_absent_files_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("bad.pth", &b"PK\x03\x04 nothing"[..]),
        ("bad.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("bad.txt", b""),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        assert!(Head::load(path.to_str().unwrap()).is_err(), "{name}");
    }
    let message = Head::load("absent.safetensors").unwrap_err().to_string();
    assert!(
        message.contains("no such file") && message.contains("aesthetic-v2"),
        "{message}"
    );
}
