//! Commands with faults at chosen moments: a library before the C library, compiled once.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::common::*;

/// The library. Like the kernels' tests it takes a C++ compiler.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // Kept: the processes that use it may outlive the test that asked first.
        let folder = tempfile::tempdir().unwrap().keep();
        let (out, source) = (
            folder.join("shim.so"),
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/faults/shim.cpp"),
        );
        let compiler = ["g++", "clang++"].into_iter().find(|name| {
            let version = Command::new(name).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        });
        let compiled = Command::new(compiler.expect("the tests of faults need g++ or clang++"))
            .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-o"])
            .arg(&out)
            .arg(source)
            .arg("-ldl")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{stderr}");
        out
    })
}

/// A command line whose files below `under` meet with the faults that its variables say.
pub(super) fn shimmed(line: &str, under: &Path) -> Command {
    let mut command = command();
    command
        .args(words(line))
        .env("LD_PRELOAD", library())
        .env("SHIM_UNDER", under);
    command
}

/// What an undisturbed run of a command line syncs, in order, and the bytes that it writes.
pub(super) fn course(line: &str, under: &Path) -> (Vec<String>, u64) {
    let notes = tempfile::tempdir().unwrap();
    let (log, used) = (notes.path().join("log"), notes.path().join("used"));
    let output = shimmed(line, under)
        .env("SHIM_LOG", &log)
        .env("SHIM_USED", &used)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let synced = std::fs::read_to_string(log).unwrap();
    let used = std::fs::read_to_string(used).unwrap();
    (
        synced.lines().map(String::from).collect(),
        used.trim().parse().unwrap(),
    )
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
