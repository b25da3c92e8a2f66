//! Rows to unit length. Elements are rows.
#![allow(missing_docs)]

mod common;

use clipsift::ops::normalize::normalize_tensor;
use common::BenchDevice;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn normalize(c: &mut Criterion) {
    for device in common::devices() {
        for (n, d) in [(4096, 512), (4096, 768)] {
            let rows = device.uniform(&[n, d]);
            let mut group = c.benchmark_group(device.label("normalize"));
            group
                .sample_size(10)
                .throughput(Throughput::Elements(n as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{n}x{d}")), |b| {
                b.iter(|| {
                    let done = normalize_tensor(&rows, candle_core::DType::F32).unwrap();
                    device.sync();
                    done
                })
            });
        }
    }
}

criterion_group!(benches, normalize);
criterion_main!(benches);
