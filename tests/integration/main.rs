//! Integration tests.

mod against;
mod audit;
mod common;
mod copies;
mod curate;
mod decode;
mod dedup_core;
mod device;
mod embeddings;
#[path = "../emulator/mod.rs"]
mod emulator;
mod faults;
mod heads;
mod hub;
mod imported;
mod large;
mod library;
mod measure;
mod memory;
mod models;
mod read;
mod report;
mod report_browser;
mod report_large;
mod resize;
mod scaled;
mod stale;
mod structure;
mod terminal;
mod tower;
mod write;
