//! A card through cudarc and candle: one stream, one owner at a time.
//!
//! Everything that computes goes on the stream of candle's device, so candle's ops, the kernels and the matrix products see
//! each other's results in the order of the calls, without waiting. Uploads of images alone have a second stream, so that they
//! overlap with the work; events order the two. candle's own bookkeeping by events (two an allocation) is off, and freed memory
//! stays with the process, because giving it back to the driver costs a wait at every synchronisation.

mod driver;
mod gemm;
mod host;
mod kernels;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Device, Shape, Storage, Tensor};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};

use super::{Backend, Compiled, Gemm, Launch, transfers};
use crate::error::{Error, Result};

pub use host::{Event, Pinned};

pub(super) fn compiled() -> Option<&'static Compiled> {
    Some(&kernels::COMPILED)
}

/// A card; the work of all that use it is in one order.
#[derive(Debug)]
pub struct CudaBackend {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    /// For uploads that overlap with the work.
    beside: Arc<CudaStream>,
    ordinal: usize,
    kernels: Mutex<kernels::Kernels>,
    gemm: Mutex<Option<gemm::Products>>,
    multiprocessors: u32,
    capability: (u32, u32),
}

/// Every card that is open. They stay open as long as the program runs: a second device on the same card would have a stream of its
/// own, and tensors of the two could not meet.
static OPEN: Mutex<Vec<&CudaBackend>> = Mutex::new(Vec::new());

impl CudaBackend {
    /// A card by its number; the same one for the same number.
    ///
    /// # Errors
    /// [`Error::Usage`] where this machine has no driver or no such card, or the card is not one that this build runs on.
    pub fn open(ordinal: usize) -> Result<&'static CudaBackend> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = open.iter().find(|card| card.ordinal == ordinal) {
            return Ok(card);
        }
        driver::load()?;
        let count = CudaContext::device_count()
            .map_err(|e| Error::usage(format!("the NVIDIA driver does not start: {}", said(e))))?;
        if ordinal as i64 >= i64::from(count) {
            return Err(Error::usage(match count {
                0 => "this machine has no NVIDIA GPU".into(),
                1 => format!("cuda:{ordinal}: this machine has one GPU, cuda:0"),
                n => format!(
                    "cuda:{ordinal}: this machine has {n} GPUs, cuda:0 to cuda:{}",
                    n - 1
                ),
            }));
        }
        let context = CudaContext::new(ordinal).map_err(|e| failed("opening", e))?;
        let capability = capability(&context)?;
        let name = context.name().unwrap_or_else(|_| "GPU".into());
        kernels::COMPILED
            .fits(capability, driver_release())
            .map_err(|reason| Error::usage(format!("cuda:{ordinal} ({name}): {reason}")))?;

        let device = CudaDevice::new_with_stream(ordinal)?;
        let stream = device.cuda_stream();
        // SAFETY: all tensors live on the one stream, which orders their use and release; the second stream only writes to
        // buffers that `upload_beside` orders by events.
        unsafe { stream.context().disable_event_tracking() };
        keep_freed_memory(stream.context()).map_err(|e| failed("opening", e))?;
        let card = CudaBackend::over(device, ordinal)?;
        open.push(card);
        Ok(card)
    }

    /// The card that a candle device is on; devices that were not opened here are taken as they are.
    ///
    /// # Errors
    /// [`Error::Usage`] where the device is not a CUDA device.
    pub fn of(device: &Device) -> Result<&'static CudaBackend> {
        let Device::Cuda(cuda) = device else {
            return Err(Error::usage(format!(
                "{:?} is not a CUDA device",
                device.location()
            )));
        };
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = open.iter().find(|card| card.id() == cuda.id()) {
            return Ok(card);
        }
        // Its number is not given out by `open`, which wants a device with this module's settings.
        let card = CudaBackend::over(cuda.clone(), usize::MAX)?;
        open.push(card);
        Ok(card)
    }

    fn over(device: CudaDevice, ordinal: usize) -> Result<&'static CudaBackend> {
        let stream = device.cuda_stream();
        let context = stream.context();
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(|e| failed("opening", e))?;
        Ok(Box::leak(Box::new(CudaBackend {
            beside: context.new_stream().map_err(|e| failed("opening", e))?,
            ordinal,
            kernels: Mutex::default(),
            gemm: Mutex::new(None),
            multiprocessors: multiprocessors.unsigned_abs(),
            capability: capability(context)?,
            stream,
            device,
        })))
    }

    fn id(&self) -> DeviceId {
        self.device.id()
    }

    /// The candle device over the same stream.
    pub fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    /// The card's name.
    pub fn name(&self) -> String {
        self.stream
            .context()
            .name()
            .unwrap_or_else(|_| "GPU".into())
    }

    /// Compute capability, major and minor.
    pub fn capability(&self) -> (u32, u32) {
        self.capability
    }

    /// The highest CUDA release that the driver runs, major and minor.
    pub fn driver(&self) -> (u32, u32) {
        driver_release()
    }

    /// Bytes of memory of the card.
    pub fn total_bytes(&self) -> usize {
        self.stream.context().total_mem().unwrap_or(0)
    }

    /// A tensor without gaps, and its address.
    ///
    /// The address holds as long as the tensor lives, and for launches made before it is dropped: memory is freed in the
    /// stream's order.
    ///
    /// # Errors
    /// [`Error::Shape`] where the tensor is on another device.
    pub fn operand(&self, tensor: &Tensor) -> Result<(Tensor, u64)> {
        let tensor = tensor.contiguous()?;
        let address = {
            let (storage, layout) = tensor.storage_and_layout();
            match &*storage {
                Storage::Cuda(storage) if storage.device.same_device(&self.device) => {
                    let start = layout.start_offset() * tensor.dtype().size_in_bytes();
                    self.slice_address(&storage.slice)? + start as u64
                }
                _ => {
                    let got = format!("a tensor on {:?}", tensor.device().location());
                    return Err(Error::shape(
                        "operand",
                        format!("a tensor on {:?}", self.device.location()),
                        got,
                    ));
                }
            }
        };
        Ok((tensor, address))
    }

    /// A tensor to be filled, and its address.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn result(&self, shape: &[usize], dtype: DType) -> Result<(Tensor, u64)> {
        let shape = Shape::from(shape);
        // SAFETY: whoever asks for the tensor puts a kernel that writes all of it on the stream before anything reads it.
        let storage = unsafe { self.device.alloc_uninit(&shape, dtype) }?;
        let address = self.slice_address(&storage.slice)?;
        let tensor = Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false);
        Ok((tensor, address))
    }

    fn slice_address(&self, slice: &CudaStorageSlice) -> Result<u64> {
        fn address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
            slice.device_ptr(stream).0
        }
        match slice {
            CudaStorageSlice::U8(s) => Ok(address(s, &self.stream)),
            CudaStorageSlice::U32(s) => Ok(address(s, &self.stream)),
            CudaStorageSlice::I64(s) => Ok(address(s, &self.stream)),
            CudaStorageSlice::F16(s) => Ok(address(s, &self.stream)),
            CudaStorageSlice::BF16(s) => Ok(address(s, &self.stream)),
            CudaStorageSlice::F32(s) => Ok(address(s, &self.stream)),
            CudaStorageSlice::F64(s) => Ok(address(s, &self.stream)),
            _ => Err(Error::shape(
                "operand",
                "u8, u32, i64, f16, bf16, f32 or f64",
                "another type",
            )),
        }
    }

    /// Puts a matrix product on the stream.
    ///
    /// # Errors
    /// Those of cuBLASLt.
    pub fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let mut products = self.gemm.lock().unwrap_or_else(PoisonError::into_inner);
        let products = match &mut *products {
            Some(products) => products,
            none => none.insert(gemm::Products::new(&self.stream)?),
        };
        products.run(gemm)
    }

    /// Copies within the device, in the stream's order. The ranges are within live allocations of this backend and do not overlap.
    ///
    /// # Errors
    /// Those of the device.
    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's contract, as for the pointers of a launch.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed("a copy within the device", e))
    }

    /// Waits for all work on the stream.
    ///
    /// # Errors
    /// Those of the device, earlier launches' included.
    pub fn synchronize(&self) -> Result<()> {
        self.stream
            .synchronize()
            .map_err(|e| failed("waiting for work", e))?;
        self.stream
            .context()
            .check_err()
            .map_err(|e| failed("waiting for work", e))
    }

    /// Gives memory that is cached for later allocations back to the card.
    ///
    /// # Errors
    /// Those of the device.
    pub fn release_cached(&self) -> Result<()> {
        self.synchronize()?;
        let Some(pool) = pool(self.stream.context()) else {
            return Ok(());
        };
        // SAFETY: the pool is the device's own and lives as long as the driver.
        unsafe { result::mem_pool::trim_to(pool, 0) }.map_err(|e| failed("releasing memory", e))
    }

    fn bind(&self) -> Result<()> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(|e| failed("a call", e))
    }
}

impl Backend for CudaBackend {
    type Buffer = CudaSlice<u8>;

    fn allocate(&self, bytes: usize) -> Result<CudaSlice<u8>> {
        // SAFETY: contents are undefined by the trait's contract; u8 has no invalid values. An empty one is of one byte, so
        // that it has an address.
        unsafe { self.stream.alloc::<u8>(bytes.max(1)) }
            .map_err(|e| failed(&format!("allocating {bytes} bytes"), e))
    }

    fn zero(&self, buffer: &mut CudaSlice<u8>) -> Result<()> {
        self.stream
            .memset_zeros(buffer)
            .map_err(|e| failed("zeroing memory", e))
    }

    fn upload(&self, bytes: &[u8], buffer: &mut CudaSlice<u8>) -> Result<()> {
        if bytes.len() > buffer.len() {
            let (expected, got) = (
                format!("at most {} bytes", buffer.len()),
                format!("{}", bytes.len()),
            );
            return Err(Error::shape("upload", expected, got));
        }
        transfers::count_up(bytes.len());
        // The memory is pageable: the driver has copied it when the call returns.
        self.stream
            .memcpy_htod(bytes, buffer)
            .map_err(|e| failed("an upload", e))
    }

    fn download(&self, buffer: &CudaSlice<u8>, start: usize, into: &mut [u8]) -> Result<()> {
        let end = start
            .checked_add(into.len())
            .filter(|end| *end <= buffer.len());
        let Some(end) = end else {
            let expected = format!("{} bytes from {start} on", into.len());
            return Err(Error::shape(
                "download",
                expected,
                format!("a buffer of {}", buffer.len()),
            ));
        };
        if !into.is_empty() {
            transfers::count_down(into.len());
            self.stream
                .memcpy_dtoh(&buffer.slice(start..end), into)
                .map_err(|e| failed("a download", e))?;
        }
        self.synchronize()
    }

    fn address(&self, buffer: &CudaSlice<u8>) -> u64 {
        buffer.device_ptr(&self.stream).0
    }

    fn free_bytes(&self) -> Result<usize> {
        self.bind()?;
        let context = self.stream.context();
        let (free, _) = context
            .mem_get_info()
            .map_err(|e| failed("asking for free memory", e))?;
        // What the pool holds for later allocations is free for us, though not for others.
        let cached = pool(context).map_or(0, |pool| {
            let of = |attribute| {
                let mut bytes = 0u64;
                // SAFETY: both attributes asked for are 64-bit.
                unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }
                    .map_or(0, |()| bytes)
            };
            of(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).saturating_sub(of(
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
            ))
        });
        Ok(free + cached as usize)
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.bind()?;
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        kernels.launch(&self.stream, launch)
    }
}

fn capability(context: &CudaContext) -> Result<(u32, u32)> {
    let (major, minor) = context
        .compute_capability()
        .map_err(|e| failed("opening", e))?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

/// What the driver supports; 0.0 where it does not say.
fn driver_release() -> (u32, u32) {
    let mut version = 0;
    // SAFETY: the function only writes an int; it works before cuInit.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    match asked {
        Ok(()) => (
            version.unsigned_abs() / 1000,
            version.unsigned_abs() % 1000 / 10,
        ),
        Err(_) => (0, 0),
    }
}

/// The pool that stream-ordered allocations come from, on cards that have one.
fn pool(context: &CudaContext) -> Option<sys::CUmemoryPool> {
    if !context.has_async_alloc() {
        return None;
    }
    // SAFETY: the device is the context's, so it is valid.
    unsafe { result::device::get_default_mem_pool(context.cu_device()) }.ok()
}

fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    let Some(pool) = pool(context) else {
        return Ok(());
    };
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a 64-bit number, and the pool is the device's own.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()) }
}

/// The driver's words for an error, with its name.
fn said(e: DriverError) -> String {
    format!("{e:?}")
}

fn failed(action: &str, e: DriverError) -> Error {
    Error::Gpu {
        action: action.into(),
        reason: said(e),
        out_of_memory: e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
    }
}
