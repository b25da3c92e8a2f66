//! Kernel files and the runtime as shared objects: compiled once for each content, loaded once for each process.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use sha2::{Digest, Sha256};

/// Rounding as the kernel says it (no contraction to fused multiply-adds), types read through other pointers, and the few
/// variables of a host thread where they are found without a call.
const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-ftls-model=initial-exec",
    "-U_FORTIFY_SOURCE",
];

/// `EmulatorLaunch` of `device/runtime.cpp`.
#[repr(C)]
pub(super) struct Request {
    pub(super) kernel: usize,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) seed: u32,
    pub(super) args: *const u64,
}

type LaunchFn =
    unsafe extern "C" fn(*const Request, *mut c_char, usize, *mut *const c_void) -> c_int;

/// The functions of `device/runtime.cpp`.
pub(super) struct Runtime {
    pub(super) launch: LaunchFn,
    pub(super) allocate:
        unsafe extern "C" fn(usize, c_int, *mut *mut c_void, *mut usize) -> *mut c_void,
    pub(super) free: unsafe extern "C" fn(*mut c_void, usize),
}

/// `Kernel` of `device/kernel.h`.
#[repr(C)]
struct RawKernel {
    name: *const c_char,
    kinds: *const c_char,
    invoke: *const c_void,
    next: *const RawKernel,
}

/// A kernel of a loaded module.
pub(super) struct Kernel {
    pub(super) address: usize,
    pub(super) kinds: String,
}

/// The kernels of one file.
pub(super) struct Module {
    kernels: HashMap<String, Kernel>,
}

impl Module {
    pub(super) fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.get(name)
    }
}

fn device() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator/device")
}

/// Compiles the runtime where that has not been done, and loads it, so that modules find its functions.
pub(super) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let source = device().join("runtime.cpp");
        let path = compiled("runtime", &source, &[]).unwrap_or_else(|message| panic!("{message}"));
        // SAFETY: our own code, whose initialisers do nothing but set up its tables; it is never unloaded.
        unsafe {
            let library = Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL).unwrap();
            let runtime = Runtime {
                launch: *library.get(b"emulator_launch\0").unwrap(),
                allocate: *library.get(b"emulator_allocate\0").unwrap(),
                free: *library.get(b"emulator_free\0").unwrap(),
            };
            std::mem::forget(library);
            runtime
        }
    })
}

/// The kernels of `folder/stem.cu`.
pub(super) fn module(folder: &Path, stem: &str) -> Result<Arc<Module>, String> {
    type Modules = Mutex<HashMap<PathBuf, Arc<OnceLock<Result<Arc<Module>, String>>>>>;
    static MODULES: LazyLock<Modules> = LazyLock::new(Modules::default);
    let source = folder.join(format!("{stem}.cu"));
    // Locked only to find the place: two files compile at the same time.
    let place = MODULES
        .lock()
        .unwrap()
        .entry(source.clone())
        .or_default()
        .clone();
    place.get_or_init(|| load(stem, &source)).clone()
}

fn load(stem: &str, source: &Path) -> Result<Arc<Module>, String> {
    runtime();
    let (own, tested) = (source.parent().unwrap(), super::kernels());
    let includes = [own, tested.as_path()];
    let path = compiled(stem, source, &includes)?;
    let mut kernels = HashMap::new();
    // SAFETY: as for the runtime. The table is made by the object's initialisers, before `open` returns, and is never changed.
    unsafe {
        let library = Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        let table: libloading::os::unix::Symbol<unsafe extern "C" fn() -> *const RawKernel> =
            library
                .get(b"clipsift_kernels\0")
                .map_err(|e| format!("{}: {e}", source.display()))?;
        let mut next = table();
        while let Some(kernel) = next.as_ref() {
            let text = |p| CStr::from_ptr(p).to_str().unwrap().to_string();
            let known = Kernel {
                address: next as usize,
                kinds: text(kernel.kinds),
            };
            kernels.insert(text(kernel.name), known);
            next = kernel.next;
        }
        std::mem::forget(library);
    }
    Ok(Arc::new(Module { kernels }))
}

/// The host's C++ compiler.
fn compiler() -> String {
    static COMPILER: OnceLock<String> = OnceLock::new();
    let found = COMPILER.get_or_init(|| {
        let named = std::env::var("CXX").ok();
        let candidates = named
            .into_iter()
            .chain(["c++", "g++", "clang++"].map(String::from));
        let works = |name: &String| {
            let output = Command::new(name).arg("--version").output();
            output.is_ok_and(|output| output.status.success())
        };
        candidates
            .into_iter()
            .find(works)
            .expect("no C++ compiler: install g++ or clang++, or name one in CXX")
    });
    found.clone()
}

/// The shared object of a source: an existing one where compiler, flags, source and headers are the same.
fn compiled(stem: &str, source: &Path, includes: &[&Path]) -> Result<PathBuf, String> {
    let compiler = compiler();
    let mut command = Command::new(&compiler);
    command.args(FLAGS);
    if cfg!(any(target_arch = "x86_64")) {
        command.arg("-march=native");
    }
    if !includes.is_empty() {
        command.args(["-DCLIPSIFT_EMULATOR", "-fvisibility=hidden", "-Wall"]);
        command.args(["-Wno-unknown-pragmas", "-Wno-unused-function"]);
    }
    command.args(["-x", "c++"]).arg("-I").arg(device());
    for folder in includes {
        command.arg("-I").arg(folder);
    }

    let mut digest = Sha256::new();
    digest.update(format!("{command:?} {}", machine()));
    let mut sources = vec![source.to_path_buf()];
    for folder in includes.iter().copied().chain([device().as_path()]) {
        let entries =
            std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut headers: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        headers.retain(|path| path.extension().is_some_and(|e| e == "cuh" || e == "h"));
        headers.sort();
        sources.extend(headers);
    }
    for path in sources {
        digest.update(std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    let hash: String = digest.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();

    // Kernels from elsewhere leave nothing here, and may have variables that nobody uses.
    let elsewhere = std::env::var_os("CLIPSIFT_KERNELS").filter(|_| !includes.is_empty());
    let folder = match &elsewhere {
        Some(kernels) => Path::new(kernels).join("compiled"),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator"),
    };
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let path = folder.join(format!("{stem}-{hash}.so"));
    if path.exists() {
        return Ok(path);
    }
    // Under another name first: two test processes may compile the same file.
    let partial = folder.join(format!("{stem}-{hash}.{}.partial", std::process::id()));
    let output = command
        .arg(source)
        .arg("-o")
        .arg(&partial)
        .output()
        .map_err(|e| format!("{compiler}: {e}"))?;
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() || (warnings.contains("warning:") && elsewhere.is_none()) {
        return Err(format!(
            "{} does not compile for the emulator:\n{warnings}",
            source.display()
        ));
    }
    std::fs::rename(&partial, &path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// What -march=native stands for here, as far as it matters: an object compiled on another machine is not this one's.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or(std::env::consts::ARCH)
        .to_string()
}
