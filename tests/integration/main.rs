//! Integration tests.

mod write;
mod read;
