// Multi-head self-attention without a mask, from the fused QKV product; the CPU twin is src/ops/attention.rs.
//
//   in   qkv [n, t, 3w] without bias, bias [3w]; the last axis holds all queries, then all keys, then all values; head i of h
//        owns columns i * d_h .. (i + 1) * d_h of each, d_h = w / h
//   out  out [n, t, w] = softmax(q kᵀ / √d_h) v, of the sums with the bias
//
// attention_f16_{32,64,80}, attention_bf16_{32,64,80}: tensor cores, for these head dimensions.
//   A block of 128 threads takes 64 queries of one head: grid n * h * ⌈t / 64⌉ along x, the queries' blocks of a head side by side so
//   that they find its keys and values in the L2 cache. A warp holds 16 queries, their running maxima and sums and 16 x d_h of the
//   output in registers, and goes over the keys 64 at a time; keys and values come by asynchronous copies into two buffers of shared
//   memory, one tile ahead. The t x t matrix exists as 16 x 64 scores in registers of a warp.
//   Where the bias goes: a query's is added when it is loaded. A key's adds q·b to all scores of a query alike, which the softmax
//   does not see, so it is left out. A value's is a weighted mean of equal vectors, hence added to the result.
//   Precision: products and sums in f32, exp2 in f32; queries with bias, and the weights exp(s - max) in 0..1, are rounded to the
//   dtype for the tensor cores. Domain: scores below 2^127 in magnitude.
//   FLOPs: 4 t² w an image. At t = 257 they are 4 % of an L/14 layer; limiter: the issue of exp2 and mma in turn.
//
// attention_plain_f32, _f16, _bf16: any head dimension up to 128, f32 throughout, no tensor cores.
//   A block of 256 threads takes 8 queries of one head, a warp each: grid n * h * ⌈t / 8⌉.

#include "common.cuh"

constexpr int QUERIES = 64;
constexpr int KEYS = 64;
constexpr int ATTENTION_THREADS = 128;
constexpr float LOG2_E = 1.4426950408889634f;

// Copies 64 tokens' columns of one part, `first` the first token, to rows of HEAD + 8 elements: the eight rows that ldmatrix reads at
// a time then lie in different banks for all three head dimensions. Tokens past the end become zero.
template <typename T, int HEAD>
__device__ __forceinline__ void load_tokens(Shared<T> to, const T* columns, long long stride, int first, int t) {
    constexpr int CHUNKS = HEAD / 8;
#pragma unroll
    for (int i = 0; i < KEYS * CHUNKS / ATTENTION_THREADS; ++i) {
        const int place = i * ATTENTION_THREADS + threadIdx.x;
        const int token = place / CHUNKS, chunk = place % CHUNKS;
        const bool valid = first + token < t;
        const T* from = valid ? columns + (first + token) * stride + chunk * 8 : columns;
        copy_async_16(to + token * (HEAD + 8) + chunk * 8, from, valid ? 16 : 0);
    }
}

template <typename T, int HEAD>
__device__ __forceinline__ void attention(const T* qkv, const T* bias, T* out, int t, int heads) {
    constexpr int STRIDE = HEAD + 8;
    CLIPSIFT_SHARED(T, keys, 2 * KEYS * STRIDE);
    CLIPSIFT_SHARED(T, values, 2 * KEYS * STRIDE);

    const int query_blocks = (t + QUERIES - 1) / QUERIES;
    const int query_block = blockIdx.x % query_blocks;
    const int head = blockIdx.x / query_blocks % heads;
    const long long image = blockIdx.x / query_blocks / heads;
    const long long width = (long long)heads * HEAD, stride = 3 * width;
    const T* queries = qkv + image * t * stride + head * HEAD;
    const T* bias_q = bias + head * HEAD;

    load_tokens<T, HEAD>(keys, queries + width, stride, 0, t);
    load_tokens<T, HEAD>(values, queries + 2 * width, stride, 0, t);
    copy_async_commit();

    const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
    const int first_query = query_block * QUERIES + threadIdx.x / 32 * 16;
    // Fragment registers 0 and 2 are of the query `group`, 1 and 3 of the one 8 further on.
    unsigned q[HEAD / 16][4];
#pragma unroll
    for (int k = 0; k < HEAD / 16; ++k) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int query = first_query + group + r % 2 * 8, column = k * 16 + r / 2 * 8 + pair;
            float low = 0.0f, high = 0.0f;
            if (query < t) {
                const T* from = queries + query * stride + column;
                low = load_f32(from[0]) + load_f32(bias_q[column]);
                high = load_f32(from[1]) + load_f32(bias_q[column + 1]);
            }
            q[k][r] = pack_pair<T>(low, high);
        }
    }

    const float scale = LOG2_E / sqrtf((float)HEAD);
    float output[HEAD / 8][4];
#pragma unroll
    for (int n = 0; n < HEAD / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) output[n][e] = 0.0f;
    // Of the two queries: the greatest score so far, and this lane's part of the sum of weights.
    float greatest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};

    int buffer = 0;
    for (int first = 0; first < t; first += KEYS, buffer ^= 1) {
        copy_async_wait<0>();
        // This tile is there for all; and all are done with the other buffer.
        sync_threads();
        // Saves work only: past the end there would be zeros.
        if (first + KEYS < t) {
            const int other = (buffer ^ 1) * KEYS * STRIDE;
            load_tokens<T, HEAD>(keys + other, queries + width, stride, first + KEYS, t);
            load_tokens<T, HEAD>(values + other, queries + 2 * width, stride, first + KEYS, t);
        }
        copy_async_commit();
        // Saves work only: warps without a query have but to help with the copies.
        if (first_query >= t) continue;

        float scores[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[n][e] = scores[n + 1][e] = 0.0f;
            // Saves work only, as below: keys past the end are zeros, and their weights.
            if (first + n * 8 < t) {
                const int key = buffer * KEYS + n * 8 + lane / 16 * 8 + lane % 8;
#pragma unroll
                for (int k = 0; k < HEAD / 16; ++k) {
                    unsigned fragment[4];
                    ldmatrix_x4(fragment, keys + key * STRIDE + k * 16 + lane / 8 % 2 * 8);
                    const unsigned left[2] = {fragment[0], fragment[1]}, right[2] = {fragment[2], fragment[3]};
                    mma_m16n8k16(scores[n], q[k], left, T());
                    mma_m16n8k16(scores[n + 1], q[k], right, T());
                }
            }
        }

        float before[2] = {greatest[0], greatest[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const bool valid = first + n * 8 + pair + e % 2 < t;
                scores[n][e] = valid ? scores[n][e] * scale : -INFINITY;
                greatest[e / 2] = fmaxf(greatest[e / 2], scores[n][e]);
            }
        }
        float shrink[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            greatest[half] = fmaxf(greatest[half], shuffle_xor(greatest[half], 1));
            greatest[half] = fmaxf(greatest[half], shuffle_xor(greatest[half], 2));
            // 0 the first time, when there is nothing to shrink.
            shrink[half] = exp2f(before[half] - greatest[half]);
            total[half] *= shrink[half];
        }
#pragma unroll
        for (int n = 0; n < HEAD / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) output[n][e] *= shrink[e / 2];

#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) {
            // Saves work only.
            if (first + k * 16 >= t) break;
#pragma unroll
            for (int n = 2 * k; n < 2 * k + 2; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    scores[n][e] = exp2f(scores[n][e] - greatest[e / 2]);
                    total[e / 2] += scores[n][e];
                }
            }
            const unsigned weights[4] = {
                pack_pair<T>(scores[2 * k][0], scores[2 * k][1]),
                pack_pair<T>(scores[2 * k][2], scores[2 * k][3]),
                pack_pair<T>(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                pack_pair<T>(scores[2 * k + 1][2], scores[2 * k + 1][3]),
            };
            const int key = buffer * KEYS + k * 16 + lane % 16;
#pragma unroll
            for (int n = 0; n < HEAD / 8; n += 2) {
                unsigned fragment[4];
                ldmatrix_x4_trans(fragment, values + key * STRIDE + n * 8 + lane / 16 * 8);
                const unsigned left[2] = {fragment[0], fragment[1]}, right[2] = {fragment[2], fragment[3]};
                mma_m16n8k16(output[n], weights, left, T());
                mma_m16n8k16(output[n + 1], weights, right, T());
            }
        }
    }

    const T* bias_v = bias + 2 * width + head * HEAD;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        total[half] += shuffle_xor(total[half], 1);
        total[half] += shuffle_xor(total[half], 2);
        const int query = first_query + group + half * 8;
        if (query >= t) continue;
        T* to = out + (image * t + query) * width + head * HEAD;
#pragma unroll
        for (int n = 0; n < HEAD / 8; ++n) {
            const int column = n * 8 + pair;
            to[column] = store_f32<T>(output[n][half * 2] / total[half] + load_f32(bias_v[column]));
            to[column + 1] = store_f32<T>(output[n][half * 2 + 1] / total[half] + load_f32(bias_v[column + 1]));
        }
    }
}

// Blocks on a multiprocessor at least: as many as their registers leave room for.
template <int HEAD>
constexpr int BLOCKS = HEAD > 64 ? 2 : 3;

#define ATTENTION(name, T, HEAD)                                                                                        \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, BLOCKS<HEAD>)                                       \
        name(const T* qkv, const T* bias, T* out, int t, int heads) {                                                   \
        attention<T, HEAD>(qkv, bias, out, t, heads);                                                                   \
    }                                                                                                                   \
    CLIPSIFT_KERNEL(name)

ATTENTION(attention_f16_32, __half, 32)
ATTENTION(attention_f16_64, __half, 64)
ATTENTION(attention_f16_80, __half, 80)
ATTENTION(attention_bf16_32, __nv_bfloat16, 32)
ATTENTION(attention_bf16_64, __nv_bfloat16, 64)
ATTENTION(attention_bf16_80, __nv_bfloat16, 80)

constexpr int LARGEST_HEAD = 128;
// Odd, so that the same element of 32 keys lies in 32 banks.
constexpr int PLAIN_STRIDE = LARGEST_HEAD + 1;
constexpr int PLAIN_WARPS = 8;

template <typename T>
__device__ __forceinline__ void attention_plain(const T* qkv, const T* bias, T* out, int t, int heads, int head_dim) {
    CLIPSIFT_SHARED(float, query, PLAIN_WARPS * LARGEST_HEAD);
    CLIPSIFT_SHARED(float, keys, 32 * PLAIN_STRIDE);
    CLIPSIFT_SHARED(float, values, 32 * LARGEST_HEAD);

    const int query_blocks = (t + PLAIN_WARPS - 1) / PLAIN_WARPS;
    const int query_block = blockIdx.x % query_blocks;
    const int head = blockIdx.x / query_blocks % heads;
    const long long image = blockIdx.x / query_blocks / heads;
    const long long width = (long long)heads * head_dim, stride = 3 * width;
    const T* columns = qkv + image * t * stride + head * head_dim;
    const T* biases = bias + head * head_dim;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int token = query_block * PLAIN_WARPS + warp;
    const float scale = 1.0f / sqrtf((float)head_dim);
    for (int i = lane; i < head_dim; i += 32) {
        query[warp * LARGEST_HEAD + i] = token < t ? (load_f32(columns[token * stride + i]) + load_f32(biases[i])) * scale : 0.0f;
    }
    float output[LARGEST_HEAD / 32] = {0.0f, 0.0f, 0.0f, 0.0f};
    float greatest = -INFINITY, total = 0.0f;
    for (int first = 0; first < t; first += 32) {
        const int count = t - first < 32 ? t - first : 32;
        for (int i = threadIdx.x; i < count * head_dim; i += 32 * PLAIN_WARPS) {
            const int key = i / head_dim, column = i % head_dim;
            const T* from = columns + (first + key) * stride + column;
            keys[key * PLAIN_STRIDE + column] = load_f32(from[width]) + load_f32(biases[width + column]);
            values[key * LARGEST_HEAD + column] = load_f32(from[2 * width]) + load_f32(biases[2 * width + column]);
        }
        sync_threads();
        float score = -INFINITY;
        if (lane < count) {
            score = 0.0f;
            for (int i = 0; i < head_dim; ++i) {
                const float q = query[warp * LARGEST_HEAD + i], k = keys[lane * PLAIN_STRIDE + i];
                score = fmaf(q, k, score);
            }
        }
        const float now = fmaxf(greatest, warp_max(score));
        const float shrink = expf(greatest - now), weight = expf(score - now);
        greatest = now;
        total = total * shrink + warp_sum(weight);
#pragma unroll
        for (int i = 0; i < LARGEST_HEAD / 32; ++i) output[i] *= shrink;
        for (int key = 0; key < count; ++key) {
            const float of_key = shuffle(weight, key);
#pragma unroll
            for (int i = 0; i < LARGEST_HEAD / 32; ++i) {
                if (lane + i * 32 < head_dim) {
                    const float value = values[key * LARGEST_HEAD + lane + i * 32];
                    output[i] = fmaf(of_key, value, output[i]);
                }
            }
        }
        // Before the next keys overwrite these.
        sync_threads();
    }
    if (token < t) {
#pragma unroll
        for (int i = 0; i < LARGEST_HEAD / 32; ++i) {
            const int column = lane + i * 32;
            if (column < head_dim) out[(image * t + token) * width + head * head_dim + column] = store_f32<T>(output[i] / total);
        }
    }
}

#define ATTENTION_PLAIN(name, T)                                                           \
    extern "C" __global__ void __launch_bounds__(32 * PLAIN_WARPS, 2)                      \
        name(const T* qkv, const T* bias, T* out, int t, int heads, int head_dim) {        \
        attention_plain<T>(qkv, bias, out, t, heads, head_dim);                            \
    }                                                                                      \
    CLIPSIFT_KERNEL(name)

ATTENTION_PLAIN(attention_plain_f32, float)
ATTENTION_PLAIN(attention_plain_f16, __half)
ATTENTION_PLAIN(attention_plain_bf16, __nv_bfloat16)
