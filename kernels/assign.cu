// For each row the nearest of many columns: centroids by squared distance (k-means assignment), or the rows before it by cosine (the
// pairwise rule). The CPU twins are src/ops/assign.rs and best_earlier of src/ops/tile.rs; the host sides are
// src/ops/cuda/assign.rs and tile.rs.
//
// nearest_candidates: the columns that may be nearest, by tensor-core tiles.
//   in   a [rows, stride], b [columns, stride] f16 (see mainloop.cuh for the stride);
//        bias [columns] f32, null for 0: the score of a column is bias + factor * a·b, and the least is the nearest:
//        |c|² - 2 x·c, or -x·y;
//        positions [columns] i32 ascending, null for none: row r sees only columns with positions[column] < r + row_position;
//        items [item_count, 4] i32: (row, row end, column, column end), at most 128 rows each: what a block takes at a time,
//        row ranges all different
//   in and out  best [rows] f32: the least score so far, of earlier columns too
//   out  counts [rows] i32, candidates [rows, 16] i32: the columns whose score is at most `margin` above the best. More than 16:
//        the count is 17, and every column of the row's item has to be looked at. Rows of no item are not written.
//   One block a multiprocessor, 256 threads, 73,728 bytes of dynamic and some 19 KB of static shared memory; f32 accumulation. A
//   row's scores stay in registers: they go into the row's best through shuffles and shared memory, once a tile, and those
//   within the margin into a list of sixteen in shared memory, which is thinned out as the best improves.
//   FLOPs and bytes: mainloop.cuh; the epilogue is some 400 instructions a thread and tile, against 12 steps of 64 mma at
//   d = 768.
//
// settle_distance_f16, settle_distance_f32, settle_cosine_f16, settle_cosine_f32: the canonical decision among them.
//   in   a, b: exact rows of a_stride and b_stride elements, through a_ids and b_ids where not null (distance: b is f32);
//        items, positions, counts and candidates as above
//   in and out  costs [rows] f64: the least squared distance, or the least negated cosine, so far (infinity for none);
//        nearest [rows] u32: first_column + its column, the lowest on a tie as long as columns come in ascending order
//   Half a warp a row, a block of 256 threads an item.

#include "canonical.cuh"
#include "mainloop.cuh"

constexpr int LISTED = 16;

// The tiles of the items, every gridDim.x-th item from this block's own on, its columns in ascending order.
struct RowTiles {
    const int* items;
    long long count, item;
    long long column;

    __device__ RowTiles(const int* items, long long count) : items(items), count(count), item(blockIdx.x), column(0) {}

    __device__ bool next(Tile& tile) {
        while (item < count) {
            const int* own = items + item * 4;
            const long long begin = own[2], end = own[3];
            const long long from = begin + column;
            if (from < end) {
                column += TILE_COLUMNS;
                // Saves work only: a row's results could be written after each tile, the last would stand.
                tile = {own[0], own[1], from, end, from == begin, begin + column >= end};
                return true;
            }
            item += gridDim.x;
            column = 0;
        }
        return false;
    }
};

struct Nearest {
    const float* bias;
    float factor, margin;
    const int* positions;
    long long row_position;
    float* best;
    int* counts;
    int* candidates;
    // Of the tile's rows: the best so far, the least of this tile by column of warps, and the lists.
    Shared<float> row_best, tile_best, scores;
    Shared<int> listed, columns;

    __device__ void operator()(const Tile& tile, Sums& sums) {
        const int lane = threadIdx.x % 32, warp_column = threadIdx.x / 32 % 4;
        if (tile.first && threadIdx.x < TILE_ROWS) {
            const long long row = tile.row + threadIdx.x;
            row_best[threadIdx.x] = row < tile.row_end ? best[row] : INFINITY;
            listed[threadIdx.x] = 0;
        }
        float least[4][2];
#pragma unroll
        for (int m = 0; m < 4; ++m) least[m][0] = least[m][1] = INFINITY;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                const long long column = tile.column + tile_column(n, odd);
                const bool inside = column < tile.column_end;
                const float added = inside && bias ? bias[column] : 0.0f;
                // The rows from here on see the column; those past the end do no harm, nobody asks for them.
                const long long after = !inside ? tile.row + TILE_ROWS : positions ? positions[column] + 1 - row_position : tile.row;
#pragma unroll
                for (int m = 0; m < 4; ++m) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        float& score = sums.values[m][n][half * 2 + odd];
                        const long long row = tile.row + tile_row(m, half);
                        score = row >= after ? fmaf(factor, score, added) : INFINITY;
                        least[m][half] = fminf(least[m][half], score);
                    }
                }
            }
        }
#pragma unroll
        for (int m = 0; m < 4; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float of_quad = fminf(least[m][half], shuffle_xor(least[m][half], 1));
                of_quad = fminf(of_quad, shuffle_xor(of_quad, 2));
                if (lane % 4 == 0) tile_best[warp_column * TILE_ROWS + tile_row(m, half)] = of_quad;
            }
        }
        sync_threads();
#pragma unroll
        for (int m = 0; m < 4; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = tile_row(m, half);
                const float limit = best_with_tile(row) + margin;
                // Saves work only.
                if (least[m][half] <= limit) {
#pragma unroll
                    for (int n = 0; n < 8; ++n) {
#pragma unroll
                        for (int odd = 0; odd < 2; ++odd) {
                            const float score = sums.values[m][n][half * 2 + odd];
                            if (score <= limit && score < INFINITY) {
                                const int place = atomic_add(listed + row, 1);
                                if (place < LISTED) {
                                    scores[row * LISTED + place] = score;
                                    columns[row * LISTED + place] = (int)(tile.column + tile_column(n, odd));
                                }
                            }
                        }
                    }
                }
            }
        }
        sync_threads();
        if (threadIdx.x < TILE_ROWS) keep_near(tile);
    }

    __device__ float best_with_tile(int row) {
        float least = row_best[row];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float other = tile_best[w * TILE_ROWS + row];
            least = fminf(least, other);
        }
        return least;
    }

    // The thread's own row: its new best, and its list without what the best has left behind.
    __device__ void keep_near(const Tile& tile) {
        const int own = threadIdx.x;
        const float least = best_with_tile(own), limit = least + margin;
        row_best[own] = least;
        const int found = listed[own];
        int kept = 0;
        if (found <= LISTED) {
            for (int i = 0; i < found; ++i) {
                const float score = scores[own * LISTED + i];
                const int column = columns[own * LISTED + i];
                if (score <= limit) {
                    scores[own * LISTED + kept] = score;
                    columns[own * LISTED + kept] = column;
                    ++kept;
                }
            }
        } else {
            // What did not fit is not known any more.
            kept = LISTED + 1;
        }
        listed[own] = kept;
        const long long row = tile.row + own;
        if (tile.last && row < tile.row_end) {
            best[row] = least;
            counts[row] = kept;
            for (int i = 0; i < kept && i < LISTED; ++i) candidates[row * LISTED + i] = columns[own * LISTED + i];
        }
    }
};

extern "C" __global__ void __launch_bounds__(TILE_THREADS, 1)
    nearest_candidates(const __half* a, const __half* b, int stride, const float* bias, float factor, float margin,
                       const int* positions, long long row_position, const int* items, long long item_count, float* best,
                       int* counts, int* candidates) {
    CLIPSIFT_SHARED(float, row_best, TILE_ROWS);
    CLIPSIFT_SHARED(float, tile_best, 4 * TILE_ROWS);
    CLIPSIFT_SHARED(float, scores, TILE_ROWS * LISTED);
    CLIPSIFT_SHARED(int, listed, TILE_ROWS);
    CLIPSIFT_SHARED(int, columns, TILE_ROWS * LISTED);
    Nearest finish{bias,   factor,   margin,    positions, row_position, best,  counts, candidates,
                   row_best, tile_best, scores, listed,    columns};
    multiply_tiles(a, b, stride, RowTiles(items, item_count), finish);
}
CLIPSIFT_KERNEL(nearest_candidates)

struct Distance {
    template <typename A, typename B>
    static __device__ __forceinline__ double cost(const A* a, const B* b, int d) {
        return canonical_squared_distance(a, b, d);
    }
};

struct NegatedCosine {
    template <typename A, typename B>
    static __device__ __forceinline__ double cost(const A* a, const B* b, int d) {
        return -canonical_dot(a, b, d);
    }
};

template <class Cost, typename A, typename B>
__device__ __forceinline__ void settle(const A* a, const long long* a_ids, long long a_stride, const B* b, const long long* b_ids,
                                       long long b_stride, int d, const int* items, const int* positions,
                                       long long row_position, const int* counts, const int* candidates, long long first_column,
                                       double* costs, unsigned* nearest) {
    const int* item = items + (long long)blockIdx.x * 4;
    const long long end = item[1];
    // Two rows a warp, and both halves go round as often as the one with more to do.
    for (long long first = item[0] + threadIdx.x / 32 * 2; first < end; first += blockDim.x / 16) {
        const long long row = first + threadIdx.x % 32 / 16;
        const bool active = row < end;
        const int count = active ? counts[row] : 0;
        const bool all = count > LISTED;
        const int looks = all ? item[3] - item[2] : count;
        const int rounds = warp_max(looks);
        const A* values = a + (active ? row_at(a_ids, row) : 0) * a_stride;
        double least = INFINITY;
        long long at = 0;
        for (int i = 0; i < rounds; ++i) {
            long long column = 0;
            bool look = i < looks;
            if (look) {
                column = all ? item[2] + i : candidates[row * LISTED + i];
                look = !positions || positions[column] < row + row_position;
            }
            const double cost = Cost::cost(values, b + (look ? row_at(b_ids, column) : 0) * b_stride, look ? d : 0);
            if (look && (cost < least || (cost == least && column < at))) {
                least = cost;
                at = column;
            }
        }
        if (active && threadIdx.x % 16 == 0 && least < costs[row]) {
            costs[row] = least;
            nearest[row] = (unsigned)(first_column + at);
        }
    }
}

#define SETTLE(name, Cost, A, B)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                            \
        name(const A* a, const long long* a_ids, long long a_stride, const B* b, const long long* b_ids, long long b_stride,    \
             int d, const int* items, const int* positions, long long row_position, const int* counts, const int* candidates,   \
             long long first_column, double* costs, unsigned* nearest) {                                                         \
        settle<Cost>(a, a_ids, a_stride, b, b_ids, b_stride, d, items, positions, row_position, counts, candidates,             \
                     first_column, costs, nearest);                                                                              \
    }                                                                                                                            \
    CLIPSIFT_KERNEL(name)

SETTLE(settle_distance_f16, Distance, __half, float)
SETTLE(settle_distance_f32, Distance, float, float)
SETTLE(settle_cosine_f16, NegatedCosine, __half, __half)
SETTLE(settle_cosine_f32, NegatedCosine, float, float)
