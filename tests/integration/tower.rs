//! The tower against transformers (committed goldens) and against candle-transformers (a second, independent oracle).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device as Candle, Tensor};
use candle_transformers::models::clip::text_model::Activation;
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};
use clipsift::decode::Limits;
use clipsift::device::DeviceSpec;
use clipsift::ops::Precision;
use clipsift::{Clip, Device, Embedder, Rgb8};

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

/// The CPU in the precision of that name.
fn cpu_in(precision: Precision) -> Device {
    Device::open(DeviceSpec::Cpu, precision.name().parse().unwrap()).unwrap()
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The least cosine of two sets of rows.
fn least_cosine(rows: &[f32], expected: &[f32], d: usize) -> f32 {
    assert_eq!(rows.len(), expected.len());
    rows.chunks_exact(d)
        .zip(expected.chunks_exact(d))
        .map(|(row, expected)| {
            dot(row, expected) / (dot(row, row) * dot(expected, expected)).sqrt()
        })
        .fold(f32::INFINITY, f32::min)
}

/// What a precision promises for the cosine to f32.
fn promised(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 0.999_999,
        Precision::F16 => 0.999_9,
        Precision::Bf16 | Precision::Int8 => 0.999,
    }
}

#[test]
fn every_precision_of_this_processor_stays_close_to_transformers() {
    for model in ["tiny-clip", "tiny-clip-gelu"] {
        let expected = expected(model);
        let pixels = bytes(&expected["pixel_u8"]);
        let golden = expected["unit"].flatten_all().unwrap();
        let golden = golden.to_vec1::<f32>().unwrap();
        for precision in Precision::on_this_cpu() {
            let clip = Clip::load(data(model).to_str().unwrap(), &cpu_in(precision)).unwrap();
            let cosine = least_cosine(&clip.embed(&pixels).unwrap().rows, &golden, clip.dims());
            assert!(
                cosine > promised(precision),
                "{model} in {precision:?}: {cosine}"
            );
        }
    }
}

/// Weights that were trained, whose sizes differ from channel to channel as random ones' do not. This tower takes the signs of numbers, some of
/// which are near 0 and fall to the other side; 8-bit numbers lose too many of them, and are refused.
#[test]
fn every_precision_of_this_processor_keeps_or_refuses_the_embeddings_of_the_built_in_tower() {
    let images: Vec<Rgb8> = walkdir::WalkDir::new(data("gallery"))
        .sort_by_file_name()
        .into_iter()
        .filter_map(|entry| std::fs::read(entry.unwrap().path()).ok())
        .filter_map(|bytes| clipsift::decode::decode(&bytes, &Limits::default()).ok())
        .map(|decoded| decoded.image)
        .collect();
    assert!(images.len() > 50, "{} images", images.len());
    let rows = |precision| {
        let clip = Clip::load("builtin", &cpu_in(precision)).unwrap();
        let prepared: Vec<u8> = images
            .iter()
            .flat_map(|image| clip.prepare(image))
            .collect();
        (clip.embed(&prepared).unwrap().rows, clip.dims())
    };
    let (expected, d) = rows(Precision::F32);
    for precision in Precision::on_this_cpu() {
        let promised = match precision {
            Precision::F32 => 0.999_999,
            Precision::F16 => 0.998,
            Precision::Bf16 => 0.96,
            Precision::Int8 => {
                let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/builtin");
                for spec in ["builtin", folder] {
                    let refused = Clip::load(spec, &cpu_in(precision)).err().unwrap();
                    assert!(refused.to_string().contains("give bf16"), "{refused}");
                }
                continue;
            }
        };
        let cosine = least_cosine(&rows(precision).0, &expected, d);
        println!("{}: least cosine to f32 {cosine:.6}", precision.name());
        assert!(cosine > promised, "{precision:?}: {cosine}");
    }
}

#[test]
fn batches_of_another_size_give_the_same_rows_to_the_bit() {
    let pixels = bytes(&expected("tiny-clip")["pixel_u8"]);
    for precision in Precision::on_this_cpu() {
        let clip = Clip::load(data("tiny-clip").to_str().unwrap(), &cpu_in(precision)).unwrap();
        let s = clip.config().image_size;
        let whole = clip.embed(&pixels).unwrap().rows;
        let single: Vec<f32> = pixels
            .chunks_exact(s * s * 3)
            .flat_map(|image| clip.embed(image).unwrap().rows)
            .collect();
        assert!(whole == single, "{precision:?}");
    }
}

fn bytes(pixels: &Tensor) -> Vec<u8> {
    pixels.flatten_all().unwrap().to_vec1().unwrap()
}

/// Unit rows of tiny-clip with these weights, by candle-transformers.
fn candles_rows(tensors: HashMap<String, Tensor>, pixel_values: &Tensor) -> Tensor {
    let c = load("tiny-clip").config().clone();
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
    let projection = tensors["visual_projection.weight"]
        .to_dtype(DType::F32)
        .unwrap();
    let vars = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Candle::Cpu);
    let tower = ClipVisionTransformer::new(vars.pp("vision_model"), &oracle).unwrap();
    let pooled = candle_nn::Module::forward(&tower, pixel_values).unwrap();
    unit(&pooled.matmul(&projection.t().unwrap()).unwrap())
}

fn weights_of_tiny_clip() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(data("tiny-clip/model.safetensors"), &Candle::Cpu).unwrap()
}

#[test]
fn candle_transformers_agrees_on_a_tower_that_it_can_express() {
    let (clip, expected) = (load("tiny-clip"), expected("tiny-clip"));
    let theirs = candles_rows(weights_of_tiny_clip(), &expected["pixel_values"]);
    let ours = clip
        .tower()
        .forward(&expected["pixel_u8"], &clip.preprocess().norm)
        .unwrap();
    let difference = max_difference(&unit(&ours), &theirs);
    assert!(difference <= 1e-5, "{difference}");
}

/// As in the weights of some towers: a channel of every norm is many times as large as the others.
#[test]
fn large_channels_of_norms_cost_no_precision() {
    let mut tensors = weights_of_tiny_clip();
    for (name, tensor) in &mut tensors {
        if name.contains("layer_norm") && name.ends_with("weight") {
            let mut values = tensor
                .to_dtype(DType::F32)
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            values[5] *= 50.0;
            *tensor = Tensor::new(values, &Candle::Cpu).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(data("tiny-clip").join(file), folder.path().join(file)).unwrap();
    }
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    let expected = expected("tiny-clip");
    let theirs = candles_rows(tensors, &expected["pixel_values"]);
    let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for precision in Precision::on_this_cpu() {
        let clip = Clip::load(folder.path().to_str().unwrap(), &cpu_in(precision)).unwrap();
        let rows = clip.embed(&bytes(&expected["pixel_u8"])).unwrap().rows;
        let cosine = least_cosine(&rows, &theirs, clip.dims());
        println!("{}: least cosine {cosine:.7}", precision.name());
        let least = match precision {
            Precision::F32 => {
                let furthest = rows.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
                let furthest = furthest.fold(0.0, f32::max);
                assert!(furthest <= 1e-5, "{furthest}");
                0.999_999
            }
            // Some of their own rounding is multiplied by the channel.
            _ => 0.99,
        };
        assert!(cosine > least, "{precision:?}: {cosine}");
    }
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
