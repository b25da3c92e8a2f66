//! The machine and what it can do at most: its own matrix product and its own copy.

use std::time::Instant;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use crate::clip::random::uniform;
use crate::device::Device;
use crate::error::Result;
use crate::ops::cuda::CudaBackend;
use crate::ops::{self, Matrix};

/// Where figures come from.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Threads of the pool.
    pub cores: usize,
    /// The GPU's name, where one is used.
    pub gpu: Option<String>,
    /// The highest CUDA release that its driver runs.
    pub driver: Option<String>,
    /// Version of this crate.
    pub clipsift: &'static str,
    /// The device that was measured: cpu or cuda.
    pub device: &'static str,
    /// The precision of the tower and of the matrix product.
    pub dtype: &'static str,
    /// Floating-point operations a second of a large square matrix product, all cores or the whole GPU.
    pub gemm_flops: f64,
    /// Bytes a second, read and written, of a copy that no cache holds.
    pub copy_bytes_per_second: f64,
}

impl Machine {
    /// Looks, and measures the two peaks.
    pub(super) fn measure(device: &Device) -> Result<Machine> {
        let card = match device.candle().is_cuda() {
            true => Some(CudaBackend::of(device.candle())?),
            false => None,
        };
        Ok(Machine {
            cpu: cpu_name(),
            cores: rayon::current_num_threads(),
            gpu: card.map(CudaBackend::name),
            driver: card.map(|card| {
                let (major, minor) = card.driver();
                format!("CUDA {major}.{minor}")
            }),
            clipsift: env!("CARGO_PKG_VERSION"),
            device: device.kind(),
            dtype: device.precision().name(),
            gemm_flops: gemm(device)?,
            copy_bytes_per_second: copy(device)?,
        })
    }
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    name.and_then(|rest| rest.split_once(':'))
        .map_or(std::env::consts::ARCH.into(), |(_, name)| {
            name.trim().into()
        })
}

/// The best of several, since it stands for what is possible.
fn best_seconds(times: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..times {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn gemm(device: &Device) -> Result<f64> {
    let (edge, rounds) = if device.kind() == "cuda" {
        (8192, 20)
    } else {
        (1536, 1)
    };
    let matrix = |stream| {
        let values = uniform(11, stream, edge * edge);
        Tensor::from_vec(values, (edge, edge), &candle_core::Device::Cpu)
    };
    let a = matrix(0)?
        .to_dtype(device.dtype())?
        .to_device(device.candle())?;
    let b = Matrix::new(&matrix(1)?, device.candle(), device.precision())?;
    let mut out = None;
    let seconds = best_seconds(5, || {
        for _ in 0..rounds {
            out = Some(ops::product(&a, &b, out.take())?);
        }
        Ok(device.candle().synchronize()?)
    })?;
    Ok(rounds as f64 * 2.0 * (edge as f64).powi(3) / seconds)
}

fn copy(device: &Device) -> Result<f64> {
    if device.kind() == "cuda" {
        let bytes = 2usize << 30;
        let from = Tensor::zeros(bytes, DType::U8, device.candle())?;
        let seconds = best_seconds(10, || {
            from.copy()?;
            Ok(device.candle().synchronize()?)
        })?;
        return Ok(2.0 * bytes as f64 / seconds);
    }
    let from = vec![1u8; 256 << 20];
    let mut to = vec![0u8; from.len()];
    let seconds = best_seconds(5, || {
        let blocks = to.par_chunks_mut(1 << 20).zip(from.par_chunks(1 << 20));
        blocks.for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    })?;
    Ok(2.0 * from.len() as f64 / seconds)
}

/// Makes [`peak_bytes`] begin anew, where the system can.
pub(super) fn forget_peak() {
    // Linux only; elsewhere there is no peak to forget.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most resident memory since [`forget_peak`].
pub(super) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_memory_is_at_least_what_was_just_touched() {
        let block = vec![1u8; 32 << 20];
        assert!(peak_bytes().unwrap() > block.iter().map(|x| u64::from(*x)).sum());
    }
}
