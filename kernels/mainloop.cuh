// The matrix product behind assign.cu and tile.cu: tiles of a · bᵀ for two row-major matrices of f16, f32 accumulators, handed to
// the caller in registers. Nothing of the product is written to memory.
//
//   a [rows, stride], b [columns, stride]   f16, the same stride: a multiple of 8 elements (16 bytes); what lies between d and the
//                                           stride is zero in both
//
// A block computes tiles of 128 x 256 with 256 threads: two by four warps of 64 x 64 each, in steps of 32 along the stride. Three
// stages of shared memory (73,728 bytes, so that cards with 99 KiB a block can run it too) are filled by asynchronous copies two
// steps ahead of the multiplication, across the end of a tile as well: the block walks a sequence of tiles as one loop, so the
// copies of the next tile fly while the caller looks at the sums of the last.
//
// A tile at d = 768 is 50.3 MFLOP and reads 590 KB, mostly from the L2 cache: 85 FLOP a byte there. A warp's step of 16 reads 4 KB of
// shared memory for 131 kFLOP: eight warps take 256 of the 413 clocks that mma.sync needs at the 2,540 FLOP a clock and
// multiprocessor to be expected of it on a Hopper card. Expected limiter: the issue of mma.sync itself, about 60 % of the card's
// wgmma rate; then latency at the end of a tile, since one block of 256 threads has a multiprocessor to itself.
//
// Rows of a stage are 64 bytes, four chunks of 16; chunk c of row r lies at c ^ (r / 2 % 4), so that the eight rows that ldmatrix
// reads at a time, and the eight chunks that a quarter warp writes, fall into different banks.

#pragma once

#include "common.cuh"

constexpr int TILE_ROWS = 128;
constexpr int TILE_COLUMNS = 256;
constexpr int TILE_DEPTH = 32;
constexpr int TILE_STAGES = 3;
constexpr int TILE_THREADS = 256;
constexpr int TILE_CHUNKS = TILE_DEPTH / 8;
constexpr int STAGE_A = TILE_ROWS * TILE_DEPTH;
constexpr int STAGE_ELEMENTS = (TILE_ROWS + TILE_COLUMNS) * TILE_DEPTH;
constexpr int TILE_SHARED_BYTES = TILE_STAGES * STAGE_ELEMENTS * 2;

// One tile: rows from `row` on, columns from `column` on; those at or past the ends are computed as zero.
struct Tile {
    long long row, row_end, column, column_end;
    // Whether it is the first, the last of those that share its rows.
    bool first, last;
};

// The sums of a thread: sums[m][n][e] belongs to row tile_row(m, e / 2), column tile_column(n, e % 2) of the tile.
struct Sums {
    float values[4][8][4];
};

__device__ __forceinline__ int tile_row(int m, int half) {
    return (threadIdx.x / 128) * 64 + m * 16 + half * 8 + (threadIdx.x % 32) / 4;
}

__device__ __forceinline__ int tile_column(int n, int odd) {
    return (threadIdx.x / 32 % 4) * 64 + n * 8 + (threadIdx.x % 4) * 2 + odd;
}

// Where chunk `chunk` of row `row` of an operand begins in its part of a stage.
__device__ __forceinline__ int stage_offset(int row, int chunk) {
    return row * TILE_DEPTH + (chunk ^ (row / 2 % TILE_CHUNKS)) * 8;
}

// Starts the copies of one operand's part of a stage: ROWS rows from `first` on, elements k.. of each.
template <int ROWS>
__device__ __forceinline__ void load_operand(Shared<__half> stage, const __half* values, long long first, long long end,
                                             int stride, int k) {
    const int row = threadIdx.x / TILE_CHUNKS, chunk = threadIdx.x % TILE_CHUNKS;
    const bool inside = k + chunk * 8 < stride;
    const __half* from = values + (first + row) * stride + k + chunk * 8;
#pragma unroll
    for (int r = 0; r < ROWS; r += TILE_THREADS / TILE_CHUNKS) {
        const bool valid = inside && first + row + r < end;
        copy_async_16(stage + stage_offset(row + r, chunk), valid ? from + (long long)r * stride : values, valid ? 16 : 0);
    }
}

__device__ __forceinline__ void multiply_stage(Shared<__half> stage, Sums& sums) {
    const int lane = threadIdx.x % 32;
    const int a_row = (threadIdx.x / 128) * 64 + lane % 16;
    const int b_row = (threadIdx.x / 32 % 4) * 64 + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < TILE_DEPTH / 16; ++k) {
        unsigned a[4][4], b[8][2];
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            ldmatrix_x4(a[m], stage + stage_offset(a_row + m * 16, k * 2 + lane / 16));
        }
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            unsigned pair[4];
            ldmatrix_x4(pair, stage + STAGE_A + stage_offset(b_row + n * 8, k * 2 + lane / 8 % 2));
            b[n][0] = pair[0];
            b[n][1] = pair[1];
            b[n + 1][0] = pair[2];
            b[n + 1][1] = pair[3];
        }
#pragma unroll
        for (int m = 0; m < 4; ++m) {
#pragma unroll
            for (int n = 0; n < 8; ++n) mma_m16n8k16(sums.values[m][n], a[m], b[n], __half());
        }
    }
}

// Multiplies the tiles that `tiles` names, one after another, and hands the sums of each to `finish(tile, sums)`. Every thread of the
// block calls it with the same tiles. Tiles is copied; its `bool next(Tile&)` gives the next tile, and false after the last.
// Between two calls of finish, and between the last write to shared memory before a call and the reads in it, there is at least
// one barrier; the stages belong to this function until it returns.
template <class Tiles, class Finish>
__device__ __forceinline__ void multiply_tiles(const __half* a, const __half* b, int stride, Tiles tiles, Finish& finish) {
    Shared<__half> stages = dynamic_shared<__half>(0, TILE_STAGES * STAGE_ELEMENTS);
    Tiles ahead = tiles;
    Tile loading, tile;
    bool more = ahead.next(loading);
    int k_loading = 0, fill = 0;
    auto load = [&]() {
        if (more) {
            Shared<__half> stage = stages + fill * STAGE_ELEMENTS;
            load_operand<TILE_ROWS>(stage, a, loading.row, loading.row_end, stride, k_loading);
            load_operand<TILE_COLUMNS>(stage + STAGE_A, b, loading.column, loading.column_end, stride, k_loading);
            fill = fill + 1 == TILE_STAGES ? 0 : fill + 1;
            k_loading += TILE_DEPTH;
            if (k_loading >= stride) {
                k_loading = 0;
                more = ahead.next(loading);
            }
        }
        // An empty group too, so that the number of groups tells the steps.
        copy_async_commit();
    };
    for (int s = 0; s < TILE_STAGES - 1; ++s) load();
    int use = 0;
    while (tiles.next(tile)) {
        Sums sums;
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int n = 0; n < 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) sums.values[m][n][e] = 0.0f;
        // The products of a warp whose rows or columns are all past the end, as most are in a tile of a
        // small group, are zeros.
        const long long warp_row = tile.row + threadIdx.x / 128 * 64, warp_column = tile.column + threadIdx.x / 32 % 4 * 64;
        // Saves work only.
        const bool needed = warp_row < tile.row_end && warp_column < tile.column_end;
        for (int k = 0; k < stride; k += TILE_DEPTH) {
            copy_async_wait<TILE_STAGES - 2>();
            // This step's stage is there for all; and all have read the stage that is filled next.
            sync_threads();
            load();
            if (needed) multiply_stage(stages + use * STAGE_ELEMENTS, sums);
            use = use + 1 == TILE_STAGES ? 0 : use + 1;
        }
        finish(tile, sums);
    }
}
