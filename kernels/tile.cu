// Pairs of rows whose cosine may reach a threshold, by tensor-core tiles on and above the diagonal; and the canonical cosines that
// decide about them. The CPU twin is src/ops/tile.rs; src/ops/cuda/tile.rs joins the launches.
//
// tile_pairs, tile_pairs_listed: which pairs to look at.
//   in   a [rows, stride], b [columns, stride]   f16 (see mainloop.cuh for the stride), unit rows rounded to f16
//   out  candidates [capacity, 2] i32: (row, column) of every sum >= limit with row < column + offset, in no particular order;
//        count: how many there are. Those past the capacity are counted and not written.
//   One block a multiprocessor, 256 threads, 73,728 bytes of shared memory; f32 accumulation. `limit` is the threshold less
//   all that the rounding to f16 and the sums in f32 can take away (src/ops/cuda/margin.rs), so none is lost.
//   tile_pairs walks the tiles of the whole rectangle that are not wholly below the diagonal, in groups of sixteen rows of tiles, a
//   column of a group after the other: the 130 or so tiles in flight then share 16 x 8 operand tiles (6 MB), and the matrix
//   is read n / 2,048 times from memory rather than n / 128 times.
//   tile_pairs_listed walks a list of tiles [items, 4] i32 (row, row end, column, column end): many small groups in one launch.
//
// pair_cosines_f16, pair_cosines_f32: the canonical dot products (canonical.cuh) of listed pairs.
//   in   a, b: exact rows of a_stride and b_stride elements, through a_ids and b_ids where not null; pairs [count, 2] i32
//   out  cosines [count] f64
//   Half a warp a pair; any grid.

#include "canonical.cuh"
#include "mainloop.cuh"

constexpr int GROUP_ROWS = 16;

// The tiles of a rectangle that hold a pair with row < column + offset, every gridDim.x-th from this block's own on; rows may not
// reach further than columns, rows <= columns + offset.
struct AboveDiagonal {
    long long rows, columns, offset;
    long long group, place, left;

    __device__ AboveDiagonal(long long rows, long long columns, long long offset)
        : rows(rows), columns(columns), offset(offset), group(0), place(blockIdx.x), left(count(0)) {}

    // The first column of tiles that some row of tiles of the group needs: column > row - offset for its first row.
    __device__ long long first(long long group) const {
        const long long column = group * GROUP_ROWS * TILE_ROWS + 1 - offset;
        return column > 0 ? column / TILE_COLUMNS : 0;
    }

    __device__ long long count(long long group) const {
        return ((columns + TILE_COLUMNS - 1) / TILE_COLUMNS - first(group)) * GROUP_ROWS;
    }

    __device__ bool next(Tile& tile) {
        while (true) {
            while (place >= left) {
                place -= left;
                ++group;
                if (group * GROUP_ROWS * TILE_ROWS >= rows) return false;
                left = count(group);
            }
            const long long row = (group * GROUP_ROWS + place % GROUP_ROWS) * TILE_ROWS;
            const long long column = (first(group) + place / GROUP_ROWS) * TILE_COLUMNS;
            place += gridDim.x;
            // Saves work only.
            if (row < rows && column + TILE_COLUMNS - 1 + offset > row) {
                tile = {row, rows, column, columns, true, true};
                return true;
            }
        }
    }
};

// The tiles of a list, every gridDim.x-th from this block's own on.
struct Listed {
    const int* items;
    long long count, item;

    __device__ Listed(const int* items, long long count) : items(items), count(count), item(blockIdx.x) {}

    __device__ bool next(Tile& tile) {
        if (item >= count) return false;
        const int* own = items + item * 4;
        tile = {own[0], own[1], own[2], own[3], true, true};
        item += gridDim.x;
        return true;
    }
};

struct Candidates {
    float limit;
    long long offset;
    int* pairs;
    long long capacity;
    unsigned long long* count;

    __device__ void operator()(const Tile& tile, const Sums& sums) {
        float greatest = sums.values[0][0][0];
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int n = 0; n < 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) greatest = fmaxf(greatest, sums.values[m][n][e]);
        // Most threads end here.
        if (!(greatest >= limit)) return;
        // Twice over the sums: to count, for one atomic addition, and to write.
        unsigned long long place = 0;
#pragma unroll
        for (int pass = 0; pass < 2; ++pass) {
            unsigned found = 0;
#pragma unroll
            for (int m = 0; m < 4; ++m)
#pragma unroll
                for (int n = 0; n < 8; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const long long row = tile.row + tile_row(m, e / 2), column = tile.column + tile_column(n, e % 2);
                        if (sums.values[m][n][e] >= limit && row < tile.row_end && column < tile.column_end &&
                            row < column + offset) {
                            const unsigned long long at = place + found;
                            if (pass == 1 && at < (unsigned long long)capacity) {
                                pairs[at * 2] = (int)row;
                                pairs[at * 2 + 1] = (int)column;
                            }
                            ++found;
                        }
                    }
            if (pass == 0) place = atomic_add(count, (unsigned long long)found);
        }
    }
};

extern "C" __global__ void __launch_bounds__(TILE_THREADS, 1)
    tile_pairs(const __half* a, const __half* b, int stride, long long rows, long long columns, long long offset, float limit,
               int* pairs, long long capacity, unsigned long long* count) {
    Candidates finish{limit, offset, pairs, capacity, count};
    multiply_tiles(a, b, stride, AboveDiagonal(rows, columns, offset), finish);
}
CLIPSIFT_KERNEL(tile_pairs)

extern "C" __global__ void __launch_bounds__(TILE_THREADS, 1)
    tile_pairs_listed(const __half* a, const __half* b, int stride, const int* items, long long item_count, long long offset,
                      float limit, int* pairs, long long capacity, unsigned long long* count) {
    Candidates finish{limit, offset, pairs, capacity, count};
    multiply_tiles(a, b, stride, Listed(items, item_count), finish);
}
CLIPSIFT_KERNEL(tile_pairs_listed)

template <typename T>
__device__ __forceinline__ void pair_cosines(const T* a, const long long* a_ids, long long a_stride, const T* b,
                                             const long long* b_ids, long long b_stride, int d, const int* pairs,
                                             long long count, double* cosines) {
    const long long step = (long long)gridDim.x * blockDim.x / 16;
    const long long own = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 16;
    // Both halves of a warp go round as often.
    for (long long first = own / 2 * 2; first < count; first += step) {
        const long long pair = first + own % 2;
        const bool active = pair < count;
        const long long row = active ? row_at(a_ids, pairs[pair * 2]) : 0, column = active ? row_at(b_ids, pairs[pair * 2 + 1]) : 0;
        const double cosine = canonical_dot(a + row * a_stride, b + column * b_stride, active ? d : 0);
        if (active && threadIdx.x % 16 == 0) cosines[pair] = cosine;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    pair_cosines_f16(const __half* a, const long long* a_ids, long long a_stride, const __half* b, const long long* b_ids,
                     long long b_stride, int d, const int* pairs, long long count, double* cosines) {
    pair_cosines(a, a_ids, a_stride, b, b_ids, b_stride, d, pairs, count, cosines);
}
CLIPSIFT_KERNEL(pair_cosines_f16)

extern "C" __global__ void __launch_bounds__(256)
    pair_cosines_f32(const float* a, const long long* a_ids, long long a_stride, const float* b, const long long* b_ids,
                     long long b_stride, int d, const int* pairs, long long count, double* cosines) {
    pair_cosines(a, a_ids, a_stride, b, b_ids, b_stride, d, pairs, count, cosines);
}
CLIPSIFT_KERNEL(pair_cosines_f32)
