// Rows on the device as the duplicate kernels want them: rounded to f16, with what the rounding took away; gathered; squared;
// hashed and compared. The host side is src/ops/cuda/matrix.rs and identical.rs.
//
// prepare_rows_f32, prepare_rows_f16: one warp a row, any grid of whole warps.
//   in   from [rows, d] f32 or f16
//   out  half [rows, stride] f16, not written if null: the values to nearest, ±65,504 at most, zero from d on
//        exact [rows, d] of the input's type, not written if null: a copy
//   in and out  bounds [2] u64, the bits of two f64, 0 at first: the greatest |x|² of a row, the greatest |x - half(x)|². Not
//        finite when a value is not.
// gather_rows: half [rows, stride] f16 := the listed rows of from [.., stride]; stride a multiple of 8; `ids` null: the first ones.
// fill_words: out [words] i32 := even, odd, even, odd ...
// squared_lengths_f32: out [rows] f32 := the canonical |x|² of from [rows, d], rounded. Half a warp a row.
// hash_rows_f32, hash_rows_f16: out [rows] u64 := a hash of the bits of the listed rows' d values. One warp a row.
// compare_rows_f32, compare_rows_f16: same [count] i32 := 1 where the two listed rows of pairs [count, 2] i64 have the same bits,
//   else 0. One warp a pair.
//
// All are bound by memory: each value is read once and written at most twice.

#include "canonical.cuh"

__device__ __forceinline__ long long own_warp() { return ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32; }
__device__ __forceinline__ long long warps() { return (long long)gridDim.x * blockDim.x / 32; }

// The bits of a value, as they are compared and hashed.
__device__ __forceinline__ unsigned value_bits(__half x) { return element_bits(x); }
__device__ __forceinline__ unsigned value_bits(float x) { return __float_as_uint(x); }

// Bits of numbers that are not negative ascend with them, and those of infinity and NaN are above all.
__device__ __forceinline__ unsigned long long ascending_bits(double x) {
    x = fabs(x);
    unsigned long long bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

template <typename T>
__device__ __forceinline__ void prepare_rows(const T* from, long long rows, int d, int stride, __half* half, T* exact,
                                             unsigned long long* bounds) {
    const int lane = threadIdx.x % 32;
    double longest = 0.0, farthest = 0.0;
    for (long long row = own_warp(); row < rows; row += warps()) {
        double squared = 0.0, lost = 0.0;
        for (int i = lane; i < stride; i += 32) {
            float value = 0.0f;
            if (i < d) {
                const T x = from[row * d + i];
                if (exact) exact[row * d + i] = x;
                value = load_f32(x);
            }
            // Not fmaxf, fminf: they would take a NaN for a number.
            const float within = value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value;
            const __half rounded = store_f32<__half>(within);
            if (half) half[row * stride + i] = rounded;
            const double error = (double)value - (double)load_f32(rounded);
            squared = fma((double)value, (double)value, squared);
            lost = fma(error, error, lost);
        }
        squared = warp_sum(squared);
        lost = warp_sum(lost);
        // A NaN stays: no comparison with it is true.
        if (!(squared <= longest)) longest = squared;
        if (!(lost <= farthest)) farthest = lost;
    }
    if (lane == 0) {
        atomic_max(bounds, ascending_bits(longest));
        atomic_max(bounds + 1, ascending_bits(farthest));
    }
}

extern "C" __global__ void prepare_rows_f32(const float* from, long long rows, int d, int stride, __half* half, float* exact,
                                            unsigned long long* bounds) {
    prepare_rows(from, rows, d, stride, half, exact, bounds);
}
CLIPSIFT_KERNEL(prepare_rows_f32)

extern "C" __global__ void prepare_rows_f16(const __half* from, long long rows, int d, int stride, __half* half, __half* exact,
                                            unsigned long long* bounds) {
    prepare_rows(from, rows, d, stride, half, exact, bounds);
}
CLIPSIFT_KERNEL(prepare_rows_f16)

extern "C" __global__ void gather_rows(const __half* from, const long long* ids, long long rows, int stride, __half* half) {
    const int chunks = stride / 8;
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < rows * chunks; i += step) {
        const long long row = i / chunks, chunk = i % chunks;
        store_pack(half + row * stride + chunk * 8, load_pack(from + row_at(ids, row) * stride + chunk * 8));
    }
}
CLIPSIFT_KERNEL(gather_rows)

extern "C" __global__ void fill_words(int* out, long long words, int even, int odd) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step) out[i] = i % 2 ? odd : even;
}
CLIPSIFT_KERNEL(fill_words)

extern "C" __global__ void squared_lengths_f32(const float* from, long long rows, int d, float* out) {
    const long long step = warps() * 2;
    for (long long first = own_warp() * 2; first < rows; first += step) {
        const long long row = first + threadIdx.x % 32 / 16;
        const bool active = row < rows;
        const float* values = from + (active ? row : 0) * d;
        const double squared = canonical_dot(values, values, active ? d : 0);
        if (active && threadIdx.x % 16 == 0) out[row] = (float)squared;
    }
}
CLIPSIFT_KERNEL(squared_lengths_f32)

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
__device__ __forceinline__ unsigned long long mix(unsigned long long x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

template <typename T>
__device__ __forceinline__ void hash_rows(const T* from, const long long* ids, long long rows, long long stride, int d,
                                          unsigned long long* out) {
    const int lane = threadIdx.x % 32;
    for (long long row = own_warp(); row < rows; row += warps()) {
        const T* values = from + row_at(ids, row) * stride;
        // Each value is mixed with its place, so that a sum in any order will do.
        unsigned long long sum = 0;
        for (int i = lane; i < d; i += 32) {
            sum += mix(((unsigned long long)(i + 1) << 32 | value_bits(values[i])) * 0x9e3779b97f4a7c15ull);
        }
        sum = warp_sum(sum);
        if (lane == 0) out[row] = sum;
    }
}

template <typename T>
__device__ __forceinline__ void compare_rows(const T* from, long long stride, int d, const long long* pairs, long long count,
                                             int* same) {
    const int lane = threadIdx.x % 32;
    for (long long pair = own_warp(); pair < count; pair += warps()) {
        const T* a = from + pairs[pair * 2] * stride;
        const T* b = from + pairs[pair * 2 + 1] * stride;
        bool different = false;
        for (int i = lane; i < d; i += 32) different |= value_bits(a[i]) != value_bits(b[i]);
        const bool any = warp_ballot(different) != 0;
        if (lane == 0) same[pair] = any ? 0 : 1;
    }
}

#define HASH_AND_COMPARE(dtype, T)                                                                                              \
    extern "C" __global__ void hash_rows_##dtype(const T* from, const long long* ids, long long rows, long long stride, int d,  \
                                                 unsigned long long* out) {                                                     \
        hash_rows(from, ids, rows, stride, d, out);                                                                             \
    }                                                                                                                           \
    CLIPSIFT_KERNEL(hash_rows_##dtype)                                                                                          \
    extern "C" __global__ void compare_rows_##dtype(const T* from, long long stride, int d, const long long* pairs,             \
                                                    long long count, int* same) {                                               \
        compare_rows(from, stride, d, pairs, count, same);                                                                      \
    }                                                                                                                           \
    CLIPSIFT_KERNEL(compare_rows_##dtype)

HASH_AND_COMPARE(f32, float)
HASH_AND_COMPARE(f16, __half)
