//! What the tests of the command share: running it, reading its tables, comparing folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use serde_json::Value;

/// A path under `tests/data`.
pub(crate) fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

/// The command, without a network: whoever asks a hub is told that it is offline.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipsift"));
    command
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("RUST_BACKTRACE");
    command
}

/// Runs it with words and paths.
pub(crate) fn clipsift<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    command().args(args).output().unwrap()
}

/// The words of a command line; a part in braces-free text is split at white space.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

/// Runs a line that must end well; gives stdout.
pub(crate) fn good(line: &str) -> String {
    let output = clipsift(words(line));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{line}\nended with {:?}\n{stderr}",
        output.status.code()
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a line that must fail with a code; gives stderr.
pub(crate) fn fails(code: i32, line: &str) -> String {
    let output = clipsift(words(line));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}\n{stderr}");
    stderr
}

/// A table.
pub(crate) fn table(path: impl AsRef<Path>) -> RecordBatch {
    clipsift::atomic::read_parquet(path).unwrap()
}

/// A column of texts; "" for null.
pub(crate) fn texts(table: &RecordBatch, name: &str) -> Vec<String> {
    let column = table.column_by_name(name).unwrap().as_string::<i32>();
    (0..column.len())
        .map(|i| {
            if column.is_null(i) {
                String::new()
            } else {
                column.value(i).to_string()
            }
        })
        .collect()
}

/// All parts of `samples/`: id -> (status, error).
pub(crate) fn samples(run: &Path) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for part in 0.. {
        let path = run.join(format!("samples/part-{part:05}.parquet"));
        if !path.is_file() {
            break;
        }
        let table = table(path);
        let rows = texts(&table, "id").into_iter().zip(
            texts(&table, "status")
                .into_iter()
                .zip(texts(&table, "error")),
        );
        all.extend(rows);
    }
    all
}

/// id -> (reason, duplicate_of).
pub(crate) fn decisions(run: &Path) -> BTreeMap<String, (String, String)> {
    let table = table(run.join("decisions.parquet"));
    let reasons = texts(&table, "reason")
        .into_iter()
        .zip(texts(&table, "duplicate_of"));
    texts(&table, "id").into_iter().zip(reasons).collect()
}

/// Every file below a folder with its bytes; of run.json the content without its times, of report.html without the line on this run.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.unwrap();
        if !entry.file_type().is_file() {
            continue;
        }
        let name = entry
            .path()
            .strip_prefix(root)
            .unwrap()
            .display()
            .to_string();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if name == "run.json" {
            let mut json: Value = serde_json::from_slice(&bytes).unwrap();
            json.as_object_mut().unwrap().remove("seconds");
            bytes = serde_json::to_vec_pretty(&json).unwrap();
        }
        if name == "report.html" {
            let page = String::from_utf8(bytes).unwrap();
            let mark = r#"<script type="application/json" id="this-run">"#;
            assert_eq!(
                page.lines().filter(|line| line.starts_with(mark)).count(),
                1
            );
            let lines = page.lines().filter(|line| !line.starts_with(mark));
            bytes = lines.collect::<Vec<_>>().join("\n").into_bytes();
        }
        files.insert(name, bytes);
    }
    files
}

/// That two folders hold the same files with the same bytes.
pub(crate) fn assert_same_tree(a: &Path, b: &Path) {
    let (left, right) = (tree(a), tree(b));
    let names = |tree: &BTreeMap<String, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&left),
        names(&right),
        "{} and {}",
        a.display(),
        b.display()
    );
    for (name, bytes) in &left {
        if *bytes != right[name] {
            let text = |bytes: &[u8]| {
                String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned()
            };
            panic!(
                "{name} differs between {} and {}:\n{}\n{}",
                a.display(),
                b.display(),
                text(bytes),
                text(&right[name])
            );
        }
    }
}

/// A tar of the given files under the names given, as `tar` would write it.
pub(crate) fn pack(path: &Path, members: &[(String, PathBuf)]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, file) in members {
        let bytes = std::fs::read(file).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.finish().unwrap();
}

/// The gallery's good files in order, and shards of `size` samples made of them in `dir`.
pub(crate) fn gallery_shards(dir: &Path, size: usize) -> Vec<PathBuf> {
    let root = data("gallery");
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(&root)
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| {
            path.is_file() && !path.extension().is_some_and(|e| e == "txt" || e == "json")
        })
        .collect();
    files.sort();
    let shards = files.chunks(size).enumerate().map(|(i, files)| {
        let path = dir.join(format!("{i:05}.tar"));
        let members: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(n, file)| {
                (
                    format!(
                        "{i:03}{n:04}.{}",
                        file.extension().unwrap().to_string_lossy()
                    ),
                    file.clone(),
                )
            })
            .collect();
        pack(&path, &members);
        path
    });
    shards.collect()
}

/// A linear head over the embedded tower's 320 dims.
pub(crate) fn head_for_builtin(dir: &Path) -> String {
    let d = 320;
    let weight: Vec<f32> = (0..d)
        .map(|i| ((i * 37 % 19) as f32 - 9.0) / 30.0)
        .collect();
    let tensors = std::collections::HashMap::from([
        (
            "weight".to_string(),
            candle_core::Tensor::from_vec(weight, (1, d), &candle_core::Device::Cpu).unwrap(),
        ),
        (
            "bias".to_string(),
            candle_core::Tensor::zeros(1, candle_core::DType::F32, &candle_core::Device::Cpu)
                .unwrap(),
        ),
    ]);
    let path = dir.join("mine.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path.display().to_string()
}
