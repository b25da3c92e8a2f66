//! Integration tests.

mod common;
mod curate;
mod decode;
mod dedup_core;
mod embeddings;
mod faults;
mod heads;
mod read;
mod resize;
mod structure;
mod tower;
mod write;
