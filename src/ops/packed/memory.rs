//! The memory of packed matrices, and that of a thread that multiplies.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::ops::simd::blocks::{Block, Line};

/// The memory of a packed matrix: where it is large, in large pages if the system has them, since a product walks through all of
/// it and would wait for the addresses of small ones.
pub(super) enum Lines {
    Small(Vec<Line>),
    Large(MmapMut),
}

impl Lines {
    /// Bytes of a large page, on x86 and with pages of 4 KiB on ARM.
    const LARGE_PAGE: usize = 2 << 20;

    /// That many lines of zeros.
    pub(super) fn reset(&mut self, lines: usize) {
        let bytes = lines * size_of::<Line>();
        if bytes >= 2 * Lines::LARGE_PAGE
            && let Ok(map) = MmapMut::map_anon(bytes)
        {
            // Advice that is not taken changes nothing but the speed.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            *self = Lines::Large(map);
            return;
        }
        match self {
            Lines::Small(small) => {
                small.clear();
                small.resize(lines, Line::ZERO);
            }
            Lines::Large(_) => *self = Lines::Small(vec![Line::ZERO; lines]),
        }
    }
}

impl Deref for Lines {
    type Target = [Line];
    fn deref(&self) -> &[Line] {
        match self {
            Lines::Small(lines) => lines,
            Lines::Large(map) => bytemuck::cast_slice(map),
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        match self {
            Lines::Small(lines) => lines,
            Lines::Large(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// Memory of a thread for [`super::Packed::multiply`], kept between calls.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(super) encoded: Vec<Line>,
    /// Of schemes with steps: the least value of each row and the width of a step.
    pub(super) ranges: Vec<(f32, f32)>,
    pub(super) sums: Vec<Block>,
    pub(super) offsets: Vec<(usize, usize)>,
}

/// The first values of memory that grows where it must. What is in it stays.
pub(super) fn at_least<T: Copy>(memory: &mut Vec<T>, values: usize, new: T) -> &mut [T] {
    if memory.len() < values {
        memory.resize(values, new);
    }
    &mut memory[..values]
}

/// Calls `f` with the calling thread's own scratch memory.
pub(crate) fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
    }
    SCRATCH.with(|scratch| f(&mut scratch.borrow_mut()))
}
