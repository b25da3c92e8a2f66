//! Curate image sets: read images, embed them with CLIP, score them with small MLP heads, find semantic duplicates, write
//! what is worth keeping. No Python, no ONNX, no libtorch.
//!
//! # The way of the data
//!
//! ```text
//! read -> decode -> resize -> [patchify -> tower -> unit rows] -> store
//!                                                                   |
//!                        heads -> scores <--------------------------+
//!                        [k-means assign/accumulate, cosine tiles] -> pairs
//!                                                                   |
//!                        thresholds, pairs -> decide -> write, report <-----+
//! ```
//!
//! One image goes through it like this: [`read`] makes it a [`Sample`], a name and the place of its bytes. A thread of the pool
//! loads them, [`decode`](decode::decode) makes them an upright [`Rgb8`], [`resize`] the tower's square. [`clip`] turns a batch of
//! squares into unit rows, which [`store`] keeps in the run directory, part by part. From there on only stored rows count:
//! [`heads`] scores them, [`dedup`] finds the pairs among them, the decision for each sample follows from scores and pairs,
//! and [`mod@write`] copies the original bytes of what is kept; a page on all of it shows a person what was done. [`pipeline`] joins the stages; all numeric work is in [`ops`].
//!
//! ```
//! use clipsift::{Clip, Device, Exact, Keep, Pipeline, Shards};
//!
//! # let out = tempfile::tempdir()?;
//! # let out = out.path().join("run");
//! let clip = Clip::load("builtin", &Device::auto()?)?;
//! let run = Pipeline::over(["tests/data/shards/{00000..00002}.tar"])?
//!     .embed(clip)
//!     .dedup(Exact::within(0.02).keep(Keep::Largest))
//!     .write(Shards::of(10_000))
//!     .run(&out)?;
//! println!("{} of {} kept", run.kept, run.read);
//! # assert!(run.kept > 0);
//!
//! // Later, from what is stored: a smaller eps, and the set again.
//! use clipsift::Run;
//! use clipsift::pipeline::Context;
//! let mut run = Run::open(&out)?;
//! run.dedup(&Exact::within(0.005), &[], Context::quiet())?;
//! run.write(&Shards::of(10_000), None, Context::quiet())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Dimension letters
//!
//! They mean the same everywhere: n rows (images), d dims of an embedding, k clusters, t tokens of an image, h heads, w the
//! width of the tower, p the edge of a patch, s the edge of the tower's image, g patches along an edge.
//!
//! # Levels
//!
//! A module imports from its own level and those below it; a test holds this.
//!
//! ```text
//! cli
//! pipeline, verify, bench
//! write, report, dedup
//! read, decode, resize, clip, heads, store
//! ops, device
//! sample, manifest
//! atomic, digest, mmap, error
//! ```
//!
//! `unsafe` lives in `ops::simd`, `ops::cuda` and in the one function that maps a file.
#![deny(missing_docs)]

pub mod atomic;
pub mod bench;
pub mod clip;
pub mod decode;
pub mod dedup;
pub mod device;
mod digest;
pub mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod heads;
pub mod manifest;
mod mmap;
pub mod ops;
pub mod pipeline;
pub mod read;
mod report;
pub mod resize;
pub mod sample;
pub mod store;
pub mod verify;
pub mod write;

pub use clip::{Clip, Embedded, Embedder};
pub use dedup::decide::{Keep, Removal};
pub use device::Device;
pub use error::{Error, Result};
pub use heads::{Head, Scorer};
pub use pipeline::{Dedup, Exact, Pipeline, Run, Semantic, Shards};
pub use sample::{Blob, Decision, Reason, Rgb8, Sample, Sidecar};
