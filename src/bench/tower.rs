//! Upload and tower: batches of squares to embeddings.

use candle_core::{Device as Candle, Tensor};
use serde_json::json;

use super::{Bench, Stage, params};
use crate::clip::Clip;
use crate::clip::config::{Preprocess, VisionConfig};
use crate::clip::random::{random_weights, uniform};
use crate::clip::tower::VisionTower;
use crate::error::Result;

/// Shapes that are measured with random weights, by name: width, inner width, layers, heads, patch, d, all at 224 pixels.
pub const MODELS: [(&str, [usize; 6]); 4] = [
    ("vit-b-32", [768, 3072, 12, 12, 32, 512]),
    ("vit-b-16", [768, 3072, 12, 12, 16, 512]),
    ("vit-l-14", [1024, 4096, 24, 16, 14, 768]),
    ("vit-h-14", [1280, 5120, 32, 16, 14, 1024]),
];

/// A tower of its own or one that a [`Clip`] holds.
enum Tower {
    Random(Box<VisionTower>),
    Clip(Box<Clip>),
}

impl Tower {
    fn load(name: &str, bench: &Bench) -> Result<Tower> {
        let Some((_, sizes)) = MODELS.iter().find(|(known, _)| *known == name) else {
            return Ok(Tower::Clip(Box::new(Clip::load(name, bench.device)?)));
        };
        let [
            hidden_size,
            intermediate_size,
            layers,
            heads,
            patch_size,
            projection_dim,
        ] = *sizes;
        let config = VisionConfig {
            hidden_size,
            intermediate_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            patch_size,
            projection_dim,
            ..VisionConfig::default()
        };
        let weights = random_weights(&config, 1)?;
        let (device, precision) = (bench.device.candle(), bench.device.precision());
        Ok(Tower::Random(Box::new(VisionTower::load(
            &config, &weights, device, precision,
        )?)))
    }

    fn get(&self) -> &VisionTower {
        match self {
            Tower::Random(tower) => tower,
            Tower::Clip(clip) => clip.tower(),
        }
    }
}

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    let gpu = bench.device.kind() == "cuda";
    if bench.wants("upload") && gpu {
        upload(bench)?;
    }
    if !bench.wants("tower") {
        return Ok(());
    }
    for name in &bench.request.models {
        let tower = Tower::load(name, bench)?;
        for batch in &bench.request.batch_sizes {
            encode(bench, name, tower.get(), *batch)?;
        }
    }
    Ok(())
}

/// Pixels of a batch, on the CPU.
fn pixels(n: usize, s: usize) -> Result<Tensor> {
    let bytes: Vec<u8> = uniform(31, 0, n * s * s * 3)
        .iter()
        .map(|x| (x * 127.0 + 128.0) as u8)
        .collect();
    Ok(Tensor::from_vec(bytes, (n, s, s, 3), &Candle::Cpu)?)
}

/// Forward passes over pixels that are on the device already.
fn encode(bench: &mut Bench, name: &str, tower: &VisionTower, batch: usize) -> Result<()> {
    let config = tower.config();
    let norm = Preprocess::openai(config.image_size).norm;
    let device = bench.device.candle();
    let pixels = pixels(batch, config.image_size)?.to_device(device)?;
    let (seconds, peak_bytes) = bench.time(|| {
        tower.forward(&pixels, &norm)?;
        Ok(device.synchronize()?)
    })?;
    let flop = batch as f64 * config.flop() as f64;
    (bench.take)(Stage {
        name: "tower",
        value: batch as f64 / seconds,
        unit: "images/s",
        higher_is_better: true,
        params: params(&[
            ("model", json!(name)),
            ("dtype", json!(bench.machine.dtype)),
            ("batch_size", json!(batch)),
        ]),
        fraction_of_peak: Some(flop / seconds / bench.machine.gemm_flops),
        peak_bytes,
    });
    Ok(())
}

/// Bytes a second of pixels from pageable host memory to the GPU.
fn upload(bench: &mut Bench) -> Result<()> {
    let pixels = pixels(256, 224)?;
    let device = bench.device.candle();
    let (seconds, peak_bytes) = bench.time(|| {
        pixels.to_device(device)?;
        Ok(device.synchronize()?)
    })?;
    (bench.take)(Stage {
        name: "upload",
        value: pixels.elem_count() as f64 / seconds / 1e9,
        unit: "GB/s",
        higher_is_better: true,
        params: params(&[("bytes", json!(pixels.elem_count()))]),
        fraction_of_peak: None,
        peak_bytes,
    });
    Ok(())
}
