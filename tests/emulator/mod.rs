//! A card made of the CPU: the second [`Backend`] of `src/ops/cuda`, for the kernels and the host code that launches them.
//!
//! The `.cu` files themselves are compiled by the host's C++ compiler against `device/emulator.h` and run thread by thread
//! (`device/runtime.cpp`): grids, blocks in a shuffled order, warps, barriers, shuffles, atomics, mma, ldmatrix, asynchronous
//! copies. What is watched, each a failed launch that names kernel, block and thread:
//!
//! - conflicting accesses to shared memory without a barrier or sync_warp between them, and reads of what nobody has written;
//! - a barrier or a warp's instruction that some threads do not come to, or come to at another line;
//! - asynchronous copies that are touched before the wait;
//! - global memory out of bounds: every buffer ends at a page that must not be touched ([`Placement::End`]) or begins at one
//!   ([`Placement::Start`]), and fresh memory is full of NaNs (bytes 0xff), so that an output that is not written shows;
//! - arguments that are not those of the kernel's parameters, grids and shared memory beyond a card's limits.
//!
//! `CLIPSIFT_KERNELS` names another folder of kernels (`scripts/mutate_kernels` uses it), `CXX` another compiler.

mod accumulate;
mod activation;
mod assign;
mod attention;
pub(crate) mod cases;
mod compile;
mod duplicates;
mod faulty;
mod layer_norm;
mod matrix;
mod normalize;
pub(crate) mod numbers;
mod preprocess;
mod rows;
mod tile;
mod verify;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clipsift::ops::cuda::{Arg, Backend, Launch};
use clipsift::{Error, Result};

/// The folder of the kernels under test.
pub(crate) fn kernels() -> PathBuf {
    match std::env::var_os("CLIPSIFT_KERNELS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"),
    }
}

/// Where a buffer touches a page that must not be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// At its end (up to 15 bytes before it, as starts are multiples of 16).
    End,
    /// At its start.
    Start,
}

/// The card. Launches run at once, on the calling thread.
pub(crate) struct Emulator {
    kernels: PathBuf,
    placement: Placement,
    seed: u32,
    live: Rc<RefCell<BTreeMap<usize, usize>>>,
}

/// Runs a body on a card whose buffers end at guard pages, then on one whose buffers begin at them.
pub(crate) fn both_ways(body: impl Fn(&Emulator)) {
    body(&Emulator::new(Placement::End, 1));
    body(&Emulator::new(Placement::Start, 2));
}

impl Emulator {
    /// A card with the kernels under test; the seed orders blocks and warps.
    pub(crate) fn new(placement: Placement, seed: u32) -> Emulator {
        Emulator::over(kernels(), placement, seed)
    }

    /// A card with the kernels of a folder.
    pub(crate) fn over(kernels: PathBuf, placement: Placement, seed: u32) -> Emulator {
        Emulator {
            kernels,
            placement,
            seed,
            live: Rc::default(),
        }
    }

    /// Whether a case of this many elements is worth its time here: of the two runs of [`both_ways`] the large ones have one.
    pub(crate) fn takes(&self, elements: usize) -> bool {
        self.placement == Placement::End || elements <= 40_000
    }

    /// A buffer that holds these elements.
    pub(crate) fn buffer<T: Copy>(&self, elements: &[T]) -> Buffer {
        // SAFETY: any initialised memory may be read as bytes; T is one of the number types of the tests, without padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements))
        };
        let mut buffer = self.allocate(bytes.len()).unwrap();
        self.upload(bytes, &mut buffer).unwrap();
        buffer
    }

    /// A buffer for this many elements, full of NaNs.
    pub(crate) fn empty<T>(&self, elements: usize) -> Buffer {
        self.allocate(elements * size_of::<T>()).unwrap()
    }

    /// All elements of a buffer. T is a number type: any bytes are one.
    pub(crate) fn elements<T: Copy + Default>(&self, buffer: &Buffer) -> Vec<T> {
        let mut out = vec![T::default(); buffer.bytes / size_of::<T>()];
        let bytes = size_of_val(&out[..]);
        // SAFETY: the vector's memory, and every pattern of bytes is a value of a number type.
        let into = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), bytes) };
        self.download(buffer, 0, into).unwrap();
        out
    }

    /// The buffer that lies nearest to an address, in words.
    fn nearest(&self, address: usize) -> String {
        let live = self.live.borrow();
        let distance = |&(&start, &bytes): &(&usize, &usize)| {
            address.saturating_sub(start + bytes) + start.saturating_sub(address)
        };
        match live.iter().min_by_key(distance) {
            Some((&start, &bytes)) if address < start => {
                format!("{} bytes before a buffer of {bytes} bytes", start - address)
            }
            Some((&start, &bytes)) if address >= start + bytes => {
                format!(
                    "{} bytes past the end of a buffer of {bytes} bytes",
                    address - start - bytes
                )
            }
            Some(_) => "inside a buffer".to_string(),
            None => "no buffer is alive".to_string(),
        }
    }

    /// Names a buffer with changed bytes between its end and its guard page.
    fn spilled(&self) -> Option<String> {
        let live = self.live.borrow();
        live.iter().find_map(|(&start, &bytes)| {
            let end = start + bytes;
            // SAFETY: the mapping of a live buffer reaches to the end of its last page.
            let rest = unsafe {
                std::slice::from_raw_parts(end as *const u8, end.next_multiple_of(4096) - end)
            };
            let at = rest.iter().position(|byte| *byte != 0xff)?;
            Some(format!(
                "a write {at} bytes past the end of a buffer of {bytes} bytes"
            ))
        })
    }
}

/// Memory of the card.
pub(crate) struct Buffer {
    start: usize,
    bytes: usize,
    mapping: *mut c_void,
    mapped: usize,
    live: Rc<RefCell<BTreeMap<usize, usize>>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.live.borrow_mut().remove(&self.start);
        let runtime = compile::runtime();
        // SAFETY: the mapping came from emulator_allocate and nobody else frees it.
        unsafe { (runtime.free)(self.mapping, self.mapped) };
    }
}

fn failure(launch: &Launch, message: impl std::fmt::Display) -> Error {
    Error::input(
        format!("kernel {} of {}.cu", launch.function, launch.module),
        message.to_string(),
    )
}

impl Backend for Emulator {
    type Buffer = Buffer;

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        let runtime = compile::runtime();
        let (mut mapping, mut mapped) = (std::ptr::null_mut(), 0);
        let at_end = i32::from(self.placement == Placement::End);
        // SAFETY: the out-pointers are those of live locals.
        let start = unsafe { (runtime.allocate)(bytes, at_end, &raw mut mapping, &raw mut mapped) };
        if start.is_null() {
            return Err(Error::input(
                "emulator",
                format!("no memory for {bytes} bytes"),
            ));
        }
        let start = start as usize;
        self.live.borrow_mut().insert(start, bytes);
        Ok(Buffer {
            start,
            bytes,
            mapping,
            mapped,
            live: self.live.clone(),
        })
    }

    fn zero(&self, buffer: &mut Buffer) -> Result<()> {
        // SAFETY: the buffer's own memory.
        unsafe { std::ptr::write_bytes(buffer.start as *mut u8, 0, buffer.bytes) };
        Ok(())
    }

    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()> {
        if bytes.len() > buffer.bytes {
            let message = format!("{} bytes for a buffer of {}", bytes.len(), buffer.bytes);
            return Err(Error::input("emulator: upload", message));
        }
        // SAFETY: the buffer's own memory, of which there is enough.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.start as *mut u8, bytes.len());
        }
        Ok(())
    }

    fn download(&self, buffer: &Buffer, start: usize, into: &mut [u8]) -> Result<()> {
        if start
            .checked_add(into.len())
            .is_none_or(|end| end > buffer.bytes)
        {
            let message = format!(
                "{} bytes from {start} on of a buffer of {}",
                into.len(),
                buffer.bytes
            );
            return Err(Error::input("emulator: download", message));
        }
        // SAFETY: the buffer's own memory, of which there is enough.
        unsafe {
            let from = (buffer.start + start) as *const u8;
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
        Ok(())
    }

    fn address(&self, buffer: &Buffer) -> u64 {
        buffer.start as u64
    }

    fn free_bytes(&self) -> Result<usize> {
        Ok(1 << 30)
    }

    fn multiprocessors(&self) -> u32 {
        3
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let runtime = compile::runtime();
        let module = compile::module(&self.kernels, launch.module)
            .map_err(|message| failure(launch, message))?;
        let Some(kernel) = module.kernel(launch.function) else {
            return Err(failure(
                launch,
                "the file has no CLIPSIFT_KERNEL of that name",
            ));
        };
        let (kinds, args): (String, Vec<u64>) = launch.args.iter().map(bits).unzip();
        if kinds != kernel.kinds {
            let message = format!("parameters {}, arguments {kinds}", kernel.kinds);
            return Err(failure(
                launch,
                format!("{message} (p pointer, l i64, i i32, f f32, d f64)"),
            ));
        }
        let request = compile::Request {
            kernel: kernel.address,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            seed: self.seed,
            args: args.as_ptr(),
        };
        let mut message = [0 as c_char; 1200];
        let mut fault: *const c_void = std::ptr::null();
        // SAFETY: the kernel is one of a loaded module's, the arguments are of its parameters' types, and what it does with
        // its pointers is watched.
        let code = unsafe {
            (runtime.launch)(
                &request,
                message.as_mut_ptr(),
                message.len(),
                &raw mut fault,
            )
        };
        if code != 0 {
            // SAFETY: the runtime ends its message with a zero.
            let mut message = unsafe { CStr::from_ptr(message.as_ptr()) }
                .to_string_lossy()
                .into_owned();
            if !fault.is_null() {
                message += &format!(", {}", self.nearest(fault as usize));
            }
            return Err(failure(launch, message));
        }
        match self.spilled() {
            Some(message) => Err(failure(launch, message)),
            None => Ok(()),
        }
    }
}

/// The kind of an argument and its bits.
fn bits(arg: &Arg) -> (char, u64) {
    match *arg {
        Arg::Pointer(address) => ('p', address),
        Arg::I64(value) => ('l', value as u64),
        Arg::I32(value) => ('i', u64::from(value as u32)),
        Arg::F32(value) => ('f', u64::from(value.to_bits())),
        Arg::F64(value) => ('d', value.to_bits()),
    }
}
