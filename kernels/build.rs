//! Compiles `kernels/*.cu` for the feature `cuda`; without it there is nothing to do.
//!
//! Each file becomes a fat binary in `OUT_DIR`: machine code for compute capability 8.0, 9.0 and the one asked for, and PTX of
//! 8.0 that the driver compiles for whatever comes later. `kernels.rs` there lists them for `src/ops/cuda`, with what the
//! compiler said of registers, shared memory and spills.
//!
//! The capability asked for is `CUDA_COMPUTE_CAP`, else the card's as `nvidia-smi` has it, else 80. candle's own kernels are
//! compiled for it alone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// Machine code for these is always made: no waiting for the driver's compiler on the common data-centre cards.
const ALWAYS: [u32; 2] = [80, 90];

fn main() {
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        println!("cargo:rerun-if-changed=kernels/build.rs");
        return;
    }
    println!("cargo:rerun-if-changed=kernels");
    for variable in [
        "CUDA_COMPUTE_CAP",
        "NVCC",
        "NVCC_CCBIN",
        "CUDA_HOME",
        "CUDA_PATH",
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Err(message) = compile() {
        for line in message.lines() {
            println!("cargo:warning={line}");
        }
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn compile() -> Result<(), String> {
    let out =
        PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; run this through cargo")?);
    let nvcc = find_nvcc()?;
    let asked = asked_capability()?;
    if asked < 80 {
        return Err(format!(
            "the kernels use instructions of compute capability 8.0 and later; CUDA_COMPUTE_CAP or the card asks for {}.{}",
            asked / 10,
            asked % 10
        ));
    }
    let mut code: Vec<u32> = ALWAYS.into_iter().chain([asked]).collect();
    code.sort_unstable();
    code.dedup();

    let sources = sources()?;
    // One nvcc a file; each runs its own compilers one after the other.
    let compiled: Vec<Result<String, String>> = thread::scope(|scope| {
        let jobs: Vec<_> = sources
            .iter()
            .map(|source| scope.spawn(|| one(&nvcc, source, &code, &out)))
            .collect();
        jobs.into_iter()
            .map(|job| {
                job.join()
                    .unwrap_or_else(|_| Err("the compiler's thread panicked".into()))
            })
            .collect()
    });
    let release = release(&nvcc)?;
    let mut resources = String::new();
    for result in compiled {
        resources += &result?;
    }
    fs::write(
        out.join("kernels.rs"),
        listing(&sources, &code, asked, release, &resources),
    )
    .map_err(|e| format!("cannot write kernels.rs: {e}"))
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let list = fs::read_dir("kernels").map_err(|e| format!("cannot list kernels/: {e}"))?;
    let mut sources: Vec<PathBuf> = list
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    Ok(sources)
}

/// In candle's order, so that both builds use one compiler.
fn find_nvcc() -> Result<PathBuf, String> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let on_path = env::var_os("PATH").into_iter().flat_map(|path| {
        env::split_paths(&path)
            .map(|dir| dir.join("nvcc"))
            .collect::<Vec<_>>()
    });
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"].map(PathBuf::from);
    variable("NVCC")
        .into_iter()
        .chain(on_path)
        .chain(homes.chain(usual).map(|home| home.join("bin/nvcc")))
        .find(|nvcc| nvcc.is_file())
        .ok_or_else(|| {
            "the feature `cuda` needs nvcc, CUDA's compiler, and there is none: run scripts/cuda-toolkit.sh, which fetches it \
             without root, or install CUDA 13; then build again"
                .into()
        })
}

/// `Cuda compilation tools, release 13.0, V13.0.88` -> 13, 0.
fn release(nvcc: &Path) -> Result<(u32, u32), String> {
    let output = Command::new(nvcc).arg("--version").output();
    output
        .ok()
        .and_then(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let (major, minor) = text
                .split("release ")
                .nth(1)?
                .split(',')
                .next()?
                .split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })
        .ok_or_else(|| format!("{} --version does not say a release", nvcc.display()))
}

/// Ten times the compute capability.
fn asked_capability() -> Result<u32, String> {
    if let Ok(text) = env::var("CUDA_COMPUTE_CAP") {
        return capability(&text)
            .ok_or_else(|| format!("CUDA_COMPUTE_CAP={text}: give a number such as 80, 89 or 90"));
    }
    let card = Command::new("nvidia-smi")
        .args(["--query-gpu=compute_cap", "--format=csv,noheader"])
        .output();
    Ok(card
        .ok()
        .and_then(|output| capability(String::from_utf8_lossy(&output.stdout).lines().next()?))
        .unwrap_or(80))
}

/// `80`, `8.0`, `sm_90`, `90a` -> 80, 80, 90, 90.
fn capability(text: &str) -> Option<u32> {
    let text = text
        .trim()
        .trim_start_matches("sm_")
        .trim_end_matches(['a', 'f']);
    match text.split_once('.') {
        Some((major, minor)) => Some(major.parse::<u32>().ok()? * 10 + minor.parse::<u32>().ok()?),
        None => text.parse().ok(),
    }
}

/// Compiles one file; gives its lines of the table of resources.
fn one(nvcc: &Path, source: &Path, code: &[u32], out: &Path) -> Result<String, String> {
    let stem = stem(source);
    let mut command = Command::new(nvcc);
    command.args([
        "--fatbin",
        "-std=c++17",
        "-O3",
        "-lineinfo",
        "-Xptxas=-v",
        "-I",
        "kernels",
    ]);
    for sm in code {
        command.arg(format!("-gencode=arch=compute_{sm},code=sm_{sm}"));
    }
    command.arg("-gencode=arch=compute_80,code=compute_80");
    if let Some(compiler) = env::var_os("NVCC_CCBIN") {
        command.arg("-ccbin").arg(compiler);
    }
    command
        .arg("-o")
        .arg(out.join(format!("{stem}.fatbin")))
        .arg(source);
    let output = command
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{} does not compile:\n{said}", source.display()));
    }
    Ok(resources(&stem, &said))
}

/// The lines of ptxas as a table: file, kernel, code, registers, shared bytes, stack bytes, bytes of spill stores and loads.
fn resources(stem: &str, said: &str) -> String {
    let mut table = String::new();
    let (mut kernel, mut code, mut memory) = ("", "", [0u64; 3]);
    for line in said.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            kernel = rest.split('\'').next().unwrap_or("");
            code = rest.rsplit('\'').nth(1).unwrap_or("");
        } else if line.contains("bytes spill stores") {
            memory = ["stack frame", "spill stores", "spill loads"]
                .map(|what| number_before(line, &format!(" bytes {what}")));
        } else if line.contains("Used") && line.contains("registers") {
            let (registers, shared) = (
                number_before(line, " registers"),
                number_before(line, " bytes smem"),
            );
            let [stack, stores, loads] = memory;
            let _ = writeln!(
                table,
                "{stem} {kernel} {code} {registers} {shared} {stack} {stores} {loads}"
            );
        }
    }
    table
}

fn number_before(line: &str, what: &str) -> u64 {
    line.split(what)
        .next()
        .filter(|before| before.len() < line.len())
        .and_then(|before| before.rsplit([' ', ',']).next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn listing(
    sources: &[PathBuf],
    code: &[u32],
    asked: u32,
    release: (u32, u32),
    resources: &str,
) -> String {
    let mut text = String::new();
    let (major, minor) = release;
    let _ = writeln!(text, "/// What this build has in it.");
    let _ = writeln!(
        text,
        "pub(super) const COMPILED: super::super::Compiled = super::super::Compiled {{"
    );
    let _ = writeln!(text, "    code: &{code:?},");
    let _ = writeln!(text, "    asked: {asked},");
    let _ = writeln!(text, "    toolkit: ({major}, {minor}),");
    let _ = writeln!(text, "    resources: {resources:?},");
    let _ = writeln!(text, "}};");
    let _ = writeln!(text, "/// Stem of the file, fat binary.");
    let _ = writeln!(text, "pub(super) static MODULES: &[(&str, &[u8])] = &[");
    for source in sources {
        let stem = stem(source);
        let _ = writeln!(
            text,
            "    ({stem:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.fatbin\"))),"
        );
    }
    let _ = writeln!(text, "];");
    text
}

fn stem(source: &Path) -> String {
    source
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default()
}
