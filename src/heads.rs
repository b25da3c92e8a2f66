//! Small MLP heads over unit embeddings: read, checked against the tower's d, run.
//!
//! Layouts known from their tensors' names, weights as of PyTorch (`[out, in]`):
//! - `weight`, `bias`: one linear layer (LAION's first aesthetic predictor);
//! - `layers.N.weight`, `layers.N.bias`: linear layers in the order of N, nothing between them (the improved aesthetic predictor;
//!   what stands at the missing N is dropout);
//! - `norm.mean`, `norm.variance`, `linear_N.weight`, `linear_N.bias`: (x - mean) / √variance, then linear layers with ReLU
//!   between them and a sigmoid at the end (PyTorch ports of LAION's NSFW head).
//!
//! Any other MLP is described by a JSON beside the weights, `FILE.json` for `FILE.safetensors`:
//! `{"layers": [{"norm": "bn"}, {"linear": "fc1"}, "relu", {"linear": "fc2"}, "sigmoid"]}`, each name the prefix of its tensors
//! (`.weight` and an optional `.bias`; `.mean` and `.variance`); activations are `relu`, `gelu`, `quick_gelu`, `tanh`, `sigmoid`.

pub mod check;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::clip::hub::{self, HubRepo};
use crate::clip::weights::Weights;
use crate::error::{Error, Result};
use crate::manifest::{self, HeadEntry};
use crate::ops::cuda::transfers::{self, Purpose};
use crate::ops::{self, Activation};

/// Scores unit rows. [`Head`] is one; a [`crate::Pipeline`] takes any.
pub trait Scorer: Send + Sync {
    /// What identifies its results: scorers with the same fingerprint give the same scores.
    fn fingerprint(&self) -> String;
    /// The d it takes; none where any will do.
    fn dims(&self) -> Option<usize>;
    /// Unit rows `[n, d]` -> n scores.
    ///
    /// # Errors
    /// Where `rows` is not a whole number of rows.
    fn score(&self, rows: &[f32], d: usize) -> Result<Vec<f32>>;
    /// Unit rows f32 `[n, d]` on a GPU -> n scores, where the scorer can do that; by default it cannot, and is given the rows in
    /// host memory.
    ///
    /// # Errors
    /// As [`Scorer::score`], and those of the device.
    fn score_on_device(&self, _rows: &Tensor) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

/// An MLP with one output.
#[derive(Clone, Debug)]
pub struct Head {
    name: String,
    dims: usize,
    steps: Vec<Step>,
    fingerprint: String,
}

#[derive(Clone, Debug)]
enum Step {
    /// `(x - mean) · scale`, `scale = 1 / √variance`.
    Norm {
        mean: Vec<f32>,
        scale: Vec<f32>,
    },
    /// weight `[out, in]`, bias `[out]`.
    Linear {
        weight: Tensor,
        bias: Tensor,
    },
    Pointwise(Pointwise),
}

/// A function of one number between layers.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Pointwise {
    Relu,
    Gelu,
    QuickGelu,
    Tanh,
    Sigmoid,
}

impl Pointwise {
    fn apply(self, x: f32) -> f32 {
        match self {
            Pointwise::Relu => x.max(0.0),
            Pointwise::Gelu => Activation::Gelu.apply(x),
            Pointwise::QuickGelu => Activation::QuickGelu.apply(x),
            Pointwise::Tanh => x.tanh(),
            Pointwise::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }

    fn on_device(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Pointwise::Relu => x.relu(),
            Pointwise::Gelu => x.gelu_erf(),
            Pointwise::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Pointwise::Tanh => x.tanh(),
            Pointwise::Sigmoid => candle_nn::ops::sigmoid(x),
        }
    }
}

/// A head as its layout or its JSON describes it: names of tensors, not the tensors.
#[derive(Debug, PartialEq, Deserialize)]
struct Plan {
    layers: Vec<PlanStep>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum PlanStep {
    Linear { linear: String },
    Norm { norm: String },
    Pointwise(Pointwise),
}

impl Head {
    /// Loads a head: a name of the manifest (`aesthetic-v2`, `nsfw-l14`), a `.safetensors` or `.pth` path, or
    /// `OWNER/NAME[:FILE]` of a hub (FILE is `model.safetensors` by default).
    ///
    /// # Errors
    /// [`Error::Model`] where it is not to be had, damaged, or of a layout that is not known.
    pub fn load(spec: &str) -> Result<Head> {
        match Head::pull(spec, hub::UNWATCHED)? {
            Some(path) => Head::read(spec, &path),
            None => Head::from_file(Path::new(spec)),
        }
    }

    /// Brings a head of the manifest or of a hub into the cache, where it is not there yet, and gives its file; None for a path.
    /// `watch` is told of the downloads.
    ///
    /// # Errors
    /// As [`Head::load`], and what `watch` ends a download with.
    pub fn pull(spec: &str, watch: &hub::Watch) -> Result<Option<PathBuf>> {
        if let Some(entry) = manifest::head(spec) {
            return Head::pull_entry(entry, watch).map(Some);
        }
        let path = Path::new(spec);
        if path.exists() {
            return Ok(None);
        }
        let (id, file) = spec.split_once(':').unwrap_or((spec, "model.safetensors"));
        let looks_like_file = matches!(
            path.extension().and_then(|e| e.to_str()),
            Some("safetensors" | "pth" | "pt" | "bin")
        );
        if id.split('/').count() != 2
            || (looks_like_file && !spec.contains(':'))
            || id.starts_with(['.', '/'])
        {
            let known: Vec<_> = manifest::manifest()
                .heads
                .iter()
                .map(|h| h.name.as_str())
                .collect();
            let reason = format!(
                "no such file; give a path, OWNER/NAME[:FILE] of a hub, or one of {}",
                known.join(", ")
            );
            return Err(Error::model(spec, reason));
        }
        Head::pull_file(spec, &HubRepo::watched(id, None, watch), file).map(Some)
    }

    fn pull_entry(entry: &HeadEntry, watch: &hub::Watch) -> Result<PathBuf> {
        let (name, file) = (&entry.name, &entry.file);
        match (&entry.hub, &entry.url, &entry.sha256) {
            (Some(id), _, _) => Head::pull_file(name, &HubRepo::watched(id, None, watch), file),
            (None, Some(url), Some(sha256)) => hub::fetch(name, url, file, sha256, watch),
            _ => Err(Error::model(name, "the manifest names no place to get it")),
        }
    }

    /// Brings a file of a repository into the cache, with what describes the head in it.
    ///
    /// # Errors
    /// As [`Head::load`].
    pub fn pull_file(name: &str, repo: &HubRepo, file: &str) -> Result<PathBuf> {
        let path = repo.get(file)?;
        // Optional; where the repository has one it lands beside the weights. Many a repository has a single head of a known
        // layout as its model.safetensors: there it is not asked for, so that the cache alone will do.
        let plan = plan_path(Path::new(file));
        let by_default = plan.as_os_str() == "model.json";
        if !(by_default && recognise(name, &Weights::open_file(&path)?, &plan).is_ok()) {
            repo.find(&plan.to_string_lossy())?;
        }
        Ok(path)
    }

    /// Loads a head from a `.safetensors` or `.pth` file.
    ///
    /// # Errors
    /// As [`Head::load`].
    pub fn from_file(path: &Path) -> Result<Head> {
        Head::read(&path.display().to_string(), path)
    }

    fn read(name: &str, path: &Path) -> Result<Head> {
        let weights = Weights::open_file(path)?;
        let plan_file = plan_path(path);
        let plan = match std::fs::read_to_string(&plan_file) {
            Ok(json) => serde_json::from_str(&json).map_err(|e| {
                Error::model(
                    name,
                    format!("{} does not describe a head: {e}", plan_file.display()),
                )
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                recognise(name, &weights, &plan_file)?
            }
            Err(e) => return Err(Error::io("read", plan_file)(e)),
        };
        Head::build(name, &plan, &weights)
    }

    /// A head of one of the known layouts, from weights that are open already.
    ///
    /// # Errors
    /// [`Error::Model`] where the layout is not known.
    pub fn from_weights(weights: &Weights) -> Result<Head> {
        let name = weights.name();
        let plan = recognise(name, weights, &plan_path(Path::new(name)))?;
        Head::build(name, &plan, weights)
    }

    fn build(name: &str, plan: &Plan, weights: &Weights) -> Result<Head> {
        let missing = |key: &str| Error::model(name, format!("has no tensor {key}"));
        let mut steps = Vec::new();
        let (mut width, mut dims) = (None, None);
        for step in &plan.layers {
            let (step, takes, gives) = match step {
                PlanStep::Linear { linear } => {
                    let key = join(linear, "weight");
                    let shape = weights.shape(&key).ok_or_else(|| missing(&key))?;
                    let [out, takes] = shape[..] else {
                        return Err(Error::model(
                            name,
                            format!("{key} is {shape:?}, not a matrix [out, in]"),
                        ));
                    };
                    let bias_key = join(linear, "bias");
                    let bias = match weights.shape(&bias_key) {
                        Some(_) => weights.get(&bias_key, &[out])?,
                        None => Tensor::zeros(out, candle_core::DType::F32, &Device::Cpu)?,
                    };
                    (
                        Step::Linear {
                            weight: weights.get(&key, &[out, takes])?,
                            bias,
                        },
                        Some(takes),
                        Some(out),
                    )
                }
                PlanStep::Norm { norm } => {
                    let key = join(norm, "mean");
                    let shape = weights.shape(&key).ok_or_else(|| missing(&key))?;
                    let mean = weights.get(&key, &shape)?.flatten_all()?.to_vec1::<f32>()?;
                    let variance = weights
                        .get(&join(norm, "variance"), &shape)?
                        .flatten_all()?
                        .to_vec1::<f32>()?;
                    if variance.iter().any(|v| *v <= 0.0 || !v.is_finite()) {
                        return Err(Error::model(
                            name,
                            format!("{norm}.variance must be finite and above 0"),
                        ));
                    }
                    let d = mean.len();
                    let scale = variance.iter().map(|v| 1.0 / v.sqrt()).collect();
                    (Step::Norm { mean, scale }, Some(d), Some(d))
                }
                PlanStep::Pointwise(f) => (Step::Pointwise(*f), None, None),
            };
            if takes == Some(0) || gives == Some(0) {
                return Err(Error::model(name, "a layer takes or gives no values"));
            }
            if let (Some(width), Some(takes)) = (width, takes)
                && width != takes
            {
                let reason = format!("a layer gives {width} values, the next takes {takes}");
                return Err(Error::model(name, reason));
            }
            dims = dims.or(takes);
            width = gives.or(width);
            steps.push(step);
        }
        match (dims, width) {
            (Some(dims), Some(1)) => {
                let fingerprint = format!("sha256:{} {plan:?}", weights.fingerprint());
                Ok(Head {
                    name: name.into(),
                    dims,
                    steps,
                    fingerprint,
                })
            }
            (_, width) => Err(Error::model(
                name,
                format!("a head gives 1 value, this one {}", width.unwrap_or(0)),
            )),
        }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Scorer for Head {
    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn dims(&self) -> Option<usize> {
        Some(self.dims)
    }

    fn score(&self, rows: &[f32], d: usize) -> Result<Vec<f32>> {
        if d != self.dims {
            return Err(Error::model(
                &self.name,
                format!("takes embeddings of {} dims, these have {d}", self.dims),
            ));
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut x = Tensor::from_slice(rows, (rows.len() / d, d), &Device::Cpu)?;
        for step in &self.steps {
            x = match step {
                Step::Linear { weight, bias } => ops::add_bias(&ops::matmul_t(&x, weight)?, bias)?,
                Step::Norm { mean, scale } => map(&x, |i, v| (v - mean[i]) * scale[i])?,
                Step::Pointwise(f) => map(&x, |_, v| f.apply(v))?,
            };
        }
        Ok(x.flatten_all()?.to_vec1()?)
    }

    /// The same steps in candle's ops, in f32. The weights, a few MB, go up with each call.
    fn score_on_device(&self, rows: &Tensor) -> Result<Option<Vec<f32>>> {
        let (n, d) = rows.dims2()?;
        if d != self.dims {
            return Err(Error::model(
                &self.name,
                format!("takes embeddings of {} dims, these have {d}", self.dims),
            ));
        }
        let device = rows.device();
        let up = |tensor: &Tensor| {
            let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
            transfers::during(Purpose::Weights, || transfers::count_up(bytes));
            tensor.to_device(device)
        };
        let row = |values: &[f32]| {
            up(&Tensor::from_slice(
                values,
                (1, values.len()),
                &Device::Cpu,
            )?)
        };
        let mut x = rows.clone();
        for step in &self.steps {
            x = match step {
                Step::Linear { weight, bias } => {
                    ops::add_bias(&ops::matmul_t(&x, &up(weight)?)?, &up(bias)?)?
                }
                Step::Norm { mean, scale } => {
                    x.broadcast_sub(&row(mean)?)?.broadcast_mul(&row(scale)?)?
                }
                Step::Pointwise(f) => f.on_device(&x)?,
            };
        }
        transfers::during(Purpose::Other, || transfers::count_down(n * 4));
        Ok(Some(x.flatten_all()?.to_vec1()?))
    }
}

/// `f(column, value)` of every element of `[n, w]`.
fn map(x: &Tensor, f: impl Fn(usize, f32) -> f32) -> Result<Tensor> {
    let (n, w) = x.dims2()?;
    let mut values = x.flatten_all()?.to_vec1::<f32>()?;
    for row in values.chunks_exact_mut(w) {
        row.iter_mut().enumerate().for_each(|(i, v)| *v = f(i, *v));
    }
    Ok(Tensor::from_vec(values, (n, w), x.device())?)
}

/// The layout that the tensors' names tell.
fn recognise(name: &str, weights: &Weights, plan_file: &Path) -> Result<Plan> {
    let names = weights.names();
    let numbered = |prefix: &str| -> Vec<usize> {
        let number = |key: &String| {
            key.strip_prefix(prefix)?
                .strip_suffix(".weight")?
                .parse()
                .ok()
        };
        let mut all: Vec<usize> = names.iter().filter_map(number).collect();
        all.sort_unstable();
        all
    };
    let linear = |name: String| PlanStep::Linear { linear: name };
    let layers = if names.contains("weight") {
        vec![linear(String::new())]
    } else if names.contains("norm.variance") {
        let mut steps = vec![PlanStep::Norm {
            norm: "norm".into(),
        }];
        for (i, number) in numbered("linear_").into_iter().enumerate() {
            if i > 0 {
                steps.push(PlanStep::Pointwise(Pointwise::Relu));
            }
            steps.push(linear(format!("linear_{number}")));
        }
        steps.push(PlanStep::Pointwise(Pointwise::Sigmoid));
        steps
    } else {
        numbered("layers.")
            .into_iter()
            .map(|number| linear(format!("layers.{number}")))
            .collect()
    };
    if layers.is_empty() {
        let reason = format!(
            "a layout that is not known; describe its layers in {}",
            plan_file.display()
        );
        return Err(Error::model(name, reason));
    }
    Ok(Plan { layers })
}

fn plan_path(weights: &Path) -> PathBuf {
    weights.with_extension("json")
}

fn join(prefix: &str, suffix: &str) -> String {
    if prefix.is_empty() {
        suffix.into()
    } else {
        format!("{prefix}.{suffix}")
    }
}
