//! How values are represented in a product, and what of it this machine can run.

use crate::ops::simd::blocks::{Format, Unit};

/// How values are represented in a product. All add up in f32, [`Scheme::Int8`] in i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// As they are.
    F32(Unit),
    /// Every row, of x and of the matrix, to whole multiples of a step of its own: 2⁻²² to 2⁻²³ of the row's greatest magnitude, a
    /// power of two. A multiple is three signed digits of 8 bits, as [`super::encode::digits`] has them. Of the nine products of
    /// digits only that of the lowest two is left out; the others are added up in integers, without any error. AMX makes them in
    /// half of the time that AVX-512 takes for one product of f32.
    ///
    /// Measured by the lengths of the two rows, a result is closer than a sum in f32 of a tower's depth; where one value is nearly
    /// all of a row, it is off by some 2⁻²⁴, as a sum in f32 is.
    ///
    /// The scheme is that of Ootomo, Ozaki and Yokota, "DGEMM on integer matrix multiplication unit" (2024), for f32.
    Fixed(Unit),
    /// Rounded to bfloat16.
    Bf16(Unit),
    /// The matrix to whole multiples, from -127 to 127, of a step of its own for every row; x to 256 steps between the least and
    /// the greatest value of every row.
    Int8(Unit),
}

impl Scheme {
    /// All that take an f32 as it is, the fastest last.
    pub(crate) fn plain_f32() -> Vec<Scheme> {
        let units = Unit::available(Format::F32).into_iter();
        units.map(Scheme::F32).collect()
    }

    /// The fastest for f32.
    pub(crate) fn f32() -> Scheme {
        match Unit::available(Format::Signed8).contains(&Unit::Amx) {
            true => Scheme::Fixed(Unit::Amx),
            false => Scheme::f32_as_it_is(),
        }
    }

    /// The fastest for f32 that takes the values as they are.
    pub(crate) fn f32_as_it_is() -> Scheme {
        let fastest = Scheme::plain_f32().pop();
        fastest.unwrap_or(Scheme::F32(Unit::Portable))
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
            Scheme::F32(unit) | Scheme::Fixed(unit) | Scheme::Bf16(unit) | Scheme::Int8(unit) => {
                unit
            }
        }
    }

    pub(super) fn format(self) -> Format {
        match self {
            Scheme::F32(_) => Format::F32,
            Scheme::Fixed(_) => Format::Signed8,
            Scheme::Bf16(_) => Format::Bf16,
            Scheme::Int8(_) => Format::Int8,
        }
    }

    /// Encoded values for each value.
    pub(super) fn planes(self) -> usize {
        match self {
            Scheme::Fixed(_) => DIGITS,
            _ => 1,
        }
    }

    /// Products of a plane of x with a plane of the matrix, by the sum that they belong to. [`Scheme::Fixed`] has a sum for each
    /// weight: digits i and j stand for `256^(4-i-j)` together.
    pub(super) fn sums(self) -> &'static [&'static [(usize, usize)]] {
        match self {
            Scheme::Fixed(_) => &[
                &[(0, 0)],
                &[(0, 1), (1, 0)],
                &[(0, 2), (1, 1), (2, 0)],
                &[(1, 2), (2, 1)],
            ],
            _ => &[&[(0, 0)]],
        }
    }

    /// The scheme for rows of that many values: f32 as it is where sums of integers might leave 32 bits.
    pub(super) fn for_depth(self, depth: usize) -> Scheme {
        match self.has_steps() && depth > MOST_INTEGERS {
            true => Scheme::f32_as_it_is(),
            false => self,
        }
    }

    /// Whether a row's values are multiples of a step of its own.
    pub(super) fn has_steps(self) -> bool {
        matches!(self, Scheme::Fixed(_) | Scheme::Int8(_))
    }
}

/// Values of a row of integers, at most: three products of digits for each, of up to 2¹⁴, then stay below 2³¹.
pub(super) const MOST_INTEGERS: usize = 1 << 15;

/// Digits of a value of [`Scheme::Fixed`], the highest first.
pub(super) const DIGITS: usize = 3;
