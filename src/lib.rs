//! clipsift
#![deny(missing_docs)]
