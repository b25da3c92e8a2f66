//! The vision tower: one forward over candle tensors, the same for every device and precision.
//!
//! On CUDA a layer is eight launches: the QKV product, attention, the output product (with bias and residual), LayerNorm, the
//! MLP's first product, bias + activation in place, its second product (with bias and residual), LayerNorm. Before the layers come
//! six: patches, their product, positions, and three that put the class token before them; and one more LayerNorm; after them
//! two, the class token's copy and the projection. (cuBLASLt may split a product in two.) Nothing in a forward waits for the
//! device.
//!
//! In the last layer, what follows the attention is computed for the class token alone (two copies take its rows out): nothing else
//! is read.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::balance::balanced;
use super::config::VisionConfig;
use super::weights::Weights;
use crate::error::Result;
use crate::ops::{self, LayerNorm, Linear, Matrix, PixelNorm, Precision};

/// A CLIP vision tower with its projection, as of Radford et al. 2021 in the layout of transformers' `CLIPVisionModelWithProjection`.
pub struct VisionTower {
    config: VisionConfig,
    /// Of the residual stream.
    stream: DType,
    /// `[w, 3p²]`: the stride-p convolution as a matrix.
    patch_embedding: Matrix,
    /// `[1, 1, w]`: class embedding plus its position.
    class_token: Tensor,
    /// `[1, g², w]`
    positions: Tensor,
    pre_norm: LayerNorm,
    /// At least one; [`VisionConfig::parse`] sees to it.
    layers: Vec<Layer>,
    post_norm: LayerNorm,
    /// `[d, w]`
    projection: Matrix,
    /// On a CPU, the memory of forwards that are done, for those to come.
    memory: Mutex<Vec<Buffers>>,
}

/// What a forward on a CPU writes over and over: a tensor for each result of a layer, none at first.
#[derive(Default)]
struct Buffers {
    patches: Option<Tensor>,
    embedded: Option<Tensor>,
    tokens: Option<Tensor>,
    stream: Option<Tensor>,
    normed: Option<Tensor>,
    qkv: Option<Tensor>,
    attended: Option<Tensor>,
    up: Option<Tensor>,
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
    precision: Precision,
    eps: f64,
}

impl Loader<'_> {
    fn tensor(&self, key: &str, shape: &[usize]) -> Result<Tensor> {
        self.place(self.weights.get(key, shape)?)
    }

    fn place(&self, tensor: Tensor) -> Result<Tensor> {
        self.place_as(tensor, self.precision.dtype())
    }

    fn place_as(&self, tensor: Tensor, dtype: DType) -> Result<Tensor> {
        Ok(tensor.to_dtype(dtype)?.to_device(self.device)?)
    }

    fn matrix(&self, tensor: &Tensor) -> Result<Matrix> {
        Matrix::new(tensor, self.device, self.precision)
    }

    /// A norm whose results are of `dtype`.
    fn norm(&self, key: &str, width: usize, dtype: DType) -> Result<LayerNorm> {
        let [weight, bias] = self.norm_parameters(key, width)?;
        self.place_norm(weight, bias, dtype)
    }

    fn norm_parameters(&self, key: &str, width: usize) -> Result<[Tensor; 2]> {
        let get = |name: &str| self.weights.get(&format!("{key}.{name}"), &[width]);
        Ok([get("weight")?, get("bias")?])
    }

    fn place_norm(&self, weight: Tensor, bias: Tensor, dtype: DType) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: self.place_as(weight, dtype)?,
            bias: self.place_as(bias, dtype)?,
            eps: self.eps,
        })
    }

    /// A norm and the matrix `[out, w]` that its results are multiplied with.
    fn norm_and_matrix(&self, key: &str, linear: Tensor) -> Result<(LayerNorm, Matrix)> {
        let [mut weight, mut bias] = self.norm_parameters(key, linear.dim(1)?)?;
        let mut linear = linear;
        // In f16, as on a card, what is small would fall below the normal range.
        if self.device.is_cpu() {
            [weight, bias, linear] = balanced(&weight, &bias, &linear)?;
        }
        let norm = self.place_norm(weight, bias, self.precision.dtype())?;
        Ok((norm, self.matrix(&linear)?))
    }

    fn linear(&self, key: &str, width: usize, out: usize) -> Result<Linear> {
        Ok(Linear {
            weight: self.matrix(&self.weights.get(&format!("{key}.weight"), &[out, width])?)?,
            bias: self.tensor(&format!("{key}.bias"), &[out])?,
        })
    }

    /// Queries, keys and values in one: a tensor of each, joined.
    fn fused(&self, key: &str, suffix: &str, shape: &[usize]) -> Result<Tensor> {
        let parts = ["q_proj", "k_proj", "v_proj"]
            .iter()
            .map(|name| self.weights.get(&format!("{key}.{name}.{suffix}"), shape))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn layer(&self, key: &str, width: usize, inner: usize) -> Result<Layer> {
        let attention = format!("{key}.self_attn");
        let fused = self.fused(&attention, "weight", &[width, width])?;
        let (norm1, qkv) = self.norm_and_matrix(&format!("{key}.layer_norm1"), fused)?;
        let up = self
            .weights
            .get(&format!("{key}.mlp.fc1.weight"), &[inner, width])?;
        let (norm2, up) = self.norm_and_matrix(&format!("{key}.layer_norm2"), up)?;
        Ok(Layer {
            norm1,
            qkv: Linear {
                weight: qkv,
                bias: self.place(self.fused(&attention, "bias", &[width])?)?,
            },
            out: self.linear(&format!("{attention}.out_proj"), width, width)?,
            norm2,
            up: Linear {
                weight: up,
                bias: self.tensor(&format!("{key}.mlp.fc1.bias"), &[inner])?,
            },
            down: self.linear(&format!("{key}.mlp.fc2"), inner, width)?,
        })
    }
}

/// Called with a layer's number and the residual stream.
type SeeLayer<'a> = dyn FnMut(usize, &Tensor) -> Result<()> + 'a;

impl VisionTower {
    /// Loads a tower; tensors that it has no use for (a text tower) are left alone.
    ///
    /// # Errors
    /// [`crate::Error::Model`] where a tensor is missing or of another shape than the config's; [`crate::Error::Usage`] where the
    /// device lacks the precision.
    pub fn load(
        config: &VisionConfig,
        weights: &Weights,
        device: &Device,
        precision: Precision,
    ) -> Result<VisionTower> {
        let load = Loader {
            weights,
            device,
            precision,
            eps: config.layer_norm_eps,
        };
        let stream = precision.stream(device);
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
                load.layer(&key, w, config.intermediate_size)
            })
            .collect::<Result<_>>()?;
        let projection = weights.get("visual_projection.weight", &[config.projection_dim, w])?;
        let (post_norm, projection) =
            load.norm_and_matrix(&format!("{root}.post_layernorm"), projection)?;
        Ok(VisionTower {
            config: config.clone(),
            stream,
            patch_embedding: load.matrix(&patch_embedding.flatten_from(1)?)?,
            class_token: load.place_as((class + positions.get(0)?)?.reshape((1, 1, w))?, stream)?,
            positions: load.place_as(positions.narrow(0, 1, g2)?.reshape((1, g2, w))?, stream)?,
            // The misspelling is in the published weights.
            pre_norm: load.norm(&format!("{root}.pre_layrnorm"), w, stream)?,
            layers,
            post_norm,
            projection,
            memory: Mutex::default(),
        })
    }

    /// The tower's shape.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Pixels u8 `[n, s, s, 3]` -> embeddings `[n, d]` in the type of the residual stream, not normalised.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the pixels are of another size; tensor errors.
    pub fn forward(&self, pixels: &Tensor, norm: &PixelNorm) -> Result<Tensor> {
        self.run(pixels, norm, None)
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
        self.run(pixels, norm, Some(&mut each))
    }

    fn run(
        &self,
        pixels: &Tensor,
        norm: &PixelNorm,
        mut each: Option<&mut SeeLayer>,
    ) -> Result<Tensor> {
        let (n, s) = (pixels.dim(0)?, self.config.image_size);
        if pixels.dims() != [n, s, s, 3] {
            return Err(crate::Error::shape(
                "tower",
                format!("[n, {s}, {s}, 3]"),
                format!("{:?}", pixels.dims()),
            ));
        }
        let every_token = each.is_some();
        let mut see = |layer: usize, stream: &Tensor| match &mut each {
            // The next layer writes over the stream, and what is shown may be kept.
            Some(each) => each(layer, &stream.copy()?),
            None => Ok(()),
        };
        let mut buffers = self.take_buffers();
        let tokens = self.embed_tokens(pixels, norm, &mut buffers)?;
        let mut stream = ops::layer_norm(&tokens, &self.pre_norm, buffers.stream.take())?;
        see(0, &stream)?;
        let mut normed = ops::layer_norm(&stream, &self.layers[0].norm1, buffers.normed.take())?;
        let last = self.layers.len() - 1;
        for (i, layers) in self.layers.windows(2).enumerate() {
            let joined = self.attend(&layers[0], &normed, &mut buffers)?;
            let (spare, next) = (Some(normed), &layers[1].norm1);
            (stream, normed) =
                self.mlp(&layers[0], &joined, stream, next, spare, &mut buffers.up)?;
            buffers.attended = Some(joined);
            see(i + 1, &stream)?;
        }
        let (layer, next) = (&self.layers[last], &self.post_norm);
        let joined = self.attend(layer, &normed, &mut buffers)?;
        let class = if every_token {
            let spare = Some(normed);
            (stream, normed) = self.mlp(layer, &joined, stream, next, spare, &mut buffers.up)?;
            see(last + 1, &stream)?;
            class_rows(&normed)?
        } else {
            // No token looks at another from here on, and only the class token is projected.
            let (joined, stream) = (class_rows(&joined)?, class_rows(&stream)?);
            self.mlp(layer, &joined, stream, next, None, &mut None)?.1
        };
        let class = class.squeeze(1)?.to_dtype(self.stream)?;
        let embeddings = ops::product(&class, &self.projection, None)?;
        buffers.tokens = Some(tokens);
        buffers.stream = Some(stream);
        buffers.normed = Some(normed);
        buffers.attended = Some(joined);
        self.give_back(buffers);
        Ok(embeddings)
    }

    /// A layer's attention: normed `[n, t, w]` -> the heads' joined output `[n, t, w]`.
    fn attend(&self, layer: &Layer, normed: &Tensor, buffers: &mut Buffers) -> Result<Tensor> {
        let qkv = ops::product(normed, &layer.qkv.weight, buffers.qkv.take())?;
        let heads = self.config.num_attention_heads;
        let joined = ops::attention(&qkv, &layer.qkv.bias, heads, buffers.attended.take())?;
        buffers.qkv = Some(qkv);
        Ok(joined)
    }

    /// The rest of a layer, a token by itself: the output product and the MLP, each added to the stream. The stream and its norm by
    /// `next`, in the memory of `spare` where that fits.
    fn mlp(
        &self,
        layer: &Layer,
        joined: &Tensor,
        stream: Tensor,
        next: &LayerNorm,
        spare: Option<Tensor>,
        up: &mut Option<Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (stream, normed) =
            ops::linear_add_norm(joined, &layer.out, stream, &layer.norm2, spare)?;
        let activation = self.config.hidden_act;
        let wide = ops::linear_activation(&normed, &layer.up, activation, up.take())?;
        let result = ops::linear_add_norm(&wide, &layer.down, stream, next, Some(normed))?;
        *up = Some(wide);
        Ok(result)
    }

    fn take_buffers(&self) -> Buffers {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.pop().unwrap_or_default()
    }

    /// Keeps the memory of a forward, on a CPU; CUDA's allocator keeps its own.
    fn give_back(&self, buffers: Buffers) {
        if buffers.stream.as_ref().is_some_and(|t| t.device().is_cpu()) {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.push(buffers);
        }
    }

    /// Patch embeddings with their positions behind the class token: `[n, t, w]`.
    fn embed_tokens(
        &self,
        pixels: &Tensor,
        norm: &PixelNorm,
        buffers: &mut Buffers,
    ) -> Result<Tensor> {
        let p = self.config.patch_size;
        let patches = ops::patchify(pixels, p, norm, self.stream, buffers.patches.take())?;
        let embedded = ops::product(&patches, &self.patch_embedding, buffers.embedded.take())?;
        let spare = buffers.tokens.take();
        let tokens = ops::tokens(&embedded, &self.class_token, &self.positions, spare)?;
        buffers.patches = Some(patches);
        buffers.embedded = Some(embedded);
        Ok(tokens)
    }
}

/// The class token's rows of `[n, t, w]`: `[n, 1, w]`.
fn class_rows(tokens: &Tensor) -> Result<Tensor> {
    Ok(tokens.narrow(1, 0, 1)?.contiguous()?)
}
