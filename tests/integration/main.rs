//! Integration tests.

mod common;
mod curate;
mod faults;
mod write;
mod read;
mod decode;
mod resize;
mod dedup_core;
mod tower;
mod heads;
