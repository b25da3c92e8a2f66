//! Integration tests.

mod write;
mod read;
mod decode;
mod resize;
