//! The ops over embeddings, all of which must be equal to the bit, and a head.

use std::collections::HashMap;

use candle_core::{DType, Device as Candle, Tensor};
use half::f16;

use super::{Check, plain};
use crate::clip::random::uniform;
use crate::clip::weights::Weights;
use crate::error::Result;
use crate::heads::{Head, Scorer};
use crate::ops;
use crate::ops::accumulate::{Groups, accumulate};
use crate::ops::assign::{Assignment, assign};
use crate::ops::cuda::accumulate::Accumulator;
use crate::ops::cuda::matrix::Precision;
use crate::ops::cuda::{self, Backend, Budget, DeviceMatrix, View};
use crate::ops::identical::first_identical;
use crate::ops::rows::Rows;
use crate::ops::tile;

/// (n, d) that a card and a CPU are tried at.
pub(super) const SIZES: [(usize, usize); 8] = [
    (1, 1),
    (2, 3),
    (31, 33),
    (129, 64),
    (257, 100),
    (300, 128),
    (513, 512),
    (140, 768),
];

/// A pair as (a, b, cosine).
type Pairs = Vec<(u64, u64, f64)>;

/// The ops over rows `[n, d]` on one device.
trait RowOps {
    /// Rows to unit length in place; the bad ones, ascending.
    fn normalize(&self, rows: &mut [f32], d: usize) -> Result<Vec<usize>>;
    /// Sums by label `[k, d]`.
    fn accumulate(&self, rows: &[f32], d: usize, labels: &[u32], k: usize) -> Result<Vec<f64>>;
    fn assign(&self, rows: &[f32], d: usize, centroids: &[f32]) -> Result<Assignment>;
    fn pairs_above(&self, rows: &[f32], d: usize, threshold: f64) -> Result<Pairs>;
    /// (row, cosine) of the best earlier row.
    fn best_earlier(&self, rows: &[f32], d: usize) -> Result<Vec<(u64, f64)>>;
    fn first_identical(&self, rows: &[f32], d: usize) -> Result<Vec<u64>>;
}

/// The CPU twins.
struct Cpu;

impl RowOps for Cpu {
    fn normalize(&self, rows: &mut [f32], d: usize) -> Result<Vec<usize>> {
        Ok(ops::normalize_rows(rows, d))
    }

    fn accumulate(&self, rows: &[f32], d: usize, labels: &[u32], k: usize) -> Result<Vec<f64>> {
        accumulate(rows, d, &Groups::new(labels, k)?)
    }

    fn assign(&self, rows: &[f32], d: usize, centroids: &[f32]) -> Result<Assignment> {
        assign(rows, d, centroids)
    }

    fn pairs_above(&self, rows: &[f32], d: usize, threshold: f64) -> Result<Pairs> {
        let mut all = Vec::new();
        tile::pairs_above(Rows::all(rows, d)?, threshold, tile::TILE, |_, pairs| {
            all.extend(pairs.iter().map(|p| (p.a, p.b, p.cosine)));
            Ok::<_, crate::Error>(())
        })?;
        Ok(all)
    }

    fn best_earlier(&self, rows: &[f32], d: usize) -> Result<Vec<(u64, f64)>> {
        let matches = tile::best_earlier(Rows::all(rows, d)?, tile::TILE);
        Ok(matches.into_iter().map(|m| (m.row, m.cosine)).collect())
    }

    fn first_identical(&self, rows: &[f32], d: usize) -> Result<Vec<u64>> {
        Ok(first_identical(Rows::all(rows, d)?))
    }
}

/// The kernels, on whatever executes launches.
struct Card<'b, B>(&'b B);

impl<B: Backend> Card<'_, B> {
    fn up(&self, bytes: &[u8]) -> Result<B::Buffer> {
        let mut buffer = self.0.allocate(bytes.len())?;
        self.0.upload(bytes, &mut buffer)?;
        Ok(buffer)
    }

    fn down(&self, buffer: &B::Buffer, into: &mut [u8]) -> Result<()> {
        self.0.download(buffer, 0, into)
    }
}

impl<B: Backend> RowOps for Card<'_, B> {
    fn normalize(&self, rows: &mut [f32], d: usize) -> Result<Vec<usize>> {
        let n = rows.len() / d;
        let (x, bad) = (self.up(bytemuck::cast_slice(rows))?, self.0.allocate(n)?);
        let address = self.0.address(&x);
        self.0
            .launch(&cuda::normalize::normalize(&cuda::normalize::Normalize {
                x: address,
                dtype: DType::F32,
                out: address,
                out_dtype: DType::F32,
                bad: self.0.address(&bad),
                n,
                d,
            })?)?;
        let mut flags = vec![0; n];
        self.down(&x, bytemuck::cast_slice_mut(rows))?;
        self.down(&bad, &mut flags)?;
        Ok((0..n).filter(|row| flags[*row] != 0).collect())
    }

    fn accumulate(&self, rows: &[f32], d: usize, labels: &[u32], k: usize) -> Result<Vec<f64>> {
        let (x, own) = (
            self.up(bytemuck::cast_slice(rows))?,
            self.up(bytemuck::cast_slice(labels))?,
        );
        let (sums, counts) = (self.0.allocate(8 * k * d)?, self.0.allocate(8 * k)?);
        let given = cuda::accumulate::Rows {
            x: self.0.address(&x),
            dtype: DType::F32,
            stride: d,
            labels: self.0.address(&own),
        };
        let (to, counted) = (self.0.address(&sums), self.0.address(&counts));
        Accumulator::new(self.0, labels.len(), d, k)?.run(self.0, &given, to, counted)?;
        let mut out = vec![0.0f64; k * d];
        self.down(&sums, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    }

    fn assign(&self, rows: &[f32], d: usize, centroids: &[f32]) -> Result<Assignment> {
        let matrix = DeviceMatrix::from_rows(self.0, rows, d)?;
        let k = centroids.len() / d;
        let mut of = DeviceMatrix::with_capacity(self.0, k, d, Precision::Single)?;
        of.append_rows(centroids)?;
        cuda::assign::assign(View::all(&matrix), &of, &Budget::default())
    }

    fn pairs_above(&self, rows: &[f32], d: usize, threshold: f64) -> Result<Pairs> {
        let matrix = DeviceMatrix::from_rows(self.0, rows, d)?;
        let mut all = Vec::new();
        cuda::tile::pairs_above(
            View::all(&matrix),
            threshold,
            &Budget::default(),
            |_, pairs| {
                all.extend(pairs.iter().map(|p| (p.a, p.b, p.cosine)));
                Ok::<_, crate::Error>(())
            },
        )?;
        Ok(all)
    }

    fn best_earlier(&self, rows: &[f32], d: usize) -> Result<Vec<(u64, f64)>> {
        let matrix = DeviceMatrix::from_rows(self.0, rows, d)?;
        let one = [matrix.len()];
        let matches = cuda::tile::best_earlier(View::all(&matrix), &one, &Budget::default())?;
        Ok(matches.into_iter().map(|m| (m.row, m.cosine)).collect())
    }

    fn first_identical(&self, rows: &[f32], d: usize) -> Result<Vec<u64>> {
        let matrix = DeviceMatrix::from_rows(self.0, rows, d)?;
        cuda::identical::first_identical(View::all(&matrix), &[matrix.len()], &Budget::default())
    }
}

/// The CPU twins against the plain loops.
pub(super) fn check_cpu(take: &mut dyn FnMut(Check)) -> Result<()> {
    check_all(&Cpu, &SIZES, take)
}

/// The kernels against the plain loops and the CPU twins.
pub(super) fn check_card<B: Backend>(
    backend: &B,
    sizes: &[(usize, usize)],
    take: &mut dyn FnMut(Check),
) -> Result<()> {
    check_all(&Card(backend), sizes, take)
}

fn check_all(
    device: &dyn RowOps,
    sizes: &[(usize, usize)],
    take: &mut dyn FnMut(Check),
) -> Result<()> {
    // Rows that f16 holds exactly are kept in f16 on a card, others in f32 beside it.
    for dtype in ["f32", "f16"] {
        for (op, agrees) in OPS {
            let mut check = Check::new(op, dtype, 0.0);
            for &(n, d) in sizes {
                let mut rows = unit_rows(n, d);
                if dtype == "f16" {
                    rows.iter_mut()
                        .for_each(|x| *x = f16::from_f32(*x).to_f32());
                }
                let [plain, twin] =
                    agrees(device, &rows, d)?.map(|equal| f64::from(u8::from(!equal)));
                check.add(&format!("n {n}, d {d}"), plain, twin);
            }
            take(check);
        }
    }
    take(head()?);
    Ok(())
}

/// Whether a device's result is that of the plain loops, and that of the CPU twin, to the bit.
type Agrees = fn(&dyn RowOps, &[f32], usize) -> Result<[bool; 2]>;

const OPS: [(&str, Agrees); 6] = [
    ("normalize_rows", normalize),
    ("accumulate", sums),
    ("assign", labels),
    ("pairs_above", pairs),
    ("best_earlier", matches),
    ("first_identical", identical),
];

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

fn normalize(device: &dyn RowOps, rows: &[f32], d: usize) -> Result<[bool; 2]> {
    let mut given: Vec<f32> = rows.iter().map(|x| x * 3.7).collect();
    let bad = rows.len() / d / 2;
    given[bad * d] = f32::NAN;
    let (mut got, mut twin) = (given.clone(), given.clone());
    let named = device.normalize(&mut got, d)?;
    let by_twin = Cpu.normalize(&mut twin, d)?;
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
    Ok([
        named == [bad] && got == expected,
        named == by_twin && got == twin,
    ])
}

fn sums(device: &dyn RowOps, rows: &[f32], d: usize) -> Result<[bool; 2]> {
    let k = (rows.len() / d / 7).max(1);
    let labels: Vec<u32> = (0..rows.len() / d)
        .map(|row| (row * row % k) as u32)
        .collect();
    let got = device.accumulate(rows, d, &labels, k)?;
    let twin = Cpu.accumulate(rows, d, &labels, k)?;
    Ok([got == plain::accumulate(rows, d, &labels, k), got == twin])
}

fn labels(device: &dyn RowOps, rows: &[f32], d: usize) -> Result<[bool; 2]> {
    let n = rows.len() / d;
    // Rows as centroids, one of them twice, so that there are ties.
    let mut centroids: Vec<f32> = (0..n)
        .step_by(3)
        .flat_map(|row| rows[row * d..(row + 1) * d].iter().map(|x| x * 0.9))
        .collect();
    centroids.extend_from_within(..d);
    let got = device.assign(rows, d, &centroids)?;
    let twin = Cpu.assign(rows, d, &centroids)?;
    let plain = plain::assign(rows, d, &centroids);
    let agrees = got
        .labels
        .iter()
        .zip(&got.squared_distances)
        .map(|(l, s)| (*l, *s))
        .eq(plain);
    Ok([agrees, got == twin])
}

fn pairs(device: &dyn RowOps, rows: &[f32], d: usize) -> Result<[bool; 2]> {
    let n = rows.len() / d;
    // A pair's own cosine, so that a last place decides.
    let threshold = plain::cosine(&rows[..d], &rows[(n - 1) * d..]).max(0.9);
    let got = device.pairs_above(rows, d, threshold)?;
    Ok([
        got == plain::pairs(rows, d, threshold),
        got == Cpu.pairs_above(rows, d, threshold)?,
    ])
}

fn matches(device: &dyn RowOps, rows: &[f32], d: usize) -> Result<[bool; 2]> {
    let got = device.best_earlier(rows, d)?;
    Ok([
        got == plain::best_earlier(rows, d),
        got == Cpu.best_earlier(rows, d)?,
    ])
}

fn identical(device: &dyn RowOps, rows: &[f32], d: usize) -> Result<[bool; 2]> {
    let got = device.first_identical(rows, d)?;
    Ok([
        got == plain::first_identical(rows, d),
        got == Cpu.first_identical(rows, d)?,
    ])
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
