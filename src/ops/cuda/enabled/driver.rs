//! The CUDA driver and libraries, found when the first of their functions is called, not when the program starts.
//!
//! candle links the driver and cuBLAS so that a program without them does not even start. Here the functions of those
//! libraries that candle and this crate use are defined as jumps through a table, which satisfies the linker; the first call
//! opens the libraries and fills the table. One binary therefore runs on machines with and without a GPU, and [`load`] can say
//! in words what a machine lacks. Where a library or a function is missing, its jumps go to a function that refuses.
//!
//! candle's kernels for quantised models are the only ones that go through CUDA's runtime library, and nothing here uses them: its
//! functions are defined so that they always refuse.
//!
//! x86-64 Linux only. Elsewhere the libraries are linked as candle asks for it.

use crate::error::{Error, Result};

/// The functions that the linker finds here, by library; `scripts/cuda-toolkit.sh` reads the names for its stand-ins.
macro_rules! libraries {
    ($define:ident) => {
        $define! { "libcuda.so.1", driver_refuses, [
            cuCtxCreate_v3, cuCtxCreate_v4, cuCtxDestroy_v2, cuCtxGetCacheConfig, cuCtxGetCurrent, cuCtxGetLimit,
            cuCtxGetStreamPriorityRange, cuCtxSetCacheConfig, cuCtxSetCurrent, cuCtxSetFlags, cuCtxSetLimit,
            cuCtxSynchronize, cuDestroyExternalMemory, cuDeviceGet, cuDeviceGetAttribute, cuDeviceGetCount,
            cuDeviceGetDefaultMemPool, cuDeviceGetMemPool, cuDeviceGetName, cuDeviceGetUuid, cuDeviceGetUuid_v2,
            cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxRetain, cuDeviceSetMemPool, cuDeviceTotalMem_v2,
            cuDriverGetVersion, cuEventCreate, cuEventDestroy_v2, cuEventElapsedTime, cuEventElapsedTime_v2, cuEventQuery,
            cuEventRecord, cuEventSynchronize, cuExternalMemoryGetMappedBuffer, cuFuncGetAttribute, cuFuncSetAttribute,
            cuFuncSetCacheConfig, cuGetErrorName, cuGetErrorString, cuGraphClone, cuGraphDestroy, cuGraphExecDestroy,
            cuGraphInstantiate, cuGraphInstantiateWithFlags, cuGraphLaunch, cuGraphUpload, cuImportExternalMemory, cuInit,
            cuLaunchCooperativeKernel, cuLaunchHostFunc, cuLaunchKernel, cuMemAdvise_v2, cuMemAllocAsync,
            cuMemAllocFromPoolAsync, cuMemAllocManaged, cuMemAlloc_v2, cuMemFreeAsync, cuMemFreeHost, cuMemFree_v2,
            cuMemGetInfo_v2, cuMemHostAlloc, cuMemPoolCreate, cuMemPoolDestroy, cuMemPoolGetAttribute,
            cuMemPoolSetAttribute, cuMemPoolTrimTo, cuMemPrefetchAsync_v2, cuMemcpyDtoDAsync_v2, cuMemcpyDtoD_v2,
            cuMemcpyDtoHAsync_v2, cuMemcpyDtoH_v2, cuMemcpyHtoDAsync_v2, cuMemcpyHtoD_v2, cuMemcpyPeerAsync,
            cuMemsetD8Async, cuMemsetD8_v2, cuModuleGetFunction, cuModuleGetGlobal_v2, cuModuleLoad, cuModuleLoadData,
            cuModuleUnload, cuOccupancyAvailableDynamicSMemPerBlock, cuOccupancyMaxActiveBlocksPerMultiprocessor,
            cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, cuOccupancyMaxActiveClusters,
            cuOccupancyMaxPotentialBlockSize, cuOccupancyMaxPotentialBlockSizeWithFlags,
            cuOccupancyMaxPotentialClusterSize, cuProfilerStart, cuProfilerStop, cuStreamAttachMemAsync,
            cuStreamBeginCapture_v2, cuStreamCreate, cuStreamCreateWithPriority, cuStreamDestroy_v2, cuStreamEndCapture,
            cuStreamIsCapturing, cuStreamSynchronize, cuStreamWaitEvent,
        ] }
        $define! { "libcublasLt.so.13", cublas_refuses, [
            cublasLtCreate, cublasLtDestroy, cublasLtLoggerOpenFile, cublasLtLoggerSetLevel, cublasLtMatmul,
            cublasLtMatmulAlgoGetHeuristic, cublasLtMatmulDescCreate, cublasLtMatmulDescDestroy,
            cublasLtMatmulDescSetAttribute, cublasLtMatmulPreferenceCreate, cublasLtMatmulPreferenceDestroy,
            cublasLtMatmulPreferenceSetAttribute, cublasLtMatrixLayoutCreate, cublasLtMatrixLayoutDestroy,
            cublasLtMatrixLayoutSetAttribute,
        ] }
        $define! { "libcublas.so.13", cublas_refuses, [
            cublasCreate_v2, cublasDasum_v2, cublasDestroy_v2, cublasDgemmStridedBatched, cublasDgemm_v2, cublasDgemv_v2,
            cublasGemmEx, cublasGemmGroupedBatchedEx, cublasGemmStridedBatchedEx, cublasGetPointerMode_v2, cublasSasum_v2,
            cublasSetPointerMode_v2, cublasSetStream_v2, cublasSgemmStridedBatched, cublasSgemm_v2, cublasSgemv_v2,
        ] }
        $define! { "libcurand.so.10", curand_refuses, [
            curandCreateGenerator, curandDestroyGenerator, curandGenerate, curandGenerateLogNormal,
            curandGenerateLogNormalDouble, curandGenerateLongLong, curandGenerateNormal, curandGenerateNormalDouble,
            curandGeneratePoisson, curandGenerateUniform, curandGenerateUniformDouble, curandSetGeneratorOffset,
            curandSetPseudoRandomGeneratorSeed, curandSetStream,
        ] }
        $define! { "libnvrtc.so.13", nvrtc_refuses, [
            nvrtcCompileProgram, nvrtcCreateProgram, nvrtcDestroyProgram, nvrtcGetPTX, nvrtcGetPTXSize,
            nvrtcGetProgramLog, nvrtcGetProgramLogSize,
        ] }
    };
}

/// Opens the libraries, once; later calls give the first one's answer.
///
/// # Errors
/// [`Error::Usage`] that names what this machine lacks.
pub(super) fn load() -> Result<()> {
    table::load().map_err(Error::usage)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod table {
    /// The program would not have started without the libraries.
    pub(super) fn load() -> Result<(), String> {
        Ok(())
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod table {
    use std::arch::global_asm;
    use std::ffi::{CString, c_char, c_int, c_void};
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, Ordering};

    /// One entry of the table: the name, and where its jump goes.
    type Slot = (&'static str, *const AtomicPtr<c_void>);

    struct Library {
        soname: &'static str,
        slots: Vec<Slot>,
        /// Where the jumps go when the library is not there, or too old to have the function.
        refusal: unsafe extern "C" fn() -> c_int,
    }

    // A jump reads its slot's address into r11, which no caller keeps a value in, and goes where the slot says: at first to
    // `clipsift_cuda_resolve`, afterwards to the library.
    macro_rules! jumps {
        ($soname:literal, $refusal:ident, [$($name:ident),* $(,)?]) => { $(
            global_asm!(
                concat!(".pushsection .data.clipsift_slot_", stringify!($name), ",\"aw\",@progbits"),
                ".balign 8",
                concat!(".globl clipsift_slot_", stringify!($name)),
                concat!(".hidden clipsift_slot_", stringify!($name)),
                concat!("clipsift_slot_", stringify!($name), ":"),
                ".quad {resolve}",
                ".popsection",
                concat!(".pushsection .text.", stringify!($name), ",\"ax\",@progbits"),
                concat!(".globl ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                "endbr64",
                concat!("lea r11, [rip + clipsift_slot_", stringify!($name), "]"),
                "jmp [r11]",
                concat!(".size ", stringify!($name), ", .-", stringify!($name)),
                ".popsection",
                resolve = sym clipsift_cuda_resolve,
            );
        )* };
    }
    libraries!(jumps);

    // 3 is cudaErrorInitializationError. The functions that register kernels run before main; what they return is only handed to
    // one another.
    macro_rules! refusals {
        ($($name:ident),* $(,)?) => { $(
            global_asm!(
                concat!(".pushsection .text.", stringify!($name), ",\"ax\",@progbits"),
                concat!(".globl ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                "endbr64",
                "mov eax, 3",
                "ret",
                concat!(".size ", stringify!($name), ", .-", stringify!($name)),
                ".popsection",
            );
        )* };
    }
    refusals! {
        __cudaGetKernel, __cudaLaunchKernel, __cudaLaunchKernel_ptsz, __cudaPopCallConfiguration, __cudaPushCallConfiguration,
        __cudaRegisterFatBinary, __cudaRegisterFatBinaryEnd, __cudaRegisterFunction, __cudaRegisterVar,
        __cudaUnregisterFatBinary, cudaDeviceGetAttribute, cudaDeviceSynchronize, cudaFree, cudaFreeAsync, cudaFreeAsync_ptsz,
        cudaFuncGetAttributes, cudaFuncSetAttribute, cudaGetDevice, cudaGetDeviceCount, cudaGetLastError, cudaLaunchKernel,
        cudaLaunchKernel_ptsz, cudaMalloc, cudaMallocAsync, cudaMallocAsync_ptsz, cudaMemsetAsync, cudaMemsetAsync_ptsz,
        cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, cudaPeekAtLastError, cudaSetDevice, cudaStreamSynchronize,
        cudaStreamSynchronize_ptsz,
    }

    /// What the two functions of the runtime that give text say.
    #[allow(non_snake_case, reason = "the runtime's name")]
    #[unsafe(no_mangle)]
    extern "C" fn cudaGetErrorName(_code: c_int) -> *const c_char {
        c"cudaErrorInitializationError".as_ptr()
    }
    #[allow(non_snake_case, reason = "the runtime's name")]
    #[unsafe(no_mangle)]
    extern "C" fn cudaGetErrorString(_code: c_int) -> *const c_char {
        c"this program does not use CUDA's runtime library".as_ptr()
    }

    unsafe extern "C" {
        fn clipsift_cuda_resolve();
        fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
        fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    }

    // Keeps the registers that carry arguments, fills the table, and goes on to where the slot in r11 points by then.
    // On entry the stack is 8 off a multiple of 16, as at the start of every function; nine pushes and 128 bytes bring it
    // there for the call below.
    global_asm!(
        ".pushsection .text.clipsift_cuda_resolve,\"ax\",@progbits",
        ".globl clipsift_cuda_resolve",
        ".hidden clipsift_cuda_resolve",
        ".type clipsift_cuda_resolve,@function",
        "clipsift_cuda_resolve:",
        "endbr64",
        "push rax",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "sub rsp, 128",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "movups [rsp + 32], xmm2",
        "movups [rsp + 48], xmm3",
        "movups [rsp + 64], xmm4",
        "movups [rsp + 80], xmm5",
        "movups [rsp + 96], xmm6",
        "movups [rsp + 112], xmm7",
        "call {fill}",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "movups xmm2, [rsp + 32]",
        "movups xmm3, [rsp + 48]",
        "movups xmm4, [rsp + 64]",
        "movups xmm5, [rsp + 80]",
        "movups xmm6, [rsp + 96]",
        "movups xmm7, [rsp + 112]",
        "add rsp, 128",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop rax",
        "jmp [r11]",
        ".size clipsift_cuda_resolve, .-clipsift_cuda_resolve",
        ".popsection",
        fill = sym fill,
    );

    extern "C" fn fill() {
        // What went wrong is said by `load`; here the caller finds out from the function that refuses.
        let _ = load();
    }

    // Codes of the libraries' own enums, so that callers read them as such.
    /// CUDA_ERROR_NOT_INITIALIZED
    extern "C" fn driver_refuses() -> c_int {
        3
    }
    /// CUBLAS_STATUS_NOT_INITIALIZED
    extern "C" fn cublas_refuses() -> c_int {
        1
    }
    /// CURAND_STATUS_NOT_INITIALIZED
    extern "C" fn curand_refuses() -> c_int {
        101
    }
    /// NVRTC_ERROR_INTERNAL_ERROR
    extern "C" fn nvrtc_refuses() -> c_int {
        11
    }

    /// candle makes a random generator with every device. Without libcurand it gets one that only refuses to generate.
    ///
    /// # Safety
    /// `generator` points to a place for the handle, as curand's manual has it.
    unsafe extern "C" fn no_generator(generator: *mut *mut c_void, _kind: c_int) -> c_int {
        // SAFETY: the caller's contract.
        unsafe { *generator = std::ptr::null_mut() };
        0
    }
    extern "C" fn nothing_to_do() -> c_int {
        0
    }

    fn libraries() -> Vec<Library> {
        let mut libraries = Vec::new();
        macro_rules! slots {
            ($soname:literal, $refusal:ident, [$($name:ident),* $(,)?]) => {
                let mut slots: Vec<Slot> = Vec::new();
                $({
                    unsafe extern "C" {
                        #[link_name = concat!("clipsift_slot_", stringify!($name))]
                        static SLOT: AtomicPtr<c_void>;
                    }
                    slots.push((stringify!($name), &raw const SLOT));
                })*
                libraries.push(Library { soname: $soname, slots, refusal: $refusal });
            };
        }
        libraries!(slots);
        libraries
    }

    pub(super) fn load() -> Result<(), String> {
        static DONE: OnceLock<Result<(), String>> = OnceLock::new();
        DONE.get_or_init(fill_table).clone()
    }

    fn fill_table() -> Result<(), String> {
        let mut missing = None;
        for library in libraries() {
            let opened = open(library.soname);
            if opened.is_null() && missing.is_none() {
                missing = lack(library.soname);
            }
            for (name, slot) in library.slots {
                let found = if opened.is_null() {
                    std::ptr::null_mut()
                } else {
                    let name = c_string(name);
                    // SAFETY: the library is open and stays so; the name ends with a zero.
                    unsafe { dlsym(opened, name.as_ptr()) }
                };
                let target = match (found.is_null(), name) {
                    (false, _) => found,
                    (true, "curandCreateGenerator") => no_generator as *mut c_void,
                    (
                        true,
                        "curandDestroyGenerator"
                        | "curandSetPseudoRandomGeneratorSeed"
                        | "curandSetStream",
                    ) => nothing_to_do as *mut c_void,
                    (true, _) => library.refusal as *mut c_void,
                };
                // SAFETY: the slot is one of the statics that the jumps above define.
                unsafe { (*slot).store(target, Ordering::Release) };
            }
        }
        missing.map_or(Ok(()), Err)
    }

    /// What to say when a library is not there; nothing where it can be done without.
    fn lack(soname: &str) -> Option<String> {
        match soname {
            "libcuda.so.1" => {
                Some("no NVIDIA driver on this machine (libcuda.so.1 is not there)".into())
            }
            "libcublas.so.13" | "libcublasLt.so.13" => Some(format!(
                "{soname} is not there; install CUDA 13's cuBLAS (pip install nvidia-cublas will do) and name its folder in \
                 CLIPSIFT_CUDA_LIBRARIES or LD_LIBRARY_PATH"
            )),
            _ => None,
        }
    }

    /// Where the system's loader looks, then in the folders that people install CUDA's libraries to.
    fn open(soname: &str) -> *mut c_void {
        // RTLD_NOW | RTLD_GLOBAL. cuBLASLt is opened before cuBLAS, which needs it and may not know its folder.
        const FLAGS: c_int = 0x2 | 0x100;
        let named: Vec<PathBuf> = folders().into_iter().map(|dir| dir.join(soname)).collect();
        std::iter::once(PathBuf::from(soname))
            .chain(named)
            .map(|path| {
                let path = c_string(&path.to_string_lossy());
                // SAFETY: opening runs the library's own initialisers, as linking it would.
                unsafe { dlopen(path.as_ptr(), FLAGS) }
            })
            .find(|library| !library.is_null())
            .unwrap_or(std::ptr::null_mut())
    }

    fn folders() -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = std::env::var_os("CLIPSIFT_CUDA_LIBRARIES")
            .map(|list| std::env::split_paths(&list).collect())
            .unwrap_or_default();
        for variable in ["CUDA_HOME", "CUDA_PATH"] {
            if let Some(home) = std::env::var_os(variable) {
                folders.extend(["lib64", "lib"].map(|lib| PathBuf::from(&home).join(lib)));
            }
        }
        if let Some(dir) = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(PathBuf::from))
        {
            folders.extend([dir.join("lib"), dir]);
        }
        folders.extend(
            [
                "/usr/local/cuda/lib64",
                "/opt/cuda/lib64",
                "/usr/lib/wsl/lib",
            ]
            .map(PathBuf::from),
        );
        folders
    }

    /// A zero inside would end the name early, and no file would be found by it.
    fn c_string(text: &str) -> CString {
        CString::new(text).unwrap_or_default()
    }
}
