//! Products of rows of 8-bit integers: exact in 32 bits, and several times the rate of f32 where a processor has instructions
//! for them.
//!
//! The left rows lie row after row, the right ones in panels of [`PANEL`] rows: the first four values of each row of the
//! panel, then the next four of each, and so on. That is how VNNI reads a register (sixteen rows by four values) and AMX a
//! tile (sixteen such registers). Rows are padded with zeros to a multiple of [`CHUNK`] values, their number to a multiple of
//! [`STRIP`].

use super::amx;

/// Rows of a panel on the right.
pub(crate) const PANEL: usize = 16;
/// Left rows that are taken at once; rows on both sides are padded to a multiple of it.
pub(crate) const STRIP: usize = 32;
/// Values that a row is padded to a multiple of.
pub(crate) const CHUNK: usize = 64;
/// The longest row whose products, of values from -127 to 127, surely fit 32 bits.
pub(crate) const LONGEST_ROW: usize = 1 << 17;

/// Which instructions multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Plain Rust, the twin that the others are tested against; slower than f32.
    Portable,
    /// AVX-VNNI: eight sums of four products at once.
    AvxVnni,
    /// AVX-512 VNNI: sixteen.
    Avx512Vnni,
    /// AMX: 16 x 16 sums of 64 products at once.
    Amx,
}

impl Kernel {
    /// All that this processor and its operating system can run, the fastest last.
    pub(crate) fn available() -> Vec<Kernel> {
        #[allow(unused_mut)]
        let mut kernels = vec![Kernel::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
                kernels.push(Kernel::AvxVnni);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                kernels.push(Kernel::Avx512Vnni);
            }
        }
        if amx::int8() {
            kernels.push(Kernel::Amx);
        }
        kernels
    }

    /// What is added to the right values as they are packed: VNNI multiplies a signed by an *unsigned* byte.
    pub(crate) fn offset(self) -> u8 {
        match self {
            Kernel::Portable | Kernel::Amx => 0,
            Kernel::AvxVnni | Kernel::Avx512Vnni => 128,
        }
    }
}

/// Packs a row of `depth` values as row `r` of its panel.
pub(crate) fn pack(row: &[u8], r: usize, offset: u8, panel: &mut [u8]) {
    assert!(r < PANEL && panel.len() == row.len() * PANEL);
    let groups = panel.as_chunks_mut::<{ 4 * PANEL }>().0;
    for (group, four) in groups.iter_mut().zip(row.as_chunks::<4>().0) {
        group[4 * r..4 * r + 4].copy_from_slice(&four.map(|q| q.wrapping_add(offset)));
    }
}

/// Left rows and right rows to multiply.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    /// `[STRIP, depth]`: signed values, as bytes.
    pub left: &'a [u8],
    /// `[STRIP]`: the sum of each left row.
    pub sums: &'a [i32],
    /// Panels of `PANEL * depth` bytes, an even number of them, packed with the kernel's offset.
    pub right: &'a [u8],
    /// Values in a row: a multiple of [`CHUNK`], at most [`LONGEST_ROW`].
    pub depth: usize,
}

/// The products of every left row with every right row: `out` is `[STRIP, columns]` and is overwritten.
///
/// # Panics
/// When the lengths are not as [`Task`] says, or the processor cannot run the kernel.
pub(crate) fn products(kernel: Kernel, task: Task, out: &mut [i32]) {
    let depth = task.depth;
    assert!(depth > 0 && depth.is_multiple_of(CHUNK) && depth <= LONGEST_ROW);
    assert_eq!((task.left.len(), task.sums.len()), (STRIP * depth, STRIP));
    assert!(task.right.len().is_multiple_of(2 * PANEL * depth));
    let columns = task.right.len() / depth;
    assert_eq!(out.len(), STRIP * columns);
    match kernel {
        Kernel::Portable => portable(task, columns, out),
        #[cfg(target_arch = "x86_64")]
        Kernel::AvxVnni => {
            assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"));
            // SAFETY: the processor has both, which is all that the function asks for; it checks its own bounds.
            unsafe { x86::avx_vnni(task, columns, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Vnni => {
            assert!(
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
            );
            // SAFETY: the processor has all three, which is all that the function asks for; it checks its own bounds.
            unsafe { x86::avx512_vnni(task, columns, out) }
        }
        Kernel::Amx => amx::int8_products(task.left, task.right, depth, out),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only x86 processors have this kernel"),
    }
}

fn portable(task: Task, columns: usize, out: &mut [i32]) {
    let depth = task.depth;
    for (row, out) in task
        .left
        .chunks_exact(depth)
        .zip(out.chunks_exact_mut(columns))
    {
        for (panel, out) in task
            .right
            .chunks_exact(PANEL * depth)
            .zip(out.as_chunks_mut::<PANEL>().0)
        {
            let mut sums = [0i32; PANEL];
            for (group, four) in panel
                .as_chunks::<{ 4 * PANEL }>()
                .0
                .iter()
                .zip(row.as_chunks::<4>().0)
            {
                for (sum, right) in sums.iter_mut().zip(group.as_chunks::<4>().0) {
                    *sum += (0..4)
                        .map(|l| i32::from(four[l] as i8) * i32::from(right[l] as i8))
                        .sum::<i32>();
                }
            }
            *out = sums;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PANEL, Task};
    use std::arch::x86_64::*;

    /// Left rows whose sums are held in registers, against two panels.
    const ROWS: usize = 8;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn avx512_vnni(task: Task, columns: usize, out: &mut [i32]) {
        let depth = task.depth;
        for (pair, right) in task.right.chunks_exact(2 * PANEL * depth).enumerate() {
            let (first, second) = right.split_at(PANEL * depth);
            let first = first.as_chunks::<64>().0;
            let second = second.as_chunks::<64>().0;
            for (block, left) in task.left.chunks_exact(ROWS * depth).enumerate() {
                let rows: [&[[u8; 4]]; ROWS] = std::array::from_fn(|i| {
                    &left[i * depth..(i + 1) * depth].as_chunks::<4>().0[..first.len()]
                });
                // The right values are 128 too large: so is each sum, by 128 times that of its left row.
                let mut sums: [[__m512i; 2]; ROWS] = std::array::from_fn(|i| {
                    [_mm512_set1_epi32(-128 * task.sums[block * ROWS + i]); 2]
                });
                for (g, (x, y)) in first.iter().zip(second).enumerate() {
                    // SAFETY: both point to 64 bytes; an unaligned load asks for nothing else.
                    let (x, y) = unsafe {
                        (
                            _mm512_loadu_si512(x.as_ptr().cast()),
                            _mm512_loadu_si512(y.as_ptr().cast()),
                        )
                    };
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let four = _mm512_set1_epi32(i32::from_ne_bytes(row[g]));
                        sums[0] = _mm512_dpbusd_epi32(sums[0], x, four);
                        sums[1] = _mm512_dpbusd_epi32(sums[1], y, four);
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    let start = (block * ROWS + i) * columns + pair * 2 * PANEL;
                    let out = &mut out[start..start + 2 * PANEL];
                    // SAFETY: `out` holds 32 values of 4 bytes, as much as the two registers.
                    unsafe {
                        _mm512_storeu_si512(out.as_mut_ptr().cast(), sums[0]);
                        _mm512_storeu_si512(out.as_mut_ptr().add(PANEL).cast(), sums[1]);
                    }
                }
            }
        }
    }

    /// Left rows where there are sixteen registers of half the width.
    const ROWS_256: usize = 4;

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn avx_vnni(task: Task, columns: usize, out: &mut [i32]) {
        let depth = task.depth;
        for (panel, right) in task.right.chunks_exact(PANEL * depth).enumerate() {
            let right = right.as_chunks::<64>().0;
            for (block, left) in task.left.chunks_exact(ROWS_256 * depth).enumerate() {
                let rows: [&[[u8; 4]]; ROWS_256] = std::array::from_fn(|i| {
                    &left[i * depth..(i + 1) * depth].as_chunks::<4>().0[..right.len()]
                });
                let mut sums: [[__m256i; 2]; ROWS_256] = std::array::from_fn(|i| {
                    [_mm256_set1_epi32(-128 * task.sums[block * ROWS_256 + i]); 2]
                });
                for (g, x) in right.iter().enumerate() {
                    let at = x.as_ptr();
                    // SAFETY: `at` points to 64 bytes; unaligned loads of 32 bytes at 0 and 32 ask for nothing else.
                    let (x, y) = unsafe {
                        (
                            _mm256_loadu_si256(at.cast()),
                            _mm256_loadu_si256(at.add(32).cast()),
                        )
                    };
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let four = _mm256_set1_epi32(i32::from_ne_bytes(row[g]));
                        sums[0] = _mm256_dpbusd_avx_epi32(sums[0], x, four);
                        sums[1] = _mm256_dpbusd_avx_epi32(sums[1], y, four);
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    let start = (block * ROWS_256 + i) * columns + panel * PANEL;
                    let out = &mut out[start..start + PANEL];
                    // SAFETY: `out` holds 16 values of 4 bytes, as much as the two registers.
                    unsafe {
                        _mm256_storeu_si256(out.as_mut_ptr().cast(), sums[0]);
                        _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), sums[1]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    #[test]
    fn every_kernel_gives_the_exact_integers() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (depth, panels) in [(64, 2), (128, 4), (576, 6), (LONGEST_ROW, 2)] {
            let extreme = depth == LONGEST_ROW;
            let mut draw = |count: usize| -> Vec<u8> {
                let value = |bits: u32| {
                    if extreme {
                        127
                    } else {
                        (bits % 255) as i32 - 127
                    }
                };
                (0..count).map(|_| value(rng.next_u32()) as u8).collect()
            };
            let columns = panels * PANEL;
            let (left, right) = (draw(STRIP * depth), draw(columns * depth));
            let sums: Vec<i32> = left
                .chunks_exact(depth)
                .map(|row| row.iter().map(|&q| i32::from(q as i8)).sum())
                .collect();
            let mut expected = Vec::new();
            for x in left.chunks_exact(depth) {
                for y in right.chunks_exact(depth) {
                    let sum: i64 = x
                        .iter()
                        .zip(y)
                        .map(|(&x, &y)| i64::from(x as i8) * i64::from(y as i8))
                        .sum();
                    expected.push(i32::try_from(sum).unwrap());
                }
            }
            for kernel in Kernel::available() {
                let mut packed = vec![0; right.len()];
                for (j, row) in right.chunks_exact(depth).enumerate() {
                    let panel = j / PANEL * PANEL * depth;
                    pack(
                        row,
                        j % PANEL,
                        kernel.offset(),
                        &mut packed[panel..panel + PANEL * depth],
                    );
                }
                let task = Task {
                    left: &left,
                    sums: &sums,
                    right: &packed,
                    depth,
                };
                let mut out = vec![-1; STRIP * columns];
                products(kernel, task, &mut out);
                assert!(out == expected, "{kernel:?} at depth {depth}");
            }
        }
    }
}
