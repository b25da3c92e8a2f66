//! The ops over embeddings, all of which must be equal to the bit, and a head.

use std::collections::HashMap;

use candle_core::{Device as Candle, Tensor};

use super::{Check, plain};
use crate::clip::random::uniform;
use crate::clip::weights::Weights;
use crate::device::Device;
use crate::error::Result;
use crate::heads::{Head, Scorer};
use crate::ops;
use crate::ops::accumulate::{Groups, accumulate};
use crate::ops::assign::assign;
use crate::ops::rows::Rows;
use crate::ops::tile;

/// (n, d)
const SIZES: [(usize, usize); 8] = [
    (1, 1),
    (2, 3),
    (31, 33),
    (129, 64),
    (257, 100),
    (300, 128),
    (513, 512),
    (140, 768),
];

pub(super) fn check_all(_device: &Device, take: &mut dyn FnMut(Check)) -> Result<()> {
    for check in [
        over_sizes("normalize_rows", normalize)?,
        over_sizes("accumulate", sums)?,
        over_sizes("assign", labels)?,
        over_sizes("pairs_above", pairs)?,
        over_sizes("best_earlier", matches)?,
    ] {
        take(check);
    }
    take(head()?);
    Ok(())
}

/// One op over all sizes: `agrees` says whether its result is that of the plain loops to the bit.
fn over_sizes(op: &'static str, agrees: fn(&[f32], usize) -> Result<bool>) -> Result<Check> {
    let mut check = Check::new(op, "f32", 0.0);
    for (n, d) in SIZES {
        let rows = unit_rows(n, d);
        let error = f64::from(u8::from(!agrees(&rows, d)?));
        check.add(&format!("n {n}, d {d}"), error, error);
    }
    Ok(check)
}

/// Unit rows, a third of them near to an earlier one and some equal to one.
fn unit_rows(n: usize, d: usize) -> Vec<f32> {
    let mut rows = uniform(5, d as u64, n * d);
    for row in 0..n {
        let near = [0.0, 1e-6, 0.05][row / 3 % 3];
        if row % 3 == 2 {
            for i in 0..d {
                rows[row * d + i] = rows[(row / 2) * d + i] + near * rows[row * d + i];
            }
        }
    }
    ops::normalize_rows(&mut rows, d);
    rows
}

fn normalize(rows: &[f32], d: usize) -> Result<bool> {
    let mut given: Vec<f32> = rows.iter().map(|x| x * 3.7).collect();
    let bad = rows.len() / d / 2;
    given[bad * d] = f32::NAN;
    let mut got = given.clone();
    let named = ops::normalize_rows(&mut got, d);
    let expected: Vec<f32> = given
        .chunks_exact(d)
        .flat_map(|row| {
            let length = plain::cosine(row, row).sqrt();
            let one = |x: &f32| {
                if length.is_finite() {
                    (f64::from(*x) / length) as f32
                } else {
                    0.0
                }
            };
            row.iter().map(one).collect::<Vec<_>>()
        })
        .collect();
    Ok(named == [bad] && got == expected)
}

fn sums(rows: &[f32], d: usize) -> Result<bool> {
    let k = (rows.len() / d / 7).max(1);
    let labels: Vec<u32> = (0..rows.len() / d)
        .map(|row| (row * row % k) as u32)
        .collect();
    let got = accumulate(rows, d, &Groups::new(&labels, k)?)?;
    Ok(got == plain::accumulate(rows, d, &labels, k))
}

fn labels(rows: &[f32], d: usize) -> Result<bool> {
    let n = rows.len() / d;
    // Rows as centroids, one of them twice, so that there are ties.
    let mut centroids: Vec<f32> = (0..n)
        .step_by(3)
        .flat_map(|row| rows[row * d..(row + 1) * d].iter().map(|x| x * 0.9))
        .collect();
    centroids.extend_from_within(..d);
    let got = assign(rows, d, &centroids)?;
    let got: Vec<_> = got.labels.into_iter().zip(got.squared_distances).collect();
    Ok(got == plain::assign(rows, d, &centroids))
}

fn pairs(rows: &[f32], d: usize) -> Result<bool> {
    let n = rows.len() / d;
    // A pair's own cosine, so that a last place decides.
    let threshold = plain::cosine(&rows[..d], &rows[(n - 1) * d..]).max(0.9);
    let mut got = Vec::new();
    tile::pairs_above(Rows::all(rows, d)?, threshold, tile::TILE, |_, pairs| {
        got.extend(pairs.iter().map(|p| (p.a, p.b, p.cosine)));
        Ok::<_, crate::Error>(())
    })?;
    Ok(got == plain::pairs(rows, d, threshold))
}

fn matches(rows: &[f32], d: usize) -> Result<bool> {
    let got = tile::best_earlier(Rows::all(rows, d)?, tile::TILE);
    let got: Vec<_> = got.into_iter().map(|m| (m.row, m.cosine)).collect();
    Ok(got == plain::best_earlier(rows, d))
}

/// A head of LAION's aesthetic layout, random weights: 32 -> 16 -> 1, nothing between the layers.
fn head() -> Result<Check> {
    let (n, d, inner) = (257, 32, 16);
    let tensor = |stream, shape: &[usize]| -> Result<Tensor> {
        Ok(Tensor::from_vec(
            uniform(6, stream, shape.iter().product()),
            shape,
            &Candle::Cpu,
        )?)
    };
    let tensors = [
        ("layers.0.weight", tensor(0, &[inner, d])?),
        ("layers.0.bias", tensor(1, &[inner])?),
        ("layers.2.weight", tensor(2, &[1, inner])?),
        ("layers.2.bias", tensor(3, &[1])?),
    ];
    let values = |i: usize| -> Result<Vec<f64>> {
        let values = tensors[i].1.flatten_all()?.to_vec1::<f32>()?;
        Ok(values.into_iter().map(f64::from).collect())
    };
    let named: HashMap<_, _> = tensors
        .iter()
        .map(|(k, t)| (k.to_string(), t.clone()))
        .collect();
    let rows = unit_rows(n, d);
    let got = Head::from_weights(&Weights::from_tensors("random head", named))?.score(&rows, d)?;
    let x: Vec<f64> = rows.into_iter().map(f64::from).collect();
    let hidden = plain::bias_then(&plain::matmul_t(&x, &values(0)?, d), &values(1)?, |x| x);
    let expected = plain::bias_then(
        &plain::matmul_t(&hidden, &values(2)?, inner),
        &values(3)?,
        |x| x,
    );
    let error = got
        .iter()
        .zip(&expected)
        .map(|(g, e)| (f64::from(*g) - e).abs())
        .fold(0.0, f64::max);
    let mut check = Check::new("head", "f32", 1e-4);
    check.add("257 rows, 32 -> 16 -> 1", error, error);
    Ok(check)
}
