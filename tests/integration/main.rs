//! Integration tests.

mod read;
