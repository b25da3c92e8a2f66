//! How values are represented in a product, and what of it this machine can run.

use crate::ops::simd::blocks::{Format, Unit};

/// How values are represented in a product. All add up in f32, [`Scheme::Int8`] in i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// As they are.
    F32(Unit),
    /// An f32 as three bf16 that add up to it: the 24 bits of its mantissa, eight in each part or nearly so. Of the nine products
    /// of parts the three smallest, together below 2⁻²³ of the whole, are left out. The six others are as exact as f32 is, and AMX
    /// makes them in half the time that AVX-512 takes for one product of f32.
    Split(Unit),
    /// Rounded to bfloat16.
    Bf16(Unit),
    /// The matrix to whole multiples, from -127 to 127, of a step of its own for every row; x to 256 steps between the least and
    /// the greatest value of every row.
    Int8(Unit),
}

impl Scheme {
    /// All that this machine can run for f32, the fastest last.
    pub(crate) fn for_f32() -> Vec<Scheme> {
        let mut schemes: Vec<Scheme> = Unit::available(Format::F32)
            .into_iter()
            .map(Scheme::F32)
            .collect();
        if Unit::available(Format::Bf16).contains(&Unit::Amx) {
            schemes.push(Scheme::Split(Unit::Amx));
        }
        schemes
    }

    /// The fastest for f32.
    pub(crate) fn f32() -> Scheme {
        Scheme::for_f32()
            .pop()
            .unwrap_or(Scheme::F32(Unit::Portable))
    }

    /// The fastest for f32 that takes the values as they are.
    pub(crate) fn unsplit_f32() -> Scheme {
        let unit = Unit::available(Format::F32).pop();
        Scheme::F32(unit.unwrap_or(Unit::Portable))
    }

    /// The fastest for bf16, where the processor has instructions for it.
    pub(crate) fn bf16() -> Option<Scheme> {
        Unit::available(Format::Bf16)
            .pop()
            .filter(|u| *u != Unit::Portable)
            .map(Scheme::Bf16)
    }

    /// The fastest for int8, where the processor has instructions for it.
    pub(crate) fn int8() -> Option<Scheme> {
        Unit::available(Format::Int8)
            .pop()
            .filter(|u| *u != Unit::Portable)
            .map(Scheme::Int8)
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Scheme::F32(unit) | Scheme::Split(unit) | Scheme::Bf16(unit) | Scheme::Int8(unit) => {
                unit
            }
        }
    }

    pub(super) fn format(self) -> Format {
        match self {
            Scheme::F32(_) => Format::F32,
            Scheme::Split(_) | Scheme::Bf16(_) => Format::Bf16,
            Scheme::Int8(_) => Format::Int8,
        }
    }

    /// Encoded values for each value.
    pub(super) fn planes(self) -> usize {
        match self {
            Scheme::Split(_) => PARTS,
            _ => 1,
        }
    }

    /// Products of a plane of x with a plane of the matrix, in two sums that are added at the end: what is small first, on its
    /// own, so that it is not rounded to the steps of what is large. Each small term shares a plane with the one before.
    pub(super) fn terms(self) -> [&'static [(usize, usize)]; 2] {
        match self {
            Scheme::Split(_) => [&[(0, 0)], &[(2, 0), (1, 0), (1, 1), (0, 1), (0, 2)]],
            _ => [&[(0, 0)], &[]],
        }
    }
}

/// Parts of a split f32.
pub(super) const PARTS: usize = 3;
