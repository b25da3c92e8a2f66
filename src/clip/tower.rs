//! The vision tower: one forward over candle tensors, the same for every device and precision.
//!
//! On CUDA a layer is eight launches: the QKV product, attention, the output product (with bias and residual), LayerNorm, the
//! MLP's first product, bias + activation in place, its second product (with bias and residual), LayerNorm. Before the layers come
//! six: patches, their product, positions, and three that put the class token before them; and one more LayerNorm; after them
//! two, the class token's copy and the projection. (cuBLASLt may split a product in two.) Nothing in a forward waits for the
//! device.

use candle_core::{DType, Device, Tensor};

use super::config::VisionConfig;
use super::weights::Weights;
use crate::error::Result;
use crate::ops::{self, LayerNorm, Linear, PixelNorm};

/// A CLIP vision tower with its projection, as of Radford et al. 2021 in the layout of transformers' `CLIPVisionModelWithProjection`.
pub struct VisionTower {
    config: VisionConfig,
    dtype: DType,
    /// `[w, 3p²]`: the stride-p convolution as a matrix.
    patch_embedding: Tensor,
    /// `[1, 1, w]`: class embedding plus its position.
    class_token: Tensor,
    /// `[1, g², w]`
    positions: Tensor,
    pre_norm: LayerNorm,
    /// At least one; [`VisionConfig::parse`] sees to it.
    layers: Vec<Layer>,
    post_norm: LayerNorm,
    /// `[d, w]`
    projection: Tensor,
}

struct Layer {
    norm1: LayerNorm,
    /// Queries, keys and values in one: `[3w, w]`, `[3w]`.
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

/// Puts tensors of the weights where the tower runs.
struct Loader<'a> {
    weights: &'a Weights,
    device: &'a Device,
    dtype: DType,
    eps: f64,
}

impl Loader<'_> {
    fn tensor(&self, key: &str, shape: &[usize]) -> Result<Tensor> {
        self.place(self.weights.get(key, shape)?)
    }

    fn place(&self, tensor: Tensor) -> Result<Tensor> {
        Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?)
    }

    fn norm(&self, key: &str, width: usize) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: self.tensor(&format!("{key}.weight"), &[width])?,
            bias: self.tensor(&format!("{key}.bias"), &[width])?,
            eps: self.eps,
        })
    }

    fn linear(&self, key: &str, width: usize, out: usize) -> Result<Linear> {
        Ok(Linear {
            weight: self.tensor(&format!("{key}.weight"), &[out, width])?,
            bias: self.tensor(&format!("{key}.bias"), &[out])?,
        })
    }

    fn fused_qkv(&self, key: &str, width: usize) -> Result<Linear> {
        let names = ["q_proj", "k_proj", "v_proj"].map(|n| format!("{key}.{n}"));
        let all = |suffix: &str, shape: &[usize]| -> Result<Tensor> {
            let parts: Result<Vec<_>> = names
                .iter()
                .map(|n| self.weights.get(&format!("{n}.{suffix}"), shape))
                .collect();
            self.place(Tensor::cat(&parts?, 0)?)
        };
        Ok(Linear {
            weight: all("weight", &[width, width])?,
            bias: all("bias", &[width])?,
        })
    }
}

impl VisionTower {
    /// Loads a tower; tensors that it has no use for (a text tower) are left alone.
    ///
    /// # Errors
    /// [`crate::Error::Model`] where a tensor is missing or of another shape than the config's.
    pub fn load(
        config: &VisionConfig,
        weights: &Weights,
        device: &Device,
        dtype: DType,
    ) -> Result<VisionTower> {
        let load = Loader {
            weights,
            device,
            dtype,
            eps: config.layer_norm_eps,
        };
        let (w, p, g2) = (config.hidden_size, config.patch_size, config.tokens() - 1);
        let root = "vision_model";
        let embeddings = format!("{root}.embeddings");
        let patch_embedding = weights.get(
            &format!("{embeddings}.patch_embedding.weight"),
            &[w, 3, p, p],
        )?;
        let positions = weights.get(
            &format!("{embeddings}.position_embedding.weight"),
            &[g2 + 1, w],
        )?;
        let class = weights.get(&format!("{embeddings}.class_embedding"), &[w])?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| {
                let key = format!("{root}.encoder.layers.{i}");
                Ok(Layer {
                    norm1: load.norm(&format!("{key}.layer_norm1"), w)?,
                    qkv: load.fused_qkv(&format!("{key}.self_attn"), w)?,
                    out: load.linear(&format!("{key}.self_attn.out_proj"), w, w)?,
                    norm2: load.norm(&format!("{key}.layer_norm2"), w)?,
                    up: load.linear(&format!("{key}.mlp.fc1"), w, config.intermediate_size)?,
                    down: load.linear(&format!("{key}.mlp.fc2"), config.intermediate_size, w)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(VisionTower {
            config: config.clone(),
            dtype,
            patch_embedding: load.place(patch_embedding.flatten_from(1)?)?,
            class_token: load.place((class + positions.get(0)?)?.reshape((1, 1, w))?)?,
            positions: load.place(positions.narrow(0, 1, g2)?.reshape((1, g2, w))?)?,
            // The misspelling is in the published weights.
            pre_norm: load.norm(&format!("{root}.pre_layrnorm"), w)?,
            layers,
            post_norm: load.norm(&format!("{root}.post_layernorm"), w)?,
            projection: load.tensor("visual_projection.weight", &[config.projection_dim, w])?,
        })
    }

    /// The tower's shape.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Pixels u8 `[n, s, s, 3]` -> embeddings `[n, d]` in the tower's dtype, not normalised.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the pixels are of another size; tensor errors.
    pub fn forward(&self, pixels: &Tensor, norm: &PixelNorm) -> Result<Tensor> {
        self.forward_with(pixels, norm, |_, _| Ok(()))
    }

    /// [`VisionTower::forward`], showing `each` the residual stream `[n, t, w]` before the first layer (index 0) and after
    /// every layer (1, 2, ...), for tests and for the curious.
    ///
    /// # Errors
    /// As [`VisionTower::forward`], and those of `each`.
    pub fn forward_with(
        &self,
        pixels: &Tensor,
        norm: &PixelNorm,
        mut each: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let (n, s) = (pixels.dim(0)?, self.config.image_size);
        if pixels.dims() != [n, s, s, 3] {
            return Err(crate::Error::shape(
                "tower",
                format!("[n, {s}, {s}, 3]"),
                format!("{:?}", pixels.dims()),
            ));
        }
        let heads = self.config.num_attention_heads;
        let mut stream = ops::layer_norm(&self.embed_tokens(pixels, norm)?, &self.pre_norm)?;
        each(0, &stream)?;
        let mut normed = ops::layer_norm(&stream, &self.layers[0].norm1)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let qkv = ops::matmul_t(&normed, &layer.qkv.weight)?;
            let attended = ops::attention(&qkv, &layer.qkv.bias, heads)?;
            (stream, normed) = ops::linear_add_norm(&attended, &layer.out, &stream, &layer.norm2)?;

            let up = ops::linear_activation(&normed, &layer.up, self.config.hidden_act)?;
            // The norm that follows: the next layer's first, after the last layer the tower's own.
            let next = self
                .layers
                .get(i + 1)
                .map_or(&self.post_norm, |next| &next.norm1);
            (stream, normed) = ops::linear_add_norm(&up, &layer.down, &stream, next)?;
            each(i + 1, &stream)?;
        }
        let class = normed.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        ops::matmul_t(&class, &self.projection)
    }

    /// Patch embeddings with their positions behind the class token: `[n, t, w]`.
    fn embed_tokens(&self, pixels: &Tensor, norm: &PixelNorm) -> Result<Tensor> {
        let n = pixels.dim(0)?;
        let patches = ops::patchify(pixels, self.config.patch_size, norm, self.dtype)?;
        let patches =
            ops::matmul_t(&patches, &self.patch_embedding)?.broadcast_add(&self.positions)?;
        let class = self.class_token.expand((n, 1, self.config.hidden_size))?;
        Ok(Tensor::cat(&[&class.contiguous()?, &patches], 1)?)
    }
}
