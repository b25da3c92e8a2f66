//! assign.cu against its CPU twin: the same bytes.

use clipsift::ops::assign;
use clipsift::ops::cuda::assign::{assign as assign_on_device, assign_resident};
use clipsift::ops::cuda::matrix::Precision;
use clipsift::ops::cuda::{Arg, Backend, Budget, DeviceMatrix, Launch, View};
use clipsift::ops::dot;
use clipsift::ops::rows::Rows;

use super::rows::{Rounding, unit_rows};
use super::{Emulator, both_ways, cases};

fn centroid_matrix<'e>(
    emulator: &'e Emulator,
    centroids: &[f32],
    d: usize,
) -> DeviceMatrix<'e, Emulator> {
    let k = centroids.len() / d;
    let mut matrix = DeviceMatrix::with_capacity(emulator, k, d, Precision::Single).unwrap();
    matrix.append_rows(centroids).unwrap();
    matrix
}

fn check(emulator: &Emulator, n: usize, k: usize, d: usize, rounding: Rounding, scale: f32) {
    let data = unit_rows(n, d, rounding, (n + k) as u64);
    // Rows, means of two rows, and rows again: ties and near ties.
    let mut centroids = unit_rows(k, d, Rounding::Single, (n + k) as u64);
    for (j, c) in centroids.chunks_exact_mut(d).enumerate() {
        let row = &data[j % n * d..][..d];
        if j % 3 == 0 {
            c.iter_mut().zip(row).for_each(|(c, x)| *c = (*c + x) / 2.0);
        }
        c.iter_mut().for_each(|x| *x *= scale);
    }
    let expected = assign::assign(&data, d, &centroids).unwrap();
    let of_centroids = centroid_matrix(emulator, &centroids, d);
    let what = format!("n {n}, k {k}, d {d}, {rounding:?}, scale {scale}");
    let matrix = DeviceMatrix::from_rows(emulator, &data, d).unwrap();
    let got = assign_resident(&matrix, &of_centroids).unwrap();
    let got = got.download(emulator).unwrap();
    assert!(
        got == expected,
        "{what}: {}",
        first_difference(&got, &expected)
    );
    let small = Budget {
        block_bytes: Some(100 * 6 * d.next_multiple_of(8)),
        ..Budget::default()
    };
    let streamed = View::streamed(emulator, Rows::all(&data, d).unwrap());
    let got = assign_on_device(streamed, &of_centroids, &small).unwrap();
    assert!(
        got == expected,
        "{what}, streamed: {}",
        first_difference(&got, &expected)
    );
    for kernel in ["nearest_candidates", "squared_lengths_f32"] {
        cases::record(kernel, rounding.name(), format!("n {n}, k {k}, d {d}"));
    }
    let name = format!("settle_distance_{}", rounding.name());
    cases::record(
        &name,
        rounding.name(),
        format!("n {n}, k {k}, d {d}, {scale}"),
    );
}

fn first_difference(got: &assign::Assignment, expected: &assign::Assignment) -> String {
    let of = |a: &assign::Assignment, i: usize| (a.labels[i], a.squared_distances[i]);
    let wrong = (0..expected.labels.len()).find(|&i| of(got, i) != of(expected, i));
    format!("{:?}", wrong.map(|i| (i, of(got, i), of(expected, i))))
}

#[test]
fn the_nearest_centroid_on_the_device_is_that_of_the_cpu() {
    cases::family("assign", || {
        both_ways(|emulator| {
            for (n, k, d) in [
                (1, 1, 64),
                (31, 33, 1),
                (33, 5, 31),
                (257, 31, 100),
                (129, 257, 33),
                (33, 40, 768),
                (31, 600, 16),
            ] {
                check(emulator, n, k, d, Rounding::Single, 1.0);
                check(emulator, n, k, d, Rounding::Half, 1.0);
            }
            // Centroids that f16 does not reach, and that vanish in it.
            check(emulator, 40, 20, 12, Rounding::Single, 1e6);
            check(emulator, 40, 20, 12, Rounding::Half, 1e-20);
        });
        let emulator = Emulator::new(super::Placement::End, 3);
        check(&emulator, 1025, 100, 64, Rounding::Half, 1.0);
        check(&emulator, 257, 300, 512, Rounding::Single, 1.0);
    });
}

#[test]
fn many_equal_centroids_leave_the_lowest_number() {
    both_ways(|emulator| {
        let d = 20;
        let data = unit_rows(150, d, Rounding::Half, 3);
        // More of them than a row's list holds, in one tile and over several.
        for copies in [15, 16, 17, 40, 300] {
            let centroids = data[..3 * d].repeat(copies);
            let expected = assign::assign(&data, d, &centroids).unwrap();
            assert!(expected.labels.iter().all(|&label| label < 3));
            let matrix = DeviceMatrix::from_rows(emulator, &data, d).unwrap();
            let of_centroids = centroid_matrix(emulator, &centroids, d);
            let got = assign_resident(&matrix, &of_centroids).unwrap();
            assert!(
                got.download(emulator).unwrap() == expected,
                "{copies} copies"
            );
        }
    });
}

#[test]
fn what_cannot_be_assigned_is_refused_on_the_device() {
    let emulator = Emulator::new(super::Placement::End, 1);
    let matrix = DeviceMatrix::from_rows(&emulator, &[1.0, 0.0], 2).unwrap();
    let refused = |centroids: &[f32], d: usize| {
        assign_resident(&matrix, &centroid_matrix(&emulator, centroids, d)).is_err()
    };
    assert!(!refused(&[1.0, 2.0], 2));
    assert!(refused(&[], 2));
    assert!(refused(&[1.0, 2.0, 3.0], 3));
    assert!(refused(&[1.0, 1e30], 2));
    assert!(refused(&[1.0, f32::NAN], 2));
    let half = DeviceMatrix::from_rows(&emulator, &[1.0, 0.0], 2).unwrap();
    assert!(assign_resident(&matrix, &half).is_err());
}

/// What the lists of a row come to: `seen` are the scores of its columns, tile after tile; infinity for those that it does not see.
fn listed(seen: &[f32], before: f32, margin: f32) -> (f32, i32, Vec<i32>) {
    let (mut best, mut kept, mut full) = (before, Vec::new(), false);
    for (tile, scores) in seen.chunks(256).enumerate() {
        best = scores.iter().copied().fold(best, f32::min);
        let near = |score: f32| score <= best + margin && score < f32::INFINITY;
        let numbered = scores.iter().enumerate();
        kept.extend(
            numbered
                .filter(|(_, score)| near(**score))
                .map(|(j, _)| (tile * 256 + j) as i32),
        );
        full |= kept.len() > 16;
        kept.retain(|&j| near(seen[j as usize]));
    }
    match full {
        true => (best, 17, Vec::new()),
        false => (best, kept.len() as i32, kept),
    }
}

#[test]
fn a_row_lists_the_columns_within_the_margin_and_no_others() {
    both_ways(|emulator| {
        let d = 24;
        let integers = |n: usize, seed| -> Vec<f32> {
            super::numbers::noise(n * d, seed)
                .into_iter()
                .map(|x| if x.abs() < 0.7 { 0.0 } else { x.signum() })
                .collect()
        };
        for (rows, columns, margin, causal) in [
            (150, 300, 1.0, false),
            (150, 300, 4.0, true),
            (33, 600, 2.0, false),
            (1, 1, 0.0, true),
        ] {
            let (a, b) = (integers(rows, 5), integers(columns, 6));
            let bias: Vec<f32> = (0..columns).map(|j| (j % 7) as f32).collect();
            let positions: Vec<i32> = (0..columns as i32).map(|j| j / 2).collect();
            // One row has found something better before.
            let mut before = vec![f32::INFINITY; rows];
            before[rows / 2] = -60.0;
            let halves = |values: &[f32]| -> Vec<half::f16> {
                values.iter().map(|x| half::f16::from_f32(*x)).collect()
            };
            let items: Vec<i32> = (0..rows as i32)
                .step_by(128)
                .flat_map(|row| [row, (row + 128).min(rows as i32), 0, columns as i32])
                .collect();
            let buffers = (
                emulator.buffer(&halves(&a)),
                emulator.buffer(&halves(&b)),
                emulator.buffer(&bias),
                emulator.buffer(&positions),
                emulator.buffer(&items),
                emulator.buffer(&before),
                emulator.empty::<i32>(rows),
                emulator.empty::<i32>(rows * 16),
            );
            let at = |buffer| Arg::Pointer(emulator.address(buffer));
            let launch = Launch {
                module: "assign",
                function: "nearest_candidates",
                grid: [2, 1, 1],
                block: [256, 1, 1],
                shared_bytes: 73_728,
                args: vec![
                    at(&buffers.0),
                    at(&buffers.1),
                    Arg::I32(d as i32),
                    at(&buffers.2),
                    Arg::F32(-2.0),
                    Arg::F32(margin),
                    if causal {
                        at(&buffers.3)
                    } else {
                        Arg::Pointer(0)
                    },
                    Arg::I64(3),
                    at(&buffers.4),
                    Arg::I64(items.len() as i64 / 4),
                    at(&buffers.5),
                    at(&buffers.6),
                    at(&buffers.7),
                ],
            };
            emulator.launch(&launch).unwrap();
            let best: Vec<f32> = emulator.elements(&buffers.5);
            let counts: Vec<i32> = emulator.elements(&buffers.6);
            let lists: Vec<i32> = emulator.elements(&buffers.7);
            let mut longest = 0;
            for (row, x) in a.chunks_exact(d).enumerate() {
                let seen: Vec<f32> = b
                    .chunks_exact(d)
                    .enumerate()
                    .map(|(j, y)| match causal && positions[j] as usize >= row + 3 {
                        true => f32::INFINITY,
                        false => bias[j] - 2.0 * dot::cosine(x, y) as f32,
                    })
                    .collect();
                let (score, count, list) = listed(&seen, before[row], margin);
                let what = format!("row {row} of {rows} x {columns}, margin {margin}");
                assert_eq!((best[row], counts[row]), (score, count), "{what}");
                let mut got = lists[row * 16..][..list.len()].to_vec();
                got.sort_unstable();
                assert_eq!(got, list, "{what}");
                longest = longest.max(list.len());
            }
            assert!(longest > 2 || rows == 1, "{longest}");
        }
    });
}

#[test]
fn the_decision_is_made_among_the_listed_columns() {
    both_ways(|emulator| {
        let (rows, columns, d) = (5, 20, 3);
        let a: Vec<f32> = vec![0.0; rows * d];
        let b: Vec<f32> = (0..columns * d).map(|i| 100.0 - (i / d) as f32).collect();
        // Row 0 lists one, not the nearest; row 1 none; row 2 too many; row 3 some out of order; row 4 had a nearer one before.
        let counts = [1, 0, 17, 3, 16];
        let mut candidates = vec![0i32; rows * 16];
        candidates[0] = 7;
        candidates[3 * 16..][..3].copy_from_slice(&[9, 12, 4]);
        candidates[4 * 16..].fill(19);
        let mut costs = vec![f64::INFINITY; rows];
        costs[4] = 1.5;
        let buffers = (
            emulator.buffer(&a),
            emulator.buffer(&b),
            emulator.buffer(&[0, rows as i32, 0, columns as i32]),
            emulator.buffer(&counts),
            emulator.buffer(&candidates),
            emulator.buffer(&costs),
            emulator.buffer(&[u32::MAX, u32::MAX, u32::MAX, u32::MAX, 3]),
        );
        let at = |buffer| Arg::Pointer(emulator.address(buffer));
        let null = Arg::Pointer(0);
        let launch = Launch {
            module: "assign",
            function: "settle_distance_f32",
            grid: [1, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: vec![
                at(&buffers.0),
                null,
                Arg::I64(d as i64),
                at(&buffers.1),
                null,
                Arg::I64(d as i64),
                Arg::I32(d as i32),
                at(&buffers.2),
                null,
                Arg::I64(0),
                at(&buffers.3),
                at(&buffers.4),
                Arg::I64(1000),
                at(&buffers.5),
                at(&buffers.6),
            ],
        };
        emulator.launch(&launch).unwrap();
        let nearest: Vec<u32> = emulator.elements(&buffers.6);
        assert_eq!(nearest, [1007, u32::MAX, 1019, 1012, 3]);
        let costs: Vec<f64> = emulator.elements(&buffers.5);
        let of = |column: usize| dot::squared_distance(&a[..d], &b[column * d..][..d]);
        assert_eq!(costs, [of(7), f64::INFINITY, of(19), of(12), 1.5]);
    });
}
