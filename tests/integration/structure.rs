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
                ["lib", "main", "cli"].contains(&module.as_str()),
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

#[test]
fn unsafe_stays_in_its_rooms() {
    for (path, _, text) in sources() {
        let name = path.to_string_lossy().replace('\\', "/");
        let allowed =
            name.starts_with("ops/simd/") || name.starts_with("ops/cuda/") || name == "mmap.rs";
        let found = code(&text).find(|line| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe")
        });
        assert!(
            allowed || found.is_none(),
            "{name}: {}",
            found.unwrap_or_default().trim()
        );
    }
}
