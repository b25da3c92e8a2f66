//! Heads, k-means and pairs over unit rows.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{DType, Device as Candle, Tensor};
use half::f16;
use rayon::prelude::*;
use serde_json::json;

use super::{Bench, Stage, machine, median, params};
use crate::clip::random::uniform;
use crate::clip::weights::Weights;
use crate::dedup::exact::{ExactPairs, Params as ExactParams};
use crate::dedup::kmeans::{Init, KMeans, Params as KMeansParams, Step};
use crate::dedup::on_device::OnDevice;
use crate::error::Result;
use crate::heads::{Head, Scorer};
use crate::ops;
use crate::ops::cuda::{CudaBackend, DeviceMatrix};

/// Iterations of k-means that are timed, after one that is not.
const ITERATIONS: usize = 5;

pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    if !["heads", "kmeans", "pairs"]
        .iter()
        .any(|stage| bench.wants(stage))
    {
        return Ok(());
    }
    let (n, d) = (bench.request.rows, bench.request.dims);
    let mut rows = clustered_rows(n, d, bench.request.clusters);
    if bench.device.dtype() == DType::F16 {
        // As a tower of this precision stores them.
        rows.par_iter_mut()
            .for_each(|x| *x = f16::from_f32(*x).to_f32());
    }
    let matrix = match bench.device.candle().is_cuda() {
        true => Some(DeviceMatrix::from_rows(
            CudaBackend::of(bench.device.candle())?,
            &rows,
            d,
        )?),
        false => None,
    };
    let device = matrix.as_ref().map(OnDevice::Resident);
    if bench.wants("heads") {
        heads(bench, &rows, d)?;
    }
    if bench.wants("kmeans") {
        kmeans(bench, &rows, d, device)?;
    }
    if bench.wants("pairs") {
        pairs(bench, &rows, d, device)?;
    }
    Ok(())
}

/// Unit rows around k directions, one in a hundred a near-copy of the row before it.
fn clustered_rows(n: usize, d: usize, k: usize) -> Vec<f32> {
    let directions = uniform(41, 0, k * d);
    let mut rows = uniform(41, 1, n * d);
    rows.par_chunks_exact_mut(d)
        .enumerate()
        .for_each(|(row, x)| {
            let (centre, spread) = if row % 100 == 99 {
                (row - 1, 0.1)
            } else {
                (row, 0.8)
            };
            let direction = &directions[(centre * 7919 % k) * d..][..d];
            x.iter_mut()
                .zip(direction)
                .for_each(|(x, c)| *x = c + spread * *x);
        });
    // The near-copies: the row before it, plus a little of what it was.
    for row in (99..n).step_by(100) {
        let (before, here) = rows.split_at_mut(row * d);
        let original = &before[(row - 1) * d..];
        here[..d]
            .iter_mut()
            .zip(original)
            .for_each(|(x, o)| *x = o + 0.05 * *x);
    }
    ops::normalize_rows(&mut rows, d);
    rows
}

/// The layer sizes of LAION's improved aesthetic predictor.
const HEAD: [usize; 5] = [1024, 128, 64, 16, 1];

fn heads(bench: &mut Bench, rows: &[f32], d: usize) -> Result<()> {
    let mut tensors = HashMap::new();
    let mut flop = 0;
    let mut inner = d;
    for (layer, out) in HEAD.into_iter().enumerate() {
        let mut values = uniform(43, layer as u64, out * inner);
        values
            .iter_mut()
            .for_each(|x| *x *= (3.0 / inner as f32).sqrt());
        let weight = Tensor::from_vec(values, (out, inner), &Candle::Cpu)?;
        tensors.insert(format!("layers.{layer}.weight"), weight);
        let bias = Tensor::from_vec(uniform(44, layer as u64, out), out, &Candle::Cpu)?;
        tensors.insert(format!("layers.{layer}.bias"), bias);
        flop += 2 * inner * out;
        inner = out;
    }
    let head = Head::from_weights(&Weights::from_tensors("random head", tensors))?;
    let n = (rows.len() / d).min(16_384);
    let rows = &rows[..n * d];
    let on_device =
        Tensor::from_slice(rows, (n, d), &Candle::Cpu)?.to_device(bench.device.candle())?;
    let (seconds, peak_bytes) = bench.time(|| {
        let scores = match on_device.device().is_cuda() {
            true => head.score_on_device(&on_device)?,
            false => Some(head.score(rows, d)?),
        };
        std::hint::black_box(scores);
        Ok(())
    })?;
    (bench.take)(Stage {
        name: "heads",
        value: n as f64 / seconds,
        unit: "rows/s",
        higher_is_better: true,
        params: params(&[("rows", json!(n)), ("d", json!(d)), ("layers", json!(HEAD))]),
        fraction_of_peak: Some(n as f64 * flop as f64 / seconds / bench.machine.gemm_flops),
        peak_bytes,
    });
    Ok(())
}

fn kmeans(bench: &mut Bench, rows: &[f32], d: usize, device: Option<OnDevice>) -> Result<()> {
    let k = bench.request.clusters;
    let n = rows.len() / d;
    let first: Vec<f32> = (0..k)
        .flat_map(|j| rows[(j * n / k) * d..][..d].to_vec())
        .collect();
    let params_ = KMeansParams {
        init: Init::Given(first),
        max_iterations: ITERATIONS + 1,
        tolerance: 0.0,
        ..KMeansParams::default()
    };
    machine::forget_peak();
    let mut times = Vec::new();
    let mut inertia = 0.0;
    KMeans::fit_on(rows, d, &params_, device, |step| {
        if let Step::Iterated(progress) = step {
            times.push(Instant::now());
            inertia = progress.inertia;
        }
        Ok(())
    })?;
    let spans: Vec<f64> = times
        .windows(2)
        .map(|t| (t[1] - t[0]).as_secs_f64())
        .collect();
    if spans.is_empty() {
        return Ok(());
    }
    let seconds = median(spans);
    let flop = 2.0 * n as f64 * k as f64 * d as f64;
    (bench.take)(Stage {
        name: "kmeans",
        value: 1000.0 * seconds,
        unit: "ms/iteration",
        higher_is_better: false,
        params: params(&[
            ("rows", json!(n)),
            ("d", json!(d)),
            ("k", json!(k)),
            ("inertia", json!(inertia)),
        ]),
        fraction_of_peak: Some(flop / seconds / bench.machine.gemm_flops),
        peak_bytes: machine::peak_bytes(),
    });
    Ok(())
}

fn pairs(bench: &mut Bench, rows: &[f32], d: usize, device: Option<OnDevice>) -> Result<()> {
    let n = rows.len() / d;
    let mut search = ExactPairs::new(rows, d, ExactParams::default())?;
    if let Some(device) = device {
        search = search.on_device(device)?;
    }
    machine::forget_peak();
    let start = Instant::now();
    let mut found = 0;
    search.for_each(|pairs| {
        found += pairs.len();
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    // Two operations for each of the d products of n² / 2 pairs.
    let flop = (n as f64).powi(2) * d as f64;
    (bench.take)(Stage {
        name: "pairs",
        value: seconds,
        unit: "s",
        higher_is_better: false,
        params: params(&[
            ("rows", json!(n)),
            ("d", json!(d)),
            ("cosine_from", json!(1.0 - ExactParams::default().floor)),
            ("found", json!(found)),
        ]),
        fraction_of_peak: Some(flop / seconds / bench.machine.gemm_flops),
        peak_bytes: machine::peak_bytes(),
    });
    Ok(())
}
