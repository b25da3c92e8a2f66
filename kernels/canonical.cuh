// The canonical dot product and squared distance of src/ops/dot.rs, bit for bit, for half a warp.
//
// Both accumulate in f64 in sixteen lanes: element i goes to lane i % 16, lanes are filled in ascending i and added pairwise (0 + 8,
// 1 + 9, ..., down to one). A lane of the sixteen here is a lane of half a warp. Rows are f16 or f32; every such value is exact
// in f64. The product of two of them is exact too, so its addition may be fused; the square of a difference is not, so there
// each operation is rounded by itself.
//
// Both halves of a warp must call these functions in step, each with its own rows, all sixteen lanes of a half with the same; a
// half that has nothing to compute gives d = 0.

#pragma once

#include "common.cuh"

// The sum over the sixteen lanes in every one of them. Adding the other operand first changes no bits.
__device__ __forceinline__ double add_lanes(double lane) {
#pragma unroll
    for (int half = 8; half > 0; half /= 2) lane += shuffle_xor(lane, half);
    return lane;
}

template <typename A, typename B>
__device__ __forceinline__ double canonical_dot(const A* a, const B* b, int d) {
    double sum = 0.0;
    for (int i = threadIdx.x % 16; i < d; i += 16) {
        sum = fma((double)load_f32(a[i]), (double)load_f32(b[i]), sum);
    }
    return add_lanes(sum);
}

template <typename A, typename B>
__device__ __forceinline__ double canonical_squared_distance(const A* a, const B* b, int d) {
    double sum = 0.0;
    for (int i = threadIdx.x % 16; i < d; i += 16) {
        const double difference = (double)load_f32(a[i]) - (double)load_f32(b[i]);
        sum = __dadd_rn(sum, __dmul_rn(difference, difference));
    }
    return add_lanes(sum);
}

// The row that position `p` of a view stands for: `ids` lists them, or is null where positions are rows.
__device__ __forceinline__ long long row_at(const long long* ids, long long p) { return ids ? ids[p] : p; }
