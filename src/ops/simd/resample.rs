//! The two passes of a fixed-point image resize in AVX-512: sums of bytes times weights of 24 bits, exact in 32 bits.
//!
//! VNNI multiplies four unsigned bytes by four signed ones and adds the products to 32 bits, so a weight goes as three signed
//! digits to the base 256, and each sum is kept in three parts that are put together in the end. The result is the plain
//! sum's to the last bit.
//!
//! Every read is of a whole register inside a row: where one would pass the end of the row, it begins earlier, and the
//! bytes are picked further on. So rows must have at least [`REGISTER`] bytes.

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// Bytes of a vector register: the shortest row that is taken.
pub(crate) const REGISTER: usize = 64;

/// Fractional bits of a weight.
pub(crate) const FRACTION_BITS: u32 = 22;

/// Weights of one direction.
#[derive(Clone, Copy)]
pub(crate) struct Taps<'a> {
    /// First source position and number of taps of each output position, the first ones not decreasing.
    pub reach: &'a [(usize, usize)],
    /// `stride` weights for each output position, with [`FRACTION_BITS`] fractional bits; those past its taps are zero.
    pub values: &'a [i32],
    /// Weights stored for an output position, at least one.
    pub stride: usize,
}

/// Rows of bytes that lie one behind the other.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// The first row's first byte, and what follows it.
    pub bytes: &'a [u8],
    /// From one row to the next.
    pub step: usize,
    /// Bytes of a row, at most `step`.
    pub length: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, y: usize) -> &'a [u8] {
        &self.bytes[y * self.step..][..self.length]
    }
}

/// Whether this processor can, and the rows are long enough.
fn can(rows: Rows) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        rows.length >= REGISTER
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = rows;
        false
    }
}

/// The horizontal pass over RGB pixels: `out` is `[rows, outputs, 3]`, as many rows of the source as it has.
///
/// False, with `out` as it was, where the processor, the rows or the weights are not such that this can be done.
pub(crate) fn across(rows: Rows, taps: Taps, out: &mut [u8]) -> bool {
    if !can(rows) {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(plan) = x86::Gathered::new(rows.length, taps) {
            // SAFETY: `can` has found all that the function asks of the processor; it checks its own bounds.
            unsafe { x86::across_gathered(rows, &plan, out) };
            return true;
        }
        if let Some(plan) = x86::Single::new(taps) {
            // SAFETY: as above.
            unsafe { x86::across_single(rows, &plan, out) };
            return true;
        }
    }
    let _ = (taps, out);
    false
}

/// The vertical pass: `out` is `[outputs, length]`.
///
/// False, with `out` as it was, where the processor, the rows or the weights are not such that this can be done.
pub(crate) fn down(rows: Rows, taps: Taps, out: &mut [u8]) -> bool {
    if !can(rows) {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(digits) = x86::four_by_four(taps) {
            // SAFETY: `can` has found all that the function asks of the processor; it checks its own bounds.
            unsafe { x86::down(rows, taps, &digits, out) };
            return true;
        }
    }
    let _ = (taps, out);
    false
}
