//! The ops written out: plain loops in f64, no tiles, no vector instructions, nothing shared with `ops`. What every device is held
//! to.

/// `x · weightᵀ`: x `[n, in]`, weight `[out, in]` -> `[n, out]`.
pub(super) fn matmul_t(x: &[f64], weight: &[f64], inner: usize) -> Vec<f64> {
    x.chunks_exact(inner)
        .flat_map(|x| {
            weight
                .chunks_exact(inner)
                .map(|w| dot(x, w))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// LayerNorm of rows `[.., w]`.
pub(super) fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let w = weight.len();
    x.chunks_exact(w)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / w as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / w as f64;
            let scale = 1.0 / (variance + eps).sqrt();
            let one = |i: usize| (row[i] - mean) * scale * weight[i] + bias[i];
            (0..w).map(one).collect::<Vec<_>>()
        })
        .collect()
}

/// `f(x + bias)`: x `[.., w]`, bias `[w]`.
pub(super) fn bias_then(x: &[f64], bias: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    x.iter()
        .zip(bias.iter().cycle())
        .map(|(x, b)| f(x + b))
        .collect()
}

/// `x · sigmoid(1.702 x)`.
pub(super) fn quick_gelu(x: f64) -> f64 {
    x / (1.0 + (-1.702 * x).exp())
}

/// `x · Φ(x)`.
pub(super) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / std::f64::consts::SQRT_2))
}

/// Attention of `ops::attention`: qkv `[n, t, 3w]`, bias `[3w]` -> `[n, t, w]`.
pub(super) fn attention(qkv: &[f64], bias: &[f64], t: usize, heads: usize) -> Vec<f64> {
    let w = bias.len() / 3;
    let d = w / heads;
    let biased = bias_then(qkv, bias, |x| x);
    let mut out = vec![0.0; biased.len() / 3];
    for (image, out) in biased
        .chunks_exact(t * 3 * w)
        .zip(out.chunks_exact_mut(t * w))
    {
        for head in 0..heads {
            let part =
                |token: usize, which: usize| &image[token * 3 * w + which * w + head * d..][..d];
            for i in 0..t {
                let scores: Vec<f64> = (0..t)
                    .map(|j| dot(part(i, 0), part(j, 1)) / (d as f64).sqrt())
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (j, weight) in weights.iter().enumerate() {
                    for (o, v) in out[i * w + head * d..][..d].iter_mut().zip(part(j, 2)) {
                        *o += weight / total * v;
                    }
                }
            }
        }
    }
    out
}

/// Normalised patches of `ops::patchify`: pixels `[n, s, s, 3]` -> `[n, g², 3p²]`.
pub(super) fn patchify(
    pixels: &[u8],
    s: usize,
    p: usize,
    mean: [f32; 3],
    std: [f32; 3],
) -> Vec<f64> {
    let g = s / p;
    let mut out = Vec::new();
    for image in pixels.chunks_exact(s * s * 3) {
        for (top, left) in (0..g * g).map(|patch| (patch / g * p, patch % g * p)) {
            for c in 0..3 {
                for (y, x) in (0..p * p).map(|i| (i / p, i % p)) {
                    let value = f64::from(image[((top + y) * s + left + x) * 3 + c]) / 255.0;
                    out.push((value - f64::from(mean[c])) / f64::from(std[c]));
                }
            }
        }
    }
    out
}

/// The dot product of two rows in the documented order: f64, element i in lane i % 16, lanes added pairwise.
pub(super) fn canonical(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; 16];
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        lanes[i % 16] += term(f64::from(*a), f64::from(*b));
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// The canonical cosine of two unit rows.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    canonical(a, b, |a, b| a * b)
}

/// The canonical squared distance.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    canonical(a, b, |a, b| (a - b) * (a - b))
}

/// The nearest centroid of each row, the lowest on a tie, and its squared distance.
pub(super) fn assign(rows: &[f32], d: usize, centroids: &[f32]) -> Vec<(u32, f64)> {
    let nearest = |x: &[f32]| {
        let mut best = (0, f64::INFINITY);
        for (j, c) in centroids.chunks_exact(d).enumerate() {
            let distance = squared_distance(x, c);
            if distance < best.1 {
                best = (j as u32, distance);
            }
        }
        best
    };
    rows.chunks_exact(d).map(nearest).collect()
}

/// Sums of rows by label, each in ascending order of rows: `[k, d]`.
pub(super) fn accumulate(rows: &[f32], d: usize, labels: &[u32], k: usize) -> Vec<f64> {
    let mut sums = vec![0.0; k * d];
    for (row, label) in rows.chunks_exact(d).zip(labels) {
        let sum = &mut sums[*label as usize * d..][..d];
        sum.iter_mut()
            .zip(row)
            .for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums
}

/// Every pair (a, b, cosine) with a < b and a cosine of at least `threshold`.
pub(super) fn pairs(rows: &[f32], d: usize, threshold: f64) -> Vec<(u64, u64, f64)> {
    let rows: Vec<&[f32]> = rows.chunks_exact(d).collect();
    let mut pairs = Vec::new();
    for a in 0..rows.len() {
        for b in a + 1..rows.len() {
            let cosine = cosine(rows[a], rows[b]);
            if cosine >= threshold {
                pairs.push((a as u64, b as u64, cosine));
            }
        }
    }
    pairs
}

/// For each row the earlier one of greatest cosine, the earliest on a tie; the row itself and 0 at the first.
pub(super) fn best_earlier(rows: &[f32], d: usize) -> Vec<(u64, f64)> {
    let rows: Vec<&[f32]> = rows.chunks_exact(d).collect();
    let best = |p: usize| {
        let mut best = (p as u64, 0.0);
        for q in 0..p {
            let cosine = cosine(rows[p], rows[q]);
            if q == 0 || cosine > best.1 {
                best = (q as u64, cosine);
            }
        }
        best
    };
    (0..rows.len()).map(best).collect()
}

/// For each row the first one with the same bits.
pub(super) fn first_identical(rows: &[f32], d: usize) -> Vec<u64> {
    let rows: Vec<&[f32]> = rows.chunks_exact(d).collect();
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    let first = |p: usize| (0..p).find(|q| same(rows[*q], rows[p])).unwrap_or(p) as u64;
    (0..rows.len()).map(first).collect()
}
