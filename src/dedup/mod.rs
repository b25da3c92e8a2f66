//! Duplicates: pairs of rows that are near each other ([`exact`]: every pair in the set; [`semantic`]: inside the clusters that
//! [`kmeans`] finds).
//!
//! Rows are embeddings: `[n, d]`, row-major, unit length. Every stored cosine is the canonical dot product
//! [`crate::ops::dot::cosine`], so that results do not depend on tiles, threads or devices.

pub mod exact;
pub mod kmeans;
mod seeding;
pub mod semantic;
