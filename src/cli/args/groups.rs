//! Flags that several commands share, a struct for each group of `--help`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clipsift::dedup::decide::{Keep, Removal};
use clipsift::write::Layout;

/// How embeddings made by others are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Embeddings made by others")]
pub(crate) struct ImportFlags {
    /// The column of a parquet that holds the ids; id by default
    #[arg(long, value_name = "COLUMN")]
    pub id_column: Option<String>,
    /// The column of a parquet that holds the embeddings; by default embedding, or the only one of lists of floats
    #[arg(long, value_name = "COLUMN")]
    pub embedding_column: Option<String>,
    /// Rows a part
    #[arg(long, default_value_t = clipsift::pipeline::PART_SIZE, value_name = "N")]
    pub part_size: usize,
    /// Replace an earlier run of another request in --out
    #[arg(long)]
    pub overwrite: bool,
}

/// Heads to score with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Scores")]
pub(crate) struct HeadFlags {
    /// Aesthetic score; the head by default is the one that fits the model
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub aesthetic: Option<String>,
    /// NSFW score; the head by default is the one that fits the model
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub nsfw: Option<String>,
    /// A score of one's own: a known head, OWNER/NAME[:FILE] of a hub, or a .safetensors or .pth file
    #[arg(long = "head", value_name = "NAME=SPEC")]
    pub heads: Vec<String>,
}

/// Bounds on scores; read in the order typed by [`crate::cli::flags::Thresholds`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Thresholds")]
pub(crate) struct BoundFlags {
    /// Keep an aesthetic score >= X
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub min_aesthetic: Option<f64>,
    /// Keep an NSFW score < X
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub max_nsfw: Option<f64>,
    /// Keep score NAME >= X
    #[arg(long, value_name = "NAME=X")]
    pub min: Vec<String>,
    /// Keep score NAME < X
    #[arg(long, value_name = "NAME=X")]
    pub max: Vec<String>,
}

/// How duplicates are found and decided.
#[derive(Debug, Args)]
#[command(next_help_heading = "Duplicates")]
pub(crate) struct DedupFlags {
    /// auto: exact up to N²d of 1e13 on a CPU, semantic beyond
    #[arg(long, value_enum, default_value = "auto")]
    pub dedup: DedupMode,
    /// A pair is a duplicate when cosine >= 1 - X; the model's own by default
    #[arg(long, value_name = "X")]
    pub eps: Option<f64>,
    /// Pairs are stored down to cosine 1 - X; 4 x eps by default, but not beyond 0.5 for an eps below it
    #[arg(long, value_name = "X")]
    pub floor: Option<f64>,
    /// Number of clusters, or auto for about 1,000 rows each
    #[arg(long, value_name = "K|auto", default_value = "auto")]
    pub clusters: String,
    /// How the first centroids are chosen
    #[arg(long, value_enum, default_value = "k-means++")]
    pub init: Init,
    /// Centroids [k, d] to begin from: a .npy, or a safetensors file with a tensor `centroids`
    #[arg(long, value_name = "FILE")]
    pub centroids: Option<PathBuf>,
    /// Fits to choose the best of
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub restarts: usize,
    /// Most iterations of k-means
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub iterations: usize,
    /// The squared shift of the centroids that ends k-means
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    pub tol: f64,
    /// The part of the rows that k-means is fitted to
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub fit_fraction: f64,
    /// Seed of every random choice
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Order of preference: largest, first, random, hard, easy, best:NAME or best:NAME:asc; by default largest among images, first
    /// among embeddings made by others
    #[arg(long)]
    pub keep: Option<Keep>,
    /// group: drop what lies within eps of a kept sample; chain: of any earlier sample, kept or not
    #[arg(long, default_value = "group")]
    pub removal: Removal,
    /// An earlier run, again for more: what it kept wins and is never dropped, new samples fall to it and to each other
    #[arg(long, value_name = "RUN")]
    pub against: Vec<PathBuf>,
    /// Say what clusters lost: the true neighbours of N random rows, found among all rows, against the pairs found
    #[arg(long, value_name = "N")]
    pub audit: Option<usize>,
    /// Rows on each side of a tile of cosines; never changes a result
    #[arg(long, hide = true, default_value_t = clipsift::dedup::exact::Params::default().tile)]
    pub tile: usize,
    /// Bytes of embeddings that are held in memory, beyond which they go to a scratch file; never changes a result
    #[arg(long, hide = true)]
    pub held: Option<u64>,
    /// Pairs beyond eps that are stored for a row; never changes a decision
    #[arg(long, hide = true, default_value_t = clipsift::Dedup::default().row_pairs)]
    pub row_pairs: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DedupMode {
    Auto,
    Exact,
    Semantic,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Init {
    #[value(name = "k-means++")]
    KMeansPlusPlus,
    KmeansParallel,
    Random,
}

/// How the curated set is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Writing")]
pub(crate) struct WriteFlags {
    /// tar, folder, list or none; tar by default for tars and parquets, list for files
    #[arg(long = "write", value_name = "LAYOUT")]
    pub layout: Option<Layout>,
    /// Samples a shard
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub shard_size: usize,
}
