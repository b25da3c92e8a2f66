//! A build without the feature `cuda`: no card is ever handed out, so nothing that needs one can be called.

use candle_core::{DType, Device, Tensor};

use super::{Backend, Compiled, Gemm, Launch};
use crate::error::{Error, Result};

pub(super) fn compiled() -> Option<&'static Compiled> {
    None
}

/// A card; this build has none.
#[derive(Debug)]
pub enum CudaBackend {}

/// A point in a card's work; this build has none.
#[derive(Debug)]
pub enum Event {}

/// Page-locked host memory; this build has none.
#[derive(Debug)]
pub enum Pinned {}

fn no_support(what: &str) -> Error {
    Error::usage(format!(
        "{what}: this build has no CUDA support; make one that has with `cargo build --release --features cuda` (see \
         \"On a GPU\" in README.md), or use --device cpu"
    ))
}

impl CudaBackend {
    /// A card by its number.
    ///
    /// # Errors
    /// Always, in this build: [`Error::Usage`] that says how to get one that can.
    pub fn open(ordinal: usize) -> Result<&'static CudaBackend> {
        Err(no_support(&format!("cuda:{ordinal}")))
    }

    /// The card that a candle device is on.
    ///
    /// # Errors
    /// Always, in this build.
    pub fn of(device: &Device) -> Result<&'static CudaBackend> {
        Err(no_support(&format!("{:?}", device.location())))
    }

    /// The candle device over the same stream.
    pub fn device(&self) -> Device {
        match *self {}
    }
    /// The card's name.
    pub fn name(&self) -> String {
        match *self {}
    }
    /// Compute capability, major and minor.
    pub fn capability(&self) -> (u32, u32) {
        match *self {}
    }
    /// The highest CUDA release that the driver runs, major and minor.
    pub fn driver(&self) -> (u32, u32) {
        match *self {}
    }
    /// Bytes of memory of the card.
    pub fn total_bytes(&self) -> usize {
        match *self {}
    }
    /// A tensor without gaps, and its address.
    ///
    /// # Errors
    /// Those of the device.
    pub fn operand(&self, _tensor: &Tensor) -> Result<(Tensor, u64)> {
        match *self {}
    }
    /// A tensor to be filled, and its address.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn result(&self, _shape: &[usize], _dtype: DType) -> Result<(Tensor, u64)> {
        match *self {}
    }
    /// Puts a matrix product on the stream.
    ///
    /// # Errors
    /// Those of cuBLASLt.
    pub fn gemm(&self, _gemm: &Gemm) -> Result<()> {
        match *self {}
    }
    /// Copies within the device, in the stream's order.
    ///
    /// # Errors
    /// Those of the device.
    pub fn copy(&self, _from: u64, _to: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }
    /// Page-locked host memory.
    ///
    /// # Errors
    /// Where there is not enough.
    pub fn pinned(&self, _bytes: usize) -> Result<Pinned> {
        match *self {}
    }
    /// A new event, not recorded yet.
    ///
    /// # Errors
    /// Those of the device.
    pub fn event(&self) -> Result<Event> {
        match *self {}
    }
    /// Records the work given to the stream so far.
    ///
    /// # Errors
    /// Those of the device.
    pub fn record(&self, _event: &Event) -> Result<()> {
        match *self {}
    }
    /// Uploads beside the stream's work: starts after `after`, and what is put on the stream from now on sees it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload_beside(
        &self,
        _from: &mut Pinned,
        _bytes: usize,
        _to: u64,
        _after: &Event,
    ) -> Result<()> {
        match *self {}
    }
    /// Puts a download on the stream.
    ///
    /// # Errors
    /// Those of the device.
    pub fn download_later(
        &self,
        _from: u64,
        _into: &mut Pinned,
        _start: usize,
        _bytes: usize,
    ) -> Result<()> {
        match *self {}
    }
    /// Waits for all work on the stream.
    ///
    /// # Errors
    /// Those of the device, earlier launches' included.
    pub fn synchronize(&self) -> Result<()> {
        match *self {}
    }
    /// Gives memory that is cached for later allocations back to the card.
    ///
    /// # Errors
    /// Those of the device.
    pub fn release_cached(&self) -> Result<()> {
        match *self {}
    }
}

impl Pinned {
    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        match *self {}
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        match *self {}
    }
    /// The bytes, when no transfer uses them any more.
    ///
    /// # Errors
    /// Those of the device.
    pub fn bytes(&self) -> Result<&[u8]> {
        match *self {}
    }
    /// The bytes for writing, when no transfer uses them any more.
    ///
    /// # Errors
    /// Those of the device.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        match *self {}
    }
}

impl Backend for CudaBackend {
    type Buffer = std::convert::Infallible;

    fn allocate(&self, _bytes: usize) -> Result<Self::Buffer> {
        match *self {}
    }
    fn zero(&self, _buffer: &mut Self::Buffer) -> Result<()> {
        match *self {}
    }
    fn upload(&self, _bytes: &[u8], _buffer: &mut Self::Buffer) -> Result<()> {
        match *self {}
    }
    fn download(&self, _buffer: &Self::Buffer, _start: usize, _into: &mut [u8]) -> Result<()> {
        match *self {}
    }
    fn address(&self, _buffer: &Self::Buffer) -> u64 {
        match *self {}
    }
    fn free_bytes(&self) -> Result<usize> {
        match *self {}
    }
    fn multiprocessors(&self) -> u32 {
        match *self {}
    }
    fn launch(&self, _launch: &Launch) -> Result<()> {
        match *self {}
    }
}
