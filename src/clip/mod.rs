//! CLIP: where a tower comes from, and images -> unit rows.

mod balance;
pub mod check;
pub mod config;
pub mod hub;
mod on_card;
pub mod random;
pub mod tower;
pub mod weights;

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::manifest;
use crate::ops;
use crate::sample::Rgb8;
use config::{Preprocess, VisionConfig};
use hub::HubRepo;
use on_card::OnCard;
use tower::VisionTower;
use weights::Weights;

/// The name of the embedded tower.
pub const BUILTIN: &str = "builtin";

/// Embeddings of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedded {
    /// `[n, d]`, unit rows rounded to the tower's dtype; rows that are not `good` are zero.
    pub rows: Vec<f32>,
    /// Whether row i is a usable embedding: not zero and finite before normalisation.
    pub good: Vec<bool>,
}

/// What [`Pending::finish`] gives: the rows, and the same ones in a device's memory, where one made them.
type Finished = (Embedded, Option<Tensor>);

/// A batch that an embedder has begun.
pub struct Pending<'a>(Box<dyn FnOnce() -> Result<Finished> + 'a>);

impl<'a> Pending<'a> {
    /// A batch whose rows are there already.
    pub fn ready(embedded: Embedded) -> Pending<'a> {
        Pending(Box::new(move || Ok((embedded, None))))
    }

    /// A batch whose rows come when they are asked for: with a tensor `[n, d]` of the same rows, where they are in a device's memory.
    pub fn later(finish: impl FnOnce() -> Result<(Embedded, Option<Tensor>)> + 'a) -> Pending<'a> {
        Pending(Box::new(finish))
    }

    /// Waits for the rows.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn finish(self) -> Result<(Embedded, Option<Tensor>)> {
        (self.0)()
    }
}

/// Turns upright images into unit rows. [`Clip`] is one; a [`crate::Pipeline`] takes any.
///
/// The work is split in two so that decoding threads prepare while one thread owns the device.
pub trait Embedder: Send + Sync {
    /// What the embedder is called in `run.json` and messages.
    fn name(&self) -> &str;
    /// What identifies its results: two embedders with the same fingerprint give the same rows.
    fn fingerprint(&self) -> String;
    /// d: dims of a row.
    fn dims(&self) -> usize;
    /// Precision that rows are stored in: f32 or f16.
    fn dtype(&self) -> DType;
    /// Images a batch, where the user names no number.
    fn batch_size(&self) -> usize;
    /// The eps at which two images are duplicates by default: cosine >= 1 - eps.
    fn default_eps(&self) -> f64;
    /// The part of the work done for each image by itself, on any thread: its input bytes, as many for every image.
    fn prepare(&self, image: &Rgb8) -> Vec<u8>;
    /// The pixels that the shorter edge of an image is reduced to by [`Embedder::prepare`], where it is; by default none is named. Says
    /// at what size a large image may be decoded ([`crate::Pipeline::scaled_decode`]).
    fn shortest_edge(&self) -> Option<u32> {
        None
    }

    /// [`Embedder::prepare`] for an image that was decoded at a fraction of its size, of `whole` pixels a row and rows; by default
    /// it is taken as it is.
    fn prepare_reduced(&self, image: &Rgb8, whole: (u32, u32)) -> Vec<u8> {
        let _ = whole;
        self.prepare(image)
    }

    /// Prepared images, one after the other -> rows.
    ///
    /// # Errors
    /// Where the device fails, or `prepared` is not a whole number of images.
    fn embed(&self, prepared: &[u8]) -> Result<Embedded>;

    /// Begins a batch of prepared images. An embedder on a device returns before the work is done, so that the next batch can be begun
    /// meanwhile; by default the batch is embedded at once.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    fn start<'a>(&'a self, prepared: &[&[u8]]) -> Result<Pending<'a>> {
        self.embed(&prepared.concat()).map(Pending::ready)
    }

    /// The largest batch of at most `wanted` images that the device has memory for; by default that many.
    ///
    /// # Errors
    /// Where the device fails, or not even one image fits.
    fn batch_that_fits(&self, wanted: usize) -> Result<usize> {
        Ok(wanted)
    }

    /// The device that the rows are made on, where later stages may use it too; by default none is named.
    fn device(&self) -> Option<&Device> {
        None
    }
}

/// A CLIP vision tower with its preprocessing, on a device.
pub struct Clip {
    name: String,
    tower: VisionTower,
    preprocess: Preprocess,
    device: Device,
    on_card: Option<OnCard>,
    fingerprint: String,
    default_eps: f64,
}

impl Clip {
    /// Loads a tower: `builtin`, a folder in Hugging Face layout, or a hub id such as `openai/clip-vit-large-patch14`.
    ///
    /// # Errors
    /// [`Error::Model`] where it is not to be had or damaged; [`Error::Usage`] in 8-bit numbers, where
    /// its config.json says that they lose the embeddings, as that of `builtin` does.
    ///
    /// ```
    /// # use clipsift::{Clip, Device};
    /// let clip = Clip::load("builtin", &Device::auto()?)?;
    /// assert!(clip.config().flop() < 50_000_000);
    /// # Ok::<(), clipsift::Error>(())
    /// ```
    pub fn load(spec: &str, device: &Device) -> Result<Clip> {
        Clip::load_revision(spec, None, device)
    }

    /// [`Clip::load`] at a revision (branch, tag or commit) of a hub repository.
    ///
    /// # Errors
    /// As [`Clip::load`]; [`Error::Usage`] where the model is not a hub's and a revision was named.
    pub fn load_revision(spec: &str, revision: Option<&str>, device: &Device) -> Result<Clip> {
        let path = Path::new(spec);
        if revision.is_some() && (spec == BUILTIN || path.exists()) {
            return Err(Error::usage(format!(
                "--revision names a version on a hub; {spec} is not from a hub"
            )));
        }
        if spec == BUILTIN {
            let (config, preprocess, weights) = builtin()?;
            return Clip::build(BUILTIN, config, Some(preprocess), &weights, device);
        }
        if path.exists() {
            return Clip::from_dir(spec, path, device);
        }
        match Clip::pull(spec, revision, hub::UNWATCHED)? {
            Some(dir) => Clip::from_dir(spec, &dir, device),
            None => Err(Error::model(
                spec,
                "no such folder, and not a hub id (OWNER/NAME); give builtin, a folder or a hub id",
            )),
        }
    }

    /// Brings a hub's model into the cache, where it is not there yet, and gives its folder; None for what is not a hub's. `watch` is
    /// told of the downloads.
    ///
    /// # Errors
    /// [`Error::Model`] where it is not to be had; what `watch` ends a download with.
    pub fn pull(spec: &str, revision: Option<&str>, watch: &hub::Watch) -> Result<Option<PathBuf>> {
        if spec == BUILTIN || Path::new(spec).exists() || !hub::is_id(spec) {
            return Ok(None);
        }
        HubRepo::watched(spec, revision, watch).model().map(Some)
    }

    /// Loads a tower from a folder in Hugging Face layout, under a name of its own.
    ///
    /// # Errors
    /// As [`Clip::load`].
    pub fn from_dir(name: &str, dir: &Path, device: &Device) -> Result<Clip> {
        if !dir.is_dir() {
            return Err(Error::model(
                name,
                "a model is a folder with config.json and model.safetensors, or a hub id",
            ));
        }
        let text = |file: &str| -> Result<Option<String>> {
            let path = dir.join(file);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::io("read", path)(e)),
            }
        };
        let config = text("config.json")?
            .ok_or_else(|| Error::model(name, format!("no config.json in {}", dir.display())))?;
        let preprocess = text("preprocessor_config.json")?;
        Clip::build(
            name,
            &config,
            preprocess.as_deref(),
            &Weights::open_dir(dir)?,
            device,
        )
    }

    fn build(
        name: &str,
        config: &str,
        preprocess: Option<&str>,
        weights: &Weights,
        device: &Device,
    ) -> Result<Clip> {
        let config = VisionConfig::parse(name, config)?;
        if device.precision() == ops::Precision::Int8 && !config.int8 {
            return Err(Error::usage(format!(
                "--dtype int8: {name} takes signs of small numbers, which 8 bits lose; leave --dtype away, or give bf16"
            )));
        }
        let preprocess = match preprocess {
            Some(json) => Preprocess::parse(name, json, config.image_size)?,
            None => Preprocess::openai(config.image_size),
        };
        let tower = VisionTower::load(&config, weights, device.candle(), device.precision())?;
        let fingerprint = format!(
            "sha256:{} {preprocess:?} {:?}",
            weights.fingerprint(),
            device.precision()
        );
        let default_eps =
            manifest::model(name).map_or(manifest::FALLBACK_EPS, |entry| entry.default_eps);
        Ok(Clip {
            name: name.into(),
            tower,
            preprocess,
            device: device.clone(),
            on_card: OnCard::of(device.candle())?,
            fingerprint,
            default_eps,
        })
    }

    /// The tower's shape.
    pub fn config(&self) -> &VisionConfig {
        self.tower.config()
    }

    /// The tower itself, for those who want its layers.
    pub fn tower(&self) -> &VisionTower {
        &self.tower
    }

    /// How images become its pixels.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }
}

/// The embedded tower: its config, how it wants its pixels, its weights.
fn builtin() -> Result<(&'static str, &'static str, Weights)> {
    let weights = include_bytes!("../../models/builtin/model.safetensors");
    Ok((
        include_str!("../../models/builtin/config.json"),
        include_str!("../../models/builtin/preprocessor_config.json"),
        Weights::from_static(BUILTIN, weights)?,
    ))
}

impl Embedder for Clip {
    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn dims(&self) -> usize {
        self.config().projection_dim
    }

    fn dtype(&self) -> DType {
        match self.device.dtype() {
            // Its eight bits are too few for cosines; the projection's sums have more.
            DType::BF16 => DType::F16,
            dtype => dtype,
        }
    }

    fn batch_size(&self) -> usize {
        match (&self.on_card, self.config().flop()) {
            // Enough rows to fill a card's multiprocessors many times over.
            (Some(_), ..50_000_000_000) => 512,
            (Some(_), _) => 256,
            // Small towers want more rows a GEMM; large ones less memory.
            (None, ..1_000_000_000) => 64,
            (None, _) => 16,
        }
    }

    fn default_eps(&self) -> f64 {
        self.default_eps
    }

    fn prepare(&self, image: &Rgb8) -> Vec<u8> {
        self.preprocess.fit.square(image)
    }

    fn prepare_reduced(&self, image: &Rgb8, whole: (u32, u32)) -> Vec<u8> {
        self.preprocess.fit.square_of_reduced(image, whole)
    }

    fn shortest_edge(&self) -> Option<u32> {
        Some(self.preprocess.fit.shortest_edge())
    }

    fn embed(&self, prepared: &[u8]) -> Result<Embedded> {
        let s = self.config().image_size;
        let image = s * s * 3;
        if prepared.is_empty() || !prepared.len().is_multiple_of(image) {
            return Err(Error::shape(
                "embed",
                format!("a multiple of {image} bytes"),
                format!("{} bytes", prepared.len()),
            ));
        }
        if self.on_card.is_some() {
            let images: Vec<&[u8]> = prepared.chunks_exact(image).collect();
            return Ok(self.start(&images)?.finish()?.0);
        }
        let pixels = Tensor::from_slice(
            prepared,
            (prepared.len() / image, s, s, 3),
            self.device.candle(),
        )?;
        let embeddings = self
            .tower
            .forward(&pixels, &self.preprocess.norm)?
            .to_dtype(DType::F32)?;
        let mut rows = embeddings.flatten_all()?.to_vec1::<f32>()?;
        let mut good = vec![true; rows.len() / self.dims()];
        ops::normalize_rows(&mut rows, self.dims())
            .into_iter()
            .for_each(|bad| good[bad] = false);
        if self.dtype() == DType::F16 {
            rows.iter_mut()
                .for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        }
        Ok(Embedded { rows, good })
    }

    fn start<'a>(&'a self, prepared: &[&[u8]]) -> Result<Pending<'a>> {
        match &self.on_card {
            Some(card) => card.start(&self.tower, &self.preprocess.norm, prepared, self.dtype()),
            None => self.embed(&prepared.concat()).map(Pending::ready),
        }
    }

    fn batch_that_fits(&self, wanted: usize) -> Result<usize> {
        match &self.on_card {
            Some(card) => {
                card.batch_that_fits(&self.tower, &self.preprocess.norm, wanted, self.dtype())
            }
            None => Ok(wanted),
        }
    }

    fn device(&self) -> Option<&Device> {
        Some(&self.device)
    }
}
