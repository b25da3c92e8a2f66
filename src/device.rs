//! Where the numeric work runs, and in which precision.

use std::str::FromStr;

use candle_core::DType;

use crate::error::{Error, Result};

/// A device as asked for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The first GPU where this build and machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this ordinal.
    Cuda(usize),
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(DeviceSpec::Auto),
            "cpu" => Ok(DeviceSpec::Cpu),
            "cuda" => Ok(DeviceSpec::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceSpec::Cuda)
                .ok_or_else(|| {
                    Error::usage(format!("device {text:?}: give auto, cpu, cuda or cuda:N"))
                }),
        }
    }
}

/// A precision as asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DTypeSpec {
    /// f32 on a CPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers.
    Int8,
}

impl FromStr for DTypeSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "auto" => DTypeSpec::Auto,
            "f32" => DTypeSpec::F32,
            "f16" => DTypeSpec::F16,
            "bf16" => DTypeSpec::Bf16,
            "int8" => DTypeSpec::Int8,
            _ => {
                return Err(Error::usage(format!(
                    "dtype {text:?}: give auto, f32, f16, bf16 or int8"
                )));
            }
        })
    }
}

/// A device that is there, with the precision that the tower runs in.
#[derive(Clone, Debug)]
pub struct Device {
    candle: candle_core::Device,
    dtype: DType,
}

impl Device {
    /// The best device of this machine that this build can use, in its default precision.
    ///
    /// # Errors
    /// None on a CPU.
    pub fn auto() -> Result<Device> {
        Device::open(DeviceSpec::Auto, DTypeSpec::Auto)
    }

    /// The CPU in f32.
    pub fn cpu() -> Device {
        Device {
            candle: candle_core::Device::Cpu,
            dtype: DType::F32,
        }
    }

    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::Usage`] where this build or this machine does not have the device, or the device not the precision.
    pub fn open(device: DeviceSpec, dtype: DTypeSpec) -> Result<Device> {
        if let DeviceSpec::Cuda(ordinal) = device {
            return Err(Error::usage(format!(
                "cuda:{ordinal}: this build has no CUDA support; use --device cpu"
            )));
        }
        let dtype = match dtype {
            DTypeSpec::Auto | DTypeSpec::F32 => DType::F32,
            DTypeSpec::F16 => DType::F16,
            DTypeSpec::Bf16 | DTypeSpec::Int8 => {
                return Err(Error::usage(
                    "this build computes in f32 or f16 on a CPU; use --dtype f32",
                ));
            }
        };
        Ok(Device {
            candle: candle_core::Device::Cpu,
            dtype,
        })
    }

    /// The candle device.
    pub fn candle(&self) -> &candle_core::Device {
        &self.candle
    }

    /// The precision of the tower.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The kind of device, as it stands in `run.json`: results are the same bytes within a kind.
    pub fn kind(&self) -> &'static str {
        match self.candle {
            candle_core::Device::Cpu => "cpu",
            candle_core::Device::Cuda(_) => "cuda",
            candle_core::Device::Metal(_) => "metal",
        }
    }
}
