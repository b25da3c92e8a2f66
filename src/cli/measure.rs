//! The commands that are about this build and this machine: are its numbers right, and how fast is it.

use std::io::Write;
use std::process::ExitCode;

use clipsift::device::DTypeSpec;
use clipsift::{Device, Error, Result, bench, verify};
use serde_json::{Value, json};

use super::args::{BenchArgs, VerifyArgs};

pub(crate) fn verify(args: &VerifyArgs, json: bool) -> Result<ExitCode> {
    let device = Device::open(args.device, DTypeSpec::Auto)?;
    if !json {
        out!("device {}\n{}", device.kind(), verify::HEADING);
    }
    // Line by line: a table that stops shows where.
    let checks = verify::verify(&device, |check| match json {
        true => eprintln!("{check}"),
        false => out!("{check}"),
    })?;
    let missed = checks.iter().filter(|check| !check.passed()).count();
    if json {
        let checks: Vec<Value> = checks.iter().map(check_to_json).collect();
        out!(
            "{}",
            json!({"device": device.kind(), "missed": missed, "checks": checks})
        );
    }
    if missed > 0 {
        eprintln!(
            "clipsift: {missed} of {} checks missed their bound; do not trust results of this build on this device",
            checks.len()
        );
        return Ok(ExitCode::from(1));
    }
    if !json {
        out!("all {} checks passed", checks.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn check_to_json(check: &verify::Check) -> Value {
    json!({
        "op": check.op,
        "dtype": check.dtype,
        "cases": check.cases,
        "from_plain": check.from_plain,
        "from_twin": check.from_twin,
        "bound": check.bound,
        "passed": check.passed(),
        "miss": check.miss,
    })
}

pub(crate) fn bench(args: BenchArgs, json: bool) -> Result<ExitCode> {
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
    if !json {
        out!("{}", bench::HEADING);
    }
    let report = bench::bench(&request, &device, |stage| match json {
        true => eprintln!("{stage}"),
        false => out!("{stage}"),
    })?;
    let m = &report.machine;
    if json {
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
