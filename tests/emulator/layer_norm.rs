//! layer_norm.cu against its CPU twin and against f64.

use candle_core::DType;
use clipsift::ops::cuda::Backend;
use clipsift::ops::cuda::layer_norm::{Norm, Rows, Stream, add_layer_norm, layer_norm};
use clipsift::ops::{self, LayerNorm};
use half::{bf16, f16};

use super::numbers::{Number, assert_close, noise, odd_sizes, rounded, tensor, values, widened};
use super::{Buffer, Emulator, both_ways, cases};

/// Widths that are multiples of eight are read in packs; a warp's chunk is 256 elements.
const ALIGNED: [(usize, usize); 6] = [
    (5, 64),
    (257, 8),
    (2, 768),
    (3, 2056),
    (2, 4104),
    (1, 12_288),
];
const EPS: f32 = 1e-5;

/// The norm of each row in f64, and the bound on a result: rounding to T, and f32 arithmetic on numbers as large as those that
/// a row of this width meets.
fn reference<T: Number>(rows: &[f64], w: usize, weight: &[T], bias: &[T]) -> (Vec<f64>, Vec<f64>) {
    let mut exact = Vec::with_capacity(rows.len());
    let mut bounds = Vec::with_capacity(rows.len());
    for row in rows.chunks(w) {
        let mean = row.iter().sum::<f64>() / w as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / w as f64;
        let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
        for ((x, weight), bias) in row.iter().zip(weight).zip(bias) {
            let (weight, bias) = (f64::from(weight.load()), f64::from(bias.load()));
            let value = (x - mean) * scale * weight + bias;
            let operands = (x.abs() + mean.abs()) * scale * weight.abs() + bias.abs();
            exact.push(value);
            bounds.push(value.abs() * T::ROUNDING + 8.0 * f32::ROUNDING * operands);
        }
    }
    (exact, bounds)
}

struct Case<T> {
    weight: Vec<T>,
    bias: Vec<T>,
    on_device: (Buffer, Buffer),
}

impl<T: Number> Case<T> {
    fn new(emulator: &Emulator, w: usize) -> Case<T> {
        let (weight, bias) = (rounded::<T>(&noise(w, 3)), rounded::<T>(&noise(w, 4)));
        let on_device = (emulator.buffer(&weight), emulator.buffer(&bias));
        Case {
            weight,
            bias,
            on_device,
        }
    }

    fn norm(&self, emulator: &Emulator) -> Norm {
        Norm {
            weight: emulator.address(&self.on_device.0),
            bias: emulator.address(&self.on_device.1),
            eps: EPS,
        }
    }

    fn twin(&self) -> LayerNorm {
        LayerNorm {
            weight: tensor(&self.weight, &[self.weight.len()]),
            bias: tensor(&self.bias, &[self.bias.len()]),
            eps: f64::from(EPS),
        }
    }
}

/// Rows around a mean of 3 with an outlier, as a tower's stream has them.
fn rows(n: usize, w: usize, seed: u64) -> Vec<f32> {
    let mut x: Vec<f32> = noise(n * w, seed).iter().map(|x| x + 3.0).collect();
    x[n / 2 * w] = 90.0;
    x
}

fn alone<S: Number, T: Number>(emulator: &Emulator, n: usize, w: usize) {
    let case = Case::<T>::new(emulator, w);
    let x = rounded::<S>(&rows(n, w, 1));
    let (input, out) = (emulator.buffer(&x), emulator.empty::<T>(n * w));
    let launch = layer_norm(
        &Rows {
            x: emulator.address(&input),
            x_dtype: S::DTYPE,
            out: emulator.address(&out),
            dtype: T::DTYPE,
            n,
            w,
        },
        &case.norm(emulator),
    );
    emulator.launch(&launch.unwrap()).unwrap();
    let got = emulator.elements::<T>(&out);
    let what = format!("layer_norm {} -> {}, n {n}, w {w}", S::NAME, T::NAME);
    let (exact, bounds) = reference(&widened(&x), w, &case.weight, &case.bias);
    assert_close(&what, &got, &exact, |i, _| bounds[i]);
    if S::DTYPE == T::DTYPE {
        let twin = ops::layer_norm(&tensor(&x, &[n, w]), &case.twin(), None).unwrap();
        // Either side may be off by its bound.
        assert_close(&what, &got, &widened(&values::<T>(&twin)), |i, _| {
            2.0 * bounds[i]
        });
    }
    let name = format!("layer_norm_{}_{}", S::NAME, T::NAME);
    cases::record(&name, T::NAME, format!("n {n}, w {w}"));
}

fn added<S: Number, T: Number>(emulator: &Emulator, n: usize, w: usize, in_place: bool) {
    let case = Case::<T>::new(emulator, w);
    let residual = rounded::<S>(&rows(n, w, 1));
    let (x, add) = (rounded::<T>(&noise(n * w, 2)), rounded::<T>(&noise(w, 5)));
    let (dr, dx, da) = (
        emulator.buffer(&residual),
        emulator.buffer(&x),
        emulator.buffer(&add),
    );
    let (other, out) = (emulator.empty::<S>(n * w), emulator.empty::<T>(n * w));
    let sum = if in_place { &dr } else { &other };
    let launch = add_layer_norm(
        &Stream {
            residual: emulator.address(&dr),
            sum: emulator.address(sum),
            stream_dtype: S::DTYPE,
            x: emulator.address(&dx),
            add: emulator.address(&da),
            out: emulator.address(&out),
            dtype: T::DTYPE,
            n,
            w,
        },
        &case.norm(emulator),
    );
    emulator.launch(&launch.unwrap()).unwrap();
    let (got_sum, got) = (emulator.elements::<S>(sum), emulator.elements::<T>(&out));
    let what = format!("add_layer_norm {} -> {}, n {n}, w {w}", S::NAME, T::NAME);

    // The sum is that of f32, in the CPU's order: its bits are the CPU's.
    let in_f32: Vec<f32> = (0..n * w)
        .map(|i| residual[i].load() + (x[i].load() + add[i % w].load()))
        .collect();
    super::numbers::same_bits(&what, &got_sum, &rounded::<S>(&in_f32));
    let (exact, bounds) = reference(&widened(&in_f32), w, &case.weight, &case.bias);
    assert_close(&what, &got, &exact, |i, _| bounds[i]);
    if S::DTYPE == T::DTYPE {
        let shape = [n, w];
        let (sum, normed) = ops::add_layer_norm(
            &tensor(&residual, &shape),
            &tensor(&x, &shape),
            &tensor(&add, &[w]),
            &case.twin(),
        )
        .unwrap();
        super::numbers::same_bits(&what, &got_sum, &values::<S>(&sum));
        assert_close(&what, &got, &widened(&values::<T>(&normed)), |i, _| {
            2.0 * bounds[i]
        });
    }
    let name = format!("add_layer_norm_{}_{}", S::NAME, T::NAME);
    cases::record(&name, T::NAME, format!("n {n}, w {w}"));
}

#[test]
fn layer_norms_on_the_device_are_those_of_the_cpu() {
    fn both<S: Number, T: Number>(emulator: &Emulator, n: usize, w: usize) {
        alone::<S, T>(emulator, n, w);
        added::<S, T>(emulator, n, w, n.is_multiple_of(2));
    }
    cases::family("layer_norm", || {
        both_ways(|emulator| {
            for (n, w) in odd_sizes().map(|(n, w, _)| (n, w)).chain(ALIGNED) {
                if !emulator.takes(n * w) {
                    continue;
                }
                both::<f32, f32>(emulator, n, w);
                both::<f32, f16>(emulator, n, w);
                both::<f32, bf16>(emulator, n, w);
                both::<f16, f16>(emulator, n, w);
                both::<bf16, bf16>(emulator, n, w);
            }
        });
    });
}

#[test]
fn norms_that_cannot_be_launched_are_refused() {
    let norm = Norm {
        weight: 16,
        bias: 16,
        eps: EPS,
    };
    let good = Rows {
        x: 16,
        x_dtype: DType::F32,
        out: 16,
        dtype: DType::F16,
        n: 2,
        w: 12_288,
    };
    assert!(layer_norm(&good, &norm).is_ok());
    for bad in [
        Rows { n: 0, ..good },
        Rows { w: 0, ..good },
        Rows { w: 12_289, ..good },
        Rows { x: 2, ..good },
        Rows { out: 0, ..good },
        Rows {
            x_dtype: DType::BF16,
            ..good
        },
    ] {
        assert!(layer_norm(&bad, &norm).is_err(), "{bad:?}");
    }
    assert!(layer_norm(&good, &Norm { weight: 0, ..norm }).is_err());
    let good = Stream {
        residual: 16,
        sum: 16,
        stream_dtype: DType::F16,
        x: 16,
        add: 16,
        out: 16,
        dtype: DType::F16,
        n: 1,
        w: 1,
    };
    assert!(add_layer_norm(&good, &norm).is_ok());
    for bad in [
        Stream { n: 0, ..good },
        Stream { add: 1, ..good },
        Stream { sum: 0, ..good },
        Stream {
            stream_dtype: DType::BF16,
            ..good
        },
    ] {
        assert!(add_layer_norm(&bad, &norm).is_err(), "{bad:?}");
    }
}
