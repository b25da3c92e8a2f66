//! assign.cu against its CPU twin: the same bytes.

use clipsift::ops::assign;
use clipsift::ops::cuda::assign::{assign as assign_on_device, assign_resident};
use clipsift::ops::cuda::matrix::Precision;
use clipsift::ops::cuda::{Budget, DeviceMatrix, View};
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
