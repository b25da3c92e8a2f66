//! Launches of `kernels/preprocess.cu`: the device's [`patchify`](crate::ops::patchify()), with its bits.

use candle_core::DType;

use super::{Arg, Launch, check};
use crate::error::{Error, Result};
use crate::ops::PixelNorm;

const OP: &str = "preprocess on the device";

/// Pixels in and patches out of a [`preprocess`].
#[derive(Clone, Copy, Debug)]
pub struct Preprocess {
    /// u8 `[n, s, s, 3]`.
    pub pixels: u64,
    /// `[n, g², 3p²]` of `dtype`, g = s / p; at a multiple of 16.
    pub out: u64,
    /// Of out: f32, f16 or bf16.
    pub dtype: DType,
    /// Images.
    pub n: usize,
    /// Edge of an image.
    pub s: usize,
    /// Edge of a patch; what is left of s is left out.
    pub p: usize,
    /// Subtracted and divided by, a channel.
    pub norm: PixelNorm,
}

/// 8-bit pixels to normalised patches, in the order of a flattened convolution weight (channel, row, column).
///
/// # Errors
/// [`Error::Shape`] where n is 0, not 1 <= p <= s <= 16,384, an address is none or misaligned, or the dtype is another.
pub fn preprocess(images: &Preprocess) -> Result<Launch> {
    let Preprocess { n, s, p, .. } = *images;
    let function = match images.dtype {
        DType::F32 => "preprocess_f32",
        DType::F16 => "preprocess_f16",
        DType::BF16 => "preprocess_bf16",
        other => return check::no_kernel(OP, &[other]),
    };
    if p < 1 || s < p || s > 16_384 {
        let expected = "an image edge s and a patch edge p with 1 <= p <= s <= 16384";
        return Err(Error::shape(OP, expected, format!("s {s}, p {p}")));
    }
    check::extent(OP, &[n, s, s, 3])?;
    let edge = s / p * p;
    let packs = (n * edge * edge * 3).div_ceil(16 / images.dtype.size_in_bytes());
    let mut args = vec![
        check::address(OP, "pixels", images.pixels, 1)?,
        check::address(OP, "out", images.out, 16)?,
        Arg::I64(check::size(OP, "n", n)?),
        Arg::I32(s as i32),
        Arg::I32(p as i32),
    ];
    let numbers = images.norm.mean.iter().chain(&images.norm.std);
    args.extend(numbers.map(|x| Arg::F32(*x)));
    Ok(Launch {
        module: "preprocess",
        function,
        grid: [check::blocks(OP, packs, 256)?, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args,
    })
}
