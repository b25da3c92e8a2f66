// Barriers and warp instructions that not all threads come to. x and y are [64] f32, two warps.

#include "common.cuh"

extern "C" __global__ void barrier_in_a_branch(const float* x, float* y) {
    if (threadIdx.x < 16) sync_threads();
    y[threadIdx.x] = x[threadIdx.x];
}
CLIPSIFT_KERNEL(barrier_in_a_branch)

extern "C" __global__ void barrier_after_return(const float* x, float* y) {
    if (threadIdx.x >= 60) return;
    sync_threads();
    y[threadIdx.x] = x[threadIdx.x];
}
CLIPSIFT_KERNEL(barrier_after_return)

extern "C" __global__ void two_barriers(const float* x, float* y) {
    if (threadIdx.x < 32)
        sync_threads();
    else
        sync_threads();
    y[threadIdx.x] = x[threadIdx.x];
}
CLIPSIFT_KERNEL(two_barriers)

extern "C" __global__ void shuffle_in_a_branch(const float* x, float* y) {
    float value = x[threadIdx.x];
    if (threadIdx.x % 32 < 31) value = shuffle_xor(value, 1);
    y[threadIdx.x] = value;
}
CLIPSIFT_KERNEL(shuffle_in_a_branch)

extern "C" __global__ void shuffle_against_barrier(const float* x, float* y) {
    float value = x[threadIdx.x];
    if (threadIdx.x == 3)
        sync_threads();
    else
        value = shuffle_xor(value, 1);
    y[threadIdx.x] = value;
}
CLIPSIFT_KERNEL(shuffle_against_barrier)

extern "C" __global__ void shuffles_good(const float* x, float* y) {
    const int lane = threadIdx.x % 32;
    float value = x[threadIdx.x];
    value = shuffle_down(shuffle_up(shuffle_xor(shuffle(value, 31 - lane), 31), 1), 1);
    const unsigned votes = warp_ballot(lane % 2 == 0), same = match_any(lane / 8);
    if (votes != 0x55555555u || same != 0xffu << lane / 8 * 8) value = -1.0f;
    CLIPSIFT_SHARED(float, scratch, 32);
    const float sum = block_sum(1.0f, scratch) + block_sum(2.0f, scratch);
    y[threadIdx.x] = value + sum + warp_max(float(lane));
}
CLIPSIFT_KERNEL(shuffles_good)
