// mma and ldmatrix against a plain product: a [16, 16], b [16, 8] in T, d [16, 8] in f32; one warp.

#include "common.cuh"

template <typename T>
__device__ void product(const T* a, const T* b, float* d) {
    CLIPSIFT_SHARED(T, rows, 16 * 16);
    CLIPSIFT_SHARED(T, columns, 16 * 8);
    const int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) rows[i] = a[i];
    for (int i = lane; i < 128; i += 32) columns[i] = b[i];
    sync_warp();
    unsigned ra[4], rb[2];
    // Matrices 0..3 of a: rows 0-7, rows 8-15 of k 0-7, then of k 8-15. b is [k, column], so its fragments are transposed.
    ldmatrix_x4(ra, rows + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2_trans(rb, columns + lane % 16 * 8);
    float out[4] = {0.0f, 0.0f, 0.0f, 1.0f};
    mma_m16n8k16(out, ra, rb, T());
    const int g = lane / 4, t = lane % 4;
    d[g * 8 + 2 * t] = out[0];
    d[g * 8 + 2 * t + 1] = out[1];
    d[(g + 8) * 8 + 2 * t] = out[2];
    d[(g + 8) * 8 + 2 * t + 1] = out[3] - 1.0f;
}
extern "C" __global__ void product_f16(const __half* a, const __half* b, float* d) { product(a, b, d); }
CLIPSIFT_KERNEL(product_f16)
extern "C" __global__ void product_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* d) { product(a, b, d); }
CLIPSIFT_KERNEL(product_bf16)

// The other forms: b given as [column, k], its fragments as they lie (x2); a given as [k, row], transposed (x4).
template <typename T>
__device__ void product_of_transposed(const T* a, const T* b, float* d) {
    CLIPSIFT_SHARED(T, rows, 16 * 16);
    CLIPSIFT_SHARED(T, columns, 16 * 8);
    const int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) rows[i % 16 * 16 + i / 16] = a[i];
    for (int i = lane; i < 128; i += 32) columns[i % 8 * 16 + i / 8] = b[i];
    sync_warp();
    unsigned ra[4], rb[2];
    ldmatrix_x4_trans(ra, rows + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
    ldmatrix_x2(rb, columns + lane % 8 * 16 + lane / 8 % 2 * 8);
    float out[4] = {};
    mma_m16n8k16(out, ra, rb, T());
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = out[i];
}
extern "C" __global__ void product_of_transposed_f16(const __half* a, const __half* b, float* d) {
    product_of_transposed(a, b, d);
}
CLIPSIFT_KERNEL(product_of_transposed_f16)

// pack_pair makes what the fragments hold; conversions round to nearest even.
extern "C" __global__ void pairs(const float* x, float* f16, float* bf16) {
    const int i = threadIdx.x;
    f16[i] = __uint_as_float(pack_pair<__half>(x[2 * i], x[2 * i + 1]));
    bf16[i] = __uint_as_float(pack_pair<__nv_bfloat16>(x[2 * i], x[2 * i + 1]));
}
CLIPSIFT_KERNEL(pairs)
