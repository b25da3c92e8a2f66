//! The ops of the tower, a whole tower and a head.

use candle_core::{DType, Device as Candle, Tensor};

use super::{Check, plain};
use crate::clip::config::{Preprocess, VisionConfig};
use crate::clip::random::{random_weights, uniform};
use crate::clip::tower::VisionTower;
use crate::device::Device;
use crate::error::Result;
use crate::ops::{self, Activation, LayerNorm, Linear, Matrix, PixelNorm, Precision};

const EPS: f64 = 1e-5;

/// CLIP's own.
fn pixel_norm() -> PixelNorm {
    Preprocess::openai(224).norm
}

/// The precision of results is told where the inputs do not show it.
type Run = dyn Fn(&[Tensor], Precision) -> Result<Vec<Tensor>>;
type Plain = dyn Fn(&[Vec<f64>]) -> Vec<Vec<f64>>;

/// One call of an op: the inputs in f32 on the CPU, the op over tensors, and the same in plain loops.
struct Case {
    name: String,
    inputs: Vec<Tensor>,
    run: Box<Run>,
    plain: Box<Plain>,
}

/// What a value may be off by, relative to the largest of the result: results are rounded to the dtype once, and what goes between
/// two matrix products inside attention once more.
fn bound(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-5,
        Precision::F16 => 2e-3,
        Precision::Bf16 => 1.6e-2,
        // Both factors of each product are off by up to half a step.
        Precision::Int8 => 2.4e-2,
    }
}

pub(super) fn check_all(
    device: &Device,
    precision: Precision,
    take: &mut dyn FnMut(Check),
) -> Result<()> {
    type Cases = fn() -> Result<Vec<Case>>;
    let linear: [(&'static str, Cases); 3] = [
        ("product", product),
        ("linear + quick_gelu", linear_activation),
        ("linear + add + norm", linear_add_norm),
    ];
    let others: [(&'static str, Cases); 8] = [
        ("patchify", patchify),
        ("matmul_t", matmul_t),
        ("layer_norm", layer_norm),
        ("add_layer_norm", add_layer_norm),
        ("add_bias", || bias(None)),
        ("bias + quick_gelu", || bias(Some(Activation::QuickGelu))),
        ("bias + gelu", || bias(Some(Activation::Gelu))),
        ("attention", attention),
    ];
    // In int8 the linear layers alone differ from bf16.
    let others = others.into_iter().filter(|_| precision != Precision::Int8);
    for (op, cases) in linear.into_iter().chain(others) {
        let mut check = Check::new(op, precision.name(), bound(precision));
        for case in cases()? {
            let (from_plain, from_twin) = errors(&case, device.candle(), precision)?;
            check.add(&case.name, from_plain, from_twin);
        }
        take(check);
    }
    take(tower(device, precision)?);
    Ok(())
}

/// The largest error of a case against the plain loops and against the CPU twin in f32.
fn errors(case: &Case, device: &Candle, precision: Precision) -> Result<(f64, f64)> {
    let dtype = precision.dtype();
    let cast = |t: &Tensor, dtype: DType| match t.dtype() {
        DType::U8 => Ok(t.clone()),
        _ => t.to_dtype(dtype),
    };
    let rounded: Vec<Tensor> = case
        .inputs
        .iter()
        .map(|t| cast(t, dtype))
        .collect::<Result<_, _>>()?;
    let placed: Vec<Tensor> = rounded
        .iter()
        .map(|t| t.to_device(device))
        .collect::<Result<_, _>>()?;
    let in_f32: Vec<Tensor> = rounded
        .iter()
        .map(|t| cast(t, DType::F32))
        .collect::<Result<_, _>>()?;
    let got = values((case.run)(&placed, precision)?)?;
    let twin = values((case.run)(&in_f32, Precision::F32)?)?;
    let plain = (case.plain)(&values(in_f32)?);
    let worst = |expected: &[Vec<f64>]| {
        got.iter()
            .zip(expected)
            .map(|(got, expected)| relative(got, expected))
            .fold(0.0, nan_max)
    };
    Ok((worst(&plain), worst(&twin)))
}

fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// The largest |got - expected|, relative to the largest |expected|. Infinite where the sizes differ.
fn relative(got: &[f64], expected: &[f64]) -> f64 {
    if got.len() != expected.len() {
        return f64::INFINITY;
    }
    let scale = expected
        .iter()
        .map(|x| x.abs())
        .fold(f64::MIN_POSITIVE, f64::max);
    got.iter()
        .zip(expected)
        .map(|(g, e)| (g - e).abs() / scale)
        .fold(0.0, nan_max)
}

fn values(tensors: Vec<Tensor>) -> Result<Vec<Vec<f64>>> {
    let one = |t: Tensor| -> Result<Vec<f64>> {
        let t = t
            .to_device(&Candle::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?;
        Ok(t.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    };
    tensors.into_iter().map(one).collect()
}

/// Values in -spread..spread; as many different streams of them as there are shapes.
fn draw(shape: &[usize], spread: f32) -> Result<Tensor> {
    let stream = shape.iter().fold(17, |h, x| h * 31 + *x as u64) & 0xffff_ffff;
    let mut values = uniform(1, stream, shape.iter().product());
    values.iter_mut().for_each(|x| *x *= spread);
    Ok(Tensor::from_vec(values, shape, &Candle::Cpu)?)
}

fn patchify() -> Result<Vec<Case>> {
    [(1, 33, 16), (2, 96, 16), (3, 70, 14), (2, 64, 32)]
        .into_iter()
        .map(|(n, s, p)| {
            let bytes: Vec<u8> = uniform(2, s as u64, n * s * s * 3)
                .iter()
                .map(|x| (x * 127.0 + 128.0) as u8)
                .collect();
            Ok(Case {
                name: format!("n {n}, s {s}, p {p}"),
                inputs: vec![Tensor::from_vec(bytes, (n, s, s, 3), &Candle::Cpu)?],
                run: Box::new(move |x, precision| {
                    Ok(vec![ops::patchify(
                        &x[0],
                        p,
                        &pixel_norm(),
                        precision.dtype(),
                        None,
                    )?])
                }),
                plain: Box::new(move |x| {
                    let pixels: Vec<u8> = x[0].iter().map(|v| *v as u8).collect();
                    vec![plain::patchify(
                        &pixels,
                        s,
                        p,
                        pixel_norm().mean,
                        pixel_norm().std,
                    )]
                }),
            })
        })
        .collect()
}

/// Rows, values of a row and columns.
const PRODUCTS: [(usize, usize, usize); 6] = [
    (1, 1, 1),
    (1, 64, 48),
    (33, 31, 65),
    (257, 192, 100),
    (50, 768, 257),
    (130, 129, 127),
];

/// Plain loops over inputs whose rows have so many values.
type PlainProduct = fn(&[Vec<f64>], usize) -> Vec<Vec<f64>>;

fn product_cases(
    also: impl Fn(usize, usize) -> Result<Vec<Tensor>>,
    run: fn(&[Tensor], Precision) -> Result<Vec<Tensor>>,
    plain: PlainProduct,
) -> Result<Vec<Case>> {
    PRODUCTS
        .into_iter()
        .map(|(n, inner, out)| {
            let mut inputs = vec![draw(&[n, inner], 1.0)?, draw(&[out, inner], 1.0)?];
            inputs.extend(also(n, out)?);
            Ok(Case {
                name: format!("[{n}, {inner}] x [{out}, {inner}]"),
                inputs,
                run: Box::new(run),
                plain: Box::new(move |x| plain(x, inner)),
            })
        })
        .collect()
}

fn matmul_t() -> Result<Vec<Case>> {
    product_cases(
        |_, _| Ok(vec![]),
        |x, _| Ok(vec![ops::matmul_t(&x[0], &x[1])?]),
        |x, inner| vec![plain::matmul_t(&x[0], &x[1], inner)],
    )
}

/// The matrix as a tower would load it, for the device of x.
fn matrix(x: &[Tensor], precision: Precision) -> Result<Matrix> {
    Matrix::new(&x[1].to_device(&Candle::Cpu)?, x[0].device(), precision)
}

fn product() -> Result<Vec<Case>> {
    product_cases(
        |_, _| Ok(vec![]),
        |x, precision| Ok(vec![ops::product(&x[0], &matrix(x, precision)?, None)?]),
        |x, inner| vec![plain::matmul_t(&x[0], &x[1], inner)],
    )
}

fn linear(x: &[Tensor], precision: Precision) -> Result<Linear> {
    Ok(Linear {
        weight: matrix(x, precision)?,
        bias: x[2].clone(),
    })
}

fn linear_activation() -> Result<Vec<Case>> {
    product_cases(
        |_, out| Ok(vec![draw(&[out], 1.0)?]),
        |x, precision| {
            let linear = linear(x, precision)?;
            let quick_gelu = Activation::QuickGelu;
            Ok(vec![ops::linear_activation(
                &x[0], &linear, quick_gelu, None,
            )?])
        },
        |x, inner| {
            let product = plain::matmul_t(&x[0], &x[1], inner);
            vec![plain::bias_then(&product, &x[2], plain::quick_gelu)]
        },
    )
}

fn linear_add_norm() -> Result<Vec<Case>> {
    product_cases(
        |n, out| {
            Ok(vec![
                draw(&[out], 1.0)?,
                draw(&[n, out], 4.0)?,
                draw(&[out, 1], 1.0)?.squeeze(1)?,
                draw(&[1, out], 0.5)?.squeeze(0)?,
            ])
        },
        |x, precision| {
            let linear = linear(x, precision)?;
            // The sum takes the residual's memory, and the inputs are looked at again.
            let residual = x[3].to_dtype(precision.stream(x[3].device()))?.copy()?;
            let (sum, normed) =
                ops::linear_add_norm(&x[0], &linear, residual, &norm_of(&x[4..]), None)?;
            Ok(vec![sum, normed])
        },
        |x, inner| {
            let product = plain::matmul_t(&x[0], &x[1], inner);
            let biased = plain::bias_then(&product, &x[2], |x| x);
            let sum: Vec<f64> = x[3].iter().zip(&biased).map(|(a, b)| a + b).collect();
            let normed = plain::layer_norm(&sum, &x[4], &x[5], EPS);
            vec![sum, normed]
        },
    )
}

const ROWS: [(usize, usize); 7] = [
    (1, 1),
    (1, 33),
    (3, 64),
    (31, 192),
    (257, 257),
    (5, 768),
    (2, 1025),
];

fn norm_of(x: &[Tensor]) -> LayerNorm {
    LayerNorm {
        weight: x[0].clone(),
        bias: x[1].clone(),
        eps: EPS,
    }
}

fn layer_norm() -> Result<Vec<Case>> {
    ROWS.into_iter()
        .map(|(n, w)| {
            Ok(Case {
                name: format!("[{n}, {w}]"),
                inputs: vec![draw(&[n, w], 4.0)?, draw(&[w], 1.0)?, draw(&[w], 0.5)?],
                run: Box::new(|x, _| Ok(vec![ops::layer_norm(&x[0], &norm_of(&x[1..]), None)?])),
                plain: Box::new(|x| vec![plain::layer_norm(&x[0], &x[1], &x[2], EPS)]),
            })
        })
        .collect()
}

fn add_layer_norm() -> Result<Vec<Case>> {
    ROWS.into_iter()
        .map(|(n, w)| {
            Ok(Case {
                name: format!("[{n}, {w}]"),
                inputs: vec![
                    draw(&[n, w], 4.0)?,
                    draw(&[n, w, 1], 2.0)?.squeeze(2)?,
                    draw(&[w, 1], 1.0)?.squeeze(1)?,
                    draw(&[w], 1.0)?,
                    draw(&[1, w], 0.5)?.squeeze(0)?,
                ],
                run: Box::new(|x, _| {
                    let (sum, normed) =
                        ops::add_layer_norm(&x[0], &x[1], &x[2], &norm_of(&x[3..]))?;
                    Ok(vec![sum, normed])
                }),
                plain: Box::new(|x| {
                    let biased = plain::bias_then(&x[1], &x[2], |x| x);
                    let sum: Vec<f64> = x[0].iter().zip(&biased).map(|(a, b)| a + b).collect();
                    let normed = plain::layer_norm(&sum, &x[3], &x[4], EPS);
                    vec![sum, normed]
                }),
            })
        })
        .collect()
}

fn bias(activation: Option<Activation>) -> Result<Vec<Case>> {
    ROWS.into_iter()
        .map(|(n, w)| {
            Ok(Case {
                name: format!("[{n}, {w}]"),
                inputs: vec![draw(&[n, w], 6.0)?, draw(&[w], 1.0)?],
                run: Box::new(move |x, _| {
                    Ok(vec![match activation {
                        None => ops::add_bias(&x[0], &x[1])?,
                        Some(activation) => ops::bias_activation(&x[0], &x[1], activation)?,
                    }])
                }),
                plain: Box::new(move |x| {
                    let f = match activation {
                        None => |x| x,
                        Some(Activation::QuickGelu) => plain::quick_gelu,
                        Some(Activation::Gelu) => plain::gelu,
                    };
                    vec![plain::bias_then(&x[0], &x[1], f)]
                }),
            })
        })
        .collect()
}

fn attention() -> Result<Vec<Case>> {
    [
        (1, 1, 1, 64),
        (2, 50, 3, 64),
        (1, 257, 2, 64),
        (3, 37, 2, 32),
        (1, 65, 2, 80),
        (1, 577, 1, 64),
    ]
    .into_iter()
    .map(|(n, t, heads, d)| {
        let w = heads * d;
        Ok(Case {
            name: format!("n {n}, t {t}, {heads} heads of {d}"),
            inputs: vec![draw(&[n, t, 3 * w], 2.0)?, draw(&[3 * w], 0.5)?],
            run: Box::new(move |x, _| Ok(vec![ops::attention(&x[0], &x[1], heads, None)?])),
            plain: Box::new(move |x| vec![plain::attention(&x[0], &x[1], t, heads)]),
        })
    })
    .collect()
}

/// A whole tower of random weights: 1 - cosine to the CPU in f32. Plain loops have no tower; the twin's error stands for both.
fn tower(device: &Device, precision: Precision) -> Result<Check> {
    let config = VisionConfig {
        hidden_size: 192,
        intermediate_size: 768,
        num_hidden_layers: 4,
        num_attention_heads: 3,
        image_size: 112,
        patch_size: 16,
        projection_dim: 128,
        ..VisionConfig::default()
    };
    let weights = random_weights(&config, 7)?;
    let (n, s) = (5, config.image_size);
    let pixels: Vec<u8> = uniform(3, 1, n * s * s * 3)
        .iter()
        .map(|x| (x * 127.0 + 128.0) as u8)
        .collect();
    let embed = |device: &Candle, precision: Precision| -> Result<Vec<f64>> {
        let tower = VisionTower::load(&config, &weights, device, precision)?;
        let pixels = Tensor::from_slice(&pixels, (n, s, s, 3), device)?;
        Ok(values(vec![tower.forward(&pixels, &pixel_norm())?])?.remove(0))
    };
    let got = embed(device.candle(), precision)?;
    let expected = embed(&Candle::Cpu, Precision::F32)?;
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let d = config.projection_dim;
    let worst = got
        .chunks_exact(d)
        .zip(expected.chunks_exact(d))
        .map(|(g, e)| {
            let dot: f64 = g.iter().zip(e).map(|(g, e)| g * e).sum();
            (1.0 - dot / (length(g) * length(e))).max(0.0)
        })
        .fold(0.0, nan_max);
    // f16 embeddings are promised at a cosine of .9999 to f32.
    let bound = match precision {
        Precision::F32 => 1e-9,
        Precision::F16 => 1e-4,
        Precision::Bf16 | Precision::Int8 => 1e-3,
    };
    let mut check = Check::new("tower, 1 - cosine", precision.name(), bound);
    check.add("4 layers of 192", worst, worst);
    Ok(check)
}
