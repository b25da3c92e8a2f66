//! The tower against transformers (committed goldens) and against candle-transformers (a second, independent oracle).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device as Candle, Tensor};
use candle_transformers::models::clip::text_model::Activation;
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
use clipsift::{Clip, Device, Embedder};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

fn expected(model: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(data(model).join("expected.safetensors"), &Candle::Cpu).unwrap()
}

fn load(model: &str) -> Clip {
    Clip::load(data(model).to_str().unwrap(), &Device::cpu()).unwrap()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

fn unit(rows: &Tensor) -> Tensor {
    rows.broadcast_div(&rows.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap())
        .unwrap()
}

#[test]
fn unit_embeddings_equal_those_of_transformers_to_1e_5() {
    for model in ["tiny-clip", "tiny-clip-gelu", "tiny-clip-bin"] {
        let (clip, expected) = (load(model), expected(model));
        let (n, d) = expected["unit"].dims2().unwrap();
        let pixels = expected["pixel_u8"]
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap();
        let embedded = clip.embed(&pixels).unwrap();
        assert_eq!(embedded.good, vec![true; n], "{model}");
        let got = Tensor::from_vec(embedded.rows, (n, d), &Candle::Cpu).unwrap();
        let difference = max_difference(&got, &expected["unit"]);
        assert!(
            difference <= 1e-5,
            "{model}: unit embeddings differ by {difference}"
        );
    }
}

#[test]
fn every_layer_equals_that_of_transformers() {
    for model in ["tiny-clip", "tiny-clip-gelu"] {
        let (clip, expected) = (load(model), expected(model));
        let mut seen = 0;
        let check = |layer: usize, stream: &Tensor| {
            let golden = &expected[&format!("hidden_{layer}")];
            let scale: f32 = golden.abs()?.flatten_all()?.max(0)?.to_scalar()?;
            let difference = max_difference(stream, golden);
            assert!(
                difference <= 1e-5 * scale.max(1.0),
                "{model}: layer {layer} differs by {difference} of {scale}"
            );
            seen += 1;
            Ok(())
        };
        clip.tower()
            .forward_with(&expected["pixel_u8"], &clip.preprocess().norm, check)
            .unwrap();
        assert_eq!(seen, clip.config().num_hidden_layers + 1);
    }
}

#[test]
fn half_precision_stays_close_to_single() {
    let expected = expected("tiny-clip");
    let device = Device::open(
        clipsift::device::DeviceSpec::Cpu,
        clipsift::device::DTypeSpec::F16,
    )
    .unwrap();
    let clip = Clip::load(data("tiny-clip").to_str().unwrap(), &device).unwrap();
    let pixels = expected["pixel_u8"]
        .flatten_all()
        .unwrap()
        .to_vec1::<u8>()
        .unwrap();
    let rows = clip.embed(&pixels).unwrap().rows;
    let golden = expected["unit"].to_vec2::<f32>().unwrap();
    for (row, golden) in rows.chunks_exact(clip.dims()).zip(&golden) {
        let cosine: f32 = row.iter().zip(golden).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "cosine {cosine}");
    }
}

#[test]
fn batches_of_another_size_give_the_same_rows_to_1e_6() {
    let (clip, expected) = (load("tiny-clip"), expected("tiny-clip"));
    let pixels = expected["pixel_u8"]
        .flatten_all()
        .unwrap()
        .to_vec1::<u8>()
        .unwrap();
    let image = pixels.len() / expected["unit"].dim(0).unwrap();
    let whole = clip.embed(&pixels).unwrap().rows;
    let single: Vec<f32> = pixels
        .chunks_exact(image)
        .flat_map(|p| clip.embed(p).unwrap().rows)
        .collect();
    let difference = whole
        .iter()
        .zip(&single)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(difference < 1e-6, "{difference}");
}

#[test]
fn candle_transformers_agrees_on_a_tower_that_it_can_express() {
    let (clip, expected) = (load("tiny-clip"), expected("tiny-clip"));
    let c = clip.config();
    let oracle = ClipVisionConfig {
        embed_dim: c.hidden_size,
        activation: Activation::QuickGelu,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        projection_dim: c.projection_dim,
        num_channels: 3,
        image_size: c.image_size,
        patch_size: c.patch_size,
    };
    let tensors =
        candle_core::safetensors::load(data("tiny-clip/model.safetensors"), &Candle::Cpu).unwrap();
    let projection = tensors["visual_projection.weight"]
        .to_dtype(DType::F32)
        .unwrap();
    let vars = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Candle::Cpu);
    let tower = ClipVisionTransformer::new(vars.pp("vision_model"), &oracle).unwrap();
    let pooled = candle_nn::Module::forward(&tower, &expected["pixel_values"]).unwrap();
    let theirs = unit(&pooled.matmul(&projection.t().unwrap()).unwrap());

    let ours = clip
        .tower()
        .forward(&expected["pixel_u8"], &clip.preprocess().norm)
        .unwrap();
    let difference = max_difference(&unit(&ours), &theirs);
    assert!(difference <= 1e-5, "{difference}");
}

/// B/32 and L/14 at full size on random weights, written by `scripts/make_golden.py full`; see CONTRIBUTING.
#[test]
#[ignore = "needs gigabytes of random weights: CONTRIBUTING says how to make them"]
fn full_size_towers_equal_transformers_to_1e_5() {
    let folder = std::env::var("CLIPSIFT_FULL_GOLDENS")
        .expect("CLIPSIFT_FULL_GOLDENS names the folder that make_golden.py full wrote");
    for model in ["vit-b-32", "vit-l-14"] {
        let dir = Path::new(&folder).join(model);
        let clip = Clip::load(dir.to_str().unwrap(), &Device::cpu()).unwrap();
        let expected =
            candle_core::safetensors::load(dir.join("expected.safetensors"), &Candle::Cpu).unwrap();
        let pixels = expected["pixel_u8"]
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap();
        let (n, d) = expected["unit"].dims2().unwrap();
        let got =
            Tensor::from_vec(clip.embed(&pixels).unwrap().rows, (n, d), &Candle::Cpu).unwrap();
        let difference = max_difference(&got, &expected["unit"]);
        println!("{model}: max |difference| {difference:e}");
        assert!(
            difference <= 1e-5,
            "{model}: unit embeddings differ by {difference}"
        );
    }
}

#[test]
fn models_that_cannot_be_loaded_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |spec: &str| match Clip::load(spec, &Device::cpu()) {
        Ok(_) => panic!("{spec} was loaded"),
        Err(error) => error.to_string(),
    };
    let path = dir.path().to_str().unwrap();
    assert!(fails(path).contains("no config.json"));
    std::fs::copy(
        data("tiny-clip/config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    assert!(fails(path).contains("no model.safetensors"));
    std::fs::write(dir.path().join("model.safetensors"), b"not tensors").unwrap();
    assert!(fails(path).contains("not a whole safetensors file"));
    let whole = std::fs::read(data("tiny-clip/model.safetensors")).unwrap();
    std::fs::write(
        dir.path().join("model.safetensors"),
        &whole[..whole.len() - 9],
    )
    .unwrap();
    assert!(fails(path).contains("not a whole safetensors file"));
    std::fs::copy(
        data("tiny-clip-gelu/config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    std::fs::write(dir.path().join("model.safetensors"), &whole).unwrap();
    assert!(fails(path).contains("the config asks for"));
    assert!(fails("no-such-folder").contains("no such folder"));
}
