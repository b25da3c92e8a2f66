//! Where the numeric work runs, and in which precision.
//!
//! `cuda:N` is opened through [`crate::ops::cuda`], which compares the card with what this build was compiled for and says
//! what to rebuild. `auto` takes the first card that this build can use; where it takes the CPU although the build has CUDA
//! support, [`Device::note`] says why.

use std::str::FromStr;

use candle_core::DType;

use crate::error::{Error, Result};
use crate::ops::Precision;
use crate::ops::cuda::{self, CudaBackend};

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
    /// f32 on a CPU, f16 on CUDA.
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
    precision: Precision,
    note: Option<String>,
}

impl Device {
    /// The best device of this machine that this build can use, in its default precision.
    ///
    /// # Errors
    /// None: there is always the CPU.
    pub fn auto() -> Result<Device> {
        Device::open(DeviceSpec::Auto, DTypeSpec::Auto)
    }

    /// The CPU in f32.
    pub fn cpu() -> Device {
        Device {
            candle: candle_core::Device::Cpu,
            precision: Precision::F32,
            note: None,
        }
    }

    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::Usage`] where this build or this machine does not have the device, or the device not the precision.
    pub fn open(device: DeviceSpec, dtype: DTypeSpec) -> Result<Device> {
        match device {
            DeviceSpec::Cpu => on_cpu(dtype, None),
            DeviceSpec::Cuda(ordinal) => on_cuda(CudaBackend::open(ordinal)?, dtype),
            DeviceSpec::Auto if cuda::compiled().is_none() => on_cpu(dtype, None),
            DeviceSpec::Auto => match CudaBackend::open(0) {
                Ok(card) => on_cuda(card, dtype),
                Err(why) => on_cpu(dtype, Some(format!("on the CPU: {why}"))),
            },
        }
    }

    /// The candle device.
    pub fn candle(&self) -> &candle_core::Device {
        &self.candle
    }

    /// The precision of the tower.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The type of what passes between the tower's ops.
    pub fn dtype(&self) -> DType {
        self.precision.dtype()
    }

    /// Why `auto` took the CPU in a build that has CUDA support: a line for the user.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
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

fn on_cpu(dtype: DTypeSpec, note: Option<String>) -> Result<Device> {
    let precision = match dtype {
        DTypeSpec::Auto | DTypeSpec::F32 => Precision::F32,
        DTypeSpec::F16 => Precision::F16,
        DTypeSpec::Bf16 => Precision::Bf16,
        DTypeSpec::Int8 => Precision::Int8,
    };
    precision.check_on_cpu()?;
    Ok(Device {
        candle: candle_core::Device::Cpu,
        precision,
        note,
    })
}

fn on_cuda(card: &CudaBackend, dtype: DTypeSpec) -> Result<Device> {
    let precision = match dtype {
        DTypeSpec::Auto | DTypeSpec::F16 => Precision::F16,
        DTypeSpec::Bf16 => Precision::Bf16,
        DTypeSpec::F32 => Precision::F32,
        DTypeSpec::Int8 => {
            return Err(Error::usage(
                "int8 is for CPUs; on CUDA use --dtype f16, bf16 or f32",
            ));
        }
    };
    Ok(Device {
        candle: card.device(),
        precision,
        note: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_the_command_line_has_them() {
        for (text, device) in [
            ("auto", DeviceSpec::Auto),
            ("cpu", DeviceSpec::Cpu),
            ("cuda", DeviceSpec::Cuda(0)),
            ("cuda:3", DeviceSpec::Cuda(3)),
        ] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap(), device);
        }
        for text in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            let message = text.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(
                message.contains("give auto, cpu, cuda or cuda:N"),
                "{message}"
            );
        }
    }

    #[test]
    fn auto_is_a_device_on_every_machine_and_says_why_it_is_not_a_card() {
        let device = Device::auto().unwrap();
        let on_cpu_despite_cuda = device.kind() == "cpu" && cuda::compiled().is_some();
        assert_eq!(
            device.note().is_some(),
            on_cpu_despite_cuda,
            "{:?}",
            device.note()
        );
    }

    #[test]
    fn a_card_that_is_not_there_is_refused_with_a_remedy() {
        // No machine has so many.
        let message = Device::open(DeviceSpec::Cuda(4096), DTypeSpec::Auto)
            .unwrap_err()
            .to_string();
        match cuda::compiled() {
            None => assert!(
                message.starts_with("cuda:4096: this build has no CUDA support")
                    && message.contains("`cargo build --release --features cuda`"),
                "{message}"
            ),
            Some(_) => assert!(
                message.contains("this machine has")
                    || message.contains("on this machine")
                    || message.contains("CLIPSIFT_CUDA_LIBRARIES"),
                "{message}"
            ),
        }
    }
}
