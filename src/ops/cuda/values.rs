//! Slices of numbers to and from device memory.

use half::f16;

use super::launch::Backend;
use crate::Result;

/// Numbers that are their bytes: no padding, every pattern a value.
///
/// # Safety
/// As said above.
pub(crate) unsafe trait Plain: Copy + Default {}

// SAFETY: a primitive number without padding, of which every bit pattern is a value.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for i64 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above; f16 is a transparent u16.
unsafe impl Plain for f16 {}

fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: T has no padding, so each of its bytes is initialised; u8 needs no alignment; length and lifetime are those of the
    // slice.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`; whatever is written, every pattern is a T, and the borrow is as exclusive as the slice's.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Memory for `count` numbers; one at least, since an empty buffer has no address.
pub(crate) fn allocate<B: Backend, T: Plain>(backend: &B, count: usize) -> Result<B::Buffer> {
    backend.allocate(count.max(1) * size_of::<T>())
}

/// Memory with these numbers in it.
pub(crate) fn upload<B: Backend, T: Plain>(backend: &B, values: &[T]) -> Result<B::Buffer> {
    let mut buffer = allocate::<B, T>(backend, values.len())?;
    upload_to(backend, values, &mut buffer)?;
    Ok(buffer)
}

/// Writes numbers to the start of a buffer.
pub(crate) fn upload_to<B: Backend, T: Plain>(
    backend: &B,
    values: &[T],
    buffer: &mut B::Buffer,
) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    backend.upload(bytes(values), buffer)
}

/// The first `count` numbers of a buffer.
pub(crate) fn download<B: Backend, T: Plain>(
    backend: &B,
    buffer: &B::Buffer,
    count: usize,
) -> Result<Vec<T>> {
    let mut values = vec![T::default(); count];
    if count > 0 {
        backend.download(buffer, 0, bytes_mut(&mut values))?;
    }
    Ok(values)
}
