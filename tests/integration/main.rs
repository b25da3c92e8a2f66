//! Integration tests.
mod dedup_core;
