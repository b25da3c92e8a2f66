// What every kernel file includes: element types, shared memory, collectives, tensor-core and asynchronous-copy instructions.
//
// A kernel file is compiled twice. nvcc makes the kernels of the card of it; a host C++ compiler with CLIPSIFT_EMULATOR makes
// the kernels of tests/emulator, which run on the CPU, thread by thread, and are watched there. All that differs between the
// two sits behind the names of this file, so a kernel uses
//   - Shared<T> for a pointer into shared memory (a T* here, a checked pointer there), from CLIPSIFT_SHARED or dynamic_shared;
//     read an element into a variable of its type (`float x = s[i];`, never `auto`), write it with `s[i] = x`, `s[i] += x`;
//     no addresses of elements (`&s[i]`: say `s + i`), no members of elements (`s[i].x`: read the element first);
//   - sync_threads, sync_warp, shuffle..., ballot, atomic_...: every thread of the block or lane of the warp must come to
//     them, in step; a thread that has returned early counts as missing, as CUDA's manual has it;
//   - mma_..., ldmatrix_..., copy_async_... for the PTX instructions of the same names.
// After a kernel's definition, `extern "C" __global__ void name(parameters) {...}`, comes CLIPSIFT_KERNEL(name). Parameters are
// pointers, long long, int, float or double: what `Arg` in src/ops/cuda/launch.rs can carry.

#pragma once

#ifdef CLIPSIFT_EMULATOR
#include "emulator.h"
#else

#define __CUDA_NO_HALF_OPERATORS__
#define __CUDA_NO_HALF_CONVERSIONS__
#define __CUDA_NO_BFLOAT16_OPERATORS__
#define __CUDA_NO_BFLOAT16_CONVERSIONS__
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define CLIPSIFT_KERNEL(name)

// ---- Shared memory

template <typename T>
using Shared = T*;

// `count` elements of T in shared memory, known as `name`, at an address that is a multiple of 16.
#define CLIPSIFT_SHARED(T, name, count)                 \
    __shared__ __align__(16) T name##_storage[(count)]; \
    Shared<T> name = name##_storage

extern __shared__ __align__(128) unsigned char clipsift_dynamic_shared[];

// The dynamic shared memory of the launch from a byte on (a multiple of sizeof(T); of 16 for asynchronous copies and
// ldmatrix). `count` is the number of elements meant, for the emulator to watch; without it, all to the end.
template <typename T>
__device__ __forceinline__ Shared<T> dynamic_shared(int byte_offset, long long count = -1) {
    return reinterpret_cast<T*>(clipsift_dynamic_shared + byte_offset);
}

// The same memory as elements of another type.
template <typename U, typename T>
__device__ __forceinline__ Shared<U> shared_cast(T* p) {
    return reinterpret_cast<U*>(p);
}

// ---- Barriers, shuffles, votes, atomics

__device__ __forceinline__ void sync_threads() { __syncthreads(); }
// Also orders the lanes' accesses to memory; the shuffles and votes do not.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

template <typename T>
__device__ __forceinline__ T shuffle(T value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
// The value of lane + delta; of the lane itself where there is none.
template <typename T>
__device__ __forceinline__ T shuffle_down(T value, int delta) { return __shfl_down_sync(0xffffffffu, value, delta); }
template <typename T>
__device__ __forceinline__ T shuffle_up(T value, int delta) { return __shfl_up_sync(0xffffffffu, value, delta); }
__device__ __forceinline__ unsigned warp_ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
// The lanes whose value is that of this lane.
__device__ __forceinline__ unsigned match_any(int value) { return __match_any_sync(0xffffffffu, value); }

// Each returns the value before. T: int, unsigned, unsigned long long; add also float.
template <typename T>
__device__ __forceinline__ T atomic_add(T* p, T value) { return atomicAdd(p, value); }
template <typename T>
__device__ __forceinline__ T atomic_max(T* p, T value) { return atomicMax(p, value); }
template <typename T>
__device__ __forceinline__ T atomic_min(T* p, T value) { return atomicMin(p, value); }

// ---- Sixteen bytes at a time in global memory; the address is a multiple of 16.

template <typename T>
struct __align__(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T values[SIZE];
};

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* p) { return *reinterpret_cast<const Pack<T>*>(p); }
template <typename T>
__device__ __forceinline__ void store_pack(T* p, Pack<T> pack) { *reinterpret_cast<Pack<T>*>(p) = pack; }

// ---- Tensor cores

// d[16][8] += a[16][16] · b[16][8], f32 accumulators; the tag says what the elements of a and b are. Fragments as PTX has them:
// with g = lane / 4 and t = lane % 4, registers hold pairs (lower half first) of
//   a[0] (row g, k 2t..)  a[1] (row g+8, k 2t..)  a[2] (row g, k 2t+8..)  a[3] (row g+8, k 2t+8..)
//   b[0] (k 2t.., column g)  b[1] (k 2t+8.., column g)
//   d[0], d[1] (row g, columns 2t, 2t+1)  d[2], d[3] (row g+8, same columns)
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __half) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __nv_bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads 8 x 8 matrices of 2-byte elements. Lane 8m + i gives the address of row i of matrix m (8 elements, a multiple of 16
// bytes; lanes that no matrix needs give any valid address); r[m] of a lane becomes the pair at row lane / 4, columns
// 2 (lane % 4) and the next of matrix m; with trans, of the transposed matrix.
template <typename T>
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const T* p) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(p));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
template <typename T>
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const T* p) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(p));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
template <typename T>
__device__ __forceinline__ void ldmatrix_x2(unsigned (&r)[2], const T* p) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(p));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}
template <typename T>
__device__ __forceinline__ void ldmatrix_x2_trans(unsigned (&r)[2], const T* p) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(p));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

// ---- Asynchronous copies

// Starts the copy of 16 bytes from global to shared memory, both multiples of 16: the first `valid_bytes` (0..16) come from src,
// the rest become zero; with 0, src is not read. The bytes are there for this thread after the copy_async_wait that its group
// needs, for others after a barrier behind it.
template <typename T>
__device__ __forceinline__ void copy_async_16(T* dst, const T* src, int valid_bytes) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(dst));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(src), "r"(valid_bytes) : "memory");
}
// Closes the group of the copies that this thread has started since the last one.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the last N groups of this thread are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#endif

// ---- From here on the same for both

// Elements are stored in their own precision and computed with in f32.
__device__ __forceinline__ float load_f32(float x) { return x; }
__device__ __forceinline__ float load_f32(__half x) { return __half2float(x); }
__device__ __forceinline__ float load_f32(__nv_bfloat16 x) { return __bfloat162float(x); }

// To nearest, ties to even.
template <typename T>
__device__ __forceinline__ T store_f32(float x);
template <>
__device__ __forceinline__ float store_f32<float>(float x) { return x; }
template <>
__device__ __forceinline__ __half store_f32<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ __forceinline__ __nv_bfloat16 store_f32<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// The bits of an element of two bytes.
__device__ __forceinline__ unsigned element_bits(__half x) { return __half_as_ushort(x); }
__device__ __forceinline__ unsigned element_bits(__nv_bfloat16 x) { return __bfloat16_as_ushort(x); }

// Two elements as one register of an mma fragment, `low` in the lower half.
template <typename T>
__device__ __forceinline__ unsigned pack_pair(float low, float high) {
    return element_bits(store_f32<T>(low)) | element_bits(store_f32<T>(high)) << 16;
}

// Whether loads of 16 bytes are possible at this address.
template <typename T>
__device__ __forceinline__ bool aligned_16(const T* p) { return reinterpret_cast<unsigned long long>(p) % 16 == 0; }

// The sum over the warp, in every lane; the order of additions is fixed.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        T other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    return value;
}

// The sum over a block of whole warps along x (at most 1,024 threads), in every thread; the order of additions depends on the
// block's size alone. `scratch` holds 32 elements; it may be used again at once, for another block_sum too.
template <typename T>
__device__ __forceinline__ T block_sum(T value, Shared<T> scratch) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    if (lane == 0) scratch[warp] = value;
    sync_threads();
    T part = T(0);
    if (lane < warps) part = scratch[lane];
    sync_threads();
    return warp_sum(part);
}
