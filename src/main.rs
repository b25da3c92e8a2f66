//! The `clipsift` command.
fn main() {}
