//! matrix.cu: rows on the device, gathered, hashed and compared.

use clipsift::ops::cuda::identical::first_identical;
use clipsift::ops::cuda::matrix::Precision;
use clipsift::ops::cuda::{Backend, Budget, DeviceMatrix, View};
use clipsift::ops::dot;
use clipsift::ops::rows::Rows;
use half::f16;

use super::rows::{Rounding, group_ends, unit_rows};
use super::{both_ways, cases};

const SIZES: [(usize, usize); 8] = [
    (1, 64),
    (31, 1),
    (33, 31),
    (7, 768),
    (257, 100),
    (64, 512),
    (1025, 8),
    (33, 33),
];

#[test]
fn rows_on_the_device_are_what_was_put_there() {
    cases::family("prepare_rows", || {
        both_ways(|emulator| {
            for (n, d) in SIZES {
                for rounding in [Rounding::Single, Rounding::Half] {
                    let rows = unit_rows(n, d, rounding, d as u64);
                    let mut matrix = DeviceMatrix::from_rows(emulator, &rows, d).unwrap();
                    let half = |x: &f32| f16::from_f32(*x).to_f32();
                    let kept = rows.iter().all(|x| half(x) == *x);
                    let precision = [Precision::Single, Precision::Half][usize::from(kept)];
                    assert_eq!((matrix.len(), matrix.precision()), (n, precision));

                    let greatest = |of: &dyn Fn(&[f32]) -> f64| {
                        rows.chunks_exact(d).map(of).fold(0.0, f64::max).sqrt()
                    };
                    let bounds = matrix.bounds().unwrap();
                    let length = greatest(&|x| dot::cosine(x, x));
                    let lost = greatest(&|x| {
                        let rounded: Vec<f32> = x.iter().map(half).collect();
                        dot::squared_distance(x, &rounded)
                    });
                    assert!((bounds.longest / length - 1.0).abs() < 1e-12);
                    assert!((bounds.farthest - lost).abs() <= 1e-12 * lost);

                    // Behind them, in more memory: the same rows once more, from the device.
                    let again: Vec<f16> = rows.iter().map(|x| f16::from_f32(*x)).collect();
                    let source = match precision {
                        Precision::Half => emulator.buffer(&again),
                        Precision::Single => emulator.buffer(&rows),
                    };
                    matrix.append_device(emulator.address(&source), n).unwrap();
                    assert_eq!(matrix.bounds().unwrap(), bounds);
                    let first = first_identical(View::all(&matrix), &[2 * n], &Budget::default());
                    let twice = [rows.as_slice(), &rows].concat();
                    let expected = Rows::all(&twice, d).unwrap();
                    let expected = clipsift::ops::identical::first_identical(expected);
                    assert_eq!(first.unwrap(), expected, "n {n}, d {d}, {rounding:?}");
                    // Cleared, only what comes then counts.
                    matrix.clear().unwrap();
                    assert_eq!(matrix.bounds().unwrap().longest, 0.0);
                    matrix.append_rows(&rows).unwrap();
                    assert_eq!((matrix.len(), matrix.bounds().unwrap()), (n, bounds));
                    let dtype = match precision {
                        Precision::Half => "f16",
                        Precision::Single => "f32",
                    };
                    let size = format!("n {n}, d {d}");
                    cases::record(&format!("prepare_rows_{dtype}"), dtype, &size);
                    cases::record("gather_rows", dtype, size);
                }
            }
        });
    });
}

#[test]
fn identical_rows_are_found_group_by_group_however_they_come() {
    cases::family("hash_rows", || {
        both_ways(|emulator| {
            for (n, d) in SIZES {
                for rounding in [Rounding::Single, Rounding::Half] {
                    let data = unit_rows(n, d, rounding, 7 + d as u64);
                    let matrix = DeviceMatrix::from_rows(emulator, &data, d).unwrap();
                    let index: Vec<u64> = (0..n as u64).rev().collect();
                    let groups = group_ends(n, 40, n as u64);
                    let all = Rows::all(&data, d).unwrap();
                    let mut expected = Vec::new();
                    for (i, &end) in groups.iter().enumerate() {
                        let start = if i == 0 { 0 } else { groups[i - 1] };
                        let group = all.select(&index[start..end]).unwrap();
                        let first = clipsift::ops::identical::first_identical(group);
                        expected.extend(first.into_iter().map(|p| p + start as u64));
                    }
                    let small = Budget {
                        block_bytes: Some(9 * d * 4),
                        ..Budget::default()
                    };
                    let rows = all.select(&index).unwrap();
                    for view in [
                        View::select(&matrix, &index).unwrap(),
                        View::streamed(emulator, rows),
                    ] {
                        let got = first_identical(view, &groups, &small).unwrap();
                        assert_eq!(got, expected, "n {n}, d {d}, {rounding:?}");
                    }
                    for kernel in ["hash_rows", "compare_rows"] {
                        let name = format!("{kernel}_{}", rounding.name());
                        cases::record(&name, rounding.name(), format!("n {n}, d {d}"));
                    }
                }
            }
        });
    });
}

#[test]
fn rows_that_cannot_be_used_are_refused() {
    both_ways(|emulator| {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let rows = [1.0, 0.0, bad, 0.0, 0.0, 0.5];
            let matrix = DeviceMatrix::from_rows(emulator, &rows, 2).unwrap();
            assert!(matrix.bounds().is_err(), "{bad}");
        }
        let mut matrix = DeviceMatrix::from_rows(emulator, &[1.0, 0.5], 2).unwrap();
        assert_eq!(matrix.precision(), Precision::Half);
        assert!(matrix.append_rows(&[0.1, 0.2]).is_err());
        assert!(matrix.append_rows(&[1.0]).is_err());
        assert!(View::select(&matrix, &[1]).is_err());
        assert!(DeviceMatrix::from_rows(emulator, &[], 0).is_err());
        // Beyond what f16 reaches, the bound says how far off the copy is.
        let matrix = DeviceMatrix::from_rows(emulator, &[1e6, 0.0], 2).unwrap();
        assert_eq!(matrix.bounds().unwrap().farthest, 1e6 - 65504.0);
    });
}
