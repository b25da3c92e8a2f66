//! What strips of products are searched for, compiled for the vector widths that a processor may have.
//!
//! A product p of left row i and right row j stands for the value `p * column_scale[j] * row_scale[i] + bias[j]`. Few values
//! pass a limit, so they are tested in blocks first, without a branch in them.

const BLOCK: usize = 64;
const LANES: usize = 16;

/// What a product may be: an exact integer, or f32.
pub(crate) trait Product: Copy {
    /// As f32, rounded.
    fn value(self) -> f32;
}

impl Product for i32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self as f32
    }
}

impl Product for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

/// A strip of products, `[rows, columns]`, and what makes values of them.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a, P> {
    pub products: &'a [P],
    /// `[rows]`.
    pub row_scale: &'a [f32],
    /// `[columns]`.
    pub column_scale: &'a [f32],
    /// `[columns]`.
    pub bias: &'a [f32],
}

/// A value that passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    /// In the strip.
    pub row: u32,
    /// In the strip.
    pub column: u32,
    /// The value.
    pub value: f32,
}

macro_rules! widths {
    ($name:ident, $body:ident, $( $argument:ident : $type:ty ),*) => {
        pub(crate) fn $name<P: Product>(strip: Strip<P>, $( $argument: $type ),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
                fn avx512<P: Product>(strip: Strip<P>, $( $argument: $type ),*) {
                    $body(strip, $( $argument ),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2<P: Product>(strip: Strip<P>, $( $argument: $type ),*) {
                    $body(strip, $( $argument ),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has the four, which is all that the function asks for.
                    return unsafe { avx512(strip, $( $argument ),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, which is all that the function asks for.
                    return unsafe { avx2(strip, $( $argument ),*) };
                }
            }
            $body(strip, $( $argument ),*)
        }
    };
}

// Appends to `found` each value that is at least its row's limit, row after row, columns ascending. Rows without a limit do not
// count.
widths!(at_least, at_least_body, limits: &[f32], found: &mut Vec<Found>);
// Raises `greatest` `[rows]` to the greatest value among the first `ends[i]` columns of each row.
widths!(greatest, greatest_body, ends: &[usize], greatest: &mut [f32]);

#[inline(always)]
fn at_least_body<P: Product>(strip: Strip<P>, limits: &[f32], found: &mut Vec<Found>) {
    let columns = strip.bias.len();
    let scales = &strip.column_scale[..columns];
    for (i, products) in strip
        .products
        .chunks_exact(columns)
        .enumerate()
        .take(limits.len())
    {
        let (row_scale, limit) = (strip.row_scale[i], limits[i]);
        let value = |p: P, s: f32, b: f32| p.value() * s * row_scale + b;
        let blocks = products
            .chunks(BLOCK)
            .zip(scales.chunks(BLOCK))
            .zip(strip.bias.chunks(BLOCK));
        for (block, ((products, scales), bias)) in blocks.enumerate() {
            let mut any = false;
            if let (Ok(p), Ok(s), Ok(b)) = (
                <&[P; BLOCK]>::try_from(products),
                <&[f32; BLOCK]>::try_from(scales),
                <&[f32; BLOCK]>::try_from(bias),
            ) {
                for l in 0..BLOCK {
                    any |= value(p[l], s[l], b[l]) >= limit;
                }
            } else {
                any = true;
            }
            if any {
                for (l, ((&p, &s), &b)) in products.iter().zip(scales).zip(bias).enumerate() {
                    let value = value(p, s, b);
                    if value >= limit {
                        let column = (block * BLOCK + l) as u32;
                        found.push(Found {
                            row: i as u32,
                            column,
                            value,
                        });
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn greatest_body<P: Product>(strip: Strip<P>, ends: &[usize], greatest: &mut [f32]) {
    let columns = strip.bias.len();
    for (i, products) in strip
        .products
        .chunks_exact(columns)
        .enumerate()
        .take(greatest.len())
    {
        let row_scale = strip.row_scale[i];
        let value = |p: P, s: f32, b: f32| p.value() * s * row_scale + b;
        let end = ends[i].min(columns);
        let (products, products_rest) = products[..end].as_chunks::<LANES>();
        let (scales, scales_rest) = strip.column_scale[..end].as_chunks::<LANES>();
        let (bias, bias_rest) = strip.bias[..end].as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for ((p, s), b) in products.iter().zip(scales).zip(bias) {
            for l in 0..LANES {
                let value = value(p[l], s[l], b[l]);
                lanes[l] = if value > lanes[l] { value } else { lanes[l] };
            }
        }
        for (l, ((&p, &s), &b)) in products_rest
            .iter()
            .zip(scales_rest)
            .zip(bias_rest)
            .enumerate()
        {
            lanes[l] = lanes[l].max(value(p, s, b));
        }
        greatest[i] = lanes.into_iter().fold(greatest[i], f32::max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_give_what_a_loop_gives() {
        for columns in [1, 15, 16, 17, 64, 65, 100, 192] {
            let rows = 3;
            let products: Vec<i32> = (0..rows * columns)
                .map(|i| (i as i32 * 37) % 101 - 50)
                .collect();
            let row_scale = [1.0, 0.5, 2.0];
            let column_scale: Vec<f32> = (0..columns).map(|j| 1.0 + (j % 3) as f32).collect();
            let bias: Vec<f32> = (0..columns).map(|j| (j % 7) as f32).collect();
            let strip = Strip {
                products: &products,
                row_scale: &row_scale,
                column_scale: &column_scale,
                bias: &bias,
            };
            let value = |i: usize, j: usize| {
                products[i * columns + j] as f32 * column_scale[j] * row_scale[i] + bias[j]
            };
            for limit in [-1e9, 0.0, 60.0, 1e9] {
                let limits = [limit, limit + 1.0, limit - 1.0];
                let mut found = Vec::new();
                at_least(strip, &limits, &mut found);
                let mut expected = Vec::new();
                for (i, &limit) in limits.iter().enumerate() {
                    for j in 0..columns {
                        if value(i, j) >= limit {
                            expected.push(Found {
                                row: i as u32,
                                column: j as u32,
                                value: value(i, j),
                            });
                        }
                    }
                }
                assert_eq!(found, expected);
            }
            let ends = [0, columns / 2, usize::MAX];
            let mut greatest_values = [7.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
            greatest(strip, &ends, &mut greatest_values);
            for (i, &end) in ends.iter().enumerate() {
                let start = if i == 0 { 7.0 } else { f32::NEG_INFINITY };
                let expected = (0..end.min(columns))
                    .map(|j| value(i, j))
                    .fold(start, f32::max);
                assert_eq!(greatest_values[i], expected);
            }
        }
    }
}
