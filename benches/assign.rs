//! The assignment step of k-means. Elements are distances; at d values each is 2 d operations.
#![allow(missing_docs)]

mod common;

use clipsift::ops::assign::assign;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn nearest_centroids(c: &mut Criterion) {
    let (n, d) = (20_000, 512);
    let rows = common::unit_rows(n, d);
    let mut group = c.benchmark_group("assign");
    for k in [10usize, 100, 1000] {
        group
            .sample_size(10)
            .throughput(Throughput::Elements((n * k) as u64));
        group.bench_function(
            BenchmarkId::from_parameter(format!("{n}x{d}, k {k}")),
            |b| b.iter(|| assign(&rows, d, &rows[..k * d]).unwrap()),
        );
    }
}

criterion_group!(benches, nearest_centroids);
criterion_main!(benches);
