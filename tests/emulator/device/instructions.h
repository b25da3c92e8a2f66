// The twins of common.cuh's instructions: barriers, shuffles, atomics, tensor cores, asynchronous copies.

#pragma once

#include "machine.h"

#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void sync_threads(EMULATOR_SITE) { emulator::wait_barrier({file, line}); }
inline void sync_warp(EMULATOR_SITE) {
    emulator::wait_collective("sync_warp", {file, line}, nullptr,
                              [](void* const*, emulator::Warp& warp) { warp.step++; });
}

namespace emulator {

template <typename T>
struct Shuffled {
    T value;
    int source;
    T result;
};

template <typename T>
T exchange(const char* what, Site site, T value, int source) {
    Shuffled<T> operand{value, source, value};
    wait_collective(what, site, &operand, [](void* const* operands, Warp&) {
        for (int lane = 0; lane < 32; lane++) {
            auto* own = static_cast<Shuffled<T>*>(operands[lane]);
            own->result = static_cast<Shuffled<T>*>(operands[own->source])->value;
        }
    });
    return operand.result;
}

inline int lane() { return current->number % 32; }

}  // namespace emulator

template <typename T>
T shuffle(T value, int lane, EMULATOR_SITE) {
    return emulator::exchange("shuffle", {file, line}, value, lane & 31);
}
template <typename T>
T shuffle_xor(T value, int mask, EMULATOR_SITE) {
    return emulator::exchange("shuffle_xor", {file, line}, value, (emulator::lane() ^ mask) & 31);
}
template <typename T>
T shuffle_down(T value, int delta, EMULATOR_SITE) {
    int source = emulator::lane() + delta;
    return emulator::exchange("shuffle_down", {file, line}, value, source > 31 ? emulator::lane() : source);
}
template <typename T>
T shuffle_up(T value, int delta, EMULATOR_SITE) {
    int source = emulator::lane() - delta;
    return emulator::exchange("shuffle_up", {file, line}, value, source < 0 ? emulator::lane() : source);
}
inline unsigned warp_ballot(bool vote, EMULATOR_SITE) {
    emulator::Shuffled<unsigned> operand{vote, 0, 0};
    emulator::wait_collective("warp_ballot", {file, line}, &operand, [](void* const* operands, emulator::Warp&) {
        unsigned votes = 0;
        for (int lane = 0; lane < 32; lane++) votes |= static_cast<emulator::Shuffled<unsigned>*>(operands[lane])->value << lane;
        for (int lane = 0; lane < 32; lane++) static_cast<emulator::Shuffled<unsigned>*>(operands[lane])->result = votes;
    });
    return operand.result;
}
inline unsigned match_any(int value, EMULATOR_SITE) {
    emulator::Shuffled<int> operand{value, 0, 0};
    emulator::wait_collective("match_any", {file, line}, &operand, [](void* const* operands, emulator::Warp&) {
        for (int lane = 0; lane < 32; lane++) {
            auto* own = static_cast<emulator::Shuffled<int>*>(operands[lane]);
            unsigned same = 0;
            for (int other = 0; other < 32; other++)
                same |= unsigned(static_cast<emulator::Shuffled<int>*>(operands[other])->value == own->value) << other;
            own->result = int(same);
        }
    });
    return unsigned(operand.result);
}

// ---- Atomics: threads of a launch take turns, so plain reads and writes do.

template <typename T>
T atomic_add(T* p, T value) { T old = *p; *p = old + value; return old; }
template <typename T>
T atomic_max(T* p, T value) { T old = *p; *p = old < value ? value : old; return old; }
template <typename T>
T atomic_min(T* p, T value) { T old = *p; *p = value < old ? value : old; return old; }

namespace emulator {

template <typename T>
T* atomic_place(Shared<T> p) {
    check_place(p.region, p.offset, sizeof(T), p.begin, p.end, sizeof(T));
    if (p.region->cells[p.offset / 2].write_epoch < block->first_epoch)
        conflict(p.region, p.offset, sizeof(T), "changed", Cell::NOBODY, "written");
    note_write(p.region, p.offset, sizeof(T), true);
    return reinterpret_cast<T*>(p.region->data + p.offset);
}

}  // namespace emulator

template <typename T>
T atomic_add(Shared<T> p, T value) { return atomic_add(emulator::atomic_place(p), value); }
template <typename T>
T atomic_max(Shared<T> p, T value) { return atomic_max(emulator::atomic_place(p), value); }
template <typename T>
T atomic_min(Shared<T> p, T value) { return atomic_min(emulator::atomic_place(p), value); }

// ---- Sixteen bytes at a time in global memory

template <typename T>
struct alignas(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T values[SIZE];
};

inline void emulator_check_pack(const void* p) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) emulator::fail("16 bytes of global memory at %p: misaligned", p);
}
template <typename T>
Pack<T> load_pack(const T* p) {
    emulator_check_pack(p);
    Pack<T> pack;
    memcpy(&pack, p, 16);
    return pack;
}
template <typename T>
void store_pack(T* p, Pack<T> pack) {
    emulator_check_pack(p);
    memcpy(p, &pack, 16);
}

// ---- Tensor cores. Fragments by the tables of the PTX manual, section on mma.m16n8k16 with 16-bit elements.

namespace emulator {

struct Mma {
    float* d;
    const unsigned *a, *b;
};

inline float element(unsigned bits, __half) { return __half2float({uint16_t(bits)}); }
inline float element(unsigned bits, __nv_bfloat16) { return __bfloat162float({uint16_t(bits)}); }

// Sums in f32, k ascending, each addition rounded to nearest: the card's own order and rounding are not documented.
template <typename T>
void complete_mma(void* const* operands, Warp&) {
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Mma& own = *static_cast<const Mma*>(operands[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; r++)
            for (int half = 0; half < 2; half++)
                a[g + r % 2 * 8][2 * t + r / 2 * 8 + half] = element(own.a[r] >> 16 * half, T());
        for (int r = 0; r < 2; r++)
            for (int half = 0; half < 2; half++) b[2 * t + r * 8 + half][g] = element(own.b[r] >> 16 * half, T());
        for (int r = 0; r < 4; r++) d[g + r / 2 * 8][2 * t + r % 2] = own.d[r];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++)
            static_cast<const Mma*>(operands[lane])->d[r] = d[lane / 4 + r / 2 * 8][2 * (lane % 4) + r % 2];
}

template <typename T>
void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site) {
    Mma operand{d, a, b};
    wait_collective("mma_m16n8k16", site, &operand, complete_mma<T>);
}

struct LoadedMatrix {
    unsigned* r;
    const unsigned char* row;
};

template <int COUNT, bool TRANS>
void complete_ldmatrix(void* const* operands, Warp&) {
    auto at = [&](int matrix, int row, int column) {
        uint16_t value;
        memcpy(&value, static_cast<const LoadedMatrix*>(operands[8 * matrix + row])->row + 2 * column, 2);
        return unsigned(value);
    };
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < COUNT; m++) {
            const int i = lane / 4, j = lane % 4 * 2;
            static_cast<const LoadedMatrix*>(operands[lane])->r[m] =
                TRANS ? at(m, j, i) | at(m, j + 1, i) << 16 : at(m, i, j) | at(m, i, j + 1) << 16;
        }
}

template <int COUNT, bool TRANS, typename T>
void ldmatrix(unsigned* r, Shared<T> p, Site site) {
    static_assert(sizeof(T) == 2, "matrices of 2-byte elements");
    LoadedMatrix operand{r, nullptr};
    if (lane() < 8 * COUNT) {
        check_place(p.region, p.offset, 16, p.begin, p.end, 16);
        note_read(p.region, p.offset, 16);
        operand.row = p.region->data + p.offset;
    }
    wait_collective("ldmatrix", site, &operand, complete_ldmatrix<COUNT, TRANS>);
}

}  // namespace emulator

inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __half, EMULATOR_SITE) {
    emulator::mma<__half>(d, a, b, {file, line});
}
inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], __nv_bfloat16, EMULATOR_SITE) {
    emulator::mma<__nv_bfloat16>(d, a, b, {file, line});
}
template <typename T>
void ldmatrix_x4(unsigned (&r)[4], Shared<T> p, EMULATOR_SITE) { emulator::ldmatrix<4, false>(r, p, {file, line}); }
template <typename T>
void ldmatrix_x4_trans(unsigned (&r)[4], Shared<T> p, EMULATOR_SITE) { emulator::ldmatrix<4, true>(r, p, {file, line}); }
template <typename T>
void ldmatrix_x2(unsigned (&r)[2], Shared<T> p, EMULATOR_SITE) { emulator::ldmatrix<2, false>(r, p, {file, line}); }
template <typename T>
void ldmatrix_x2_trans(unsigned (&r)[2], Shared<T> p, EMULATOR_SITE) { emulator::ldmatrix<2, true>(r, p, {file, line}); }

// ---- Asynchronous copies: the bytes land at the wait; until then the place holds NaNs and must not be touched.

template <typename T>
void copy_async_16(Shared<T> dst, const T* src, int valid_bytes) {
    emulator::check_place(dst.region, dst.offset, 16, dst.begin, dst.end, 16);
    emulator_check_pack(src);
    if (valid_bytes < 0 || valid_bytes > 16) emulator::fail("copy_async_16 of %d valid bytes", valid_bytes);
    emulator::note_write(dst.region, dst.offset, 16, false, true);
    memset(dst.region->data + dst.offset, 0xff, 16);
    emulator::Copy copy{dst.region, dst.offset, emulator::current->copy_group, {}};
    memcpy(copy.bytes, src, size_t(valid_bytes));
    emulator::current->copies.push_back(copy);
}
inline void copy_async_commit() { emulator::current->copy_group++; }
template <int N>
void copy_async_wait() {
    emulator::Thread* me = emulator::current;
    size_t kept = 0;
    for (const emulator::Copy& copy : me->copies) {
        if (copy.group + N >= me->copy_group) {
            me->copies[kept++] = copy;
            continue;
        }
        memcpy(copy.region->data + copy.offset, copy.bytes, 16);
        for (int i = 0; i < 8; i++) {
            emulator::Cell& cell = copy.region->cells[copy.offset / 2 + i];
            cell.in_flight = false;
            cell.write_epoch = emulator::block->epoch;
            cell.write_step = uint16_t(me->warp->step);
        }
    }
    me->copies.resize(kept);
}
