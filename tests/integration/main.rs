//! Integration tests.

mod write;
mod read;
mod decode;
mod resize;
mod dedup_core;
