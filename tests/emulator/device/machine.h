// The emulated machine as kernels see it: threads, shared memory whose accesses are watched, and what stops a kernel.
//
// Kernels of a block run as fibers of one host thread. What conflicts is decided by two counts: the block's epoch, which a
// block barrier advances, and a warp's step, which sync_warp advances. Two accesses to the same two bytes by different threads
// in one epoch, one of them a write, conflict unless the threads are of one warp and its step has advanced in between.

#pragma once

#include <stddef.h>

#include <vector>

#include "types.h"

namespace emulator {

// A place in a kernel file.
struct Site {
    const char* file;
    int line;
};

// What is known of two neighbouring bytes of shared memory. Epochs only grow, from block to block too, so that what an earlier
// block wrote counts as never written.
struct Cell {
    static constexpr uint16_t NOBODY = 0xffff;
    uint32_t write_epoch, read_epoch;
    uint16_t writer, write_step;
    // Two readers that stand for all of this epoch: of one warp at its latest step, or of two warps.
    uint16_t reader, reader_2, read_step;
    // The last write was atomic; an asynchronous copy is under way.
    bool atomic, in_flight;
};

// One shared array of a block, or its dynamic shared memory.
struct Region {
    unsigned char* data;
    Cell* cells;
    int64_t size;
    const char* name;
    const void* key;
};

struct Warp {
    unsigned step;
};

// An asynchronous copy that has not landed.
struct Copy {
    Region* region;
    int64_t offset;
    unsigned group;
    unsigned char bytes[16];
};

// What completes a warp's instruction once all lanes have come to it: reads and writes their operands, in order of lanes.
using Complete = void (*)(void* const* operands, Warp& warp);

struct Thread {
    enum State { READY, AT_BARRIER, AT_COLLECTIVE, DONE };
    void* stack_pointer;
    State state;
    uint16_t number;
    uint3 index;
    Warp* warp;
    // Of the wait, where it waits.
    const char* waits_for;
    Site site;
    void* operand;
    Complete complete;
    std::vector<Copy> copies;
    unsigned copy_group;
};

// What all threads of the block that runs have in common.
struct Block {
    uint3 index, size, grid;
    // The block's epoch now, and the one that it began with.
    uint32_t epoch, first_epoch;
};

// Of the host thread; null where no kernel runs.
extern __thread Thread* current;
extern __thread Block* block;

// Stops the launch with a message that names kernel, block and thread.
[[noreturn]] __attribute__((cold)) void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Stops the launch over two accesses that conflict.
[[noreturn]] __attribute__((cold)) void conflict(
    const Region* region, int64_t offset, int64_t size, const char* what, unsigned other, const char* others);

void wait_barrier(Site site);
void wait_collective(const char* what, Site site, void* operand, Complete complete);

// The shared array that a place in a kernel declares: the same for all threads of the block.
Region* static_shared(const void* key, const char* name, int64_t bytes);
Region* dynamic_region();

// ---- Watched accesses

inline bool ordered(const Thread* me, unsigned other, unsigned step) {
    return other == me->number || (other / 32 == me->number / 32u && step != uint16_t(me->warp->step));
}

inline void check_place(const Region* region, int64_t offset, int64_t size, int64_t begin, int64_t end, int alignment) {
    if (offset < begin || offset + size > end)
        fail("%s: bytes %lld..%lld are outside of the array's %lld bytes", region->name, (long long)(offset - begin),
             (long long)(offset - begin + size), (long long)(end - begin));
    if (offset % alignment != 0)
        fail("%s: an access of %lld bytes at byte %lld is misaligned", region->name, (long long)size, (long long)offset);
}

inline void note_read(Region* region, int64_t offset, int64_t size) {
    Thread* me = current;
    const uint32_t epoch = block->epoch, first = block->first_epoch;
    const uint16_t step = uint16_t(me->warp->step), number = me->number;
    for (Cell *cell = region->cells + offset / 2, *end = cell + size / 2; cell < end; cell++) {
        if (cell->write_epoch < first) conflict(region, offset, size, "read", Cell::NOBODY, "written");
        if (cell->in_flight) conflict(region, offset, size, "read while a copy is under way", cell->writer, "copied to");
        if (cell->write_epoch == epoch && !ordered(me, cell->writer, cell->write_step))
            conflict(region, offset, size, "read", cell->writer, "written");
        if (cell->read_epoch != epoch) {
            cell->read_epoch = epoch;
            cell->reader = number;
            cell->reader_2 = Cell::NOBODY;
            cell->read_step = step;
        } else if (cell->reader_2 != Cell::NOBODY && cell->reader_2 / 32 != cell->reader / 32) {
            // Readers of two warps: whoever writes conflicts with one of them.
        } else if (cell->reader / 32 != number / 32) {
            cell->reader_2 = number;
        } else if (cell->read_step != step) {
            cell->read_step = step;
            cell->reader = number;
            cell->reader_2 = Cell::NOBODY;
        } else if (cell->reader != number) {
            cell->reader_2 = number;
        }
    }
}

inline void note_write(Region* region, int64_t offset, int64_t size, bool atomic = false, bool in_flight = false) {
    Thread* me = current;
    const uint32_t epoch = block->epoch;
    for (Cell *cell = region->cells + offset / 2, *end = cell + size / 2; cell < end; cell++) {
        if (cell->write_epoch >= block->first_epoch && cell->in_flight)
            conflict(region, offset, size, "written while a copy is under way", cell->writer, "copied to");
        if (cell->write_epoch == epoch && !ordered(me, cell->writer, cell->write_step) && !(atomic && cell->atomic))
            conflict(region, offset, size, "written", cell->writer, "written");
        if (cell->read_epoch == epoch) {
            if (!ordered(me, cell->reader, cell->read_step)) conflict(region, offset, size, "written", cell->reader, "read");
            if (cell->reader_2 != Cell::NOBODY && !ordered(me, cell->reader_2, cell->read_step))
                conflict(region, offset, size, "written", cell->reader_2, "read");
        }
        cell->write_epoch = epoch;
        cell->writer = me->number;
        cell->write_step = uint16_t(me->warp->step);
        cell->atomic = atomic;
        cell->in_flight = in_flight;
    }
}

// ---- Pointers into shared memory

// An element of shared memory: read where its value is asked for, written where it is assigned to.
template <typename T>
class Ref {
  public:
    using Value = std::remove_const_t<T>;
    Ref(Region* region, int64_t offset, int64_t begin, int64_t end)
        : region(region), offset(offset), begin(begin), end(end) {}
    Ref(const Ref&) = default;

    operator Value() const {
        check_place(region, offset, sizeof(T), begin, end, alignof(T));
        note_read(region, offset, sizeof(T));
        Value value;
        memcpy(&value, region->data + offset, sizeof(T));
        return value;
    }
    const Ref& operator=(Value value) const {
        static_assert(!std::is_const_v<T>, "written through a Shared<const T>");
        check_place(region, offset, sizeof(T), begin, end, alignof(T));
        note_write(region, offset, sizeof(T));
        memcpy(region->data + offset, &value, sizeof(T));
        return *this;
    }
    const Ref& operator=(const Ref& other) const { return *this = Value(other); }
    const Ref& operator+=(Value value) const { return *this = Value(Value(*this) + value); }
    const Ref& operator-=(Value value) const { return *this = Value(Value(*this) - value); }
    const Ref& operator*=(Value value) const { return *this = Value(Value(*this) * value); }
    const Ref& operator/=(Value value) const { return *this = Value(Value(*this) / value); }
    const Ref& operator|=(Value value) const { return *this = Value(Value(*this) | value); }

  private:
    Region* region;
    int64_t offset, begin, end;
};

// A pointer into shared memory that knows its array.
template <typename T>
class Shared {
    // Cells are two bytes wide: neighbouring single bytes could not be told apart.
    static_assert(sizeof(T) >= 2 && sizeof(T) % 2 == 0, "shared memory is watched by two bytes; use a wider element");

  public:
    Shared() : region(nullptr), offset(0), begin(0), end(0) {}
    Shared(Region* region, int64_t offset, int64_t begin, int64_t end)
        : region(region), offset(offset), begin(begin), end(end) {}
    template <typename U, typename = std::enable_if_t<std::is_same_v<T, const U>>>
    Shared(const Shared<U>& other) : region(other.region), offset(other.offset), begin(other.begin), end(other.end) {}

    template <typename I>
    Ref<T> operator[](I i) const { return {region, offset + int64_t(i) * int64_t(sizeof(T)), begin, end}; }
    Ref<T> operator*() const { return (*this)[0]; }
    template <typename I>
    Shared operator+(I i) const { return {region, offset + int64_t(i) * int64_t(sizeof(T)), begin, end}; }
    template <typename I>
    Shared operator-(I i) const { return *this + -int64_t(i); }
    int64_t operator-(const Shared& other) const { return (offset - other.offset) / int64_t(sizeof(T)); }
    template <typename I>
    Shared& operator+=(I i) { return *this = *this + i; }
    Shared& operator++() { return *this += 1; }
    bool operator==(const Shared& other) const { return region == other.region && offset == other.offset; }
    bool operator!=(const Shared& other) const { return !(*this == other); }
    bool operator<(const Shared& other) const { return offset < other.offset; }

    Region* region;
    // In bytes of the region; begin and end are those of the array.
    int64_t offset, begin, end;
};

}  // namespace emulator

using emulator::Shared;

#define CLIPSIFT_SHARED(T, name, count)                                                                    \
    static const char name##_key = 0;                                                                      \
    Shared<T> name(emulator::static_shared(&name##_key, #name, int64_t(count) * int64_t(sizeof(T))), 0, 0, \
                   int64_t(count) * int64_t(sizeof(T)))

template <typename T>
Shared<T> dynamic_shared(int byte_offset, long long count = -1) {
    emulator::Region* region = emulator::dynamic_region();
    int64_t end = count < 0 ? region->size : byte_offset + count * int64_t(sizeof(T));
    if (byte_offset < 0 || end > region->size)
        emulator::fail("dynamic shared memory: bytes %d..%lld asked for, launched with %lld", byte_offset, (long long)end,
                       (long long)region->size);
    return {region, byte_offset, byte_offset, end};
}

template <typename U, typename T>
Shared<U> shared_cast(Shared<T> p) { return {p.region, p.offset, p.begin, p.end}; }

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->size)
#define gridDim (emulator::block->grid)
