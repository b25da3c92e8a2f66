//! The house rules that a machine can hold: imports point down, `unsafe` stays in its rooms.

use std::path::{Path, PathBuf};

/// From the top down, as `src/lib.rs` has them.
const LEVELS: [&[&str]; 6] = [
    &["pipeline", "verify", "bench"],
    &["write", "report", "dedup"],
    &["read", "decode", "resize", "clip", "heads", "store"],
    &["ops", "device"],
    &["sample", "manifest"],
    &["atomic", "digest", "mmap", "error"],
];

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

/// Source files with the module of the crate that they belong to.
fn sources() -> Vec<(PathBuf, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = walkdir::WalkDir::new(&src)
        .into_iter()
        .map(|entry| entry.unwrap().into_path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let relative = path.strip_prefix(&src).unwrap().to_path_buf();
            let first = relative
                .components()
                .next()
                .unwrap()
                .as_os_str()
                .to_string_lossy()
                .into_owned();
            let module = first.trim_end_matches(".rs").to_string();
            (relative, module, std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// Lines of code, without comments and doc comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn imports_point_down_the_levels() {
    let mut seen = 0;
    for (path, module, text) in sources() {
        let Some(own) = level(&module) else {
            assert!(
                ["lib", "main", "cli", "fuzzing"].contains(&module.as_str()),
                "{} is on no level; add it to both lists",
                path.display()
            );
            continue;
        };
        for line in code(&text) {
            for import in line.split("crate::").skip(1) {
                let name: String = import
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if let Some(other) = level(&name) {
                    seen += 1;
                    assert!(
                        other >= own,
                        "{}: {module} reaches up to {name}: {}",
                        path.display(),
                        line.trim()
                    );
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were looked at");
}

/// Rust files below a folder of the repository, with their paths from the repository on.
fn files_below(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = walkdir::WalkDir::new(root.join(folder)).into_iter();
    let paths = files.map(|entry| entry.unwrap().into_path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_string_lossy();
            (
                name.replace('\\', "/"),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect()
}

/// The rooms of `unsafe`. Clippy's `undocumented_unsafe_blocks` asks for the reason at each.
const ROOMS: [&str; 4] = [
    "src/ops/simd/",
    "src/ops/cuda/",
    "src/mmap.rs",
    // Kernels that run on the CPU are called through their addresses.
    "tests/emulator/",
];

#[test]
fn unsafe_stays_in_its_rooms() {
    // Not in a word of this file itself.
    let word = ["un", "safe"].concat();
    let mut used = [false; ROOMS.len()];
    for folder in ["src", "tests", "benches", "fuzz/fuzz_targets", "kernels"] {
        for (name, text) in files_below(folder) {
            let found = code(&text).find(|line| {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                words.any(|w| w == word)
            });
            let room = ROOMS.iter().position(|room| name.starts_with(room));
            match (found, room) {
                (Some(_), Some(room)) => used[room] = true,
                (Some(line), None) => panic!("{name}: {}", line.trim()),
                (None, _) => {}
            }
        }
    }
    assert_eq!(used, [true; ROOMS.len()], "a room that nothing is in");
}
