//! Sums of rows by label, the update step of k-means; bytes are those of the rows.
#![allow(missing_docs)]

mod common;

use clipsift::ops::accumulate::{Groups, accumulate};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn sums_by_label(c: &mut Criterion) {
    let (n, d) = (50_000, 512);
    let rows = common::unit_rows(n, d);
    let mut group = c.benchmark_group("accumulate");
    for k in [10usize, 1000] {
        let labels: Vec<u32> = (0..n).map(|row| (row * 7919 % k) as u32).collect();
        let groups = Groups::new(&labels, k).unwrap();
        group
            .sample_size(10)
            .throughput(Throughput::Bytes(4 * (n * d) as u64));
        group.bench_function(
            BenchmarkId::from_parameter(format!("{n}x{d}, k {k}")),
            |b| b.iter(|| accumulate(&rows, d, &groups).unwrap()),
        );
    }
}

criterion_group!(benches, sums_by_label);
criterion_main!(benches);
