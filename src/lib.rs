//! clipsift
#![deny(missing_docs)]

pub mod atomic;
pub mod clip;
pub mod decode;
pub mod dedup;
pub mod device;
pub mod error;
pub mod heads;
pub mod manifest;
mod mmap;
pub mod ops;
pub mod pipeline;
pub mod read;
pub mod resize;
pub mod sample;
pub mod store;
pub mod write;

pub use clip::{Clip, Embedded, Embedder};
pub use device::Device;
pub use error::{Error, Result};
pub use heads::{Head, Scorer};
pub use pipeline::{Pipeline, Run};
pub use sample::{Blob, Decision, Reason, Rgb8, Sample, Sidecar};
