//! Known models and heads: `models/manifest.json`, compiled in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// The default eps of a model that the manifest does not know: the reference system's.
pub const FALLBACK_EPS: f64 = 0.01;

/// A known model.
#[derive(Clone, Debug, Deserialize)]
pub struct ModelEntry {
    /// What `--model` takes.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Hub repository; none for the embedded tower.
    pub hub: Option<String>,
    /// Checksums of its large files, as far as they are known, by their names in the repository.
    #[serde(default)]
    pub sha256: BTreeMap<String, String>,
    /// d: dims of an embedding.
    pub d: usize,
    /// Two images are duplicates by default when cosine >= 1 - eps.
    pub default_eps: f64,
    /// Licence of the weights.
    pub licence: String,
}

/// A known head.
#[derive(Clone, Debug, Deserialize)]
pub struct HeadEntry {
    /// What `--head NAME=SPEC` takes as SPEC.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Hub repository, or else `url`.
    pub hub: Option<String>,
    /// A plain URL, with `sha256`.
    pub url: Option<String>,
    /// The file, in the repository or as it is kept.
    pub file: String,
    /// The file's checksum; of a file from a plain URL it has to be known.
    pub sha256: Option<String>,
    /// Dims that it takes.
    pub d: usize,
    /// The score (`aesthetic`, `nsfw`) that this is the default head of, at this d.
    pub default_for: Option<String>,
    /// Licence of the weights.
    pub licence: String,
}

/// Models and heads.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// All known models.
    pub models: Vec<ModelEntry>,
    /// All known heads.
    pub heads: Vec<HeadEntry>,
}

/// The manifest.
pub fn manifest() -> &'static Manifest {
    static MANIFEST: LazyLock<Manifest> = LazyLock::new(|| {
        // The file is compiled in and a test reads it: it cannot fail at run time.
        serde_json::from_str(include_str!("../models/manifest.json"))
            .expect("models/manifest.json is valid")
    });
    &MANIFEST
}

/// A known model by its name.
pub fn model(name: &str) -> Option<&'static ModelEntry> {
    manifest().models.iter().find(|m| m.name == name)
}

/// A known head by its name.
pub fn head(name: &str) -> Option<&'static HeadEntry> {
    manifest().heads.iter().find(|h| h.name == name)
}

/// The checksum that a file of a hub's repository is known to have.
pub fn sha256(hub: &str, file: &str) -> Option<&'static str> {
    let of = |known: &Option<String>| known.as_deref() == Some(hub);
    let models = manifest().models.iter().filter(|m| of(&m.hub));
    let heads = manifest().heads.iter().filter(|h| of(&h.hub));
    models
        .filter_map(|m| m.sha256.get(file).map(String::as_str))
        .chain(
            heads
                .filter(|h| h.file == file)
                .filter_map(|h| h.sha256.as_deref()),
        )
        .next()
}

/// The head that a score has by default for embeddings of d dims.
pub fn default_head(score: &str, d: usize) -> Option<&'static HeadEntry> {
    manifest()
        .heads
        .iter()
        .find(|h| h.d == d && h.default_for.as_deref() == Some(score))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_can_be_found_and_fetched() {
        for entry in &manifest().models {
            assert_eq!(model(&entry.name).map(|m| m.d), Some(entry.d));
            assert!(
                entry.hub.is_some() || entry.name == "builtin",
                "{}: no place to get it",
                entry.name
            );
            assert!(entry.default_eps > 0.0 && entry.default_eps < 0.5);
            for (file, sum) in &entry.sha256 {
                assert!(sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()));
                let hub = entry.hub.as_deref().unwrap();
                assert_eq!(sha256(hub, file), Some(sum.as_str()));
            }
        }
        for entry in &manifest().heads {
            assert!(head(&entry.name).is_some());
            let checked_url =
                entry.url.is_some() && entry.sha256.as_ref().is_some_and(|s| s.len() == 64);
            assert!(
                entry.hub.is_some() || checked_url,
                "{}: no place to get it",
                entry.name
            );
        }
        assert_eq!(
            default_head("aesthetic", 768).map(|h| h.name.as_str()),
            Some("aesthetic-v2")
        );
        assert!(default_head("aesthetic", 256).is_none());
    }
}
