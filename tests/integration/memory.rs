//! What one image may cost: the command under a limit of address space.

use std::path::Path;
use std::process::Command;

use crate::common::*;

/// Curates one image in a process that may not map more than `limit` KiB.
fn curate_within(limit: u64, image: &Path, run: &Path) -> (bool, String) {
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {limit} && exec \"$@\""))
        .args(["sh", env!("CARGO_BIN_EXE_clipsift"), "curate"])
        .arg(image)
        .args(["--threads", "2", "--device", "cpu", "--out"])
        .arg(run)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// With its shortest edge at 224 the tall picture is 224 x 13,440,000: 9 GB as RGB. Only the 224 x 224 in the middle are used.
#[test]
#[cfg(target_os = "linux")]
fn a_picture_of_1_by_60000_costs_no_more_than_any_other() {
    let dir = tempfile::tempdir().unwrap();
    // The command takes some 25 MB, and maps less than 150.
    let limit = 1 << 20;
    for name in ["good.png", "tall-1x60000.png"] {
        let (image, run) = (data("hostile/images").join(name), dir.path().join(name));
        let (success, said) = curate_within(limit, &image, &run);
        assert!(success, "{name}: {said}");
        assert_eq!(samples(&run)[name], ("good".into(), String::new()));

        let (success, _) = curate_within(10 << 10, &image, &dir.path().join("limited"));
        assert!(!success, "the limit does not hold on this system");
    }
}
