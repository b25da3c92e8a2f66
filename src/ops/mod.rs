//! The numeric kernels, one file each: arguments, one shape check, readable CPU twin, dispatch.

pub mod accumulate;
pub mod assign;
pub mod dot;
pub mod identical;
pub mod normalize;
pub mod rows;
mod scan;
pub mod simd;
pub mod tile;
