//! What a model is and whether it can be run here: `clipsift models check`.
//!
//! Everything that can be said of a folder is said, even where something is wrong with it: the config, the pixels, each tensor against
//! what the config asks for. Where nothing speaks against it the tower is loaded and one image goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::config::{Preprocess, VisionConfig};
use super::weights::Weights;
use super::{BUILTIN, Clip, Embedder, builtin};
use crate::device::Device;
use crate::error::Result;
use crate::manifest;
use crate::resize::Fit;
use crate::sample::Rgb8;

/// Keys that are named at most; of more the number is said.
const NAMED: usize = 6;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// What it is: a word on what the line is about, and a sentence. In the order in which a person wants to read them.
    pub facts: Vec<(&'static str, String)>,
    /// Why it cannot be run; empty where it can.
    pub problems: Vec<String>,
}

impl Findings {
    /// Whether it can be run.
    pub fn runs(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn fact(&mut self, about: &'static str, text: impl Into<String>) {
        self.facts.push((about, text.into()));
    }

    /// A fact about keys, where there are any.
    pub(crate) fn keys(&mut self, about: &'static str, keys: &[String]) {
        if !keys.is_empty() {
            self.fact(about, listed(keys));
        }
    }

    /// The result's value; an error is a problem.
    pub(crate) fn good<T>(&mut self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.problems.push(error.to_string()))
            .ok()
    }

    /// How many tensors of which type and size there are.
    pub(crate) fn tensors(&mut self, weights: &Weights) {
        let mut types: BTreeMap<String, usize> = BTreeMap::new();
        let mut elements = 0;
        for name in weights.names() {
            *types
                .entry(weights.dtype(&name).unwrap_or_default())
                .or_default() += 1;
            elements += count(&weights.shape(&name).unwrap_or_default());
        }
        let types: Vec<String> = types.iter().map(|(t, n)| format!("{n} of {t}")).collect();
        self.fact(
            "tensors",
            format!("{}, {elements} numbers", types.join(", ")),
        );
        self.fact("sha256", weights.fingerprint());
    }
}

/// Some names, and how many more there are.
fn listed(keys: &[String]) -> String {
    let shown = keys.iter().take(NAMED).cloned().collect::<Vec<_>>();
    match keys.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

fn count(shape: &[usize]) -> u64 {
    shape.iter().map(|n| *n as u64).product()
}

/// A model: `builtin`, or a folder in Hugging Face layout, called `name` in messages.
pub fn model(name: &str, dir: &Path) -> Findings {
    let mut found = Findings::default();
    found.fact("model", name);
    let (config, preprocess, weights) = if name == BUILTIN {
        let Some((config, preprocess, weights)) = found.good(builtin()) else {
            return found;
        };
        (Some(config.into()), Some(preprocess.into()), Some(weights))
    } else {
        if !dir.is_dir() {
            found
                .problems
                .push(format!("{} is not a folder", dir.display()));
            return found;
        }
        let text = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
        let weights = found.good(Weights::open_dir(dir));
        (
            text("config.json"),
            text("preprocessor_config.json"),
            weights,
        )
    };
    let Some(config) = config else {
        let reason = format!("no config.json in {}", dir.display());
        found.problems.push(reason);
        if let Some(weights) = &weights {
            found.tensors(weights);
        }
        return found;
    };
    found.fact("architecture", architecture(&config));
    let config = found.good(VisionConfig::parse(name, &config));
    if let Some(c) = &config {
        found.fact(
            "tower",
            format!(
                "{} layers, {} wide, {} heads, MLP of {}, {:?}",
                c.num_hidden_layers,
                c.hidden_size,
                c.num_attention_heads,
                c.intermediate_size,
                c.hidden_act
            ),
        );
        let (s, p) = (c.image_size, c.patch_size);
        let image = format!("{s} x {s} pixels, patches of {p}, {} tokens", c.tokens());
        found.fact("image", image);
        found.fact("gives", format!("{} dims", c.projection_dim));
        let gflop = c.flop() as f64 / 1e9;
        found.fact("work", format!("{gflop:.2} GFLOP an image"));
        match preprocess {
            Some(json) => {
                if let Some(p) = found.good(Preprocess::parse(name, &json, c.image_size)) {
                    let text = match p.fit {
                        Fit::Crop {
                            shortest_edge,
                            crop,
                        } => format!(
                            "shortest edge to {shortest_edge}, {crop} x {crop} from the middle"
                        ),
                        Fit::Squash { edge } => format!("squashed to {edge} x {edge}"),
                    };
                    found.fact("pixels", text);
                }
            }
            None => found.fact("pixels", "no preprocessor_config.json: OpenAI's"),
        }
    }
    let known = manifest::model(name);
    let eps = known.map_or(manifest::FALLBACK_EPS, |entry| entry.default_eps);
    found.fact("eps", format!("{eps} by default"));
    if let Some(weights) = &weights {
        found.tensors(weights);
        if let Some(config) = &config {
            compare(&mut found, config, weights);
        }
    }
    if found.runs() {
        try_one(&mut found, name, dir);
    }
    found
}

/// What a config calls the model.
fn architecture(config: &str) -> String {
    let root: Value = serde_json::from_str(config).unwrap_or_default();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(String::from);
    let class = text(root.get("architectures").and_then(|list| list.get(0)));
    let kind = text(root.get("model_type")).unwrap_or_else(|| "no model_type".into());
    class.map_or(kind.clone(), |class| format!("{class} ({kind})"))
}

/// The tensors of a tower with their shapes, as [`super::tower::VisionTower::load`] asks for them.
fn tower(c: &VisionConfig) -> BTreeMap<String, Vec<usize>> {
    let (w, m, p) = (c.hidden_size, c.intermediate_size, c.patch_size);
    let mut all = BTreeMap::new();
    let mut linear = |name: String, out: usize, width: usize| {
        all.insert(format!("{name}.weight"), vec![out, width]);
        all.insert(format!("{name}.bias"), vec![out]);
    };
    for i in 0..c.num_hidden_layers {
        let layer = format!("vision_model.encoder.layers.{i}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            linear(format!("{layer}.self_attn.{name}"), w, w);
        }
        linear(format!("{layer}.mlp.fc1"), m, w);
        linear(format!("{layer}.mlp.fc2"), w, m);
    }
    let layers = (0..c.num_hidden_layers)
        .flat_map(|i| [1, 2].map(|n| format!("vision_model.encoder.layers.{i}.layer_norm{n}")));
    let ends = ["pre_layrnorm", "post_layernorm"].map(|n| format!("vision_model.{n}"));
    for norm in layers.chain(ends) {
        all.insert(format!("{norm}.weight"), vec![w]);
        all.insert(format!("{norm}.bias"), vec![w]);
    }
    let root = "vision_model.embeddings";
    all.insert(format!("{root}.class_embedding"), vec![w]);
    all.insert(format!("{root}.patch_embedding.weight"), vec![w, 3, p, p]);
    all.insert(
        format!("{root}.position_embedding.weight"),
        vec![c.tokens(), w],
    );
    all.insert("visual_projection.weight".into(), vec![c.projection_dim, w]);
    all
}

/// Whether a tensor belongs to what a whole CLIP has beside its vision tower, or follows from the config.
fn beside(key: &str) -> bool {
    key.starts_with("text_model.")
        || key.starts_with("text_projection.")
        || matches!(key, "logit_scale" | "logit_bias")
        || key.ends_with(".position_ids")
}

/// The tensors against those that the config asks for.
fn compare(found: &mut Findings, config: &VisionConfig, weights: &Weights) {
    let asked = tower(config);
    let names: BTreeSet<String> = weights.names();
    let missing: Vec<String> = asked
        .keys()
        .filter(|key| !names.contains(*key))
        .cloned()
        .collect();
    let mut other = Vec::new();
    let mut unread = Vec::new();
    for (key, shape) in asked.iter().filter(|(key, _)| names.contains(*key)) {
        let got = weights.shape(key).unwrap_or_default();
        if got != *shape {
            other.push(format!("{key} {got:?} for {shape:?}"));
        }
        let dtype = weights.dtype(key).unwrap_or_default();
        if !matches!(dtype.as_str(), "f64" | "f32" | "f16" | "bf16") {
            unread.push(format!("{key} ({dtype})"));
        }
    }
    let (rest, unexpected): (Vec<String>, Vec<String>) = names
        .into_iter()
        .filter(|key| !asked.contains_key(key))
        .partition(|key| beside(key));
    if !rest.is_empty() {
        let text = format!("{} tensors beside the vision tower", rest.len());
        found.fact("not used", text);
    }
    found.keys("missing", &missing);
    found.keys("other shape", &other);
    found.keys("no floats", &unread);
    found.keys("unexpected", &unexpected);
    for (keys, what) in [
        (missing, "missing"),
        (other, "of another shape"),
        (unread, "not of floats"),
    ] {
        let n = keys.len();
        if n > 0 {
            let (are, s) = if n == 1 { ("is", "") } else { ("are", "s") };
            let reason = format!("{n} tensor{s} of the vision tower {are} {what}");
            found.problems.push(reason);
        }
    }
}

/// Loads the tower and embeds a picture with a gradient.
fn try_one(found: &mut Findings, name: &str, dir: &Path) {
    let device = Device::cpu();
    let loaded = match name {
        BUILTIN => Clip::load(BUILTIN, &device),
        _ => Clip::from_dir(name, dir, &device),
    };
    let Some(clip) = found.good(loaded) else {
        return;
    };
    let edge = 64;
    let picture = Rgb8 {
        width: edge,
        height: edge,
        pixels: (0..edge * edge)
            .flat_map(|i| [i % edge * 4, i / edge * 4, 128].map(|x| x as u8))
            .collect(),
    };
    let begun = Instant::now();
    let embedded = clip.embed(&clip.prepare(&picture));
    let seconds = begun.elapsed().as_secs_f64();
    match found.good(embedded) {
        Some(embedded) if embedded.good != [true] => found
            .problems
            .push("the embedding of a picture is zero or not finite".into()),
        Some(_) => found.fact("tried", format!("one picture in {seconds:.3} s on the CPU")),
        None => {}
    }
}
