//! `run.json`: what was asked for, by what, and what came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::IdType;

/// The content of `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// The version that wrote it last.
    pub clipsift: String,
    /// Run directories that this one is a set over; empty where it holds its own samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// sha256 over the members' tables, so that what is decided about them is not taken for current when they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_sha256: Option<String>,
    /// What fixes the parts.
    pub embed: Option<EmbedRequest>,
    /// The number of parts, once every one is there.
    pub parts: Option<usize>,
    /// Scores, in the order that they were asked for.
    pub scores: Vec<ScoreRequest>,
    /// Thresholds, in the order that they were asked for.
    pub thresholds: Vec<Threshold>,
    /// How duplicates were found, once they are.
    pub dedup: Option<DedupRequest>,
    /// The number of files `duplicates/pairs-*.parquet` that they stand in.
    pub pair_files: Option<usize>,
    /// The greatest eps that all pairs are there for; none: down to the floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_to: Option<f64>,
    /// The clusters that are stored, once they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Clustering>,
    /// What clustering lost, where that was asked for: of the clusters and pairs that are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditResult>,
    /// How duplicates are decided.
    pub decide: Option<DecideRequest>,
    /// The curated set, once it is written.
    pub write: Option<WriteRequest>,
    /// What came of it: read, bad, duplicates, kept, and a count for each threshold.
    pub counts: BTreeMap<String, u64>,
    /// Seconds of work a stage, all runs of it together. `kmeans` (clusters) and `pairs` (pairs, matches and the files of both and
    /// of clusters) are parts of `dedup`.
    pub seconds: BTreeMap<String, f64>,
}

/// What fixes the parts of a run: another value of any of these makes other parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbedRequest {
    /// Inputs as written.
    pub inputs: Vec<String>,
    /// A line for each input: its kind, and what tells its content from another's without reading it all.
    pub content: Vec<String>,
    /// `I/N` where only a slice of them is read.
    pub partition: Option<String>,
    /// Columns named for parquet inputs.
    pub id_column: Option<String>,
    /// The column of embeddings made by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_column: Option<String>,
    /// Whether others made the embeddings: there are no images then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// The type of the ids in every table.
    #[serde(default, skip_serializing_if = "is_string")]
    pub id_type: IdType,
    /// The model as written.
    pub model: String,
    /// What identifies its results: weights, preprocessing, precision.
    pub fingerprint: String,
    /// d: dims of an embedding.
    pub dims: usize,
    /// Precision of the stored rows.
    pub dtype: String,
    /// Kind of device.
    pub device: String,
    /// Samples a part.
    pub part_size: usize,
    /// Images a batch.
    pub batch_size: usize,
    /// Whether large JPEGs are decoded at a fraction of their size.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scaled_decode: bool,
    /// The eps that the model's manifest entry gives.
    pub default_eps: f64,
}

fn is_string(kind: &IdType) -> bool {
    *kind == IdType::String
}

fn on_or_off(on: bool) -> String {
    match on {
        true => "on".into(),
        false => "off".into(),
    }
}

impl EmbedRequest {
    /// The first thing in which another request differs, as a sentence; none where both make the same parts.
    pub fn difference(&self, other: &EmbedRequest) -> Option<String> {
        let fields = [
            ("inputs", self.inputs.join(" "), other.inputs.join(" ")),
            (
                "content of the inputs",
                self.content.join(", "),
                other.content.join(", "),
            ),
            (
                "partition",
                format!("{:?}", self.partition),
                format!("{:?}", other.partition),
            ),
            (
                "id column",
                format!("{:?}", self.id_column),
                format!("{:?}", other.id_column),
            ),
            (
                "embedding column",
                format!("{:?}", self.embedding_column),
                format!("{:?}", other.embedding_column),
            ),
            (
                "scaled decoding",
                on_or_off(self.scaled_decode),
                on_or_off(other.scaled_decode),
            ),
            ("model", self.model.clone(), other.model.clone()),
            ("dtype", self.dtype.clone(), other.dtype.clone()),
            (
                "model's weights or preprocessing",
                self.fingerprint.clone(),
                other.fingerprint.clone(),
            ),
            ("device kind", self.device.clone(), other.device.clone()),
            (
                "part size",
                self.part_size.to_string(),
                other.part_size.to_string(),
            ),
            (
                "batch size",
                self.batch_size.to_string(),
                other.batch_size.to_string(),
            ),
        ];
        let (name, ours, theirs) = fields
            .into_iter()
            .find(|(_, ours, theirs)| ours != theirs)?;
        Some(format!("its {name} is {ours}, now it is {theirs}"))
    }
}

/// One score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// Its name: the folder under `scores/` and the column of `decisions.parquet`.
    pub name: String,
    /// What identifies the head.
    pub fingerprint: String,
    /// Whether every part has it.
    pub complete: bool,
}

/// A bound on a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// The score.
    pub score: String,
    /// The bound.
    pub bound: Bound,
}

/// Which side of a number is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Kept where score >= this.
    Min(f64),
    /// Kept where score < this.
    Max(f64),
}

impl Threshold {
    /// # Errors
    /// [`crate::Error::Usage`] for a bound that is not finite.
    pub fn check(&self) -> crate::Result<()> {
        let (Bound::Min(bound) | Bound::Max(bound)) = self.bound;
        if bound.is_finite() {
            return Ok(());
        }
        let score = &self.score;
        Err(crate::Error::usage(format!(
            "a threshold of {bound} on {score}: give a finite number"
        )))
    }

    /// Whether a score passes. A NaN does not.
    pub fn keeps(&self, score: f32) -> bool {
        match self.bound {
            Bound::Min(bound) => f64::from(score) >= bound,
            Bound::Max(bound) => f64::from(score) < bound,
        }
    }
}

/// What fixes clusters and pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DedupRequest {
    /// `exact` or `semantic`.
    pub mode: String,
    /// Pairs are stored down to cosine 1 - floor.
    pub floor: f64,
    /// How clusters were made; semantic alone.
    pub clusters: Option<ClusterRequest>,
    /// The order that `matches.parquet` was made in; semantic alone.
    pub keep: Option<String>,
    /// Earlier sets that the rows were compared with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<AgainstRequest>,
}

/// An earlier set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgainstRequest {
    /// The run directory.
    pub run: String,
    /// sha256 over its samples and which of them it kept.
    pub sha256: String,
}

impl DedupRequest {
    /// Whether clusters and pairs made for this request are those of another, which at most ranks rows differently.
    pub fn serves(&self, other: &DedupRequest) -> bool {
        DedupRequest {
            keep: other.keep.clone(),
            ..self.clone()
        } == *other
    }
}

/// The clusters in `clusters/`, and how the fit went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clustering {
    /// What fixes them.
    pub request: ClusterRequest,
    /// Earlier sets whose rows they were fitted to as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<AgainstRequest>,
    /// Rows that the centroids were fitted to.
    pub fitted_rows: usize,
    /// For each iteration the inertia at the centroids that it began with, to ten digits.
    pub inertias: Vec<f64>,
    /// For each iteration the squared distance that the centroids moved, summed over them.
    pub shifts: Vec<f64>,
    /// The inertia of the fitted rows at the centroids that are stored.
    pub inertia: f64,
    /// Whether the last shift fell under the tolerance.
    pub converged: bool,
}

/// What fixes clusters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterRequest {
    /// k
    pub clusters: usize,
    /// How the first centroids are chosen.
    pub init: String,
    /// sha256 of given centroids.
    pub centroids: Option<String>,
    /// Most iterations.
    pub iterations: usize,
    /// The squared shift that ends the fit.
    pub tol: f64,
    /// The part of the rows that the fit sees.
    pub fit_fraction: f64,
    /// Fits that the best was chosen of.
    pub restarts: usize,
    /// Seed of every random choice.
    pub seed: u64,
}

/// What an audit of the pairs found inside clusters came to; [`crate::dedup::audit`] has the definitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditResult {
    /// Rows asked for.
    pub rows: usize,
    /// Rows are neighbours at cosine >= 1 - eps.
    pub eps: f64,
    /// Seed of the draw.
    pub seed: u64,
    /// Rows drawn, each with its neighbours in `duplicates/audit.parquet`.
    pub audited: u64,
    /// Those with a true neighbour.
    pub with_neighbours: u64,
    /// The mean share of their neighbours that was found; none where no row has any.
    pub recall: Option<f64>,
    /// The ends of its 95 % interval.
    pub interval: Option<(f64, f64)>,
    /// Rows with neighbours of which none was found.
    pub lost: u64,
    /// Rows with neighbours of which some were found and some not.
    pub cut: u64,
    /// True neighbours of all rows drawn.
    pub neighbours: u64,
    /// Those that were found.
    pub found: u64,
    /// The clusters that lost most, at most [`WORST`].
    pub worst: Vec<WorstCluster>,
}

/// Clusters that an audit names at most.
pub const WORST: usize = 5;

/// A cluster whose rows have neighbours in others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorstCluster {
    /// Its number.
    pub cluster: u32,
    /// Its audited rows with a true neighbour.
    pub audited: u64,
    /// Those that lost one.
    pub missed: u64,
    /// The mean share found.
    pub recall: f64,
}

/// How stored pairs become decisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecideRequest {
    /// Duplicates have cosine >= 1 - eps; none with dedup off.
    pub eps: Option<f64>,
    /// Order of preference.
    pub keep: String,
    /// `group` or `chain`.
    pub removal: String,
    /// Seed of the random order.
    pub seed: u64,
}

/// How the curated set is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// `tar`, `folder`, `list` or `none`.
    pub layout: String,
    /// Samples a shard.
    pub shard_size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bound: Bound, scores: &[f32]) -> Vec<f32> {
        let threshold = Threshold {
            score: "s".into(),
            bound,
        };
        scores
            .iter()
            .copied()
            .filter(|s| threshold.keeps(*s))
            .collect()
    }

    #[test]
    fn aesthetic_keeps_what_reaches_its_bound_and_nsfw_what_stays_below() {
        // The reference system's own cases; the order is kept.
        let aesthetic = kept(Bound::Min(0.5), &[0.5, 0.51, 0.49, 0.5]);
        assert_eq!(aesthetic, [0.5, 0.51, 0.5]);
        let nsfw = kept(Bound::Max(0.5), &[0.5, 0.49, 0.51, 0.499]);
        assert_eq!(nsfw, [0.49, 0.499]);
    }

    #[test]
    fn a_score_that_is_no_number_passes_no_threshold() {
        for bound in [Bound::Min(f64::NEG_INFINITY), Bound::Max(f64::INFINITY)] {
            assert!(kept(bound, &[f32::NAN]).is_empty(), "{bound:?}");
        }
    }

    #[test]
    fn a_request_that_makes_other_parts_is_told_by_what_differs() {
        let request = EmbedRequest {
            inputs: vec!["photos".into()],
            content: vec!["photos (folder, 3 images)".into()],
            partition: None,
            id_column: None,
            embedding_column: None,
            imported: false,
            id_type: IdType::String,
            model: "builtin".into(),
            fingerprint: "f".into(),
            dims: 128,
            dtype: "f32".into(),
            device: "cpu".into(),
            part_size: 4096,
            batch_size: 64,
            scaled_decode: false,
            default_eps: 0.03,
        };
        assert_eq!(request.difference(&request), None);
        let other = EmbedRequest {
            part_size: 9,
            ..request.clone()
        };
        let difference = request.difference(&other).unwrap();
        assert_eq!(difference, "its part size is 4096, now it is 9");
    }
}
