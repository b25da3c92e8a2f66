//! Products of 16 x 16 tiles by AMX, the matrix unit of Intel's server processors since Sapphire Rapids.
//!
//! The instructions are written as assembly, since their intrinsics are not stable. Eight tile registers of 1 KiB hold a block
//! of 32 x 32 sums and the two left and two right tiles that it is made of. The unit has to be asked for from the operating
//! system, once for a process; where it says no, other kernels do the work.

use super::blocks::{Block, Format, Task};

/// Whether integers of 8 bits can be multiplied here.
pub(crate) fn int8() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return linux::permitted().int8;
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Whether pairs of bfloat16 can be multiplied here.
pub(crate) fn bf16() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return linux::permitted().bf16;
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// [`super::blocks::accumulate`], which checks the task, by `tdpbf16ps`, `tdpbusd` or `tdpbssd`.
pub(super) fn blocks(format: Format, task: Task, sums: &mut [Block]) {
    let permitted = match format {
        Format::F32 => false,
        Format::Bf16 => bf16(),
        Format::Int8 | Format::Signed8 => int8(),
    };
    assert!(permitted, "a processor with AMX for {format:?}");
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    // SAFETY: `permitted` said that the tiles may be used for this format; the caller checked that every step lies inside its
    // operand.
    unsafe {
        linux::blocks(format, task, sums)
    }
}

/// [`super::int8::products`] by `tdpbssd`; the right rows are packed without an offset.
pub(super) fn int8_products(left: &[u8], right: &[u8], depth: usize, out: &mut [i32]) {
    assert!(int8(), "a processor with AMX");
    assert!(
        depth > 0 && depth.is_multiple_of(64),
        "rows of a multiple of 64 values"
    );
    assert_eq!(left.len(), 32 * depth);
    assert!(right.len().is_multiple_of(32 * depth));
    assert_eq!(out.len(), 32 * (right.len() / depth));
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if !right.is_empty() {
        // SAFETY: `permitted` said that the tiles may be used; the asserts above give the lengths that the function asks for.
        unsafe { linux::int8_products(left, right, depth, out) }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    use crate::ops::simd::blocks::{Block, Format, Line, MOST_STEPS, Task};

    /// What the matrix unit may be used for.
    #[derive(Clone, Copy, Debug, Default)]
    pub(super) struct Permitted {
        pub int8: bool,
        pub bf16: bool,
    }

    /// Asks the processor (CPUID leaf 7), whether the system saves the registers (XCR0), and the system for its permission
    /// (Linux 5.16 and later; Intel SDM vol. 1, ch. 18, and Documentation/arch/x86/xstate.rst).
    pub(super) fn permitted() -> Permitted {
        static ONCE: OnceLock<Permitted> = OnceLock::new();
        *ONCE.get_or_init(|| {
            const TILE_STATE: u64 = 0b11 << 17;
            const TILE_DATA: usize = 18;
            if !is_x86_feature_detected!("xsave") || __cpuid_count(0, 0).eax < 7 {
                return Permitted::default();
            }
            let edx = __cpuid_count(7, 0).edx;
            let has = |bit: u32| edx >> bit & 1 == 1;
            let (bf16, tile, int8) = (has(22), has(24), has(25));
            // SAFETY: the processor has `xgetbv`, because XSAVE was detected, which asks for the system's use of it too.
            let saved = unsafe { saved_state() };
            if !tile || saved & TILE_STATE != TILE_STATE || !ask_for(TILE_DATA) {
                return Permitted::default();
            }
            Permitted { int8, bf16 }
        })
    }

    #[target_feature(enable = "xsave")]
    fn saved_state() -> u64 {
        // SAFETY: register 0 exists wherever the instruction does.
        unsafe { _xgetbv(0) }
    }

    /// `arch_prctl(ARCH_REQ_XCOMP_PERM, component)`.
    fn ask_for(component: usize) -> bool {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        let result: isize;
        // SAFETY: this system call takes two numbers and touches no memory of the process; `syscall` overwrites rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") component,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    /// What the loop reads from memory, for want of registers. The first 64 bytes are those of `ldtilecfg`.
    #[repr(C, align(64))]
    struct Walk {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_in_a_row: [u16; 16],
        rows: [u8; 16],
        left: *const u8,
        left_16: *const u8,
        chunks: usize,
        panel: usize,
        blocks: usize,
    }

    impl Walk {
        /// Eight tiles of 16 rows of 64 bytes, over left rows and panels of `depth` bytes a row.
        fn new(left: &[u8], depth: usize, blocks: usize) -> Walk {
            let tiles = |x| std::array::from_fn(|tile| if tile < 8 { x } else { 0 });
            Walk {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                bytes_in_a_row: tiles(64),
                rows: tiles(16).map(|x: u16| x as u8),
                left: left.as_ptr(),
                left_16: left[16 * depth..].as_ptr(),
                chunks: depth / 64,
                panel: 16 * depth,
                blocks,
            }
        }
    }

    /// The loops over a strip of 32 left rows, with one instruction for the products or another.
    macro_rules! strip {
        ($product:literal, $left:expr, $right:expr, $depth:expr, $out:expr) => {{
            let (left, right, depth, out): (&[u8], &[u8], usize, *mut u8) = ($left, $right, $depth, $out);
            let columns = right.len() / depth;
            let mut walk = Walk::new(left, depth, columns / 32);
            asm!(
                "ldtilecfg [{walk}]",
                "2:", // two panels: a block of 32 x 32
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "mov {a0}, [{walk} + 64]",
                "mov {a1}, [{walk} + 72]",
                "mov {k}, [{walk} + 80]",
                "3:", // 64 bytes of each row
                "tileloadd tmm4, [{a0} + {depth}*1]",
                "tileloadd tmm6, [{b0} + {line}*1]",
                "tileloadd tmm5, [{a1} + {depth}*1]",
                concat!($product, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{b1} + {line}*1]",
                concat!($product, " tmm1, tmm5, tmm6"),
                concat!($product, " tmm2, tmm4, tmm7"),
                concat!($product, " tmm3, tmm5, tmm7"),
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {k}",
                "jnz 3b",
                // b1 has walked to the panel after its own, the first of the next block.
                "mov {b0}, {b1}",
                "add {b1}, [{walk} + 88]",
                "tilestored [{out} + {stride}*1], tmm0",
                "tilestored [{out} + {stride}*1 + 64], tmm2",
                "tilestored [{out_16} + {stride}*1], tmm1",
                "tilestored [{out_16} + {stride}*1 + 64], tmm3",
                "add {out}, 128",
                "add {out_16}, 128",
                "dec qword ptr [{walk} + 96]",
                "jnz 2b",
                "tilerelease",
                walk = in(reg) &raw mut walk,
                depth = in(reg) depth,
                line = in(reg) 64usize,
                stride = in(reg) 4 * columns,
                a0 = out(reg) _,
                a1 = out(reg) _,
                k = out(reg) _,
                b0 = inout(reg) right.as_ptr() => _,
                b1 = inout(reg) right.as_ptr().add(16 * depth) => _,
                out = inout(reg) out => _,
                out_16 = inout(reg) out.add(64 * columns) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }};
    }

    /// # Safety
    /// The tiles may be used; `depth` is a multiple of 64 and not 0; `left` has `32 * depth` bytes, `right` a multiple of that and
    /// not none, `out` 32 values for each `depth` bytes of `right`.
    pub(super) unsafe fn int8_products(left: &[u8], right: &[u8], depth: usize, out: &mut [i32]) {
        // SAFETY: reads 32 rows of `depth` bytes of `left`, walks `right` in steps of two panels of `16 * depth` bytes each, and
        // writes 32 rows of 4 bytes for each of the right rows: the lengths that the caller promises. `walk` outlives the
        // loop, which alone changes it. All tile registers are named as overwritten, their configuration is released at the
        // end, and the stack is not touched.
        unsafe { strip!("tdpbssd", left, right, depth, out.as_mut_ptr().cast()) }
    }

    /// What the loops over blocks read from memory. The first 64 bytes are those of `ldtilecfg`.
    #[repr(C, align(64))]
    struct BlockWalk {
        tiles: [u8; 64],
        chunks: usize,
        left_stride: usize,
        keep: usize,
        strips: usize,
        steps: usize,
        left: [usize; MOST_STEPS],
        right: [usize; MOST_STEPS],
    }

    /// The loops over strips, steps and chunks of a task, with one instruction for the products or another. Of the eight tiles, 0 to 3
    /// hold the sums (rows 0-15 and 16-31 of columns 0-15, then of columns 16-31), 4 and 5 left rows, 6 and 7 right ones.
    macro_rules! blocks {
        ($product:literal, $walk:expr, $sums:expr) => {
            asm!(
                "ldtilecfg [{walk}]",
                "xor {offset:e}, {offset:e}",
                "2:", // a strip
                "cmp qword ptr [{walk} + 80], 0",
                "jne 3f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 4f",
                "3:",
                "tileloadd tmm0, [{sums} + {wide}*1]",
                "tileloadd tmm2, [{sums} + {wide}*1 + 64]",
                "tileloadd tmm1, [{sums} + {wide}*1 + 2048]",
                "tileloadd tmm3, [{sums} + {wide}*1 + 2112]",
                "4:",
                "xor {s:e}, {s:e}",
                "5:", // a step
                "mov {a}, [{walk} + {s}*8 + 104]",
                "add {a}, {offset}",
                "mov {b}, [{walk} + {s}*8 + 128]",
                "mov {k}, [{walk} + 64]",
                "6:", // a chunk
                "tileloadd tmm4, [{a} + {line}*1]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "tileloadd tmm5, [{a} + {line}*1 + 1024]",
                concat!($product, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                concat!($product, " tmm1, tmm5, tmm6"),
                concat!($product, " tmm2, tmm4, tmm7"),
                concat!($product, " tmm3, tmm5, tmm7"),
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {k}",
                "jnz 6b",
                "inc {s}",
                "cmp {s}, [{walk} + 96]",
                "jb 5b",
                "tilestored [{sums} + {wide}*1], tmm0",
                "tilestored [{sums} + {wide}*1 + 64], tmm2",
                "tilestored [{sums} + {wide}*1 + 2048], tmm1",
                "tilestored [{sums} + {wide}*1 + 2112], tmm3",
                "add {offset}, [{walk} + 72]",
                "add {sums}, 4096",
                "dec qword ptr [{walk} + 88]",
                "jnz 2b",
                "tilerelease",
                walk = in(reg) $walk,
                line = in(reg) 64usize,
                wide = in(reg) 128usize,
                sums = inout(reg) $sums => _,
                offset = out(reg) _,
                s = out(reg) _,
                a = out(reg) _,
                b = out(reg) _,
                k = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }

    /// # Safety
    /// The tiles may be used for the format; every step of the task lies inside its operands for all strips, and there is at
    /// least one strip, one step and one chunk.
    pub(super) unsafe fn blocks(format: Format, task: Task, sums: &mut [Block]) {
        const LINE: usize = size_of::<Line>();
        let mut tiles = [0; 64];
        tiles[0] = 1;
        for tile in 0..8 {
            tiles[16 + 2 * tile] = 64;
            tiles[48 + tile] = 16;
        }
        let at = |lines: &[Line], place: usize| lines[place..].as_ptr() as usize;
        let mut walk = BlockWalk {
            tiles,
            chunks: task.chunks,
            left_stride: task.left_stride * LINE,
            keep: usize::from(!task.fresh),
            strips: sums.len(),
            steps: task.steps.len(),
            left: [0; MOST_STEPS],
            right: [0; MOST_STEPS],
        };
        for (i, &(left, right)) in task.steps.iter().enumerate() {
            (walk.left[i], walk.right[i]) = (at(task.left, left), at(task.right, right));
        }
        let (walk, sums) = (&raw mut walk, sums.as_mut_ptr());
        // SAFETY: for each of the strips and steps, reads `chunks` times 2048 bytes from where the step begins in either operand,
        // which lies inside them by the caller's promise, and reads and writes the strip's 4096 bytes of `sums`. `walk` outlives
        // the loop, which alone changes it. All tile registers are named as overwritten, their configuration is released
        // at the end, and the stack is not touched.
        unsafe {
            match format {
                Format::Bf16 => blocks!("tdpbf16ps", walk, sums),
                Format::Int8 => blocks!("tdpbusd", walk, sums),
                Format::Signed8 => blocks!("tdpbssd", walk, sums),
                Format::F32 => unreachable!("checked before"),
            }
        }
    }
}
