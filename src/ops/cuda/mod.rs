//! The ops on a GPU: kernels from `kernels/*.cu`, and the host code that prepares their launches.
//!
//! A launch is plain data ([`Launch`]: kernel, grid, block, shared bytes, arguments) and device memory is what a [`Backend`]
//! hands out. The code that sizes grids, allocates results and joins several launches into one op is written once over
//! [`Backend`], compiled in every build, and therefore tested on machines without a GPU: `tests/emulator` is a second backend
//! that runs the very same `.cu` files on the CPU. Only the backend over a real card, [`CudaBackend`], needs the feature `cuda`;
//! without it there is a twin of the same functions that never gives one out, so no caller asks which build it is in.
//!
//! Over rows: a [`matrix::DeviceMatrix`] holds them, a [`view::View`] says which an op looks at. What [`assign`] and [`tile`] find
//! with tensor cores are candidates, within the margin of [`margin`]; canonical f64 arithmetic on the device decides about them, so
//! that the results are those of the CPU twins bit for bit.

pub mod accumulate;
pub mod activation;
pub mod assign;
pub mod attention;
mod check;
mod compiled;
pub mod gemm;
pub mod identical;
pub mod launch;
pub mod layer_norm;
pub mod margin;
pub mod matrix;
mod nearest;
pub mod normalize;
pub mod preprocess;
pub(in crate::ops) mod tensors;
pub mod tile;
pub mod transfers;
mod values;
pub mod view;

#[cfg_attr(feature = "cuda", path = "enabled/mod.rs")]
#[cfg_attr(not(feature = "cuda"), path = "disabled.rs")]
mod imp;

pub use compiled::Compiled;
pub use gemm::Gemm;
pub use imp::{CudaBackend, Event, Pinned};
pub use launch::{Arg, Backend, Launch};
pub use matrix::DeviceMatrix;
pub use view::{Budget, View};

/// What was compiled for GPUs; nothing without the feature `cuda`.
pub fn compiled() -> Option<&'static Compiled> {
    imp::compiled()
}
