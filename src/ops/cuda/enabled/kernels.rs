//! The compiled kernels, loaded a file at a time when the first of its kernels is launched.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, CudaStream, result, sys};
use cudarc::nvrtc::Ptx;

use super::super::{Arg, Launch};
use super::failed;
use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// What is loaded on a card.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<(&'static str, &'static str), Loaded>,
}

#[derive(Debug)]
struct Loaded {
    function: CudaFunction,
    /// The most dynamic shared memory that a launch may ask for; the driver's default until a launch needs more.
    shared_bytes: u32,
}

/// What a kernel may have without asking, on every card.
const DEFAULT_SHARED_BYTES: u32 = 48 * 1024;

impl Kernels {
    pub(super) fn launch(&mut self, stream: &Arc<CudaStream>, launch: &Launch) -> Result<()> {
        let action = || format!("{}::{}", launch.module, launch.function);
        let loaded = self.loaded(stream, launch.module, launch.function)?;
        if launch.shared_bytes > loaded.shared_bytes {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            loaded
                .function
                .set_attribute(attribute, launch.shared_bytes.cast_signed())
                .map_err(|e| failed(&action(), e))?;
            loaded.shared_bytes = launch.shared_bytes;
        }
        // Each argument in its own eight bytes, of which the driver reads as many as the parameter has.
        let mut values: Vec<[u8; 8]> = launch.args.iter().map(bytes).collect();
        let mut parameters: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| value.as_mut_ptr().cast())
            .collect();
        let [gx, gy, gz] = launch.grid;
        let [bx, by, bz] = launch.block;
        // SAFETY: the trait's contract: pointers are those of live buffers, and the arguments those that the kernel takes; as many
        // values as parameters live until the call returns, by when the driver has copied them.
        unsafe {
            result::launch_kernel(
                loaded.function.cu_function(),
                (gx, gy, gz),
                (bx, by, bz),
                launch.shared_bytes,
                stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(|e| failed(&action(), e))
    }

    fn loaded(
        &mut self,
        stream: &Arc<CudaStream>,
        module: &'static str,
        function: &'static str,
    ) -> Result<&mut Loaded> {
        if !self.functions.contains_key(&(module, function)) {
            let action = format!("loading {module}::{function}");
            let code = self.module(stream, module)?;
            let function_ = code
                .load_function(function)
                .map_err(|e| failed(&action, e))?;
            let loaded = Loaded {
                function: function_,
                shared_bytes: DEFAULT_SHARED_BYTES,
            };
            self.functions.insert((module, function), loaded);
        }
        self.functions
            .get_mut(&(module, function))
            .ok_or_else(|| unknown(module))
    }

    fn module(
        &mut self,
        stream: &Arc<CudaStream>,
        module: &'static str,
    ) -> Result<Arc<CudaModule>> {
        if let Some(loaded) = self.modules.get(module) {
            return Ok(loaded.clone());
        }
        let (_, code) = MODULES
            .iter()
            .find(|(stem, _)| *stem == module)
            .ok_or_else(|| unknown(module))?;
        let loaded = stream
            .context()
            .load_module(Ptx::from_binary(code.to_vec()))
            .map_err(|e| failed(&format!("loading kernels/{module}.cu"), e))?;
        self.modules.insert(module, loaded.clone());
        Ok(loaded)
    }
}

fn bytes(arg: &Arg) -> [u8; 8] {
    let short = |four: [u8; 4]| {
        let mut eight = [0; 8];
        eight[..4].copy_from_slice(&four);
        eight
    };
    match *arg {
        Arg::Pointer(x) => x.to_ne_bytes(),
        Arg::I64(x) => x.to_ne_bytes(),
        Arg::F64(x) => x.to_ne_bytes(),
        Arg::I32(x) => short(x.to_ne_bytes()),
        Arg::F32(x) => short(x.to_ne_bytes()),
    }
}

fn unknown(module: &str) -> Error {
    Error::Gpu {
        action: format!("loading kernels/{module}.cu"),
        reason: "this build has no such file".into(),
        out_of_memory: false,
    }
}
