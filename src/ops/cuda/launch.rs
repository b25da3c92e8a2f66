//! One kernel launch as data, and what executes it.

use crate::error::Result;

/// An argument of a kernel, in the order of its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// An address in device memory, from [`Backend::address`] (offsets in bytes may be added). 0 is the null pointer.
    Pointer(u64),
    /// `long long`: sizes and row numbers.
    I64(i64),
    /// `int`.
    I32(i32),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

/// A kernel with everything that its launch needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The stem of its file in `kernels/`.
    pub module: &'static str,
    /// Its name in that file, without mangling.
    pub function: &'static str,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z; at most 1,024 in all.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// As many as the kernel has parameters, of the same types.
    pub args: Vec<Arg>,
}

/// Device memory and kernel launches, in one order: a launch sees what earlier launches and copies have written.
pub trait Backend {
    /// Device memory; freed when dropped, after the work that uses it.
    type Buffer;

    /// Memory of this many bytes, at an address that is a multiple of 256, with undefined contents.
    ///
    /// # Errors
    /// Where there is not enough.
    fn allocate(&self, bytes: usize) -> Result<Self::Buffer>;

    /// Sets every byte of a buffer to zero.
    ///
    /// # Errors
    /// Those of the device.
    fn zero(&self, buffer: &mut Self::Buffer) -> Result<()>;

    /// Copies to the device, from the start of the buffer on.
    ///
    /// # Errors
    /// Where the bytes are more than the buffer holds; those of the device.
    fn upload(&self, bytes: &[u8], buffer: &mut Self::Buffer) -> Result<()>;

    /// Copies `into.len()` bytes from the device, from the byte `start` of the buffer on, and waits for them.
    ///
    /// # Errors
    /// Where the buffer has fewer; those of the device, earlier launches' included.
    fn download(&self, buffer: &Self::Buffer, start: usize, into: &mut [u8]) -> Result<()>;

    /// The address of a buffer's first byte on the device.
    fn address(&self, buffer: &Self::Buffer) -> u64;

    /// Bytes of device memory that can still be allocated.
    ///
    /// # Errors
    /// Those of the device.
    fn free_bytes(&self) -> Result<usize>;

    /// Streaming multiprocessors of the card: how many blocks run at a time, at least.
    fn multiprocessors(&self) -> u32;

    /// Puts a kernel on the stream. Pointers among the arguments must be addresses of live buffers of this backend, and the
    /// arguments must be those that the kernel's file says: a launch is checked by whoever builds it, not here.
    ///
    /// # Errors
    /// Where there is no such kernel or the launch is refused.
    fn launch(&self, launch: &Launch) -> Result<()>;
}
