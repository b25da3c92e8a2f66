//! Integration tests.

mod write;
