// LayerNorm over rows, alone and with the residual addition before it in the same pass.
//
// CPU reference: src/ops/layer_norm.rs:
//     row = x                               layer_norm
//     row = residual + (x + add)            add_layer_norm; also written, as sum
//     mean = Σ row / w, variance = Σ (row - mean)² / w
//     out = (row - mean) / sqrt(variance + eps) · weight + bias
// The norm reads the row in f32, before the sum is rounded. Two passes, mean first, so that a large mean costs no digits.
//
// Inputs   x [n, w] (layer_norm: of S; add_layer_norm: of T), residual [n, w] of S, add, weight, bias [w] of T.
// Outputs  out [n, w] of T; sum [n, w] of S, may be residual. S is the dtype of the residual stream: T itself or f32.
// Launch   a warp a row, `warps` warps a block; grid x covers n. Dynamic shared memory: warps · chunks · 256 f32, where
//          chunks = ceil(w / 256): each lane keeps its part of the row there, in places that no other lane touches.
// Sums     f32, 32 lanes, then pairwise. Domain: n, w >= 1.

#include "chunk.cuh"

template <bool VECTOR, bool ADD, typename S, typename T>
__device__ __forceinline__ void normalize_row(const S* stream, const T* x, const T* add, S* sum, const T* weight, const T* bias,
                                              T* out, long long width, float eps) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int chunks = chunks_of(width, 32);
    const Shared<float> kept = dynamic_shared<float>(warp * chunks * CHUNK * 32 * 4, chunks * CHUNK * 32) + lane;
    float total = 0.0f;
    for (int chunk = 0; chunk < chunks; chunk++) {
        float row[CHUNK];
        load_chunk<VECTOR>(stream, width, chunk, lane, 32, row);
        if (ADD) {
            float more[CHUNK], constant[CHUNK];
            load_chunk<VECTOR>(x, width, chunk, lane, 32, more);
            load_chunk<VECTOR>(add, width, chunk, lane, 32, constant);
#pragma unroll
            for (int j = 0; j < CHUNK; j++) row[j] += more[j] + constant[j];
            store_chunk<VECTOR>(sum, width, chunk, lane, 32, row);
        }
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            total += row[j];
            kept[(chunk * CHUNK + j) * 32] = row[j];
        }
    }
    const float mean = warp_sum(total) / static_cast<float>(width);
    float squares = 0.0f;
    for (int chunk = 0; chunk < chunks; chunk++) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            const float value = kept[(chunk * CHUNK + j) * 32];
            // What lies behind the row is no part of its variance.
            const float centred = chunk_place<VECTOR>(chunk, lane, 32, j) < width ? value - mean : 0.0f;
            squares += centred * centred;
        }
    }
    const float variance = warp_sum(squares) / static_cast<float>(width);
    const float scale = 1.0f / sqrtf(variance + eps);
    for (int chunk = 0; chunk < chunks; chunk++) {
        float gain[CHUNK], shift[CHUNK], row[CHUNK];
        load_chunk<VECTOR>(weight, width, chunk, lane, 32, gain);
        load_chunk<VECTOR>(bias, width, chunk, lane, 32, shift);
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            const float value = kept[(chunk * CHUNK + j) * 32];
            row[j] = (value - mean) * scale * gain[j] + shift[j];
        }
        store_chunk<VECTOR>(out, width, chunk, lane, 32, row);
    }
}

template <typename S, typename T>
__device__ __forceinline__ void layer_norm(const S* x, const T* weight, const T* bias, T* out, long long n, long long width,
                                           float eps) {
    const long long row = 1ll * blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n) return;
    x += row * width;
    out += row * width;
    const T* none = nullptr;
    S* nowhere = nullptr;
    if (width % CHUNK == 0 && aligned_16(x) && aligned_16(weight) && aligned_16(bias) && aligned_16(out))
        normalize_row<true, false>(x, none, none, nowhere, weight, bias, out, width, eps);
    else
        normalize_row<false, false>(x, none, none, nowhere, weight, bias, out, width, eps);
}

template <typename S, typename T>
__device__ __forceinline__ void add_layer_norm(const S* residual, const T* x, const T* add, const T* weight, const T* bias, S* sum,
                                               T* out, long long n, long long width, float eps) {
    const long long row = 1ll * blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n) return;
    residual += row * width;
    x += row * width;
    sum += row * width;
    out += row * width;
    if (width % CHUNK == 0 && aligned_16(residual) && aligned_16(x) && aligned_16(add) && aligned_16(weight) && aligned_16(bias) &&
        aligned_16(sum) && aligned_16(out))
        normalize_row<true, true>(residual, x, add, sum, weight, bias, out, width, eps);
    else
        normalize_row<false, true>(residual, x, add, sum, weight, bias, out, width, eps);
}

#define LAYER_NORM(SUFFIX, S, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(128) layer_norm_##SUFFIX(const S* x, const T* weight, const T* bias, T* out,   \
                                                                          long long n, long long width, float eps) {            \
        layer_norm<S, T>(x, weight, bias, out, n, width, eps);                                                                  \
    }                                                                                                                           \
    CLIPSIFT_KERNEL(layer_norm_##SUFFIX)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                           \
        add_layer_norm_##SUFFIX(const S* residual, const T* x, const T* add, const T* weight, const T* bias, S* sum, T* out,    \
                                long long n, long long width, float eps) {                                                      \
        add_layer_norm<S, T>(residual, x, add, weight, bias, sum, out, n, width, eps);                                          \
    }                                                                                                                           \
    CLIPSIFT_KERNEL(add_layer_norm_##SUFFIX)

LAYER_NORM(f32_f32, float, float)
LAYER_NORM(f32_f16, float, __half)
LAYER_NORM(f32_bf16, float, __nv_bfloat16)
LAYER_NORM(f16_f16, __half, __half)
LAYER_NORM(bf16_bf16, __nv_bfloat16, __nv_bfloat16)
