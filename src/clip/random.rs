//! Weights drawn at random, for measuring and checking towers where the numbers in them do not matter.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::config::VisionConfig;
use super::weights::Weights;
use crate::error::Result;

/// Values that one generator draws.
const BLOCK: usize = 1 << 16;

/// Every tensor that a tower of this shape has. Matrices are uniform with variance 1 / (inner size), so that activations keep their scale
/// from layer to layer; norms are the identity up to a tenth. The same seed gives the same weights.
///
/// # Errors
/// Those of making tensors.
pub fn random_weights(config: &VisionConfig, seed: u64) -> Result<Weights> {
    let (w, m, p) = (
        config.hidden_size,
        config.intermediate_size,
        config.patch_size,
    );
    let mut draw = Draw {
        seed,
        tensors: HashMap::new(),
    };
    let root = "vision_model";
    draw.matrix(
        &format!("{root}.embeddings.patch_embedding.weight"),
        &[w, 3, p, p],
    )?;
    draw.values(
        &format!("{root}.embeddings.class_embedding"),
        &[w],
        0.0,
        0.5,
    )?;
    draw.values(
        &format!("{root}.embeddings.position_embedding.weight"),
        &[config.tokens(), w],
        0.0,
        0.5,
    )?;
    draw.norm(&format!("{root}.pre_layrnorm"), w)?;
    for layer in 0..config.num_hidden_layers {
        let key = format!("{root}.encoder.layers.{layer}");
        draw.norm(&format!("{key}.layer_norm1"), w)?;
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            draw.linear(&format!("{key}.self_attn.{name}"), w, w)?;
        }
        draw.norm(&format!("{key}.layer_norm2"), w)?;
        draw.linear(&format!("{key}.mlp.fc1"), w, m)?;
        draw.linear(&format!("{key}.mlp.fc2"), m, w)?;
    }
    draw.norm(&format!("{root}.post_layernorm"), w)?;
    draw.matrix("visual_projection.weight", &[config.projection_dim, w])?;
    Ok(Weights::from_tensors(
        &format!("random:{seed}"),
        draw.tensors,
    ))
}

/// Uniform numbers in -1..1, in blocks that can be drawn in any order.
pub(crate) fn uniform(seed: u64, stream: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0f32; count];
    values
        .par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, values)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream << 32 | block as u64);
            for x in values {
                *x = (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
            }
        });
    values
}

struct Draw {
    seed: u64,
    tensors: HashMap<String, Tensor>,
}

impl Draw {
    /// Uniform within `spread` of `centre`.
    fn values(&mut self, key: &str, shape: &[usize], centre: f32, spread: f32) -> Result<()> {
        let stream = self.tensors.len() as u64;
        let mut values = uniform(self.seed, stream, shape.iter().product());
        values
            .par_iter_mut()
            .for_each(|x| *x = centre + spread * *x);
        self.tensors
            .insert(key.into(), Tensor::from_vec(values, shape, &Device::Cpu)?);
        Ok(())
    }

    /// `[out, ..]`, all but the first axis being summed over.
    fn matrix(&mut self, key: &str, shape: &[usize]) -> Result<()> {
        let inner: usize = shape[1..].iter().product();
        self.values(key, shape, 0.0, (3.0 / inner as f32).sqrt())
    }

    fn linear(&mut self, key: &str, inner: usize, out: usize) -> Result<()> {
        self.matrix(&format!("{key}.weight"), &[out, inner])?;
        self.values(&format!("{key}.bias"), &[out], 0.0, 0.1)
    }

    fn norm(&mut self, key: &str, width: usize) -> Result<()> {
        self.values(&format!("{key}.weight"), &[width], 1.0, 0.1)?;
        self.values(&format!("{key}.bias"), &[width], 0.0, 0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::tower::VisionTower;
    use crate::ops::Precision;

    #[test]
    fn a_random_tower_has_every_tensor_and_the_same_ones_for_the_same_seed() {
        let config = VisionConfig {
            hidden_size: 48,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            image_size: 32,
            patch_size: 16,
            projection_dim: 24,
            ..VisionConfig::default()
        };
        let embed = |seed: u64| {
            let weights = random_weights(&config, seed).unwrap();
            let tower = VisionTower::load(&config, &weights, &Device::Cpu, Precision::F32).unwrap();
            let pixels = Tensor::full(100u8, (1, 32, 32, 3), &Device::Cpu).unwrap();
            let norm = crate::ops::PixelNorm {
                mean: [0.5; 3],
                std: [0.3; 3],
            };
            tower
                .forward(&pixels, &norm)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let first = embed(1);
        assert!(first.iter().all(|x| x.is_finite()) && first.iter().any(|x| x.abs() > 1e-3));
        assert_eq!(first, embed(1));
        assert_ne!(first, embed(2));
    }
}
