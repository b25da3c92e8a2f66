//! CPU paths that need `unsafe` or choose an instruction set at run time. Each `unsafe` block says why it is sound.

pub(crate) mod amx;
pub(crate) mod blocks;
pub(crate) mod gemm;
pub(crate) mod int8;
pub(crate) mod lanes;
pub(crate) mod quantise;
pub(crate) mod resample;
pub(crate) mod sift;
pub(crate) mod widest;
