//! The canonical dot product and squared distance, one pair of rows after another; bytes are those of both rows.
#![allow(missing_docs)]

mod common;

use clipsift::ops::dot::{cosine, squared_distance};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn canonical(c: &mut Criterion) {
    let mut group = c.benchmark_group("dot");
    for d in [512, 768] {
        let rows = common::unit_rows(64, d);
        let (x, y) = (&rows[..d], &rows[d..2 * d]);
        group.throughput(Throughput::Bytes(8 * d as u64));
        group.bench_function(BenchmarkId::new("cosine", d), |b| b.iter(|| cosine(x, y)));
        group.bench_function(BenchmarkId::new("squared_distance", d), |b| {
            b.iter(|| squared_distance(x, y))
        });
    }
}

criterion_group!(benches, canonical);
criterion_main!(benches);
