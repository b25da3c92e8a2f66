//! normalize.cu against its CPU twin and against f64.

use candle_core::DType;
use clipsift::ops::cuda::Backend;
use clipsift::ops::cuda::normalize::{Normalize, normalize};
use clipsift::ops::normalize_rows;

use super::numbers::{Number, assert_close, noise, odd_sizes, rounded, same_bits};
use super::{Emulator, both_ways, cases};

/// A row over its length in f64; zeros where there is none.
fn unit_row<T: Number>(row: &[T]) -> Vec<f64> {
    let square = |x: &T| f64::from(x.load()).powi(2);
    let length = row.iter().map(square).sum::<f64>().sqrt();
    let good = length > 0.0 && length.is_finite();
    let unit = |x: &T| {
        if good {
            f64::from(x.load()) / length
        } else {
            0.0
        }
    };
    row.iter().map(unit).collect()
}

/// One call: T in, U out, over noise with a zero row, a NaN and an infinity where there are rows for them.
fn check<T: Number, U: Number>(emulator: &Emulator, n: usize, d: usize) {
    let mut x: Vec<T> = rounded(&noise(n * d, n as u64 * 31 + d as u64));
    for (row, value) in [(1, 0.0), (4, f32::NAN), (7, f32::INFINITY)] {
        if row < n {
            x[row * d..][..d].fill(T::store(0.0));
            x[row * d + d / 2] = T::store(value);
        }
    }
    let (input, out, bad) = (
        emulator.buffer(&x),
        emulator.empty::<U>(n * d),
        emulator.empty::<u8>(n),
    );
    let rows = Normalize {
        x: emulator.address(&input),
        dtype: T::DTYPE,
        out: emulator.address(&out),
        out_dtype: U::DTYPE,
        bad: emulator.address(&bad),
        n,
        d,
    };
    emulator.launch(&normalize(&rows).unwrap()).unwrap();

    let mut expected: Vec<f32> = x.iter().map(|x| x.load()).collect();
    let expected_bad = normalize_rows(&mut expected, d);
    let got = emulator.elements::<U>(&out);
    let what = format!("{:?} -> {:?}, n {n}, d {d}", T::DTYPE, U::DTYPE);
    same_bits(&what, &got, &rounded::<U>(&expected));
    let exact: Vec<f64> = x.chunks(d).flat_map(unit_row).collect();
    assert_close(&what, &got, &exact, |_, x| {
        x.abs() * (U::ROUNDING + f32::ROUNDING) + U::SMALLEST
    });
    let got_bad: Vec<u8> = emulator.elements(&bad);
    let expected_bad: Vec<u8> = (0..n)
        .map(|row| u8::from(expected_bad.contains(&row)))
        .collect();
    assert_eq!(got_bad, expected_bad, "{what}");
    let name = format!("normalize_{}_{}", T::NAME, U::NAME);
    cases::record(&name, T::NAME, format!("n {n}, d {d}"));
}

#[test]
fn normalize_on_the_device_has_the_bits_of_the_cpu() {
    use half::{bf16, f16};
    cases::family("normalize", || {
        both_ways(|emulator| {
            let aligned = [(17, 64), (257, 16)];
            for (n, d) in odd_sizes().map(|(n, d, _)| (n, d)).chain(aligned) {
                if !emulator.takes(n * d) {
                    continue;
                }
                check::<f32, f32>(emulator, n, d);
                check::<f32, f16>(emulator, n, d);
                check::<f32, bf16>(emulator, n, d);
                check::<f16, f32>(emulator, n, d);
                check::<f16, f16>(emulator, n, d);
                check::<bf16, f32>(emulator, n, d);
                check::<bf16, bf16>(emulator, n, d);
            }
        });
    });
}

#[test]
fn a_normalisation_that_cannot_be_launched_is_refused() {
    let good = Normalize {
        x: 16,
        dtype: DType::F32,
        out: 16,
        out_dtype: DType::F32,
        bad: 16,
        n: 2,
        d: 3,
    };
    assert!(normalize(&good).is_ok());
    for bad in [
        Normalize { n: 0, ..good },
        Normalize { d: 0, ..good },
        Normalize { x: 0, ..good },
        Normalize { out: 2, ..good },
        Normalize {
            n: usize::MAX / 2,
            ..good
        },
        Normalize {
            dtype: DType::F64,
            ..good
        },
    ] {
        assert!(normalize(&bad).is_err(), "{bad:?}");
    }
}
