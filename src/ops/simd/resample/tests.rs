//! The kernels against plain sums.

use super::*;

fn noise(count: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Weights up to one and a half of either sign, many of them at the edges of a digit.
fn weights(outputs: usize, inputs: usize, stride: usize) -> (Vec<(usize, usize)>, Vec<i32>) {
    let bytes = noise(outputs * stride * 4);
    let reach: Vec<_> = (0..outputs)
        .map(|i| {
            let first = i * (inputs - 1) / outputs;
            (first, (inputs - first).min(stride - i % 2))
        })
        .collect();
    let mut values = vec![0; outputs * stride];
    for (i, value) in values.iter_mut().enumerate() {
        if i % stride < reach[i / stride].1 {
            let four = bytes[4 * i..].first_chunk().copied().unwrap();
            *value = match four[3] % 8 {
                0 => -128,
                1 => 127 << 8 | 0xff,
                2 => -(128 << 8),
                _ => i32::from_le_bytes(four) % (3 << 21) / stride as i32,
            };
        }
    }
    (reach, values)
}

fn plain(get: impl Fn(usize) -> u8, (first, count): (usize, usize), values: &[i32]) -> u8 {
    let taps = (first..first + count).zip(values);
    let sum: i32 = taps.map(|(i, weight)| i32::from(get(i)) * weight).sum();
    ((sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS).clamp(0, 255) as u8
}

#[test]
fn both_passes_equal_the_plain_sums() {
    let mut ran = 0;
    for (width, outputs, stride) in [
        (22, 40, 2),
        (23, 5, 5),
        (64, 64, 1),
        (97, 13, 33),
        (500, 298, 8),
        (501, 7, 300),
    ] {
        let (reach, values) = weights(outputs, width, stride);
        let taps = Taps {
            reach: &reach,
            values: &values,
            stride,
        };
        let height = 3;
        let pixels = noise(width * CHANNELS * height);
        let rows = Rows {
            bytes: &pixels,
            step: width * CHANNELS,
            length: width * CHANNELS,
        };
        let mut out = vec![0; outputs * CHANNELS * height];
        if across(rows, taps, &mut out) {
            ran += 1;
            for (i, &got) in out.iter().enumerate() {
                let (y, x, c) = (i / (outputs * 3), i / 3 % outputs, i % 3);
                let values = &values[x * stride..][..stride];
                let want = plain(|at| pixels[(y * width + at) * 3 + c], reach[x], values);
                assert_eq!(got, want, "{width} to {outputs}: row {y}, {x}, channel {c}");
            }
        }

        // The same weights from top to bottom, over rows of an odd length.
        let length = 131;
        let pixels = noise(width * (length + 3));
        let rows = Rows {
            bytes: &pixels,
            step: length + 3,
            length,
        };
        let mut out = vec![0; outputs * length];
        if down(rows, taps, &mut out) {
            for (i, &got) in out.iter().enumerate() {
                let (y, x) = (i / length, i % length);
                let values = &values[y * stride..][..stride];
                let want = plain(|at| pixels[at * (length + 3) + x], reach[y], values);
                assert_eq!(got, want, "{width} to {outputs}: row {y}, byte {x}");
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vnni") {
        assert_eq!(ran, 6, "every case is of a kind that the kernels take");
    }
    let _ = ran;
}

#[test]
fn rows_shorter_than_a_register_and_weights_beyond_two_are_left_to_others() {
    let pixels = noise(63 * 3);
    let short = Rows {
        bytes: &pixels[..63],
        step: 63,
        length: 63,
    };
    let one = Taps {
        reach: &[(0, 1)],
        values: &[1 << FRACTION_BITS],
        stride: 1,
    };
    assert!(!across(short, one, &mut [0; 3]));
    assert!(!down(short, one, &mut [0; 63]));
    let rows = Rows {
        bytes: &pixels,
        step: 189,
        length: 189,
    };
    let large = Taps {
        values: &[2 << FRACTION_BITS],
        ..one
    };
    assert!(!across(rows, large, &mut [0; 3]));
    assert!(!down(rows, large, &mut [0; 189]));
}
