//! clipsift
#![deny(missing_docs)]

pub mod device;
pub mod atomic;
pub mod dedup;
pub mod decode;
pub mod error;
pub mod ops;
pub mod resize;
pub mod sample;

pub use error::{Error, Result};
pub use sample::{Blob, Decision, Reason, Rgb8, Sample, Sidecar};
