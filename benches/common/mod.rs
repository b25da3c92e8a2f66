//! What the benches share: rows for the duplicate engine, and the devices that the tower's ops are measured on.
#![allow(dead_code)]

use candle_core::Tensor;
use clipsift::Device;
use clipsift::device::DeviceSpec;
use clipsift::ops::Precision;

/// A device that an op is measured on: the same body for a CPU and a GPU.
pub(crate) trait BenchDevice {
    /// The op's name with the device and the precision.
    fn label(&self, op: &str) -> String;
    /// Waits until all that was begun is done.
    fn sync(&self);
    /// Values from -1 to 1 on the device, in the precision's type.
    fn uniform(&self, shape: &[usize]) -> Tensor;
}

impl BenchDevice for Device {
    fn label(&self, op: &str) -> String {
        format!("{op}/{}/{}", self.kind(), self.precision().name())
    }

    fn sync(&self) {
        self.candle().synchronize().unwrap();
    }

    fn uniform(&self, shape: &[usize]) -> Tensor {
        let cpu = candle_core::Device::Cpu;
        let values = Tensor::rand(-1f32, 1f32, shape, &cpu).unwrap();
        let values = values.to_dtype(self.dtype()).unwrap();
        values.to_device(self.candle()).unwrap()
    }
}

/// Every precision of the CPU, and of the first GPU where this build and machine have one.
pub(crate) fn devices() -> Vec<Device> {
    let open = |kind, precision: Precision| Device::open(kind, precision.name().parse().unwrap());
    let all = [
        Precision::F32,
        Precision::F16,
        Precision::Bf16,
        Precision::Int8,
    ];
    [DeviceSpec::Cpu, DeviceSpec::Cuda(0)]
        .into_iter()
        .flat_map(|kind| all.into_iter().filter_map(move |p| open(kind, p).ok()))
        .collect()
}

/// Tokens and width of the towers that ops are measured at: B/32 with a batch of 16, L/14 with one of 4.
pub(crate) const SIZES: [(usize, usize, usize, usize); 2] = [(16, 50, 768, 12), (4, 257, 1024, 16)];

/// n unit rows of d values.
pub(crate) fn unit_rows(n: usize, d: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let directions: Vec<f32> = (0..100 * d).map(|_| uniform()).collect();
    let mut rows: Vec<f32> = (0..n * d)
        .map(|i| directions[i / d % 100 * d + i % d] + 2.0 * uniform())
        .collect();
    clipsift::ops::normalize_rows(&mut rows, d);
    rows
}
