// Global memory: x [64] f32, y [n] f32, n given; two warps.

#include "common.cuh"

template <bool CHECK>
__device__ void copy(const float* x, float* y, long long n) {
    const long long i = blockIdx.x * 64ll + threadIdx.x;
    if (!CHECK || i < n) y[i] = x[threadIdx.x];
}
extern "C" __global__ void copy_good(const float* x, float* y, long long n) { copy<true>(x, y, n); }
CLIPSIFT_KERNEL(copy_good)
extern "C" __global__ void copy_past_the_end(const float* x, float* y, long long n) { copy<false>(x, y, n); }
CLIPSIFT_KERNEL(copy_past_the_end)

extern "C" __global__ void read_past_the_end(const float* x, float* y, long long n) {
    const float value = x[threadIdx.x + 1];
    if (threadIdx.x < n) y[threadIdx.x] = value;
}
CLIPSIFT_KERNEL(read_past_the_end)

extern "C" __global__ void read_before_the_start(const float* x, float* y, long long n) {
    const float value = x[int(threadIdx.x) - 1];
    if (threadIdx.x < n) y[threadIdx.x] = value;
}
CLIPSIFT_KERNEL(read_before_the_start)

extern "C" __global__ void all_but_the_last(const float* x, float* y, long long n) {
    if (threadIdx.x < n - 1) y[threadIdx.x] = x[threadIdx.x];
}
CLIPSIFT_KERNEL(all_but_the_last)

extern "C" __global__ void misaligned_pack(const float* x, float* y, long long n) {
    const Pack<float> pack = load_pack(x + 1);
    if (threadIdx.x < n) y[threadIdx.x] = pack.values[threadIdx.x % 4];
}
CLIPSIFT_KERNEL(misaligned_pack)

extern "C" __global__ void division_by_zero(const float* x, float* y, long long n) {
    y[threadIdx.x] = x[64 / (n - 64)];
}
CLIPSIFT_KERNEL(division_by_zero)

__device__ __attribute__((noinline)) float deep(const float* x, long long n) {
    volatile float frame[256];
    frame[n % 256] = x[0];
    return n < 0 ? 0.0f : deep(x, n + 1) + frame[n % 256];
}
extern "C" __global__ void endless_recursion(const float* x, float* y, long long n) { y[threadIdx.x] = deep(x, n); }
CLIPSIFT_KERNEL(endless_recursion)

extern "C" __global__ void all_types(const float* x, float* y, long long a, int b, float c, double d) {
    y[threadIdx.x] = x[threadIdx.x] + float(a) + float(b) + c + float(d);
}
CLIPSIFT_KERNEL(all_types)

// The last block to come leaves its number: what depends on the order of blocks shows under another seed.
extern "C" __global__ void last_block(float* y) { y[0] = float(blockIdx.x); }
CLIPSIFT_KERNEL(last_block)
