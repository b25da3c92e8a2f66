//! clipsift
#![deny(missing_docs)]

pub mod error;
pub mod ops;
pub mod read;
pub mod sample;

pub use error::{Error, Result};
pub use sample::{Blob, Decision, Reason, Rgb8, Sample, Sidecar};
