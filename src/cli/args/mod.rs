//! Every command and flag, as typed. Meanings that several commands share stand in one struct each.

mod groups;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use clipsift::device::{DTypeSpec, DeviceSpec};
use clipsift::read::Partition;
use clipsift::{Error, Result};

pub(crate) use groups::{
    BoundFlags, DedupFlags, DedupMode, HeadFlags, ImportFlags, Init, WriteFlags,
};

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
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// For programs: results as JSON on stdout, and what happens meanwhile as an object a line.
    #[arg(long, global = true)]
    pub json: bool,
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
    /// Known models and heads: list them, download them, check one
    #[command(before_help = "Example: clipsift models list")]
    Models(ModelsArgs),
    /// A completion script for a shell, on stdout
    #[command(
        before_help = "Example: clipsift completions bash > ~/.local/share/bash-completion/completions/clipsift"
    )]
    Completions(CompletionsArgs),
    /// Manual pages: one for each command into a folder, or the first one on stdout
    #[command(before_help = "Example: clipsift man ~/.local/share/man/man1")]
    Man(ManArgs),
}

impl Command {
    /// As it is typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Curate(_) => "curate",
            Command::Embed(_) => "embed",
            Command::Score(_) => "score",
            Command::Dedup(_) => "dedup",
            Command::Filter(_) => "filter",
            Command::Write(_) => "write",
            Command::Report(_) => "report",
            Command::Verify(_) => "verify",
            Command::Bench(_) => "bench",
            Command::Models(_) => "models",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }
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
    /// auto, f32, f16, bf16 or int8; auto is f32 on a CPU, f16 on CUDA. On a CPU bf16 needs AVX512-BF16 or AMX, int8 (CPUs alone) VNNI or
    /// AMX
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
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Known models and heads, and whether they are in the cache
    List,
    /// Download a model or head into the cache that --model and --head use; a broken download goes on where it stopped
    #[command(before_help = "Example: clipsift models pull openai/clip-vit-large-patch14")]
    Pull {
        /// A known name, or OWNER/NAME[:FILE] of a hub
        #[arg(value_name = "NAME|HUB-ID[:FILE]")]
        spec: String,
        /// Branch, tag or commit of a hub repository
        #[arg(long)]
        revision: Option<String>,
    },
    /// Say what a model or head is and whether it can be run here; exit 1 where it cannot
    #[command(before_help = "Example: clipsift models check models/my-clip")]
    Check {
        /// A model's folder, a head's .safetensors or .pth file, builtin, a known name or a hub id
        #[arg(value_name = "PATH")]
        spec: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where the pages go; it is made where it is not there
    pub dir: Option<PathBuf>,
}
