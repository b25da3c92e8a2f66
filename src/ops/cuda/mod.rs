//! The ops on a GPU: kernels from `kernels/*.cu`, and the host code that prepares their launches.
//!
//! A launch is plain data ([`Launch`]: kernel, grid, block, shared bytes, arguments) and device memory is what a [`Backend`]
//! hands out. The code that sizes grids, allocates results and joins several launches into one op is written once over
//! [`Backend`], compiled in every build, and therefore tested on machines without a GPU: `tests/emulator` is a second backend
//! that runs the very same `.cu` files on the CPU. Only the backend over a real card needs the feature `cuda`.

pub mod accumulate;
pub mod activation;
mod check;
pub mod launch;
pub mod layer_norm;
pub mod normalize;
pub mod preprocess;

pub use launch::{Arg, Backend, Launch};
