//! Every command and flag, as typed. Meanings that several commands share stand in one struct each.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clipsift::dedup::decide::{Keep, Removal};
use clipsift::device::{DTypeSpec, DeviceSpec};
use clipsift::read::Partition;
use clipsift::write::Layout;
use clipsift::{Error, Result};

/// Curate image sets: CLIP embeddings, scores, semantic duplicates.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    before_help = "Example: clipsift curate photos/ --out run",
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Threads of the pool; all cores by default. Never changes a result.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Only errors and the final table.
    #[arg(long, global = true)]
    pub quiet: bool,
}

impl Common {
    pub(crate) fn start_threads(&self) -> Result<()> {
        let Some(threads) = self.threads else {
            return Ok(());
        };
        if threads == 0 {
            return Err(Error::usage("--threads 0: give at least 1"));
        }
        let built = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
        built.map_err(|e| Error::usage(format!("--threads {threads}: {e}")))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one decode pass: read, embed, score, find duplicates, write
    #[command(
        before_help = "Example: clipsift curate photos/ 'shards/{00000..00041}.tar' --out run"
    )]
    Curate(Box<CurateArgs>),
    /// Read, decode, embed, store
    #[command(
        before_help = "Example: clipsift embed photos/ --model openai/clip-vit-large-patch14 --out run"
    )]
    Embed(EmbedArgs),
    /// Heads over stored embeddings, no decoding
    #[command(before_help = "Example: clipsift score run --aesthetic --head mine=head.safetensors")]
    Score(ScoreArgs),
    /// Duplicates over stored embeddings; several runs count as one set
    #[command(before_help = "Example: clipsift dedup part1 part2 part3 --out all --eps 0.03")]
    Dedup(DedupArgs),
    /// New thresholds, nothing recomputed
    #[command(before_help = "Example: clipsift filter run --min aesthetic=5 --max nsfw=0.5")]
    Filter(FilterArgs),
    /// The curated set from the decisions
    #[command(before_help = "Example: clipsift write run --to curated --write tar")]
    Write(WriteArgs),
    /// A self-contained page about a run: RUN/report.html
    #[command(before_help = "Example: clipsift report run")]
    Report(ReportArgs),
    /// Every op on this device against its CPU twin and plain loops, one table
    #[command(before_help = "Example: clipsift verify --device cuda")]
    Verify(VerifyArgs),
    /// What each stage does a second here, and how much of this device's own peak that is
    #[command(before_help = "Example: clipsift bench --device cuda --json > bench.json")]
    Bench(BenchArgs),
    /// Known models and heads
    #[command(before_help = "Example: clipsift models list")]
    Models(ModelsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CurateArgs {
    #[command(flatten)]
    pub embed: EmbedArgs,
    #[command(flatten)]
    pub heads: HeadFlags,
    #[command(flatten)]
    pub bounds: BoundFlags,
    #[command(flatten)]
    pub dedup: DedupFlags,
    #[command(flatten)]
    pub write: WriteFlags,
    /// Do not make RUN/report.html at the end
    #[arg(long)]
    pub no_report: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    /// Folders, images, WebDataset tars (brace ranges expand), parquets, .txt lists of paths, or - for a list on stdin
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<String>,
    /// The run directory
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// builtin (embedded; near-duplicates only), a folder in Hugging Face layout, or a hub id
    #[arg(long, default_value = "builtin", value_name = "MODEL")]
    pub model: String,
    /// Branch, tag or commit of a hub model
    #[arg(long)]
    pub revision: Option<String>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
    /// auto, f32, f16, bf16 or int8; auto is f32 on a CPU, f16 on CUDA
    #[arg(long, default_value = "auto")]
    pub dtype: DTypeSpec,
    /// Images a batch; the model's choice by default
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Samples a part, the unit of work, of resume and of memory
    #[arg(long, default_value_t = clipsift::pipeline::PART_SIZE, value_name = "N")]
    pub part_size: usize,
    /// Only the I-th of N slices of the shards or files; curate then stops after the scores
    #[arg(long, value_name = "I/N")]
    pub partition: Option<Partition>,
    /// The column of a parquet input that names its samples
    #[arg(long, value_name = "COLUMN")]
    pub id_column: Option<String>,
    /// Decode large JPEGs at 1/2, 1/4 or 1/8 of their size: faster from some megapixels on, other pixels (README has what it costs)
    #[arg(long)]
    pub scaled_decode: bool,
    /// Replace an earlier run of another request in --out
    #[arg(long)]
    pub overwrite: bool,
    /// Exit with 1 when any sample is bad
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Run directories, or embeddings made by others: .npy and .parquet files, together one set
    #[arg(required = true, value_name = "RUN|EMB")]
    pub runs: Vec<PathBuf>,
    /// The run directory that is made of embeddings by others
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Where rows are scored: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
    #[command(flatten)]
    pub heads: HeadFlags,
    #[command(flatten)]
    pub bounds: BoundFlags,
    #[command(flatten)]
    pub import: ImportFlags,
}

#[derive(Debug, Args)]
pub(crate) struct DedupArgs {
    /// Run directories, or embeddings made by others: .npy and .parquet files, together one set
    #[arg(required = true, value_name = "RUN|EMB")]
    pub runs: Vec<PathBuf>,
    /// Where the decisions over several runs go, or the run directory that is made of embeddings by others
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Where rows are compared: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
    /// Only print what each of these eps would remove, from the pairs that a run has stored
    #[arg(long, value_name = "X,Y,...", value_delimiter = ',')]
    pub sweep: Vec<f64>,
    #[command(flatten)]
    pub dedup: DedupFlags,
    #[command(flatten)]
    pub bounds: BoundFlags,
    #[command(flatten)]
    pub import: ImportFlags,
}

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

#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// The run directory
    pub run: PathBuf,
    #[command(flatten)]
    pub bounds: BoundFlags,
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// The run directory
    pub run: PathBuf,
    /// Where the set goes; RUN/curated by default
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    #[command(flatten)]
    pub write: WriteFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The run directory
    pub run: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceSpec,
    /// auto, f32, f16, bf16 or int8; auto is f32 on a CPU
    #[arg(long, default_value = "auto")]
    pub dtype: DTypeSpec,
    /// Only these stages: read, decode, resize, upload, tower, heads, kmeans, pairs, write
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub stages: Option<Vec<String>>,
    /// Towers: builtin, a folder, a hub id, or a shape with random weights (vit-b-32, vit-b-16, vit-l-14, vit-h-14)
    #[arg(long = "model", value_name = "MODEL,...", value_delimiter = ',')]
    pub models: Option<Vec<String>>,
    /// Images a batch; every tower is measured at each of these
    #[arg(long = "batch-size", value_name = "N,...", value_delimiter = ',')]
    pub batch_sizes: Option<Vec<usize>>,
    /// Rows for heads, k-means and pairs
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Dims of these rows
    #[arg(long, value_name = "D")]
    pub dims: Option<usize>,
    /// Clusters of these rows
    #[arg(long, value_name = "K")]
    pub clusters: Option<usize>,
    /// Pictures for read, decode, resize and write
    #[arg(long, value_name = "N")]
    pub pictures: Option<usize>,
    /// How long a figure is repeated
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub seconds: f64,
    /// One JSON object on stdout instead of the table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Known models and heads
    List,
    /// Load a model (a folder, a hub id, builtin) or a head file and say what it is
    Check {
        /// What to load
        spec: String,
    },
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

/// Bounds on scores; read in the order typed by [`super::flags::Thresholds`].
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
    /// Pairs are stored down to cosine 1 - X; 4 x eps by default
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
