//! attention.cu against attention in f64, and against its CPU twin.

use candle_core::{Device, Tensor};
use clipsift::ops::cuda::Backend;
use clipsift::ops::cuda::attention::{Operands, attention};
use half::{bf16, f16};

use super::numbers::{Number, assert_close, noise, rounded};
use super::{Emulator, both_ways, cases};

#[derive(Clone, Copy, Debug)]
struct Shape {
    n: usize,
    t: usize,
    heads: usize,
    head_dim: usize,
}

/// Attention in f64, and for each element how far a kernel may be off that rounds queries and weights to T.
///
/// A score is off by the rounding of its query, and by that of an f32 sum; a weight relatively by twice the largest error of its
/// query's scores and by its own rounding, the numerator's and denominator's in f32; the result by its rounding.
fn exact<T: Number>(qkv: &[T], bias: &[T], shape: Shape, plain: bool) -> (Vec<f64>, Vec<f64>) {
    let Shape {
        n,
        t,
        heads,
        head_dim,
    } = shape;
    let width = heads * head_dim;
    let of = if plain { 1e-7 } else { T::ROUNDING };
    let sums = 4e-7 * (head_dim + t) as f64;
    let at = |image: usize, token: usize, column: usize| {
        let x = qkv[(image * t + token) * 3 * width + column].load();
        f64::from(x) + f64::from(bias[column].load())
    };
    let (mut out, mut bounds) = (vec![0.0; n * t * width], vec![0.0; n * t * width]);
    for image in 0..n {
        for head in 0..heads {
            let columns = head * head_dim..(head + 1) * head_dim;
            for token in 0..t {
                let (mut scores, mut error) = (Vec::new(), 0f64);
                for key in 0..t {
                    let terms = columns
                        .clone()
                        .map(|c| at(image, token, c) * at(image, key, width + c));
                    let (mut score, mut size) = (0.0, 0.0);
                    for term in terms {
                        score += term;
                        size += term.abs();
                    }
                    let root = (head_dim as f64).sqrt();
                    scores.push(score / root);
                    // Twice: without the key's bias the terms are others.
                    error = error.max(2.0 * (of + sums) * (size + 4.0 * head_dim as f64) / root);
                }
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for column in columns.clone() {
                    let (mut sum, mut size) = (0.0, 0.0);
                    for (key, weight) in weights.iter().enumerate() {
                        let value = at(image, key, 2 * width + column);
                        sum += weight / total * value;
                        size += weight / total * (value.abs() + 2.0);
                    }
                    let place = (image * t + token) * width + column;
                    out[place] = sum;
                    bounds[place] = size * ((2.0 * error).exp_m1() + 2.0 * of + 2.0 * sums)
                        + T::ROUNDING * sum.abs()
                        + T::SMALLEST;
                }
            }
        }
    }
    (out, bounds)
}

fn check<T: Number + candle_core::WithDType>(emulator: &Emulator, shape: Shape) {
    let Shape {
        n,
        t,
        heads,
        head_dim,
    } = shape;
    let width = heads * head_dim;
    let seed = (t * 131 + head_dim + heads) as u64;
    let qkv: Vec<T> = rounded(&noise(n * t * 3 * width, seed));
    let bias: Vec<T> = rounded(&noise(3 * width, seed + 1));
    let (input, of_bias) = (emulator.buffer(&qkv), emulator.buffer(&bias));
    let output = emulator.empty::<T>(n * t * width);
    let operands = Operands {
        qkv: emulator.address(&input),
        bias: emulator.address(&of_bias),
        out: emulator.address(&output),
    };
    let launch = attention(operands, T::DTYPE, n, t, heads, head_dim)
        .unwrap()
        .unwrap();
    emulator.launch(&launch).unwrap();
    let got: Vec<T> = emulator.elements(&output);

    let what = format!("{}, {shape:?}", launch.function);
    let plain = launch.function.contains("plain");
    let (expected, bounds) = exact(&qkv, &bias, shape, plain);
    assert_close(&what, &got, &expected, |i, _| bounds[i]);

    let tensor =
        |values: Vec<T>, dims: &[usize]| Tensor::from_vec(values, dims, &Device::Cpu).unwrap();
    let twin = clipsift::ops::attention(
        &tensor(qkv, &[n, t, 3 * width]),
        &tensor(bias, &[3 * width]),
        heads,
        None,
    );
    let twin = twin.unwrap().flatten_all().unwrap().to_vec1::<T>().unwrap();
    let twin: Vec<f64> = twin.iter().map(|x| f64::from(x.load())).collect();
    // The twin itself is within the plain bound of the exact result.
    assert_close(&what, &got, &twin, |i, x| {
        2.0 * bounds[i] + T::ROUNDING * x.abs()
    });
    cases::record(launch.function, T::NAME, format!("{shape:?}"));
}

#[test]
fn attention_on_the_device_is_near_attention_in_f64() {
    let shape = |(n, t, heads, head_dim): (usize, usize, usize, usize)| Shape {
        n,
        t,
        heads,
        head_dim,
    };
    let tensor_cores = [
        (1, 1, 2, 32),
        (2, 50, 3, 64),
        (1, 77, 2, 80),
        (1, 257, 1, 64),
        (3, 31, 1, 64),
        (2, 33, 2, 32),
        (1, 64, 1, 80),
        (1, 65, 1, 32),
        (1, 128, 1, 64),
        (1, 1, 1, 80),
    ];
    let plain = [
        (1, 1, 2, 5),
        (2, 50, 1, 16),
        (1, 77, 1, 64),
        (1, 257, 1, 31),
        (1, 33, 2, 128),
        (3, 8, 1, 80),
    ];
    cases::family("attention", || {
        both_ways(|emulator| {
            for shape in tensor_cores.map(shape) {
                check::<f16>(emulator, shape);
                check::<bf16>(emulator, shape);
            }
            // Ten tiles of keys; one dtype a card.
            let long = shape((1, 577, 1, 80));
            match emulator.placement {
                super::Placement::End => check::<f16>(emulator, long),
                super::Placement::Start => check::<bf16>(emulator, long),
            }
            for shape in plain.map(shape) {
                check::<f32>(emulator, shape);
                if ![32, 64, 80].contains(&shape.head_dim) {
                    check::<f16>(emulator, shape);
                    check::<bf16>(emulator, shape);
                }
            }
        });
    });
}

#[test]
fn large_scores_do_not_overflow_on_the_device() {
    let emulator = Emulator::new(super::Placement::End, 5);
    let (t, width) = (70, 64);
    let mut qkv = vec![f16::from_f32(30.0); t * 3 * width];
    // One key that outweighs all others from its tile on.
    qkv[66 * 3 * width + width..][..width].fill(f16::from_f32(90.0));
    qkv[66 * 3 * width + 2 * width..][..width].fill(f16::from_f32(-7.0));
    let (input, bias) = (
        emulator.buffer(&qkv),
        emulator.buffer(&vec![f16::ZERO; 3 * width]),
    );
    let output = emulator.empty::<f16>(t * width);
    let operands = Operands {
        qkv: emulator.address(&input),
        bias: emulator.address(&bias),
        out: emulator.address(&output),
    };
    let launch = attention(operands, candle_core::DType::F16, 1, t, 1, width).unwrap();
    emulator.launch(&launch.unwrap()).unwrap();
    for x in emulator.elements::<f16>(&output) {
        assert_eq!(x.to_f32(), -7.0);
    }
}
