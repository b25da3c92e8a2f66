// Faults in shared memory, each with a good twin. x and y are [64] f32, two warps.

#include "common.cuh"

// y = x reversed within the block.
template <bool BARRIER>
__device__ void reverse(const float* x, float* y) {
    CLIPSIFT_SHARED(float, tile, 64);
    tile[threadIdx.x] = x[threadIdx.x];
    if (BARRIER) sync_threads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void reverse_good(const float* x, float* y) { reverse<true>(x, y); }
CLIPSIFT_KERNEL(reverse_good)
extern "C" __global__ void reverse_without_barrier(const float* x, float* y) { reverse<false>(x, y); }
CLIPSIFT_KERNEL(reverse_without_barrier)

// The tile is used again: a write after others' reads.
template <bool BARRIER>
__device__ void twice(const float* x, float* y) {
    CLIPSIFT_SHARED(float, tile, 64);
    float sum = 0.0f;
    for (int round = 0; round < 2; round++) {
        tile[threadIdx.x] = x[threadIdx.x];
        sync_threads();
        sum += tile[(threadIdx.x + 32) % 64];
        if (BARRIER) sync_threads();
    }
    y[threadIdx.x] = sum;
}
extern "C" __global__ void twice_good(const float* x, float* y) { twice<true>(x, y); }
CLIPSIFT_KERNEL(twice_good)
extern "C" __global__ void twice_without_second_barrier(const float* x, float* y) { twice<false>(x, y); }
CLIPSIFT_KERNEL(twice_without_second_barrier)

// Lanes of one warp: sync_warp orders them.
template <bool BARRIER>
__device__ void neighbours(const float* x, float* y) {
    CLIPSIFT_SHARED(float, tile, 64);
    tile[threadIdx.x] = x[threadIdx.x];
    if (BARRIER) sync_warp();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
extern "C" __global__ void neighbours_good(const float* x, float* y) { neighbours<true>(x, y); }
CLIPSIFT_KERNEL(neighbours_good)
extern "C" __global__ void neighbours_without_sync_warp(const float* x, float* y) { neighbours<false>(x, y); }
CLIPSIFT_KERNEL(neighbours_without_sync_warp)

// sync_warp orders no other warp's lanes.
extern "C" __global__ void reverse_with_sync_warp_only(const float* x, float* y) {
    CLIPSIFT_SHARED(float, tile, 64);
    tile[threadIdx.x] = x[threadIdx.x];
    sync_warp();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
CLIPSIFT_KERNEL(reverse_with_sync_warp_only)

// All write the same place.
extern "C" __global__ void one_place(const float* x, float* y) {
    CLIPSIFT_SHARED(float, last, 1);
    last[0] = x[threadIdx.x];
    sync_threads();
    y[threadIdx.x] = last[0];
}
CLIPSIFT_KERNEL(one_place)

// Counts with atomics; the good one starts from zero, behind a barrier.
template <bool BARRIER>
__device__ void count(const float* x, float* y) {
    CLIPSIFT_SHARED(int, positive, 1);
    if (threadIdx.x == 0) positive[0] = 0;
    sync_threads();
    if (x[threadIdx.x] > 0.0f) atomic_add(positive, 1);
    if (BARRIER) sync_threads();
    const int total = positive[0];
    y[threadIdx.x] = total;
}
extern "C" __global__ void count_good(const float* x, float* y) { count<true>(x, y); }
CLIPSIFT_KERNEL(count_good)
extern "C" __global__ void count_without_barrier(const float* x, float* y) { count<false>(x, y); }
CLIPSIFT_KERNEL(count_without_barrier)

extern "C" __global__ void never_written(const float* x, float* y) {
    CLIPSIFT_SHARED(float, tile, 64);
    if (threadIdx.x != 5) tile[threadIdx.x] = x[threadIdx.x];
    sync_threads();
    y[threadIdx.x] = tile[threadIdx.x];
}
CLIPSIFT_KERNEL(never_written)

// Dynamic shared memory, in two arrays.
template <int EXTRA>
__device__ void two_arrays(const float* x, float* y) {
    Shared<float> a = dynamic_shared<float>(0, 64), b = dynamic_shared<float>(256, 64);
    a[threadIdx.x + EXTRA] = x[threadIdx.x];
    b[threadIdx.x] = 1.0f;
    sync_threads();
    const float one = b[0];
    y[threadIdx.x] = a[63 - threadIdx.x + EXTRA] * one;
}
extern "C" __global__ void two_arrays_good(const float* x, float* y) { two_arrays<0>(x, y); }
CLIPSIFT_KERNEL(two_arrays_good)
extern "C" __global__ void two_arrays_past_the_first(const float* x, float* y) { two_arrays<1>(x, y); }
CLIPSIFT_KERNEL(two_arrays_past_the_first)

// Asynchronous copies: 16 threads copy 16 bytes each.
template <bool COMMIT, bool WAIT, bool BARRIER>
__device__ void copied(const float* x, float* y) {
    CLIPSIFT_SHARED(float, tile, 64);
    if (threadIdx.x < 16) copy_async_16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    if (COMMIT) copy_async_commit();
    if (WAIT) copy_async_wait<0>();
    if (BARRIER) sync_threads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" __global__ void copied_good(const float* x, float* y) { copied<true, true, true>(x, y); }
CLIPSIFT_KERNEL(copied_good)
extern "C" __global__ void copied_without_commit(const float* x, float* y) { copied<false, true, true>(x, y); }
CLIPSIFT_KERNEL(copied_without_commit)
extern "C" __global__ void copied_without_wait(const float* x, float* y) { copied<true, false, true>(x, y); }
CLIPSIFT_KERNEL(copied_without_wait)
extern "C" __global__ void copied_without_barrier(const float* x, float* y) { copied<true, true, false>(x, y); }
CLIPSIFT_KERNEL(copied_without_barrier)

// Two groups; the wait leaves N under way, and the first group's bytes are read. Zeros stand behind 8 valid bytes.
template <int N, int READ>
__device__ void two_groups(const float* x, float* y) {
    CLIPSIFT_SHARED(float, tile, 64);
    for (int group = 0; group < 2; group++) {
        if (threadIdx.x < 8) copy_async_16(tile + 32 * group + 4 * threadIdx.x, x + 32 * group + 4 * threadIdx.x, 8);
        copy_async_commit();
    }
    copy_async_wait<N>();
    sync_threads();
    y[threadIdx.x] = tile[32 * READ + threadIdx.x % 32];
}
extern "C" __global__ void two_groups_good(const float* x, float* y) { two_groups<1, 0>(x, y); }
CLIPSIFT_KERNEL(two_groups_good)
extern "C" __global__ void two_groups_second_too_early(const float* x, float* y) { two_groups<1, 1>(x, y); }
CLIPSIFT_KERNEL(two_groups_second_too_early)
