//! Products of packed operands, 32 x 32 sums at a time: what matrix units and vector instructions share.
//!
//! A row of values is a row of bytes, padded with zeros to a multiple of [`CHUNK`]; four bytes, a *group*, hold one f32, two
//! bf16 or four 8-bit integers. Left rows lie in *strips* of [`EDGE`] rows and right rows (which become columns of the product) in
//! *pairs* of panels of 16, both chunk after chunk and each chunk in [`LINES`] lines of 64 bytes:
//!
//! ```text
//! left:  line r of a chunk = the chunk's 64 bytes of row r of the strip
//! right: line 16 p + g of a chunk = group g of the 16 rows of panel p, row after row
//! ```
//!
//! That is how AMX loads a tile (16 lines) and how AVX-512 loads a register (a line of the right operand).

#[cfg(test)]
mod tests;

use super::amx;

/// Rows, and columns, of a block of sums.
pub(crate) const EDGE: usize = 32;
/// Bytes of a row that are taken at once.
pub(crate) const CHUNK: usize = 64;
/// Lines of a strip's or a pair's chunk.
pub(crate) const LINES: usize = EDGE;
/// Products that one task may add up, at most.
pub(crate) const MOST_STEPS: usize = 3;

/// 64 bytes of an operand, on a cache line of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u8; CHUNK]);

impl Line {
    pub(crate) const ZERO: Line = Line([0; CHUNK]);
}

// SAFETY: an array of bytes without padding (64 bytes, aligned to as many): every bit pattern is a value, zeros among them.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; it holds no pointer and is Copy.
unsafe impl bytemuck::Pod for Line {}

/// 32 x 32 sums, row after row: f32, or the bits of i32 where integers are multiplied.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Block(pub [[f32; EDGE]; EDGE]);

impl Block {
    pub(crate) const ZERO: Block = Block([[0.0; EDGE]; EDGE]);
}

/// What a group of four bytes holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// One f32.
    F32,
    /// Two bfloat16, summed in f32. Values below the normal range count as zero.
    Bf16,
    /// Four integers of 8 bits, unsigned on the left and signed on the right as VNNI has them, summed in i32.
    Int8,
    /// Four integers of 8 bits, signed on both sides, summed in i32.
    Signed8,
}

impl Format {
    /// Bytes of a value.
    pub(crate) fn size(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 => 2,
            Format::Int8 | Format::Signed8 => 1,
        }
    }
}

/// Which instructions multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    /// Plain Rust, the twin that the others are tested against.
    Portable,
    /// Registers of 32 bytes: AVX2 with FMA for f32, AVX-VNNI for integers.
    Avx2,
    /// Registers of 64 bytes: AVX-512F, AVX512-BF16, AVX512-VNNI.
    Avx512,
    /// Tiles of 1 KiB: AMX.
    Amx,
}

impl Unit {
    /// All that this processor and its operating system can run for a format, the fastest last.
    pub(crate) fn available(format: Format) -> Vec<Unit> {
        #[allow(unused_mut)]
        let mut units = vec![Unit::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let (avx2, avx512) = match format {
                Format::F32 => (
                    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                    is_x86_feature_detected!("avx512f"),
                ),
                Format::Bf16 => (false, is_x86_feature_detected!("avx512bf16")),
                Format::Signed8 => (false, false),
                Format::Int8 => (
                    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
                    is_x86_feature_detected!("avx512vnni"),
                ),
            };
            if avx2 {
                units.push(Unit::Avx2);
            }
            if avx512 && is_x86_feature_detected!("avx512f") {
                units.push(Unit::Avx512);
            }
        }
        let amx = match format {
            Format::F32 => false,
            Format::Bf16 => amx::bf16(),
            Format::Int8 | Format::Signed8 => amx::int8(),
        };
        if amx {
            units.push(Unit::Amx);
        }
        units
    }
}

/// The sums of some strips with one pair of panels.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    /// Strip i begins `i * left_stride` lines after the first.
    pub left: &'a [Line],
    /// Lines from a strip to the next.
    pub left_stride: usize,
    /// The right operand.
    pub right: &'a [Line],
    /// Where products begin, in lines of `left` and of `right`: at most [`MOST_STEPS`], which all add to the same sums.
    pub steps: &'a [(usize, usize)],
    /// Chunks of each step, at least 1.
    pub chunks: usize,
    /// Whether the sums begin at zero, not at what `sums` holds.
    pub fresh: bool,
}

impl Task<'_> {
    /// What every unit relies on.
    fn check(&self, strips: usize) {
        assert!(self.chunks > 0 && strips > 0, "something to multiply");
        let steps = self.steps.len();
        assert!((1..=MOST_STEPS).contains(&steps), "{steps} steps");
        let lines = self.chunks * LINES;
        for &(left, right) in self.steps {
            let last = left + (strips - 1) * self.left_stride;
            assert!(
                last + lines <= self.left.len(),
                "the left operand ends early"
            );
            assert!(
                right + lines <= self.right.len(),
                "the right operand ends early"
            );
        }
    }
}

/// Adds the products of `sums.len()` strips with a pair of panels to `sums`, a block a strip.
///
/// A sum is made in one order, whatever the number of strips: step by step, and inside a step from the first value to the last.
///
/// # Panics
/// When an operand is too short for the task, or the processor does not have the unit.
pub(crate) fn accumulate(unit: Unit, format: Format, task: Task, sums: &mut [Block]) {
    if sums.is_empty() {
        return;
    }
    task.check(sums.len());
    match (unit, format) {
        (Unit::Portable, _) => portable(format, task, sums),
        (Unit::Amx, _) => amx::blocks(format, task, sums),
        #[cfg(target_arch = "x86_64")]
        _ => x86::blocks(unit, format, task, sums),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only x86 processors have this unit"),
    }
}

fn portable(format: Format, task: Task, sums: &mut [Block]) {
    let product = match format {
        Format::F32 => |sums: &mut [f32; 16], left: [u8; 4], right: &[[u8; 4]; 16]| {
            let left = f32::from_le_bytes(left);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum += left * f32::from_le_bytes(*right);
            }
        },
        Format::Bf16 => |sums: &mut [f32; 16], left: [u8; 4], right: &[[u8; 4]; 16]| {
            // In little-endian order the second value is the upper half, and the first one shifted up.
            let pair = |bytes: [u8; 4]| {
                let bits = u32::from_le_bytes(bytes);
                (
                    f32::from_bits(bits << 16),
                    f32::from_bits(bits & 0xffff_0000),
                )
            };
            let left = pair(left);
            for (sum, right) in sums.iter_mut().zip(right) {
                let right = pair(*right);
                *sum = *sum + left.0 * right.0 + left.1 * right.1;
            }
        },
        Format::Int8 => |sums: &mut [f32; 16], left: [u8; 4], right: &[[u8; 4]; 16]| {
            for (sum, right) in sums.iter_mut().zip(right) {
                let products = (0..4).map(|i| i32::from(left[i]) * i32::from(right[i] as i8));
                *sum = f32::from_bits((sum.to_bits() as i32 + products.sum::<i32>()) as u32);
            }
        },
        Format::Signed8 => |sums: &mut [f32; 16], left: [u8; 4], right: &[[u8; 4]; 16]| {
            for (sum, right) in sums.iter_mut().zip(right) {
                let products = (0..4).map(|i| i32::from(left[i] as i8) * i32::from(right[i] as i8));
                *sum = f32::from_bits((sum.to_bits() as i32 + products.sum::<i32>()) as u32);
            }
        },
    };
    for (strip, block) in sums.iter_mut().enumerate() {
        if task.fresh {
            *block = Block::ZERO;
        }
        for &(left, right) in task.steps {
            for chunk in 0..task.chunks {
                let left = &task.left[left + strip * task.left_stride + chunk * LINES..][..LINES];
                let right = &task.right[right + chunk * LINES..][..LINES];
                for (row, sums) in left.iter().zip(&mut block.0) {
                    let panels = sums.as_chunks_mut().0.iter_mut();
                    for (sums, panel) in panels.zip(right.chunks_exact(16)) {
                        for (left, line) in row.0.as_chunks().0.iter().zip(panel) {
                            let right = line.0.as_chunks().0.first_chunk().expect("16 groups");
                            product(sums, *left, right);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, EDGE, Format, LINES, Line, Task, Unit};
    use std::arch::x86_64::*;

    /// Runs a unit with registers of 32 or 64 bytes.
    pub(super) fn blocks(unit: Unit, format: Format, task: Task, sums: &mut [Block]) {
        assert!(
            Unit::available(format).contains(&unit),
            "a processor with {unit:?} for {format:?}"
        );
        // SAFETY: the processor has what `available` looks for, which is all that each function asks for; slices are indexed with
        // checks.
        unsafe {
            match (unit, format) {
                (Unit::Avx512, Format::F32) => avx512_f32(task, sums),
                (Unit::Avx512, Format::Bf16) => avx512_bf16(task, sums),
                (Unit::Avx512, Format::Int8) => avx512_int8(task, sums),
                (Unit::Avx2, Format::F32) => avx2_f32(task, sums),
                (Unit::Avx2, Format::Int8) => avx2_int8(task, sums),
                _ => unreachable!("no such unit"),
            }
        }
    }

    /// The loops of a unit: `$rows` rows of a strip by `$registers` registers of `$lanes` columns, which divide the 32 columns
    /// of a pair.
    macro_rules! loops {
        ($task:expr, $sums:expr, $rows:literal, $registers:literal, $lanes:literal, $register:ty, $load:expr, $store:expr,
         $zero:expr, $splat:expr, $product:expr) => {{
            let (task, sums): (Task, &mut [Block]) = ($task, $sums);
            for (strip, block) in sums.iter_mut().enumerate() {
                for first in (0..EDGE).step_by($rows) {
                    for column in (0..EDGE).step_by($registers * $lanes) {
                        let mut held: [[$register; $registers]; $rows] =
                            [[$zero; $registers]; $rows];
                        if !task.fresh {
                            for (i, held) in held.iter_mut().enumerate() {
                                for (j, held) in held.iter_mut().enumerate() {
                                    let values =
                                        &block.0[first + i][column + j * $lanes..][..$lanes];
                                    *held = $load(values.as_ptr());
                                }
                            }
                        }
                        for &(left, right) in task.steps {
                            for chunk in 0..task.chunks {
                                let at = left + strip * task.left_stride + chunk * LINES + first;
                                let rows: &[Line; $rows] =
                                    task.left[at..].first_chunk().expect("rows of a strip");
                                let at = right + chunk * LINES + column / 16 * 16;
                                let panel = &task.right[at..][..LINES - column / 16 * 16];
                                for group in 0..16 {
                                    let columns: [$register; $registers] =
                                        std::array::from_fn(|j| {
                                            let at = column % 16 + j * $lanes;
                                            let line = &panel[at / 16 * 16 + group].0
                                                [at % 16 * 4..][..$lanes * 4];
                                            $load(line.as_ptr().cast())
                                        });
                                    for (held, row) in held.iter_mut().zip(rows) {
                                        let four = $splat(row.0.as_chunks::<4>().0[group]);
                                        for (held, columns) in held.iter_mut().zip(columns) {
                                            *held = $product(*held, four, columns);
                                        }
                                    }
                                }
                            }
                        }
                        for (i, held) in held.iter().enumerate() {
                            for (j, held) in held.iter().enumerate() {
                                let values =
                                    &mut block.0[first + i][column + j * $lanes..][..$lanes];
                                $store(values.as_mut_ptr(), *held);
                            }
                        }
                    }
                }
            }
        }};
    }

    #[target_feature(enable = "avx512f")]
    fn avx512_f32(task: Task, sums: &mut [Block]) {
        loops!(
            task,
            sums,
            8,
            2,
            16,
            __m512,
            // SAFETY: the loops pass a pointer to 64 bytes.
            |at| unsafe { _mm512_loadu_ps(at) },
            // SAFETY: as above.
            |at, x| unsafe { _mm512_storeu_ps(at, x) },
            _mm512_setzero_ps(),
            |four| _mm512_set1_ps(f32::from_le_bytes(four)),
            |sum, left, right| _mm512_fmadd_ps(left, right, sum)
        )
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn avx512_bf16(task: Task, sums: &mut [Block]) {
        loops!(
            task,
            sums,
            8,
            2,
            16,
            __m512,
            // SAFETY: the loops pass a pointer to 64 bytes.
            |at| unsafe { _mm512_loadu_ps(at) },
            // SAFETY: as above.
            |at, x| unsafe { _mm512_storeu_ps(at, x) },
            _mm512_setzero_ps(),
            |four| _mm512_set1_ps(f32::from_le_bytes(four)),
            |sum, left, right| _mm512_dpbf16_ps(sum, as_bf16(left), as_bf16(right))
        )
    }

    /// The same bits, as pairs of bf16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn as_bf16(x: __m512) -> __m512bh {
        // SAFETY: both are 64 bytes of plain numbers.
        unsafe { std::mem::transmute(x) }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn avx512_int8(task: Task, sums: &mut [Block]) {
        loops!(
            task,
            sums,
            8,
            2,
            16,
            __m512i,
            // SAFETY: the loops pass a pointer to 64 bytes.
            |at: *const f32| unsafe { _mm512_loadu_si512(at.cast()) },
            // SAFETY: as above.
            |at: *mut f32, x| unsafe { _mm512_storeu_si512(at.cast(), x) },
            _mm512_setzero_si512(),
            |four| _mm512_set1_epi32(i32::from_le_bytes(four)),
            |sum, left, right| _mm512_dpbusd_epi32(sum, left, right)
        )
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2_f32(task: Task, sums: &mut [Block]) {
        loops!(
            task,
            sums,
            4,
            2,
            8,
            __m256,
            // SAFETY: the loops pass a pointer to 32 bytes.
            |at| unsafe { _mm256_loadu_ps(at) },
            // SAFETY: as above.
            |at, x| unsafe { _mm256_storeu_ps(at, x) },
            _mm256_setzero_ps(),
            |four| _mm256_set1_ps(f32::from_le_bytes(four)),
            |sum, left, right| _mm256_fmadd_ps(left, right, sum)
        )
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn avx2_int8(task: Task, sums: &mut [Block]) {
        loops!(
            task,
            sums,
            4,
            2,
            8,
            __m256i,
            // SAFETY: the loops pass a pointer to 32 bytes.
            |at: *const f32| unsafe { _mm256_loadu_si256(at.cast()) },
            // SAFETY: as above.
            |at: *mut f32, x| unsafe { _mm256_storeu_si256(at.cast(), x) },
            _mm256_setzero_si256(),
            |four| _mm256_set1_epi32(i32::from_le_bytes(four)),
            |sum, left, right| _mm256_dpbusd_avx_epi32(sum, left, right)
        )
    }
}
