// Rows in chunks of eight elements a thread, for kernels that go over a row once: 16-byte accesses where every row begins at a
// multiple of 16 (VECTOR), single elements, neighbouring threads at neighbouring addresses, where not.

#pragma once

#include "common.cuh"

constexpr int CHUNK = 8;

// The place in the row of element j of a thread's chunk, among `threads` threads that share the row.
template <bool VECTOR>
__device__ __forceinline__ long long chunk_place(int chunk, int thread, int threads, int j) {
    return VECTOR ? (1ll * chunk * threads + thread) * CHUNK + j : (1ll * chunk * CHUNK + j) * threads + thread;
}

// Chunks a thread of a row of `width` elements.
__device__ __forceinline__ int chunks_of(long long width, int threads) {
    return static_cast<int>((width + CHUNK * threads - 1) / (CHUNK * threads));
}

// A thread's chunk of a row; what lies behind the row is 0. With VECTOR the width is a multiple of 8.
template <bool VECTOR, typename T>
__device__ __forceinline__ void load_chunk(const T* row, long long width, int chunk, int thread, int threads, float (&out)[CHUNK]) {
    if (VECTOR) {
        constexpr int SIZE = Pack<T>::SIZE;
        const long long first = chunk_place<true>(chunk, thread, threads, 0);
#pragma unroll
        for (int part = 0; part < CHUNK; part += SIZE) {
            Pack<T> pack = {};
            if (first < width) pack = load_pack(row + first + part);
#pragma unroll
            for (int j = 0; j < SIZE; j++) out[part + j] = load_f32(pack.values[j]);
        }
    } else {
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            const long long i = chunk_place<false>(chunk, thread, threads, j);
            out[j] = i < width ? load_f32(row[i]) : 0.0f;
        }
    }
}

// The reverse; what would lie behind the row is not written.
template <bool VECTOR, typename T>
__device__ __forceinline__ void store_chunk(T* row, long long width, int chunk, int thread, int threads, const float (&values)[CHUNK]) {
    if (VECTOR) {
        constexpr int SIZE = Pack<T>::SIZE;
        const long long first = chunk_place<true>(chunk, thread, threads, 0);
        if (first >= width) return;
#pragma unroll
        for (int part = 0; part < CHUNK; part += SIZE) {
            Pack<T> pack;
#pragma unroll
            for (int j = 0; j < SIZE; j++) pack.values[j] = store_f32<T>(values[part + j]);
            store_pack(row + first + part, pack);
        }
    } else {
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            const long long i = chunk_place<false>(chunk, thread, threads, j);
            if (i < width) row[i] = store_f32<T>(values[j]);
        }
    }
}
