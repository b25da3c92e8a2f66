// Bias, and bias + activation, in place over the product of a linear layer.
//
// CPU reference: src/ops/activation.rs:
//     x = f(x + bias), f: none, quick_gelu(v) = v / (1 + exp(-1.702 v)), gelu(v) = v · (1 + erf(v / sqrt 2)) / 2
//
// In and out  x [n, w] of T. Input: bias [w] of T.
// Launch      256 threads, eight elements each; grid x covers the rows' chunks: n · ceil(w / 8).
// Arithmetic  f32. For f16 and bf16 the card's fast exponential and division: about 2^-20 relative, far below their rounding.
// Domain      any values; n, w >= 1.

#include "chunk.cuh"

struct Plain {
    template <typename T>
    static __device__ __forceinline__ float apply(float x, T) { return x; }
};

struct QuickGelu {
    static __device__ __forceinline__ float apply(float x, float) { return x / (1.0f + expf(-1.702f * x)); }
    // The fast division gives 0 from a divisor of 2^126 on: limited, x / divisor is as good as 0 in either type.
    template <typename T>
    static __device__ __forceinline__ float apply(float x, T) {
        return __fdividef(x, 1.0f + __expf(fminf(-1.702f * x, 80.0f)));
    }
};

struct Gelu {
    template <typename T>
    static __device__ __forceinline__ float apply(float x, T) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
};

template <bool VECTOR, typename F, typename T>
__device__ __forceinline__ void activate(T* row, const T* bias, long long width, int chunk) {
    // One thread a chunk: with a single thread a row's elements of a chunk are neighbours either way.
    float values[CHUNK], shift[CHUNK];
    load_chunk<VECTOR>(row, width, chunk, 0, 1, values);
    load_chunk<VECTOR>(bias, width, chunk, 0, 1, shift);
#pragma unroll
    for (int j = 0; j < CHUNK; j++) values[j] = F::apply(values[j] + shift[j], T());
    store_chunk<VECTOR>(row, width, chunk, 0, 1, values);
}

template <typename F, typename T>
__device__ __forceinline__ void bias_activation(T* x, const T* bias, long long n, long long width) {
    const long long chunks = (width + CHUNK - 1) / CHUNK;
    const long long place = blockIdx.x * 256ll + threadIdx.x;
    const long long row = place / chunks;
    const int chunk = static_cast<int>(place - row * chunks);
    if (row >= n) return;
    x += row * width;
    if (width % CHUNK == 0 && aligned_16(x) && aligned_16(bias))
        activate<true, F>(x, bias, width, chunk);
    else
        activate<false, F>(x, bias, width, chunk);
}

#define BIAS_ACTIVATION(NAME, F, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) NAME(T* x, const T* bias, long long n, long long width) {           \
        bias_activation<F, T>(x, bias, n, width);                                                                          \
    }                                                                                                                      \
    CLIPSIFT_KERNEL(NAME)

BIAS_ACTIVATION(add_bias_f32, Plain, float)
BIAS_ACTIVATION(add_bias_f16, Plain, __half)
BIAS_ACTIVATION(add_bias_bf16, Plain, __nv_bfloat16)
BIAS_ACTIVATION(bias_quick_gelu_f32, QuickGelu, float)
BIAS_ACTIVATION(bias_quick_gelu_f16, QuickGelu, __half)
BIAS_ACTIVATION(bias_quick_gelu_bf16, QuickGelu, __nv_bfloat16)
BIAS_ACTIVATION(bias_gelu_f32, Gelu, float)
BIAS_ACTIVATION(bias_gelu_f16, Gelu, __half)
BIAS_ACTIVATION(bias_gelu_bf16, Gelu, __nv_bfloat16)
