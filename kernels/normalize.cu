// Rows to unit length; rows that have none are zeroed and flagged.
//
// CPU reference: src/ops/normalize.rs, whose bits this gives:
//     length = sqrt(dot(x, x)), the canonical dot of src/ops/dot.rs: f64, element i into lane i % 16, lanes added pairwise
//     out = round to U (round to f32 (f64(x) / length)); where length is 0 or not finite: out = 0, bad = 1
//
// Input    x [n, d] of T. Outputs: out [n, d] of U, may be x where T is U; bad [n], 0 or 1.
// Launch   256 threads = 16 rows a block, 16 lanes a row; grid x covers n.
// Sums     f64. Domain: any values; n, d >= 1.

#include "common.cuh"

template <typename T, typename U>
__device__ __forceinline__ void normalize(const T* x, U* out, unsigned char* bad, long long n, long long d) {
    const long long row = blockIdx.x * 16ll + threadIdx.x / 16;
    const int lane = threadIdx.x % 16;
    // Half a warp may have no row; it comes to the shuffles all the same.
    const long long width = row < n ? d : 0;
    x += row * d;
    double sum = 0.0;
    for (long long i = lane; i < width; i += 16) {
        const double value = load_f32(x[i]);
        sum = __fma_rn(value, value, sum);
    }
#pragma unroll
    for (int half = 8; half > 0; half /= 2) sum = __dadd_rn(sum, shuffle_xor(sum, half));
    const double length = __dsqrt_rn(sum);
    const bool good = length > 0.0 && isfinite(length);
    out += row * d;
    for (long long i = lane; i < width; i += 16)
        out[i] = store_f32<U>(good ? static_cast<float>(__ddiv_rn(load_f32(x[i]), length)) : 0.0f);
    if (row < n && lane == 0) bad[row] = good ? 0 : 1;
}

#define NORMALIZE(NAME, T, U)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) NAME(const T* x, U* out, unsigned char* bad, long long n, long long d) { \
        normalize<T, U>(x, out, bad, n, d);                                                                             \
    }                                                                                                                   \
    CLIPSIFT_KERNEL(NAME)

NORMALIZE(normalize_f32_f32, float, float)
NORMALIZE(normalize_f32_f16, float, __half)
NORMALIZE(normalize_f32_bf16, float, __nv_bfloat16)
NORMALIZE(normalize_f16_f32, __half, float)
NORMALIZE(normalize_f16_f16, __half, __half)
NORMALIZE(normalize_bf16_f32, __nv_bfloat16, float)
NORMALIZE(normalize_bf16_bf16, __nv_bfloat16, __nv_bfloat16)
