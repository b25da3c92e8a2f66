//! What the fuzz targets of `fuzz/` call: hostile bytes, into the entry points that take bytes from outside, with what must hold
//! of whatever comes out. The tests call the same on every file of the corpus.
//!
//! A file's bytes go through a file, since that is what the readers read. Files that an input *names* (a list, a parquet's
//! paths) are looked at as always, but not loaded.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use tempfile::TempDir;

use crate::clip::config::{Preprocess, VisionConfig};
use crate::clip::weights::{Weights, parts_of};
use crate::decode::{Format, Limits, decode};
use crate::heads::{Head, Scorer};
use crate::read::embeddings::{Columns, Embeddings};
use crate::read::{Inputs, Options, expand_braces, read_matrix};
use crate::sample::{Blob, Sample};

/// Whether an input is worth keeping in the corpus: false where it is none of the target's.
pub type Keep = bool;

/// A target.
pub type Body = fn(&[u8]) -> Keep;

/// The targets by their names, which are those of the binaries in `fuzz/` and of the folders of the corpus.
pub const TARGETS: [(&str, Body); 16] = [
    ("tar", tar),
    ("parquet", parquet),
    ("embeddings", embeddings),
    ("jpeg", |bytes| image(Format::Jpeg, bytes)),
    ("png", |bytes| image(Format::Png, bytes)),
    ("webp", |bytes| image(Format::WebP, bytes)),
    ("gif", |bytes| image(Format::Gif, bytes)),
    ("bmp", |bytes| image(Format::Bmp, bytes)),
    ("tiff", |bytes| image(Format::Tiff, bytes)),
    ("safetensors", |bytes| weights("safetensors", bytes)),
    ("pickle", pickle),
    ("npy", npy),
    ("list", list),
    ("head_json", head_json),
    ("braces", braces),
    ("config", config),
];

/// Runs a target.
///
/// # Panics
/// For a name that is none, and where something does not hold: that is the finding.
pub fn run(target: &str, bytes: &[u8]) -> Keep {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    std::panic::catch_unwind(|| body(bytes)).unwrap_or_else(|panic| {
        LAST.with_borrow(|last| eprintln!("{last}"));
        std::panic::resume_unwind(panic)
    })
}

/// Before the first run of a fuzzer: panics that are caught are part of the design, as one of a decoder costs its sample.
/// libFuzzer's hook would end the process at each; without it only those that nobody catches do, and [`run`] says where.
pub fn quiet() {
    std::panic::set_hook(Box::new(|panic| {
        // Gone while a thread ends, which is none of a target's.
        let _ = LAST.try_with(|last| *last.borrow_mut() = panic.to_string());
    }));
}

/// Samples that are looked at. A row of a parquet may take less than a bit.
const MOST_SAMPLES: usize = 10_000;

/// The largest file of a sample that is loaded.
const MOST_BYTES: u64 = 1 << 20;

thread_local! {
    /// What the last panic said.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// The bytes as a file of that name, in a folder of this thread.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let folder = FOLDER.with(|folder| {
        let made = folder.get_or_init(|| tempfile::tempdir().unwrap());
        made.path().to_path_buf()
    });
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn spec(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

fn tar(bytes: &[u8]) -> Keep {
    samples(&file("x.tar", bytes), bytes.len());
    // A fuzzer does not guess checksums: the same with those of all blocks that look like headers put right.
    let mut mended = bytes.to_vec();
    for block in mended.as_chunks_mut::<512>().0 {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    if mended != bytes {
        samples(&file("x.tar", &mended), bytes.len());
    }
    true
}

fn parquet(bytes: &[u8]) -> Keep {
    samples(&file("x.parquet", bytes), bytes.len());
    true
}

fn list(bytes: &[u8]) -> Keep {
    samples(&file("x.txt", bytes), bytes.len());
    true
}

/// What holds of the samples of an input, whatever is in it.
fn samples(path: &Path, length: usize) {
    let Ok(inputs) = Inputs::open(&[spec(path)], &Options::default()) else {
        return;
    };
    assert_eq!(inputs.describe().len(), 1);
    let mut ids = HashSet::new();
    for sample in inputs.samples().take(MOST_SAMPLES) {
        assert!(ids.insert(sample.id.clone()), "{} comes twice", sample.id);
        assert!(!sample.id.contains(char::is_control), "{:?}", sample.id);
        if sample.problem.is_some() {
            assert!(sample.read(MOST_BYTES).is_err());
            continue;
        }
        load(&sample, length as u64);
    }
}

/// Loads what a good sample says is its own. A span of a tar is there, whole.
fn load(sample: &Sample, length: u64) {
    let sidecars = sample.sidecars.iter().map(|sidecar| &sidecar.blob);
    for blob in sidecars.chain([&sample.image]) {
        match blob {
            Blob::File(_) => {}
            Blob::Span {
                offset, length: n, ..
            } => {
                assert!(offset + n <= length, "{offset} + {n} of {length}");
                assert_eq!(blob.read(MOST_BYTES.max(length)).unwrap().len() as u64, *n);
            }
            Blob::Bytes(bytes) => {
                assert_eq!(blob.size(), Ok(bytes.len() as u64));
            }
        }
    }
}

fn embeddings(bytes: &[u8]) -> Keep {
    vectors(&file("x.parquet", bytes));
    true
}

fn npy(bytes: &[u8]) -> Keep {
    let path = file("x.npy", bytes);
    vectors(&path);
    if let Ok((n, d, values)) = read_matrix(&path) {
        assert_eq!(values.len(), n * d);
    }
    true
}

fn vectors(path: &Path) {
    let Ok(embeddings) = Embeddings::open(&[path.to_path_buf()], &Columns::default()) else {
        return;
    };
    let (mut rows, mut ids) = (0, HashSet::new());
    let all = embeddings.for_each(|row| {
        assert_eq!(row.values.len(), embeddings.dims());
        assert_eq!(row.number, rows);
        assert!(ids.insert(row.id));
        rows += 1;
        Ok(())
    });
    assert!(all.is_err() || rows == embeddings.rows());
}

/// Limits that a fuzzer can tell from none.
const LIMITS: Limits = Limits {
    max_pixels: 1 << 18,
    max_file_bytes: 1 << 20,
    max_memory: 1 << 23,
};

fn image(format: Format, bytes: &[u8]) -> Keep {
    if Format::of(bytes) != Some(format) {
        return false;
    }
    if let Ok(decoded) = decode(bytes, &LIMITS) {
        let image = decoded.image;
        let pixels = u64::from(image.width) * u64::from(image.height);
        assert!(pixels > 0 && pixels <= LIMITS.max_pixels, "{image:?}");
        assert_eq!(image.pixels.len() as u64, 3 * pixels, "{image:?}");
        assert_eq!(decoded.format, format);
    }
    true
}

/// A weights file: every tensor is what its shape says, and a head made of it scores.
fn weights(suffix: &str, bytes: &[u8]) -> Keep {
    let path = file(&format!("x.{suffix}"), bytes);
    if let Ok(weights) = Weights::open_file(&path) {
        for name in weights.names() {
            let shape = weights.shape(&name).unwrap();
            if let Ok(tensor) = weights.get(&name, &shape) {
                assert_eq!(tensor.dims(), shape);
                assert_eq!(tensor.dtype(), DType::F32);
                // No file is smaller than its values.
                assert!(tensor.elem_count() <= bytes.len(), "{shape:?}");
            }
        }
    }
    if let Ok(head) = Head::from_file(&path) {
        score(&head);
    }
    true
}

fn score(head: &Head) {
    let d = head.dims().unwrap();
    assert_eq!(head.score(&vec![0.5; 2 * d], d).unwrap().len(), 2);
}

/// The bytes as a `.pth`, and as the pickle of one that is otherwise whole.
fn pickle(bytes: &[u8]) -> Keep {
    weights("pth", bytes);
    let storage: Vec<u8> = (0..64u8).collect();
    weights(
        "pth",
        &zip(&[("x/data.pkl", bytes), ("x/data/0", &storage)]),
    );
    true
}

/// An archive of stored files, as `torch.save` makes it.
/// Layout: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let offset = archive.len() as u32;
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        about.extend(crc32(bytes).to_le_bytes());
        about.extend((bytes.len() as u32).to_le_bytes());
        about.extend((bytes.len() as u32).to_le_bytes());
        about.extend((name.len() as u16).to_le_bytes());
        about.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&about);
        archive.extend(name.as_bytes());
        archive.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&about);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = archive.len() as u32;
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend((files.len() as u16).to_le_bytes());
    archive.extend((files.len() as u16).to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// The bytes as the description of a head, beside tensors that fit and tensors that do not.
fn head_json(bytes: &[u8]) -> Keep {
    let path = file("x.json", bytes).with_extension("safetensors");
    let tensor = |values: usize, shape: &[usize]| {
        let values: Vec<f32> = (0..values).map(|i| 0.1 + i as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    if !path.exists() {
        let tensors = [
            ("bn.mean", tensor(8, &[8])),
            ("bn.variance", tensor(8, &[8])),
            ("fc1.weight", tensor(32, &[4, 8])),
            ("fc1.bias", tensor(4, &[4])),
            ("fc2.weight", tensor(4, &[1, 4])),
            ("weight", tensor(8, &[1, 8])),
            ("cube.weight", tensor(8, &[2, 2, 2])),
            ("none.weight", tensor(0, &[1, 0])),
        ];
        let tensors = tensors.map(|(name, tensor)| (name.to_string(), tensor));
        let tensors: std::collections::HashMap<_, _> = tensors.into_iter().collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
    }
    if let Ok(head) = Head::from_file(&path) {
        score(&head);
    }
    // The other readers of weights look for a description beside them.
    fs::remove_file(path.with_extension("json")).unwrap();
    fs::remove_file(path).unwrap();
    true
}

fn braces(bytes: &[u8]) -> Keep {
    let Ok(pattern) = std::str::from_utf8(bytes) else {
        return false;
    };
    if let Ok(names) = expand_braces(pattern) {
        assert!(!names.is_empty());
        if !pattern.contains('{') {
            assert_eq!(names, [pattern]);
        }
    }
    true
}

/// A model folder's JSON files, of which the bytes may be any.
fn config(bytes: &[u8]) -> Keep {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return false;
    };
    if let Ok(config) = VisionConfig::parse("x", json) {
        assert!(config.tokens() > 1 && config.flop() > 0);
    }
    if let Ok(preprocess) = Preprocess::parse("x", json, 224) {
        assert_eq!(preprocess.fit.edge(), 224);
    }
    let path = file("x.index.json", bytes);
    for part in parts_of("x", &path).unwrap_or_default() {
        assert_eq!(part.parent(), path.parent(), "{}", part.display());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files under a folder of the repository, at any depth.
    fn files(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = walkdir::WalkDir::new(folder).sort_by_file_name();
        let paths = entries.into_iter().map(|entry| entry.unwrap().into_path());
        paths.filter(|path| path.is_file()).collect()
    }

    #[test]
    fn every_file_of_the_corpus_goes_through_its_target() {
        for (name, body) in TARGETS {
            let corpus = files(&format!("fuzz/corpus/{name}"));
            assert!(!corpus.is_empty(), "{name} has no corpus");
            for path in corpus {
                // A panic here names the target in its trace; the file is this one.
                println!("{}", path.display());
                body(&fs::read(path).unwrap());
            }
        }
    }

    #[test]
    fn every_hostile_file_goes_through_every_target() {
        let hostile = files("tests/data/hostile");
        assert!(hostile.len() > 30);
        for path in hostile {
            let bytes = fs::read(&path).unwrap();
            for (name, body) in TARGETS {
                println!("{name}: {}", path.display());
                body(&bytes);
            }
        }
    }
}
