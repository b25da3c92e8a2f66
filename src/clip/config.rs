//! What a Hugging Face folder says of its tower and of the pixels it wants: `config.json`, `preprocessor_config.json`.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::ops::{Activation, PixelNorm};
use crate::resize::Fit;

/// The shape of a CLIP vision tower. Defaults are those of transformers' `CLIPVisionConfig`, since hub files leave out what
/// equals them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// w: width of the residual stream.
    pub hidden_size: usize,
    /// Width inside an MLP block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// h: attention heads a layer.
    pub num_attention_heads: usize,
    /// 3: red, green, blue.
    pub num_channels: usize,
    /// s: pixels along an edge.
    pub image_size: usize,
    /// p: pixels along a patch's edge.
    pub patch_size: usize,
    /// The MLP's activation.
    pub hidden_act: Activation,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f64,
    /// d: dims of the embedding.
    pub projection_dim: usize,
    /// Whether 8-bit numbers keep the embeddings. A key of this project's own towers; others have none, and are taken to do.
    pub int8: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            int8: true,
        }
    }
}

impl VisionConfig {
    /// Reads a `config.json`, of a whole CLIP (`vision_config` inside) or of a vision tower alone.
    ///
    /// # Errors
    /// [`Error::Model`] with `name`, where it is not a CLIP's or its sizes do not fit together.
    pub fn parse(name: &str, json: &str) -> Result<VisionConfig> {
        let bad = |reason: String| Error::model(name, format!("config.json: {reason}"));
        let root: Value = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        let model_type = root
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("clip");
        let vision = match (model_type, root.get("vision_config")) {
            ("clip", Some(vision)) => {
                let mut vision = vision.clone();
                // The whole model's projection is the one that its weights have; the tower's own copy may be stale.
                if let (Some(d), Some(object)) =
                    (root.get("projection_dim"), vision.as_object_mut())
                {
                    object.insert("projection_dim".into(), d.clone());
                }
                vision
            }
            ("clip" | "clip_vision_model", None) => root,
            _ => {
                return Err(bad(format!(
                    "model_type {model_type:?} is not a CLIP; clip and clip_vision_model are read"
                )));
            }
        };
        let config: VisionConfig =
            serde_json::from_value(vision).map_err(|e| bad(e.to_string()))?;
        config.check().map_err(bad)?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size, 16_384),
            ("intermediate_size", self.intermediate_size, 65_536),
            ("num_hidden_layers", self.num_hidden_layers, 1_024),
            ("num_attention_heads", self.num_attention_heads, 1_024),
            ("image_size", self.image_size, 4_096),
            ("patch_size", self.patch_size, 4_096),
            ("projection_dim", self.projection_dim, 65_536),
        ];
        for (name, size, most) in sizes {
            if size == 0 || size > most {
                return Err(format!("{name} is {size}, which is not in 1..={most}"));
            }
        }
        if self.num_channels != 3 {
            return Err(format!(
                "num_channels is {}; images are read as 3",
                self.num_channels
            ));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(format!(
                "{} heads do not divide hidden_size {}",
                self.num_attention_heads, self.hidden_size
            ));
        }
        if self.patch_size > self.image_size {
            return Err(format!(
                "patch_size {} is larger than image_size {}",
                self.patch_size, self.image_size
            ));
        }
        Ok(())
    }

    /// g: patches along an edge.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// t: tokens of an image, the patches and the class token.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }

    /// Floating-point operations of one image, 2 for each multiply-add of a matrix product. In the last layer only the class
    /// token goes through the output product and the MLP.
    pub fn flop(&self) -> u64 {
        let [t, w, m] = [self.tokens(), self.hidden_size, self.intermediate_size].map(|x| x as u64);
        let patches = (t - 1) * w * 3 * (self.patch_size * self.patch_size) as u64;
        let (attention, rest) = (t * 3 * w * w + 2 * t * t * w, w * w + 2 * w * m);
        let layers = self.num_hidden_layers as u64;
        let layers = layers * attention + (layers.saturating_sub(1) * t + 1) * rest;
        2 * (patches + layers + w * self.projection_dim as u64)
    }
}

/// How an image becomes the tower's pixels: a square of the tower's image size by Pillow's bicubic, then the norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// How it becomes a square: cropped, as OpenAI's are, or squashed.
    pub fit: Fit,
    /// Mean and standard deviation of a channel.
    pub norm: PixelNorm,
}

impl Preprocess {
    /// OpenAI CLIP's, for towers without a `preprocessor_config.json`.
    pub fn openai(image_size: usize) -> Preprocess {
        Preprocess {
            fit: Fit::Crop {
                shortest_edge: image_size as u32,
                crop: image_size as u32,
            },
            norm: PixelNorm {
                mean: [0.48145466, 0.4578275, 0.40821073].map(|x: f64| x as f32),
                std: [0.26862954, 0.26130258, 0.27577711].map(|x: f64| x as f32),
            },
        }
    }

    /// Reads a `preprocessor_config.json` in the old and the new spelling of its sizes.
    ///
    /// # Errors
    /// [`Error::Model`] with `name`, where it asks for what is not done here (another filter, an oblong) or does not give
    /// `image_size` pixels.
    pub fn parse(name: &str, json: &str, image_size: usize) -> Result<Preprocess> {
        let bad =
            |reason: String| Error::model(name, format!("preprocessor_config.json: {reason}"));
        let root: Value = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
        let on = |key: &str| root.get(key).and_then(Value::as_bool).unwrap_or(true);
        for key in ["do_resize", "do_rescale", "do_normalize"] {
            if !on(key) {
                return Err(bad(format!(
                    "{key} is false; CLIP towers are fed resized, normalised pixels"
                )));
            }
        }
        if let Some(filter) = root
            .get("resample")
            .and_then(Value::as_u64)
            .filter(|f| *f != 3)
        {
            return Err(bad(format!("resample {filter}; only 3, bicubic, is done")));
        }
        let factor = root.get("rescale_factor").and_then(Value::as_f64);
        if let Some(factor) = factor.filter(|f| (f * 255.0 - 1.0).abs() > 1e-6) {
            return Err(bad(format!("rescale_factor {factor}; only 1/255 is done")));
        }
        let fallback = Preprocess::openai(image_size);
        let fit = fit(&root, image_size, on("do_center_crop")).map_err(bad)?;
        let channels = |key: &str, default: [f32; 3]| match root.get(key) {
            None => Ok(default),
            Some(v) => serde_json::from_value(v.clone()).map_err(|e| bad(format!("{key}: {e}"))),
        };
        let norm = PixelNorm {
            mean: channels("image_mean", fallback.norm.mean)?,
            std: channels("image_std", fallback.norm.std)?,
        };
        if norm.std.iter().any(|s| !s.is_normal()) || norm.mean.iter().any(|m| !m.is_finite()) {
            return Err(bad(
                "image_mean and image_std must be finite, image_std not 0".into(),
            ));
        }
        Ok(Preprocess { fit, norm })
    }
}

/// How `size`, `crop_size` and `do_center_crop` make a square of `image_size`. `{"height": 96, "width": 96}` squashes the image, and
/// leaves nothing for a crop of that size to do; anything else names a shortest edge and wants the crop.
fn fit(root: &Value, image_size: usize, cropped: bool) -> std::result::Result<Fit, String> {
    let tower = image_size as u32;
    let crop = match root.get("crop_size").filter(|_| cropped) {
        None => tower,
        Some(size) => square(size)
            .or_else(|| edge(size, "height").filter(|_| size.get("width").is_none()))
            .ok_or_else(|| format!("crop_size {size}; a square is needed"))?,
    };
    if crop != tower {
        return Err(format!(
            "crop_size {crop} is not the tower's image_size {tower}"
        ));
    }
    let size = root.get("size");
    if let Some(size) = size.filter(|size| size.get("height").or(size.get("width")).is_some()) {
        return match square(size) {
            Some(edge) if edge == tower => Ok(Fit::Squash { edge }),
            _ => Err(format!(
                "size {size}; an image is squashed to the tower's {tower} x {tower} pixels, or resized by its shortest edge"
            )),
        };
    }
    if !cropped {
        return Err(
            "do_center_crop is false, and size is not a square; the tower is fed squares".into(),
        );
    }
    let shortest_edge = match size {
        None => tower,
        Some(size) => edge(size, "shortest_edge")
            .ok_or_else(|| format!("size {size}; it names no shortest edge and no square"))?,
    };
    if shortest_edge > 8192 {
        return Err(format!("a shortest edge of {shortest_edge} pixels"));
    }
    Ok(Fit::Crop {
        shortest_edge,
        crop,
    })
}

/// The edge of `224` or `{"height": 224, "width": 224}`.
fn square(size: &Value) -> Option<u32> {
    let across = edge(size, "width")?;
    edge(size, "height").filter(|down| *down == across)
}

/// A size written as `224` or as `{"KEY": 224}`.
fn edge(size: &Value, key: &str) -> Option<u32> {
    let number = size.as_u64().or_else(|| size.get(key)?.as_u64())?;
    u32::try_from(number).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hub_config_leaves_out_is_the_default_of_transformers() {
        let json = r#"{"model_type": "clip", "projection_dim": 768, "vision_config": {"hidden_size": 1024,
            "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}}"#;
        let config = VisionConfig::parse("l14", json).unwrap();
        assert_eq!(
            (config.projection_dim, config.image_size, config.tokens()),
            (768, 224, 257)
        );
        assert_eq!(config.hidden_act, Activation::QuickGelu);
        assert_eq!(config.flop() / 1_000_000_000, 157, "GFLOP of L/14");
    }

    #[test]
    fn configs_that_are_no_clip_or_do_not_fit_are_refused_by_what_is_wrong() {
        for (json, word) in [
            (r#"{"model_type": "siglip"}"#, "siglip"),
            (
                r#"{"hidden_size": 100, "num_attention_heads": 12}"#,
                "do not divide",
            ),
            (r#"{"image_size": 0}"#, "image_size"),
            (r#"{"hidden_act": "relu6"}"#, "relu6"),
            ("{", "EOF"),
        ] {
            let message = VisionConfig::parse("m", json).unwrap_err().to_string();
            assert!(message.contains(word), "{json}: {message}");
        }
    }

    fn parsed(json: &str) -> Result<Preprocess> {
        Preprocess::parse("m", json, 224)
    }

    #[test]
    fn both_spellings_of_sizes_are_read() {
        let old = r#"{"size": 224, "crop_size": 224, "resample": 3, "image_std": [0.5, 0.5, 0.5]}"#;
        let new = r#"{"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "image_std": [0.5, 0.5, 0.5]}"#;
        assert_eq!(parsed(old).unwrap(), parsed(new).unwrap());
        let larger = parsed(r#"{"size": {"shortest_edge": 256}, "crop_size": {"height": 224}}"#);
        let fit = Fit::Crop {
            shortest_edge: 256,
            crop: 224,
        };
        assert_eq!(larger.unwrap().fit, fit);
    }

    #[test]
    fn a_size_of_two_equal_edges_squashes_with_and_without_the_crop_that_changes_nothing() {
        for json in [
            r#"{"size": {"height": 224, "width": 224}, "do_center_crop": false}"#,
            r#"{"size": {"height": 224, "width": 224}, "do_center_crop": false, "crop_size": {"height": 9, "width": 8}}"#,
            r#"{"size": {"height": 224, "width": 224}, "crop_size": 224}"#,
            r#"{"size": {"height": 224, "width": 224}}"#,
        ] {
            assert_eq!(
                parsed(json).unwrap().fit,
                Fit::Squash { edge: 224 },
                "{json}"
            );
        }
    }

    #[test]
    fn pixels_that_are_not_made_here_are_refused_by_what_is_wrong() {
        for (json, word) in [
            (r#"{"size": {"height": 224, "width": 225}}"#, "squashed"),
            (r#"{"size": {"height": 256, "width": 256}}"#, "224 x 224"),
            (r#"{"size": {"height": 224}}"#, "squashed"),
            (r#"{"size": {"longest_edge": 224}}"#, "no shortest edge"),
            (r#"{"do_center_crop": false}"#, "do_center_crop"),
            (
                r#"{"size": 224, "do_center_crop": false}"#,
                "do_center_crop",
            ),
            (r#"{"size": {"shortest_edge": 9000}}"#, "9000"),
            (r#"{"resample": 2}"#, "bicubic"),
            (r#"{"crop_size": 336}"#, "336"),
            (
                r#"{"crop_size": {"height": 224, "width": 200}}"#,
                "a square",
            ),
            (r#"{"do_resize": false}"#, "do_resize"),
        ] {
            let message = parsed(json).unwrap_err().to_string();
            assert!(message.contains(word), "{json}: {message}");
        }
    }
}
