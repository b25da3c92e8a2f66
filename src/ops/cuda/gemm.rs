//! One matrix product with its epilogue, as data.

use candle_core::DType;

/// `out = x · weightᵀ (+ bias) (+ residual)`, all row-major and without gaps: x `[m, k]`, weight `[n, k]` (PyTorch's layout of a
/// linear layer), bias `[n]`, residual and out `[m, n]`. Accumulated in f32, bias and residual added before the one rounding.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of x: images x tokens.
    pub m: usize,
    /// Rows of the weight: the layer's outputs.
    pub n: usize,
    /// Columns of both: the layer's inputs.
    pub k: usize,
    /// Of all operands: f32, f16 or bf16.
    pub dtype: DType,
    /// Address of x.
    pub x: u64,
    /// Address of the weight.
    pub weight: u64,
    /// Address of the bias, 0 for none.
    pub bias: u64,
    /// Address of the residual, 0 for none. May be `out`.
    pub residual: u64,
    /// Address of the result.
    pub out: u64,
}
