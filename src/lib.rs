//! clipsift
#![deny(missing_docs)]

pub mod atomic;
pub mod error;
pub mod ops;
pub mod sample;
pub mod write;

pub use error::{Error, Result};
pub use sample::{Blob, Decision, Reason, Rgb8, Sample, Sidecar};
