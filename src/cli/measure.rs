//! The commands that are about this build and this machine: are its numbers right, and how fast is it.

use std::io::Write;
use std::process::ExitCode;

use clipsift::device::DTypeSpec;
use clipsift::{Device, Error, Result, bench, verify};

use super::args::{BenchArgs, VerifyArgs};

pub(crate) fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let device = Device::open(args.device, DTypeSpec::Auto)?;
    out!("device {}\n{}", device.kind(), verify::HEADING);
    // Line by line: a table that stops shows where.
    let checks = verify::verify(&device, |check| out!("{check}"))?;
    let missed = checks.iter().filter(|check| !check.passed()).count();
    if missed > 0 {
        eprintln!(
            "clipsift: {missed} of {} checks missed their bound; do not trust results of this build on this device",
            checks.len()
        );
        return Ok(ExitCode::from(1));
    }
    out!("all {} checks passed", checks.len());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn bench(args: BenchArgs) -> Result<ExitCode> {
    let device = Device::open(args.device, args.dtype)?;
    let usual = bench::Request::for_device(&device);
    let request = bench::Request {
        stages: args.stages.unwrap_or(usual.stages),
        models: args.models.unwrap_or(usual.models),
        batch_sizes: args.batch_sizes.unwrap_or(usual.batch_sizes),
        rows: args.rows.unwrap_or(usual.rows),
        dims: args.dims.unwrap_or(usual.dims),
        clusters: args.clusters.unwrap_or(usual.clusters),
        pictures: args.pictures.unwrap_or(usual.pictures),
        seconds: args.seconds,
    };
    if !args.json {
        out!("{}", bench::HEADING);
    }
    let report = bench::bench(&request, &device, |stage| match args.json {
        true => eprintln!("{stage}"),
        false => out!("{stage}"),
    })?;
    let m = &report.machine;
    if args.json {
        let text = serde_json::to_string_pretty(&report);
        out!("{}", text.map_err(|e| Error::usage(e.to_string()))?);
    } else {
        out!(
            "\n{} with {} threads{}: matrix product {:.1} GFLOP/s in {}, copy {:.1} GB/s",
            m.cpu,
            m.cores,
            m.gpu
                .as_ref()
                .map_or(String::new(), |gpu| format!(", {gpu}")),
            m.gemm_flops / 1e9,
            m.dtype,
            m.copy_bytes_per_second / 1e9
        );
    }
    Ok(ExitCode::SUCCESS)
}
