//! CPU paths that need `unsafe` or choose an instruction set at run time. Each `unsafe` block says why it is sound.

pub(crate) mod gemm;
pub(crate) mod lanes;
