//! Prepared squares to stored rows, with random weights. Elements are images.
#![allow(missing_docs)]

mod common;

use candle_core::Tensor;
use clipsift::clip::config::{Preprocess, VisionConfig};
use clipsift::clip::random::random_weights;
use clipsift::clip::tower::VisionTower;
use common::BenchDevice;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn end_to_end(c: &mut Criterion) {
    for device in common::devices() {
        // ViT-B/32.
        let (n, config) = (16, VisionConfig::default());
        let weights = random_weights(&config, 1).unwrap();
        let tower = VisionTower::load(&config, &weights, device.candle(), device.precision());
        let tower = tower.unwrap();
        let s = config.image_size;
        let norm = Preprocess::openai(s).norm;
        let pixels = Tensor::zeros((n, s, s, 3), candle_core::DType::U8, device.candle()).unwrap();
        let mut group = c.benchmark_group(device.label("tower"));
        group
            .sample_size(10)
            .throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("vit-b-32", n), |b| {
            b.iter(|| {
                let rows = tower.forward(&pixels, &norm).unwrap();
                device.sync();
                rows
            })
        });
    }
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
