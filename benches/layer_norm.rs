//! LayerNorm over rows. Bytes are those read and written.
#![allow(missing_docs)]

mod common;

use clipsift::ops::{self, LayerNorm};
use common::BenchDevice;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn layer_norm(c: &mut Criterion) {
    for device in common::devices() {
        for (n, t, w, _) in common::SIZES {
            let norm = LayerNorm {
                weight: device.uniform(&[w]),
                bias: device.uniform(&[w]),
                eps: 1e-5,
            };
            let stream = device.precision().stream(device.candle());
            let x = device.uniform(&[n, t, w]).to_dtype(stream).unwrap();
            let bytes = n * t * w * (stream.size_in_bytes() + device.dtype().size_in_bytes());
            let mut group = c.benchmark_group(device.label("layer_norm"));
            group
                .sample_size(10)
                .throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{}x{w}", n * t)), |b| {
                let mut spare = None;
                b.iter(|| {
                    spare = Some(ops::layer_norm(&x, &norm, spare.take()).unwrap());
                    device.sync();
                })
            });
        }
    }
}

criterion_group!(benches, layer_norm);
criterion_main!(benches);
