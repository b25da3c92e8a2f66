// Centroid sums in a fixed order: rows sorted by label, stable, then summed label by label in f64.
//
// CPU reference: src/ops/accumulate.rs, whose bits this gives:
//     for each label: sum = 0; for each of its rows, ascending: sum += f64(row); count = number of rows
//
// A counting sort without atomics, so that nothing depends on who comes first. Rows are taken in chunks of CHUNK_ROWS:
//   1. label_ranks   ranks[row] = rows before it in its chunk with its label; counts[label][chunk] = rows of the label there
//   2. scan_sums, scan_totals, scan_places   counts -> places: exclusive sums over [k, chunks], label by label
//   3. sort_rows     sorted[places[label][chunk] + ranks[row]] = row
//   4. label_sums_*  each label's rows, one after another
// A label of k or more belongs to no sum: its row is left out.
//
// Arrays   labels u32 [n], ranks u32 [n], places u32 [k · chunks + 1] (zeroed before 1; the last one is the number of sorted rows),
//          totals u32 [ceil(k · chunks / SCAN)], sorted u32 [n]; x [n, d] of T, rows `stride` elements apart;
//          outputs: sums f64 [k, d], counts i64 [k].
// Domain   1 <= n < 2^32; k, d >= 1; k · chunks < 2^32.

#include "common.cuh"

constexpr int CHUNK_ROWS = 1024;
constexpr int SCAN = 1024;
constexpr int GRID_LABELS = 8192;

// Launch: a block a chunk, 256 threads. A thread ranks four rows, 256 apart, in one pass over the chunk's labels: a warp reads
// each from one place of shared memory.
extern "C" __global__ void __launch_bounds__(256)
    label_ranks(const unsigned* labels, unsigned* ranks, unsigned* places, long long n, long long k, long long chunks) {
    constexpr int OWN = CHUNK_ROWS / 256;
    CLIPSIFT_SHARED(unsigned, chunk_labels, CHUNK_ROWS);
    const long long first = 1ll * blockIdx.x * CHUNK_ROWS;
    const int rows = static_cast<int>(min(n - first, 1ll * CHUNK_ROWS));
    unsigned label[OWN] = {}, before[OWN] = {}, all[OWN] = {};
#pragma unroll
    for (int own = 0; own < OWN; own++) {
        const int i = own * 256 + threadIdx.x;
        if (i < rows) chunk_labels[i] = label[own] = labels[first + i];
    }
    sync_threads();
    for (int other = 0; other < rows; other++) {
        const unsigned another = chunk_labels[other];
#pragma unroll
        for (int own = 0; own < OWN; own++) {
            const bool same = another == label[own];
            all[own] += same;
            before[own] += same && other < own * 256 + static_cast<int>(threadIdx.x);
        }
    }
#pragma unroll
    for (int own = 0; own < OWN; own++) {
        const int i = own * 256 + threadIdx.x;
        if (i >= rows) continue;
        ranks[first + i] = before[own];
        // The label's last row speaks for it.
        if (label[own] < k && before[own] + 1 == all[own]) places[label[own] * chunks + blockIdx.x] = all[own];
    }
}
CLIPSIFT_KERNEL(label_ranks)

// Sums a segment of SCAN entries. Launch: a block a segment, 256 threads.
extern "C" __global__ void __launch_bounds__(256) scan_sums(const unsigned* places, unsigned* totals, long long count) {
    CLIPSIFT_SHARED(unsigned, scratch, 32);
    const long long first = 1ll * blockIdx.x * SCAN;
    const long long end = min(first + SCAN, count);
    unsigned sum = 0;
    for (long long i = first + threadIdx.x; i < end; i += 256) sum += places[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}
CLIPSIFT_KERNEL(scan_sums)

// The sums before each thread's value over a block of 256, and the sum of all.
__device__ __forceinline__ unsigned sum_before(unsigned value, Shared<unsigned> scratch, unsigned& all) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unsigned sum = value;
#pragma unroll
    for (int delta = 1; delta < 32; delta *= 2) {
        const unsigned lower = shuffle_up(sum, delta);
        if (lane >= delta) sum += lower;
    }
    if (lane == 31) scratch[warp] = sum;
    sync_threads();
    unsigned before = sum - value;
    all = 0;
    for (int i = 0; i < 8; i++) {
        const unsigned part = scratch[i];
        if (i < warp) before += part;
        all += part;
    }
    sync_threads();
    return before;
}

// The totals' exclusive sums, in place, and the sum of all behind the entries. Launch: one block of 256 threads.
extern "C" __global__ void __launch_bounds__(256) scan_totals(unsigned* totals, unsigned* places, long long segments, long long count) {
    CLIPSIFT_SHARED(unsigned, scratch, 32);
    unsigned carried = 0;
    for (long long first = 0; first < segments; first += 256) {
        const long long i = first + threadIdx.x;
        unsigned all;
        const unsigned before = sum_before(i < segments ? totals[i] : 0, scratch, all);
        if (i < segments) totals[i] = carried + before;
        carried += all;
    }
    if (threadIdx.x == 0) places[count] = carried;
}
CLIPSIFT_KERNEL(scan_totals)

// Each entry becomes the sum of all before it. Launch: a block a segment, 256 threads.
extern "C" __global__ void __launch_bounds__(256) scan_places(unsigned* places, const unsigned* totals, long long count) {
    CLIPSIFT_SHARED(unsigned, scratch, 32);
    const long long first = 1ll * blockIdx.x * SCAN;
    unsigned carried = totals[blockIdx.x];
    for (long long at = first; at < first + SCAN; at += 256) {
        const long long i = at + threadIdx.x;
        unsigned all;
        const unsigned before = sum_before(i < count ? places[i] : 0, scratch, all);
        if (i < count) places[i] = carried + before;
        carried += all;
    }
}
CLIPSIFT_KERNEL(scan_places)

// Launch: 256 threads, a row each.
extern "C" __global__ void __launch_bounds__(256) sort_rows(const unsigned* labels, const unsigned* ranks, const unsigned* places,
                                                            unsigned* sorted, long long n, long long k, long long chunks) {
    const long long row = blockIdx.x * 256ll + threadIdx.x;
    if (row >= n) return;
    const unsigned label = labels[row];
    if (label >= k) return;
    sorted[places[label * chunks + row / CHUNK_ROWS] + ranks[row]] = static_cast<unsigned>(row);
}
CLIPSIFT_KERNEL(sort_rows)

// Adds SIZE neighbouring elements of each row of a label, row after row. Rows are read four at a time, so that more than one is
// on its way; they are added in their order.
template <int SIZE, typename T, typename Load>
__device__ __forceinline__ void add_rows(const unsigned* sorted, unsigned begin, unsigned end, double (&sum)[SIZE], Load load) {
    constexpr int AHEAD = 4;
    unsigned i = begin;
    for (; end - i >= AHEAD; i += AHEAD) {
        T values[AHEAD][SIZE];
#pragma unroll
        for (int row = 0; row < AHEAD; row++) load(sorted[i + row], values[row]);
#pragma unroll
        for (int row = 0; row < AHEAD; row++)
#pragma unroll
            for (int j = 0; j < SIZE; j++) sum[j] = __dadd_rn(sum[j], load_f32(values[row][j]));
    }
    for (; i < end; i++) {
        T values[SIZE];
        load(sorted[i], values);
#pragma unroll
        for (int j = 0; j < SIZE; j++) sum[j] = __dadd_rn(sum[j], load_f32(values[j]));
    }
}

// Launch: 128 threads; blocks along x cover the dims, 16 bytes a thread where rows and stride are multiples of 16, else one
// element; block y and z: label z · GRID_LABELS + y.
template <typename T>
__device__ __forceinline__ void label_sums(const T* x, const unsigned* sorted, const unsigned* places, double* sums, long long* counts,
                                           long long d, long long stride, long long k, long long chunks) {
    constexpr int SIZE = Pack<T>::SIZE;
    const long long label = 1ll * blockIdx.z * GRID_LABELS + blockIdx.y;
    if (label >= k) return;
    const unsigned begin = places[label * chunks], end = places[(label + 1) * chunks];
    const long long place = blockIdx.x * 128ll + threadIdx.x;
    if (place == 0) counts[label] = end - begin;
    sums += label * d;
    if (aligned_16(x) && stride % SIZE == 0 && d % SIZE == 0) {
        const long long first = place * SIZE;
        if (first >= d) return;
        double sum[SIZE] = {};
        add_rows<SIZE, T>(sorted, begin, end, sum, [&](unsigned row, T (&values)[SIZE]) {
            const Pack<T> pack = load_pack(x + row * stride + first);
#pragma unroll
            for (int j = 0; j < SIZE; j++) values[j] = pack.values[j];
        });
#pragma unroll
        for (int j = 0; j < SIZE; j++) sums[first + j] = sum[j];
    } else {
        // The grid has threads for every element in either case.
        if (place >= d) return;
        double sum[1] = {};
        add_rows<1, T>(sorted, begin, end, sum, [&](unsigned row, T (&values)[1]) { values[0] = x[row * stride + place]; });
        sums[place] = sum[0];
    }
}

#define LABEL_SUMS(NAME, T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(128)                                                                            \
        NAME(const T* x, const unsigned* sorted, const unsigned* places, double* sums, long long* counts, long long d,           \
             long long stride, long long k, long long chunks) {                                                                  \
        label_sums<T>(x, sorted, places, sums, counts, d, stride, k, chunks);                                                    \
    }                                                                                                                            \
    CLIPSIFT_KERNEL(NAME)

LABEL_SUMS(label_sums_f32, float)
LABEL_SUMS(label_sums_f16, __half)
LABEL_SUMS(label_sums_bf16, __nv_bfloat16)
