//! accumulate.cu against its CPU twin, to the bit, and against f64.

use candle_core::DType;
use clipsift::ops::accumulate::{Groups, accumulate};
use clipsift::ops::cuda::Backend;
use clipsift::ops::cuda::accumulate::{Accumulator, Rows};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::numbers::{Number, noise, odd_sizes, rounded};
use super::{Emulator, Placement, both_ways, cases};

/// Labels with a few crowded and many empty ones.
fn labels(n: usize, k: usize) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut draw = || random.random_range(0..k as u32);
    (0..n).map(|_| draw().min(draw())).collect()
}

fn check<T: Number>(emulator: &Emulator, n: usize, d: usize, k: usize, stride: usize) {
    let x = rounded::<T>(&noise(n * stride, 3));
    let labels = labels(n, k);
    let (dx, dl) = (emulator.buffer(&x), emulator.buffer(&labels));
    let (sums, counts) = (emulator.empty::<f64>(k * d), emulator.empty::<i64>(k));
    let rows = Rows {
        x: emulator.address(&dx),
        dtype: T::DTYPE,
        stride,
        labels: emulator.address(&dl),
    };
    let mut accumulator = Accumulator::new(emulator, n, d, k).unwrap();
    let what = format!("{}, n {n}, d {d}, k {k}, stride {stride}", T::NAME);
    let dense: Vec<f32> = x
        .chunks(stride)
        .flat_map(|row| row[..d].iter().map(|x| x.load()))
        .collect();
    let groups = Groups::new(&labels, k).unwrap();
    let expected = accumulate(&dense, d, &groups).unwrap();
    // Twice: the scratch memory of the first run must not matter to the second.
    for _ in 0..2 {
        accumulator
            .run(
                emulator,
                &rows,
                emulator.address(&sums),
                emulator.address(&counts),
            )
            .unwrap();
        let got = emulator.elements::<f64>(&sums);
        let differs = (0..k * d).find(|i| got[*i].to_bits() != expected[*i].to_bits());
        assert_eq!(differs.map(|i| (i, got[i], expected[i])), None, "{what}");
        let sizes: Vec<i64> = (0..k)
            .map(|label| groups.rows_of(label).len() as i64)
            .collect();
        assert_eq!(emulator.elements::<i64>(&counts), sizes, "{what}");
    }
    cases::record(
        &format!("label_sums_{}", T::NAME),
        T::NAME,
        format!("n {n}, d {d}, k {k}, stride {stride}"),
    );
    for kernel in [
        "label_ranks",
        "scan_sums",
        "scan_totals",
        "scan_places",
        "sort_rows",
    ] {
        cases::record(kernel, "u32", format!("n {n}, k {k}"));
    }
}

#[test]
fn sums_by_label_on_the_device_have_the_bits_of_the_cpu() {
    cases::family("accumulate", || {
        both_ways(|emulator| {
            // Rows that are read in packs, with and without a gap between them; a gap between others.
            let more = [
                (33, 8, 257, 8),
                (300, 64, 31, 64),
                (1024, 16, 7, 24),
                (257, 31, 3, 40),
                (2100, 5, 1025, 5),
                (1100, 3, 9000, 3),
            ];
            for (n, d, k, stride) in odd_sizes().map(|(n, d, k)| (n, d, k, d)).chain(more) {
                if !emulator.takes(n * d) {
                    continue;
                }
                check::<f32>(emulator, n, d, k, stride);
                check::<f16>(emulator, n, d, k, stride);
                check::<bf16>(emulator, n, d, k, stride);
            }
        });
        // More than 256 segments of 1,024 entries, so that their totals are scanned in more than one step.
        check::<f16>(&Emulator::new(Placement::End, 3), 20_001, 1, 13_500, 1);
    });
}

#[test]
fn rows_with_a_label_of_k_or_more_belong_to_no_sum() {
    both_ways(|emulator| {
        let x = emulator.buffer(&[1f32, 2.0, 4.0, 8.0, 16.0]);
        let labels = emulator.buffer(&[2u32, 0, u32::MAX, 1, 2]);
        let (sums, counts) = (emulator.empty::<f64>(2), emulator.empty::<i64>(2));
        let rows = Rows {
            x: emulator.address(&x),
            dtype: DType::F32,
            stride: 1,
            labels: emulator.address(&labels),
        };
        let mut accumulator = Accumulator::new(emulator, 5, 1, 2).unwrap();
        let (sums_at, counts_at) = (emulator.address(&sums), emulator.address(&counts));
        accumulator
            .run(emulator, &rows, sums_at, counts_at)
            .unwrap();
        assert_eq!(emulator.elements::<f64>(&sums), [2.0, 8.0]);
        assert_eq!(emulator.elements::<i64>(&counts), [1, 1]);
    });
}

#[test]
fn sums_that_cannot_be_made_are_refused() {
    let emulator = Emulator::new(Placement::End, 1);
    for (n, d, k) in [
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 0),
        (1 << 33, 1, 1),
        (1 << 31, 1, 1 << 31),
    ] {
        assert!(
            Accumulator::new(&emulator, n, d, k).is_err(),
            "n {n}, d {d}, k {k}"
        );
    }
    let mut accumulator = Accumulator::new(&emulator, 4, 3, 2).unwrap();
    let good = Rows {
        x: 16,
        dtype: DType::F32,
        stride: 3,
        labels: 16,
    };
    for bad in [
        Rows { stride: 2, ..good },
        Rows { x: 2, ..good },
        Rows { labels: 0, ..good },
        Rows {
            dtype: DType::F64,
            ..good
        },
    ] {
        assert!(accumulator.run(&emulator, &bad, 16, 16).is_err(), "{bad:?}");
    }
    assert!(accumulator.run(&emulator, &good, 4, 16).is_err());
    assert!(accumulator.run(&emulator, &good, 16, 0).is_err());
}
