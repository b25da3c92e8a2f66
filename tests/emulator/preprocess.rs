//! preprocess.cu against its CPU twin, to the bit, and against f64.

use candle_core::{DType, Device, Tensor};
use clipsift::ops::cuda::Backend;
use clipsift::ops::cuda::preprocess::{Preprocess, preprocess};
use clipsift::ops::{PixelNorm, patchify};
use half::{bf16, f16};

use super::numbers::{Number, assert_close, same_bits, values};
use super::{Emulator, both_ways, cases};

const NORM: PixelNorm = PixelNorm {
    mean: [0.481, 0.458, 0.408],
    std: [0.269, 0.261, 0.276],
};

fn check<T: Number>(emulator: &Emulator, n: usize, s: usize, p: usize) {
    let bytes: Vec<u8> = (0..n * s * s * 3).map(|i| (i * 37 % 256) as u8).collect();
    let g = s / p;
    let count = n * g * g * 3 * p * p;
    let (pixels, out) = (emulator.buffer(&bytes), emulator.empty::<T>(count));
    let launch = preprocess(&Preprocess {
        pixels: emulator.address(&pixels),
        out: emulator.address(&out),
        dtype: T::DTYPE,
        n,
        s,
        p,
        norm: NORM,
    });
    emulator.launch(&launch.unwrap()).unwrap();
    let got = emulator.elements::<T>(&out);

    let what = format!("{}, n {n}, s {s}, p {p}", T::NAME);
    let image = Tensor::from_vec(bytes.clone(), (n, s, s, 3), &Device::Cpu).unwrap();
    let twin = patchify(&image, p, &NORM, T::DTYPE, None).unwrap();
    same_bits(&what, &got, &values(&twin));
    let mut exact = Vec::with_capacity(count);
    for (i, top, left) in (0..n).flat_map(|i| (0..g * g).map(move |at| (i, at / g * p, at % g * p)))
    {
        for (c, y, x) in (0..3 * p * p).map(|at| (at / (p * p), at / p % p, at % p)) {
            let pixel = bytes[((i * s + top + y) * s + left + x) * 3 + c];
            let (mean, std) = (f64::from(NORM.mean[c]), f64::from(NORM.std[c]));
            exact.push((f64::from(pixel) / 255.0 - mean) / std);
        }
    }
    // The f32 steps lose up to 2^-24 of 1 before the division by std; then comes the rounding to T.
    assert_close(&what, &got, &exact, |_, x| 6e-7 + x.abs() * T::ROUNDING);
    cases::record(
        &format!("preprocess_{}", T::NAME),
        T::NAME,
        format!("n {n}, s {s}, p {p}"),
    );
}

#[test]
fn preprocess_on_the_device_has_the_bits_of_the_cpu() {
    cases::family("preprocess", || {
        both_ways(|emulator| {
            // Every patch with every number of patches; images and what is left of the edge so that they meet all of both.
            let covering = (0..15).map(|at| {
                let (p, g) = ([1, 7, 14, 16, 33][at / 3], at % 3 + 1);
                let rest = [0, 1, p - 1][(at / 3 + at) % 3].min(p - 1);
                ([1, 3, 5][(at / 3 + 2 * at) % 3], g * p + rest, p)
            });
            for (n, s, p) in covering.chain([(257, 3, 3), (1, 257, 14), (1, 224, 32)]) {
                check::<f32>(emulator, n, s, p);
                check::<f16>(emulator, n, s, p);
                check::<bf16>(emulator, n, s, p);
            }
        });
    });
}

#[test]
fn pixels_that_cannot_be_patches_are_refused() {
    let good = Preprocess {
        pixels: 1,
        out: 16,
        dtype: DType::F16,
        n: 2,
        s: 8,
        p: 4,
        norm: NORM,
    };
    assert!(preprocess(&good).is_ok());
    for bad in [
        Preprocess { n: 0, ..good },
        Preprocess { p: 0, ..good },
        Preprocess { p: 9, ..good },
        Preprocess { s: 20_000, ..good },
        Preprocess { out: 8, ..good },
        Preprocess { pixels: 0, ..good },
        Preprocess {
            dtype: DType::U8,
            ..good
        },
    ] {
        assert!(preprocess(&bad).is_err(), "{bad:?}");
    }
}
