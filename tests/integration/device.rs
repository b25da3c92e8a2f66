//! Asking for a device: what a build without CUDA, or a machine without a card, says; and what the CUDA compiler said of the
//! kernels.

use clipsift::device::{Device, DeviceSpec};
use clipsift::ops::Precision;
use clipsift::ops::cuda;

use crate::common::{clipsift, command, data, fails};

/// Whether this machine has a card that this build can use.
fn has_card() -> bool {
    Device::open(DeviceSpec::Cuda(0), Default::default()).is_ok()
}

#[test]
fn a_build_without_cuda_says_how_to_get_one_before_anything_is_read() {
    if cuda::compiled().is_some() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let run = out.path().join("run");
    for device in ["cuda", "cuda:1"] {
        let line = format!(
            "curate {} --out {} --device {device}",
            data("gallery").display(),
            run.display()
        );
        let said = fails(2, &line);
        for part in [
            "this build has no CUDA support",
            "`cargo build --release --features cuda`",
            "README.md",
            "--device cpu",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        assert!(!run.exists(), "{line} left {}", run.display());
    }
}

#[test]
fn a_cuda_build_on_a_machine_without_a_card_says_what_is_missing() {
    if cuda::compiled().is_none() || has_card() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let line = format!(
        "curate {} --out {} --device cuda",
        data("gallery").display(),
        out.path().join("run").display()
    );
    let said = fails(2, &line);
    let known = [
        "no NVIDIA driver on this machine",
        "CLIPSIFT_CUDA_LIBRARIES",
        "no NVIDIA GPU",
        "driver does not start",
    ];
    assert!(known.iter().any(|part| said.contains(part)), "{said}");
}

#[test]
fn auto_falls_back_to_the_cpu_with_one_line_in_a_cuda_build_and_none_otherwise() {
    if has_card() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let run = out.path().join("run");
    let portraits = data("gallery/portraits");
    let output = clipsift([
        "embed".as_ref(),
        portraits.as_os_str(),
        "--out".as_ref(),
        run.as_os_str(),
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = said
        .lines()
        .filter(|line| line.starts_with("on the CPU: "))
        .count();
    assert_eq!(lines, usize::from(cuda::compiled().is_some()), "{said}");
}

#[test]
fn unknown_devices_and_precisions_that_the_processor_lacks_are_refused() {
    let run = |flags: &str| {
        format!(
            "embed {} --out /nowhere/run {flags}",
            data("gallery").display()
        )
    };
    for precision in [Precision::Bf16, Precision::Int8] {
        if !Precision::on_this_cpu().contains(&precision) {
            let name = precision.name();
            let message = fails(2, &run(&format!("--device cpu --dtype {name}")));
            let expected = format!("--dtype {name}: this processor has no");
            assert!(
                message.contains(&expected) && message.contains("use --dtype f32"),
                "{message}"
            );
        }
    }
    assert!(fails(2, &run("--dtype int4")).contains("give auto, f32, f16, bf16 or int8"));
    assert!(fails(2, &run("--device gpu")).contains("give auto, cpu, cuda or cuda:N"));
}

/// Prints the table with `--nocapture`; spilled registers make a kernel slow without a word, so none may.
#[test]
fn no_kernel_spills_registers() {
    let Some(compiled) = cuda::compiled() else {
        return;
    };
    println!(
        "{:<44} {:>6} {:>9} {:>12} {:>6} {:>7}",
        "kernel", "code", "registers", "static smem", "stack", "spills"
    );
    let mut spilled = Vec::new();
    let mut rows = 0;
    for line in compiled.resources.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [file, kernel, code, registers, shared, stack, stores, loads] = fields[..] else {
            panic!("not a line of the table: {line:?}");
        };
        let spills = stores.parse::<u64>().unwrap() + loads.parse::<u64>().unwrap();
        let name = format!("{file}::{kernel}");
        println!("{name:<44} {code:>6} {registers:>9} {shared:>12} {stack:>6} {spills:>7}");
        assert!(registers.parse::<u64>().unwrap() > 0, "{line}");
        if spills > 0 {
            spilled.push(format!("{name} for {code}: {spills} bytes"));
        }
        rows += 1;
    }
    assert!(rows > 0, "the build has no kernels");
    assert!(
        spilled.is_empty(),
        "registers spilled to memory: {spilled:?}"
    );
}

/// Libraries that stand in for the driver and cuBLAS, made by the C compiler: a driver that starts and has no card.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_driver_without_a_card_is_found_at_run_time_and_asked() {
    if cuda::compiled().is_none() || has_card() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("driver.c");
    let text = "int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }\n\
                int cuDeviceGetCount(int *count) { *count = 0; return 0; }\n";
    std::fs::write(&source, text).unwrap();
    for (soname, source) in [
        ("libcuda.so.1", source.as_os_str()),
        ("libcublas.so.13", "/dev/null".as_ref()),
        ("libcublasLt.so.13", "/dev/null".as_ref()),
    ] {
        let made = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-x", "c", "-o"])
            .arg(dir.path().join(soname))
            .arg(source)
            .status()
            .unwrap();
        assert!(made.success(), "{soname}");
    }
    let run = dir.path().join("run");
    let output = command()
        .env("CLIPSIFT_CUDA_LIBRARIES", dir.path())
        .args(["embed".as_ref(), data("gallery/portraits").as_os_str()])
        .args([
            "--out".as_ref(),
            run.as_os_str(),
            "--device".as_ref(),
            "cuda".as_ref(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("this machine has no NVIDIA GPU"), "{said}");
}
