//! Duplicates: pairs of rows that are near each other ([`exact`]: every pair in the set; [`semantic`]: inside the clusters that
//! [`kmeans`] finds), and which rows of them to keep ([`decide`]); [`audit`] says what clusters lost.
//!
//! Rows are embeddings: `[n, d]`, row-major, unit length. Every stored cosine is the canonical dot product
//! [`crate::ops::dot::cosine`], so that results do not depend on tiles, threads or devices.

pub mod audit;
pub mod decide;
pub mod exact;
pub mod kmeans;
pub mod on_device;
mod rank;
mod seeding;
pub mod semantic;
mod tensor;

pub use on_device::OnDevice;
