// Runs launches: blocks in a shuffled order, the threads of a block as fibers of the calling host thread, warp by warp.

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>

#include "fiber.h"
#include "kernel.h"
#include "machine.h"

namespace emulator {

__thread Thread* current = nullptr;
__thread Block* block = nullptr;

namespace {

constexpr int64_t SHARED_LIMIT = 227 << 10, STATIC_LIMIT = 48 << 10;

// Everything of one host thread, kept between launches.
struct Machine {
    Stacks stacks;
    std::vector<Thread> threads;
    std::vector<Context> contexts;
    std::vector<Warp> warps;
    Context scheduler;
    Block block;
    uint32_t epoch = 0;

    std::vector<unsigned char> shared = std::vector<unsigned char>(SHARED_LIMIT + 256);
    std::vector<Cell> cells = std::vector<Cell>(SHARED_LIMIT / 2 + 128);
    std::vector<std::unique_ptr<Region>> regions;
    size_t regions_used = 0;
    int64_t shared_used = 0, static_used = 0;

    const Kernel* kernel = nullptr;
    const uint64_t* args = nullptr;
    bool failed = false;
    char message[1024];
    const void* fault = nullptr;

    Region* region(const void* key, const char* name, int64_t bytes) {
        if (regions_used == regions.size()) regions.push_back(std::make_unique<Region>());
        Region* region = regions[regions_used++].get();
        unsigned char* base = shared.data() + (-reinterpret_cast<uintptr_t>(shared.data()) & 127);
        *region = {base + shared_used, cells.data() + shared_used / 2, bytes, name, key};
        memset(region->data, 0xff, size_t(bytes));
        shared_used += (bytes + 127) & ~int64_t(127);
        return region;
    }
};

// The pointer that is used all the time needs no initialisation; the owner frees it with its thread.
__thread Machine* machine = nullptr;
thread_local std::unique_ptr<Machine> owner;

void entry() {
    machine->kernel->invoke(machine->args);
    current->state = Thread::DONE;
    switch_to(machine->contexts[current->number], machine->scheduler);
    abort();
}

void suspend() { switch_to(machine->contexts[current->number], machine->scheduler); }

const char* file_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

uint3 index_of(unsigned number) {
    const uint3& size = machine->block.size;
    return {number % size.x, number / size.x % size.y, number / size.x / size.y};
}

// Where a thread is, for people.
void describe(const Thread& thread, char* text, size_t size) {
    if (thread.state == Thread::DONE)
        snprintf(text, size, "has ended");
    else
        snprintf(text, size, "waits at %s (%s:%d)", thread.waits_for, file_name(thread.site.file), thread.site.line);
}

void report(const char* format, ...) {
    Machine& m = *machine;
    if (m.failed) return;
    m.failed = true;
    va_list values;
    va_start(values, format);
    vsnprintf(m.message, sizeof m.message, format, values);
    va_end(values);
}

void report_apart(const Thread& a, const Thread& b) {
    char first[200], second[200];
    describe(a, first, sizeof first);
    describe(b, second, sizeof second);
    report("block (%u, %u, %u): thread (%u, %u, %u) %s, but thread (%u, %u, %u) %s", block->index.x, block->index.y,
           block->index.z, a.index.x, a.index.y, a.index.z, first, b.index.x, b.index.y, b.index.z, second);
}

// Whether two threads wait at the same place; `report`s where they do not.
bool together(const Thread& a, const Thread& b) {
    if (a.state == b.state && a.complete == b.complete && a.site.line == b.site.line && a.site.file == b.site.file) return true;
    report_apart(a, b);
    return false;
}

// Runs a warp's lanes until each has ended or waits for other warps.
bool run_warp(Thread* lanes, int count, bool backwards) {
    Machine& m = *machine;
    for (;;) {
        for (int i = 0; i < count; i++) {
            Thread& thread = lanes[backwards ? count - 1 - i : i];
            if (thread.state != Thread::READY) continue;
            current = &thread;
            switch_to(m.scheduler, m.contexts[thread.number]);
            if (m.failed) return false;
        }
        const Thread* waiting = nullptr;
        for (int i = 0; i < count && !waiting; i++)
            if (lanes[i].state == Thread::AT_COLLECTIVE) waiting = &lanes[i];
        if (!waiting) return true;
        // A lane at a block barrier never comes to its warp's instruction: it needs the lanes that wait here first.
        for (int i = 0; i < count; i++)
            if (!together(*waiting, lanes[i])) return false;
        if (count != 32) {
            report("%s (%s:%d) in a warp of %d threads: make the block a multiple of 32", waiting->waits_for,
                   file_name(waiting->site.file), waiting->site.line, count);
            return false;
        }
        void* operands[32];
        for (int i = 0; i < 32; i++) operands[i] = lanes[i].operand;
        waiting->complete(operands, *waiting->warp);
        for (int i = 0; i < 32; i++) lanes[i].state = Thread::READY;
    }
}

bool run_block(uint32_t order) {
    Machine& m = *machine;
    const int count = int(m.threads.size()), warps = (count + 31) / 32;
    block->first_epoch = block->epoch = ++m.epoch;
    m.regions_used = 1;
    m.shared_used = (m.regions[0]->size + 127) & ~int64_t(127);
    m.static_used = 0;
    memset(m.regions[0]->data, 0xff, size_t(m.regions[0]->size));
    for (int i = 0; i < count; i++) {
        Thread& thread = m.threads[i];
        thread.state = Thread::READY;
        thread.copies.clear();
        thread.copy_group = 0;
        m.stacks.prepare_fiber(i, m.contexts[i], entry);
    }
    for (;;) {
        for (int i = 0; i < warps; i++) {
            const int first = int((i + order) % warps) * 32;
            if (!run_warp(&m.threads[first], std::min(32, count - first), order & 1)) return false;
        }
        if (std::all_of(m.threads.begin(), m.threads.end(), [](const Thread& t) { return t.state == Thread::DONE; })) return true;
        // The barrier is for all: a thread that has ended is missing.
        const Thread& waiting =
            *std::find_if(m.threads.begin(), m.threads.end(), [](const Thread& t) { return t.state == Thread::AT_BARRIER; });
        for (const Thread& thread : m.threads)
            if (!together(waiting, thread)) return false;
        block->epoch = ++m.epoch;
        for (Thread& thread : m.threads) thread.state = Thread::READY;
    }
}

// ---- Faults

struct sigaction old_actions[3];
const int FAULTS[3] = {SIGSEGV, SIGBUS, SIGFPE};

void on_fault(int signal, siginfo_t* info, void*) {
    if (!current) {
        // Not a kernel's: whoever handled it before does so when the instruction faults again.
        for (int i = 0; i < 3; i++)
            if (FAULTS[i] == signal) sigaction(signal, &old_actions[i], nullptr);
        return;
    }
    Machine& m = *machine;
    m.fault = signal == SIGFPE ? nullptr : info->si_addr;
    const Thread& t = *current;
    const char* what = signal == SIGFPE                           ? "an integer division by zero"
                       : m.stacks.overflowed(info->si_addr) >= 0 ? "its stack is full"
                                                                  : "global memory out of bounds";
    report("block (%u, %u, %u), thread (%u, %u, %u): %s", block->index.x, block->index.y, block->index.z, t.index.x, t.index.y,
           t.index.z, what);
    // Leaves the handler for good; its signal is not blocked (SA_NODEFER).
    suspend();
}

void install_handlers() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; i++) sigaction(FAULTS[i], &action, &old_actions[i]);
    });
    static thread_local std::unique_ptr<unsigned char[]> memory;
    stack_t stack;
    if (sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE)) {
        memory.reset(new unsigned char[64 << 10]);
        stack = {};
        stack.ss_sp = memory.get();
        stack.ss_size = 64 << 10;
        sigaltstack(&stack, nullptr);
    }
}

}  // namespace

void fail(const char* format, ...) {
    char text[800];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    const Thread& t = *current;
    report("block (%u, %u, %u), thread (%u, %u, %u): %s", block->index.x, block->index.y, block->index.z, t.index.x, t.index.y,
           t.index.z, text);
    suspend();
    abort();
}

void conflict(const Region* region, int64_t offset, int64_t size, const char* what, unsigned other, const char* others) {
    if (other == Cell::NOBODY)
        fail("%s[%lld] is %s, but nobody has %s it", region->name, (long long)(offset / size), what, others);
    const uint3 index = index_of(other);
    fail("%s[%lld] is %s, but thread (%u, %u, %u) has %s it, and nothing orders the two", region->name,
         (long long)(offset / size), what, index.x, index.y, index.z, others);
}

void wait_barrier(Site site) {
    Thread* me = current;
    me->state = Thread::AT_BARRIER;
    me->waits_for = "sync_threads";
    me->site = site;
    me->complete = nullptr;
    suspend();
}

void wait_collective(const char* what, Site site, void* operand, Complete complete) {
    Thread* me = current;
    me->state = Thread::AT_COLLECTIVE;
    me->waits_for = what;
    me->site = site;
    me->operand = operand;
    me->complete = complete;
    suspend();
}

Region* dynamic_region() { return machine->regions[0].get(); }

Region* static_shared(const void* key, const char* name, int64_t bytes) {
    Machine& m = *machine;
    for (size_t i = 1; i < m.regions_used; i++)
        if (m.regions[i]->key == key) return m.regions[i].get();
    m.static_used += bytes;
    if (m.static_used > STATIC_LIMIT) fail("static shared memory: %lld bytes, the limit is 49152", (long long)m.static_used);
    if (m.shared_used + bytes > SHARED_LIMIT) fail("static and dynamic shared memory are more than %lld bytes", (long long)SHARED_LIMIT);
    return m.region(key, name, bytes);
}

}  // namespace emulator

using namespace emulator;

// What src/ops/cuda/launch.rs calls a launch, with the bits of the arguments.
struct EmulatorLaunch {
    const Kernel* kernel;
    uint32_t grid[3], block[3], shared_bytes, seed;
    const uint64_t* args;
};

extern "C" {

// 0, or 1 with a message of at most `size` bytes and the address of a fault (null where it was none).
__attribute__((visibility("default"))) int emulator_launch(
    const EmulatorLaunch* launch, char* message, size_t size, const void** fault) {
    install_handlers();
    if (!machine) {
        owner = std::make_unique<Machine>();
        machine = owner.get();
    }
    Machine& m = *machine;
    m.kernel = launch->kernel;
    m.args = launch->args;
    m.failed = false;
    m.fault = nullptr;
    m.block.size = {launch->block[0], launch->block[1], launch->block[2]};
    m.block.grid = {launch->grid[0], launch->grid[1], launch->grid[2]};
    const uint64_t threads = uint64_t(m.block.size.x) * m.block.size.y * m.block.size.z;
    const uint64_t blocks = uint64_t(m.block.grid.x) * m.block.grid.y * m.block.grid.z;
    if (threads == 0 || threads > 1024 || m.block.size.z > 64 || blocks == 0 || m.block.grid.x > 0x7fffffffu ||
        m.block.grid.y > 65535 || m.block.grid.z > 65535 || launch->shared_bytes > SHARED_LIMIT) {
        snprintf(message, size, "a grid of %u x %u x %u blocks of %u x %u x %u threads with %u bytes is beyond a card's limits",
                 m.block.grid.x, m.block.grid.y, m.block.grid.z, m.block.size.x, m.block.size.y, m.block.size.z,
                 launch->shared_bytes);
        return 1;
    }
    m.threads.resize(threads);
    m.contexts.resize(threads);
    m.warps.assign((threads + 31) / 32, Warp{0});
    for (size_t i = 0; i < threads; i++) {
        m.threads[i].number = uint16_t(i);
        m.threads[i].index = index_of(unsigned(i));
        m.threads[i].warp = &m.warps[i / 32];
    }
    m.regions_used = 0;
    m.shared_used = 0;
    m.region(nullptr, "dynamic shared memory", launch->shared_bytes);

    // Blocks in the order a·i + b modulo their number: every one once, near ones far apart.
    block = &m.block;
    uint64_t stride = blocks == 1 ? 1 : (uint64_t(launch->seed) * 2654435761u + blocks * 5 / 8) % blocks;
    while (std::gcd(stride, blocks) != 1) stride = (stride + 1) % blocks;
    for (uint64_t i = 0; i < blocks && !m.failed; i++) {
        const uint64_t number = (i * stride + launch->seed) % blocks;
        m.block.index = {uint32_t(number % m.block.grid.x), uint32_t(number / m.block.grid.x % m.block.grid.y),
                         uint32_t(number / m.block.grid.x / m.block.grid.y)};
        run_block(uint32_t(launch->seed + i));
    }
    current = nullptr;
    block = nullptr;
    if (!m.failed) return 0;
    snprintf(message, size, "%s", m.message);
    *fault = m.fault;
    return 1;
}

// `bytes` of memory full of NaNs, between pages that must not be touched: at their end, or at their start. Starts are multiples
// of 16, so at the end up to 15 bytes may lie between. `mapping` and `mapped` are for emulator_free.
__attribute__((visibility("default"))) void* emulator_allocate(size_t bytes, int at_end, void** mapping, size_t* mapped) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), guard = 16 * page, inside = (bytes + page - 1) / page * page;
    *mapped = inside + 2 * guard;
    void* memory = mmap(nullptr, *mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    *mapping = memory;
    unsigned char* start = static_cast<unsigned char*>(memory) + guard;
    if (inside > 0) {
        if (mprotect(start, inside, PROT_READ | PROT_WRITE) != 0) return nullptr;
        memset(start, 0xff, inside);
    }
    return at_end ? start + ((inside - bytes) & ~size_t(15)) : start;
}

__attribute__((visibility("default"))) void emulator_free(void* mapping, size_t mapped) { munmap(mapping, mapped); }
}
