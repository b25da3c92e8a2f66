//! Pixels to patches. Elements are pixels.
#![allow(missing_docs)]

mod common;

use candle_core::Tensor;
use clipsift::clip::config::Preprocess;
use clipsift::ops;
use common::BenchDevice;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn patchify(c: &mut Criterion) {
    for device in common::devices() {
        for (n, p) in [(16, 32), (16, 14)] {
            let s = 224;
            let pixels =
                Tensor::zeros((n, s, s, 3), candle_core::DType::U8, device.candle()).unwrap();
            let norm = Preprocess::openai(s).norm;
            let mut group = c.benchmark_group(device.label("patchify"));
            group
                .sample_size(10)
                .throughput(Throughput::Elements((n * s * s) as u64));
            group.bench_function(
                BenchmarkId::from_parameter(format!("{n}x{s}, p {p}")),
                |b| {
                    let mut spare = None;
                    b.iter(|| {
                        let out = ops::patchify(&pixels, p, &norm, device.dtype(), spare.take());
                        spare = Some(out.unwrap());
                        device.sync();
                    })
                },
            );
        }
    }
}

criterion_group!(benches, patchify);
criterion_main!(benches);
