//! Cosine tiles: all pairs above a threshold, and best matches among earlier rows. Elements are pairs of rows looked at; at d
//! values each is 2 d operations.
#![allow(missing_docs)]

mod common;

use clipsift::ops::rows::Rows;
use clipsift::ops::tile::{TILE, best_earlier, pairs_above};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::convert::Infallible;

fn tile(c: &mut Criterion) {
    for d in [512, 768] {
        for n in [1_000usize, 10_000] {
            let data = common::unit_rows(n, d);
            let rows = Rows::all(&data, d).unwrap();
            let mut group = c.benchmark_group("tile");
            group
                .sample_size(10)
                .throughput(Throughput::Elements((n * (n - 1) / 2) as u64));
            group.bench_function(BenchmarkId::new("pairs_above", format!("{n}x{d}")), |b| {
                b.iter(|| {
                    let mut found = 0;
                    let Ok(()) = pairs_above(rows, 0.92, TILE, |_, pairs| {
                        found += pairs.len();
                        Ok::<(), Infallible>(())
                    });
                    found
                })
            });
            group.bench_function(BenchmarkId::new("best_earlier", format!("{n}x{d}")), |b| {
                b.iter(|| best_earlier(rows, TILE))
            });
        }
    }
}

criterion_group!(benches, tile);
criterion_main!(benches);
