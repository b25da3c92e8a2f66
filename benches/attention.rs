//! Attention of all heads, from the fused QKV product. Elements are pairs of tokens of a head.
#![allow(missing_docs)]

mod common;

use clipsift::ops;
use common::BenchDevice;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn attention(c: &mut Criterion) {
    for device in common::devices() {
        for (n, t, w, heads) in common::SIZES {
            let (qkv, bias) = (device.uniform(&[n, t, 3 * w]), device.uniform(&[3 * w]));
            let mut group = c.benchmark_group(device.label("attention"));
            group
                .sample_size(10)
                .throughput(Throughput::Elements((n * heads * t * t) as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{n}x{t}x{w}")), |b| {
                let mut spare = None;
                b.iter(|| {
                    spare = Some(ops::attention(&qkv, &bias, heads, spare.take()).unwrap());
                    device.sync();
                })
            });
        }
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
