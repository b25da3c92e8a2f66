//! Integration tests.

mod decode;
mod resize;
