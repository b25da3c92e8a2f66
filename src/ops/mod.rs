//! The numeric kernels, one file each: arguments, one shape check, a readable CPU twin, dispatch.
//!
//! Dimension letters: n rows (images), d dims of an embedding, k clusters, t tokens of an image, h heads, w the tower's width,
//! p the patch size.
//!
//! Ops over embeddings (normalize, dot, tile, assign, accumulate) work on plain row slices `[n, d]`.
//! Ops of the tower take and give candle tensors; their CPU twins work on contiguous slices of f32 or f16, accumulate in f32
//! and share rows among the threads of the current rayon pool, each row computed by one thread in one order: the number of
//! threads never changes a result.

pub mod accumulate;
pub mod activation;
pub mod assign;
pub mod attention;
mod coarse;
pub mod cuda;
pub mod dot;
mod element;
pub mod identical;
pub mod layer_norm;
pub mod linear;
pub(crate) mod nearer;
pub mod neighbours;
pub mod normalize;
pub(crate) mod packed;
pub mod patchify;
mod precision;
pub mod rows;
mod scan;
pub mod simd;
pub mod tile;
pub mod tokens;

pub use activation::{Activation, add_bias, bias_activation};
pub use attention::attention;
pub use layer_norm::{LayerNorm, add_layer_norm, layer_norm};
pub use linear::{Linear, Matrix, linear_activation, linear_add_norm, matmul_t, product};
pub use normalize::normalize_rows;
pub use patchify::{PixelNorm, patchify};
pub use precision::Precision;
pub use tokens::tokens;
