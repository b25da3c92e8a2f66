//! Matrix products by cuBLASLt, with the bias in the epilogue and the residual as the product's C.
//!
//! A shape is described to cuBLASLt once: descriptors and the algorithm its heuristic names are kept, so a product of a shape
//! seen before is one library call. cuBLASLt thinks in columns: a row-major `[m, n]` is a column-major `[n, m]`, and
//! `out = x · weightᵀ` is `outᵀ = weight · xᵀ` with both operands as they lie in memory.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::DType;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::super::Gemm;
use super::failed as driver_failed;
use crate::error::{Error, Result};

/// What NVIDIA advises for Hopper; more than enough before.
const WORKSPACE_BYTES: usize = 32 * 1024 * 1024;

/// The products of one stream.
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    /// Shared by all products: they run one after the other.
    workspace: CudaSlice<u8>,
    stream: Arc<CudaStream>,
    plans: HashMap<Shape, Plan>,
}

// SAFETY: the handles are used under the lock that the owner keeps `Products` in; cuBLASLt allows calls from any thread.
unsafe impl Send for Products {}

impl std::fmt::Debug for Products {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Products({} shapes)", self.plans.len())
    }
}

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    bias: bool,
    residual: bool,
    /// Of the weight, x, residual and result: the largest power of two that divides the address, at most 256 bytes.
    alignment: [u32; 4],
}

impl Shape {
    fn of(gemm: &Gemm) -> Shape {
        let alignment = |address: u64| 1u32 << address.trailing_zeros().min(8);
        Shape {
            m: gemm.m,
            n: gemm.n,
            k: gemm.k,
            dtype: gemm.dtype,
            bias: gemm.bias != 0,
            residual: gemm.residual != 0,
            alignment: [gemm.weight, gemm.x, gemm.residual, gemm.out].map(alignment),
        }
    }
}

/// A shape as cuBLASLt knows it.
struct Plan {
    product: Product,
    weight: Layout,
    x: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Products {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Products> {
        stream
            .context()
            .bind_to_thread()
            .map_err(|e| driver_failed("starting cuBLASLt", e))?;
        // SAFETY: scratch memory of the library, which reads nothing that it has not written.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }
            .map_err(|e| driver_failed("allocating cuBLASLt's workspace", e))?;
        Ok(Products {
            handle: result::create_handle().map_err(|e| failed("starting cuBLASLt", e))?,
            workspace,
            stream: stream.clone(),
            plans: HashMap::new(),
        })
    }

    pub(super) fn run(&mut self, gemm: &Gemm) -> Result<()> {
        if gemm.m == 0 || gemm.n == 0 {
            return Ok(());
        }
        let action = || {
            format!(
                "the product [{}, {}] x [{}, {}]ᵀ",
                gemm.m, gemm.k, gemm.n, gemm.k
            )
        };
        let what = |e| failed(&action(), e);
        self.stream
            .context()
            .bind_to_thread()
            .map_err(|e| driver_failed(&action(), e))?;
        let shape = Shape::of(gemm);
        if !self.plans.contains_key(&shape) {
            let plan = Plan::new(self.handle, &shape, gemm.bias).map_err(what)?;
            self.plans.insert(shape, plan);
        }
        let plan = &self.plans[&shape];
        if shape.bias {
            plan.product.set_bias(gemm.bias).map_err(what)?;
        }
        let (alpha, beta) = (1f32, if shape.residual { 1f32 } else { 0f32 });
        // With beta = 0 C is not read; it is the result then.
        let c = if shape.residual {
            gemm.residual
        } else {
            gemm.out
        };
        let workspace = self.workspace.device_ptr(&self.stream).0;
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: the addresses are those of live operands of the sizes in `gemm`, by the contract of `CudaBackend::gemm`, which is
        // that of a launch; the descriptors live in `plan`; alpha and beta are read during the call.
        unsafe {
            result::matmul(
                self.handle,
                plan.product.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(gemm.weight),
                plan.weight.0,
                pointer(gemm.x),
                plan.x.0,
                pointer(c),
                plan.out.0,
                gemm.out as *mut c_void,
                plan.out.0,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(what)
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: the handle is this struct's own, and nothing uses it after.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, shape: &Shape, bias: u64) -> Result<Plan, CublasError> {
        let kind = match shape.dtype {
            DType::F16 => sys::cudaDataType::CUDA_R_16F,
            DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        };
        let (m, n, k) = (shape.m as u64, shape.n as u64, shape.k as u64);
        let product = Product::new()?;
        product.set(
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
            1i32,
        )?;
        if shape.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            product.set(
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_EPILOGUE,
                epilogue,
            )?;
            product.set_bias(bias)?;
        }
        let weight = Layout::new(kind, k, n)?;
        let x = Layout::new(kind, k, m)?;
        let out = Layout::new(kind, n, m)?;
        let preference = Preference::new()?;
        preference.set(
            sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            WORKSPACE_BYTES as u64,
        )?;
        let [a, b, c, d] = shape.alignment;
        let c = if shape.residual { c } else { d };
        for (attribute, bytes) in [
            (sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a),
            (sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b),
            (sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
            (sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d),
        ] {
            preference.set(attribute, bytes)?;
        }
        // SAFETY: all descriptors live until the end of this function at least.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                product.0,
                weight.0,
                x.0,
                out.0,
                out.0,
                preference.0,
            )
        }?;
        Ok(Plan {
            product,
            weight,
            x,
            out,
            algorithm: found.algo,
        })
    }
}

/// What is computed: accumulation in f32 whatever the operands are.
struct Product(sys::cublasLtMatmulDesc_t);

impl Product {
    fn new() -> Result<Product, CublasError> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F).map(Product)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: T,
    ) -> Result<(), CublasError> {
        // SAFETY: the descriptor is live, and the callers give each attribute its type.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        }
    }

    fn set_bias(&self, address: u64) -> Result<(), CublasError> {
        self.set(
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
            address,
        )
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this struct's own.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A column-major matrix without gaps.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(kind: sys::cudaDataType, rows: u64, columns: u64) -> Result<Layout, CublasError> {
        result::create_matrix_layout(kind, rows, columns, rows.cast_signed()).map(Layout)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this struct's own.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What the heuristic may assume.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Preference, CublasError> {
        result::create_matmul_pref().map(Preference)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: T,
    ) -> Result<(), CublasError> {
        // SAFETY: the descriptor is live, and the callers give each attribute its type.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this struct's own.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn failed(action: &str, e: CublasError) -> Error {
    Error::Gpu {
        action: action.into(),
        reason: format!("{e:?}"),
        out_of_memory: e.0 == sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
    }
}
