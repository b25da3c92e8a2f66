//! The linear layers of the tower with what is fused into them. Elements are multiplications with additions, of 2 operations each.
#![allow(missing_docs)]

mod common;

use clipsift::ops::{self, Activation, LayerNorm, Linear, Matrix};
use common::BenchDevice;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn linear(c: &mut Criterion) {
    for device in common::devices() {
        for (n, t, w, _) in common::SIZES {
            let matrix = |out: usize, depth: usize| {
                let values =
                    candle_core::Tensor::rand(-1f32, 1f32, (out, depth), &candle_core::Device::Cpu);
                Matrix::new(&values.unwrap(), device.candle(), device.precision()).unwrap()
            };
            let linear = |out: usize, depth: usize| Linear {
                weight: matrix(out, depth),
                bias: device.uniform(&[out]),
            };
            let norm = LayerNorm {
                weight: device.uniform(&[w]),
                bias: device.uniform(&[w]),
                eps: 1e-5,
            };
            let stream = device.precision().stream(device.candle());
            let (x, wide) = (device.uniform(&[n, t, w]), device.uniform(&[n, t, 4 * w]));
            let (qkv, up, down) = (matrix(3 * w, w), linear(4 * w, w), linear(w, 4 * w));
            let size = format!("{}x{w}", n * t);
            let mut group = c.benchmark_group(device.label("linear"));
            let operations =
                |out: usize, depth: usize| Throughput::Elements((n * t * out * depth) as u64);
            group.sample_size(10).throughput(operations(3 * w, w));
            group.bench_function(BenchmarkId::new("product", &size), |b| {
                let mut spare = None;
                b.iter(|| {
                    spare = Some(ops::product(&x, &qkv, spare.take()).unwrap());
                    device.sync();
                })
            });
            group.throughput(operations(4 * w, w));
            group.bench_function(BenchmarkId::new("linear_activation", &size), |b| {
                let mut spare = None;
                b.iter(|| {
                    let quick_gelu = Activation::QuickGelu;
                    let out = ops::linear_activation(&x, &up, quick_gelu, spare.take());
                    spare = Some(out.unwrap());
                    device.sync();
                })
            });
            group.bench_function(BenchmarkId::new("linear_add_norm", &size), |b| {
                let residual = device.uniform(&[n, t, w]).to_dtype(stream).unwrap();
                let (mut sum, mut spare) = (residual, None);
                b.iter(|| {
                    let out = ops::linear_add_norm(&wide, &down, sum.clone(), &norm, spare.take());
                    let (new, normed) = out.unwrap();
                    (sum, spare) = (new, Some(normed));
                    device.sync();
                })
            });
        }
    }
}

criterion_group!(benches, linear);
criterion_main!(benches);
