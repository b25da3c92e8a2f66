//! What sets that do not fit in memory need: a scratch file instead of the matrix.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::{assert_same_tree, good, tree};
use crate::embeddings::write_npy;

/// Rows around directions that repeat every seven rows, a little apart from each other; some the same.
fn near_rows(n: usize, d: usize) -> Vec<f32> {
    let value = |row: usize, i: usize| {
        let direction = ((row % 7 * 31 + i * 17) % 23) as f32 - 11.0;
        let noise = ((row / 7 % 5 * 13 + i * 29) % 19) as f32 - 9.0;
        direction + 0.1 * noise
    };
    (0..n * d).map(|at| value(at / d, at % d)).collect()
}

fn stored(n: usize, d: usize) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.npy").display().to_string();
    write_npy(&rows, &[n as u64, d as u64], &near_rows(n, d));
    (dir, rows)
}

#[test]
fn a_matrix_in_a_scratch_file_gives_the_same_bytes_as_one_in_memory() {
    let (dir, rows) = stored(200, 16);
    let at = |name: &str| dir.path().join(name).display().to_string();
    for how in [
        "exact",
        "semantic --clusters 5",
        "semantic --clusters 5 --fit-fraction 0.5",
    ] {
        let (held, mapped) = (at("held"), at("mapped"));
        for (run, bytes) in [(&held, 200 * 16 * 4), (&mapped, 200 * 16 * 4 - 1)] {
            good(&format!(
                "dedup {rows} --out {run} --part-size 64 --dedup {how} --held {bytes}"
            ));
            // Another order makes the matches anew.
            good(&format!(
                "dedup {run} --dedup {how} --keep random --held {bytes}"
            ));
        }
        assert!(tree(Path::new(&held))["duplicates/removed.parquet"].len() > 500);
        // Nothing of the scratch file stays behind either.
        assert_same_tree(Path::new(&held), Path::new(&mapped));
        for run in [held, mapped] {
            std::fs::remove_dir_all(run).unwrap();
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_scratch_file_that_does_not_fit_is_an_error_with_its_size() {
    // Rows of zeros but one value: small as parts, 1 MiB as a matrix.
    let (n, d) = (1024, 256);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mut values = vec![0.0; n * d];
    (0..n).for_each(|row| values[row * d + row % d] = 1.0);
    write_npy(&at("rows.npy"), &[n as u64, d as u64], &values);
    good(&format!(
        "dedup {} --out {} --dedup off --part-size 64",
        at("rows.npy"),
        at("run")
    ));
    let before = tree(&dir.path().join("run"));
    // Writing beyond 512 KiB of a file fails as it does on a full disk.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ && ulimit -f 1024 && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_clipsift"))
        .args(["dedup", &at("run"), "--dedup", "exact", "--held", "0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a scratch file of 1 MiB for the embeddings"),
        "{said}"
    );
    assert!(tree(&dir.path().join("run")) == before);
}
