//! activation.cu against its CPU twin and against f64.

use candle_core::DType;
use clipsift::ops::cuda::Backend;
use clipsift::ops::cuda::activation::{Rows, bias_activation};
use clipsift::ops::{self, Activation};
use half::{bf16, f16};

use super::numbers::{Number, assert_close, noise, odd_sizes, rounded, tensor, values, widened};
use super::{Emulator, both_ways, cases};

/// erf in f64, to 1e-14: its series near 0, the continued fraction of erfc further out.
fn erf(x: f64) -> f64 {
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for k in 1..80 {
            term *= -x * x / f64::from(k);
            sum += term / f64::from(2 * k + 1);
            if term.abs() < 1e-17 {
                break;
            }
        }
        return 2.0 / std::f64::consts::PI.sqrt() * sum;
    }
    let a = x.abs();
    let fraction = (1..60).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
    let erfc = (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt());
    (1.0 - erfc).copysign(x)
}

fn exact(activation: Option<Activation>, x: f64) -> f64 {
    match activation {
        None => x,
        Some(Activation::QuickGelu) => x / (1.0 + (-1.702 * x).exp()),
        Some(Activation::Gelu) => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
    }
}

fn check<T: Number>(emulator: &Emulator, activation: Option<Activation>, n: usize, w: usize) {
    // Most numbers where an activation bends, some far out on either side, infinities too.
    let mut x: Vec<f32> = noise(n * w, 1).iter().map(|x| x * 3.0).collect();
    for (i, far) in [-300.0, 60.0, -52.0, 9.0, -9.0, 0.0]
        .into_iter()
        .enumerate()
    {
        let place = (i * 7 + 3) % (n * w);
        x[place] = far;
    }
    let (x, bias) = (rounded::<T>(&x), rounded::<T>(&noise(w, 2)));
    let (rows, shift) = (emulator.buffer(&x), emulator.buffer(&bias));
    let launch = bias_activation(
        &Rows {
            x: emulator.address(&rows),
            bias: emulator.address(&shift),
            dtype: T::DTYPE,
            n,
            w,
        },
        activation,
    );
    emulator.launch(&launch.unwrap()).unwrap();
    let got = emulator.elements::<T>(&rows);

    let what = format!("{activation:?}, {}, n {n}, w {w}", T::NAME);
    let sums: Vec<f32> = (0..n * w)
        .map(|i| x[i].load() + bias[i % w].load())
        .collect();
    let reference: Vec<f64> = sums
        .iter()
        .map(|x| exact(activation, f64::from(*x)))
        .collect();
    // f32: the exponent 1.702 x is off by half an ulp before the exponential takes it; erf is good to 1e-7 absolute.
    let bound = |i: usize, y: f64| {
        let x = f64::from(sums[i]).abs();
        y.abs() * (T::ROUNDING + f32::ROUNDING * (4.0 + 2.0 * x)) + 2.5e-7 * x + T::SMALLEST
    };
    assert_close(&what, &got, &reference, bound);
    let (rows, shift) = (tensor(&x, &[n, w]), tensor(&bias, &[w]));
    let (kernel, twin) = match activation {
        None => ("add_bias", ops::add_bias(&rows, &shift)),
        Some(f) => {
            let kernel = match f {
                Activation::QuickGelu => "bias_quick_gelu",
                Activation::Gelu => "bias_gelu",
            };
            (kernel, ops::bias_activation(&rows, &shift, f))
        }
    };
    let twin = widened(&values::<T>(&twin.unwrap()));
    assert_close(&what, &got, &twin, |i, y| 2.0 * bound(i, y));
    cases::record(
        &format!("{kernel}_{}", T::NAME),
        T::NAME,
        format!("n {n}, w {w}"),
    );
}

#[test]
fn activations_on_the_device_are_those_of_the_cpu() {
    cases::family("activation", || {
        both_ways(|emulator| {
            let aligned = [(7, 64), (257, 8), (1, 3072)];
            for (n, w) in odd_sizes().map(|(n, w, _)| (n, w)).chain(aligned) {
                if !emulator.takes(n * w) {
                    continue;
                }
                for activation in [None, Some(Activation::QuickGelu), Some(Activation::Gelu)] {
                    check::<f32>(emulator, activation, n, w);
                    check::<f16>(emulator, activation, n, w);
                    check::<bf16>(emulator, activation, n, w);
                }
            }
        });
    });
}

#[test]
fn rows_that_cannot_be_activated_are_refused() {
    let good = Rows {
        x: 16,
        bias: 16,
        dtype: DType::F16,
        n: 2,
        w: 3,
    };
    assert!(bias_activation(&good, None).is_ok());
    for bad in [
        Rows { n: 0, ..good },
        Rows { w: 0, ..good },
        Rows { x: 1, ..good },
        Rows { bias: 0, ..good },
        Rows {
            n: 1 << 40,
            w: 1 << 20,
            ..good
        },
        Rows {
            dtype: DType::U8,
            ..good
        },
    ] {
        assert!(bias_activation(&bad, None).is_err(), "{bad:?}");
    }
}
