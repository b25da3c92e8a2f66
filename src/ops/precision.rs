//! The precision that a tower runs in, and what the CPU does for it.

use candle_core::{DType, Device};

use super::packed::Scheme;
use crate::error::{Error, Result};

/// The precision of a tower's matrix products and of what passes between its ops. Sums are f32 throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// IEEE half precision; on a CPU what passes between the ops, while the products are those of f32.
    F16,
    /// bfloat16; on a CPU the residual stream stays in f32.
    Bf16,
    /// On CPUs alone: products of 8-bit integers in the linear layers, attention in bfloat16, the residual stream in f32.
    Int8,
}

impl Precision {
    /// What passes between the ops.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
            Precision::Bf16 | Precision::Int8 => DType::BF16,
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    /// The type of the residual stream: f32 on a CPU, where it costs little.
    pub fn stream(self, device: &Device) -> DType {
        match device {
            Device::Cpu => DType::F32,
            _ => self.dtype(),
        }
    }

    /// Those that this CPU has instructions for.
    pub fn on_this_cpu() -> Vec<Precision> {
        [
            Precision::F32,
            Precision::F16,
            Precision::Bf16,
            Precision::Int8,
        ]
        .into_iter()
        .filter(|p| p.scheme().is_ok())
        .collect()
    }

    /// How the CPU multiplies.
    ///
    /// # Errors
    /// [`Error::Usage`] where this processor has no instructions for it.
    pub(crate) fn scheme(self) -> Result<Scheme> {
        let missing = |what: &str| {
            Error::usage(format!(
                "--dtype {}: this processor has no {what}; use --dtype f32",
                self.name()
            ))
        };
        match self {
            Precision::F32 | Precision::F16 => Ok(Scheme::f32()),
            Precision::Bf16 => {
                Scheme::bf16().ok_or_else(|| missing("bfloat16 products (AVX512-BF16 or AMX)"))
            }
            Precision::Int8 => Scheme::int8()
                .ok_or_else(|| missing("8-bit products (AVX-VNNI, AVX512-VNNI or AMX)")),
        }
    }

    /// Fails where this CPU cannot run the precision.
    ///
    /// # Errors
    /// [`Error::Usage`] as on the command line.
    pub fn check_on_cpu(self) -> Result<()> {
        self.scheme().map(drop)
    }
}

/// How attention over elements of a type multiplies on this CPU: floats as they are, since heads are too small for what encoding
/// them otherwise costs to pay.
pub(crate) fn scheme_for_attention(dtype: DType) -> Scheme {
    match dtype {
        DType::BF16 => Scheme::bf16().unwrap_or_else(Scheme::f32_as_it_is),
        _ => Scheme::f32_as_it_is(),
    }
}
