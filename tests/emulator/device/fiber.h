// Fibers: stacks of their own for the threads of a block, and the switch between them.

#pragma once

#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)

// Keeps the callee-saved registers and the stack pointer of one fiber, takes up those of another.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
    .text
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

namespace emulator {

struct Context {
    void* stack_pointer = nullptr;
};

inline void prepare(Context& context, unsigned char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t(15));
    *--top = nullptr;  // where entry would return to; keeps the stack as a call leaves it
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    context.stack_pointer = top;
}

inline void switch_to(Context& from, Context& to) { emulator_switch(&from.stack_pointer, to.stack_pointer); }

}  // namespace emulator

#else

#include <ucontext.h>

namespace emulator {

struct Context {
    ucontext_t registers;
};

inline void prepare(Context& context, unsigned char* stack, size_t size, void (*entry)()) {
    getcontext(&context.registers);
    context.registers.uc_stack.ss_sp = stack;
    context.registers.uc_stack.ss_size = size;
    context.registers.uc_link = nullptr;
    makecontext(&context.registers, entry, 0);
}

inline void switch_to(Context& from, Context& to) { swapcontext(&from.registers, &to.registers); }

}  // namespace emulator

#endif

namespace emulator {

// The stacks of a host thread's fibers, kept from launch to launch. Each lies above a page that must not be touched.
class Stacks {
  public:
    static constexpr size_t SIZE = 128 << 10, GUARD = 64 << 10;

    // Tops are staggered: all at the same place of a page, they would share a few sets of the caches.
    void prepare_fiber(size_t number, Context& context, void (*entry)()) {
        while (stacks.size() <= number) stacks.push_back(map());
        prepare(context, stacks[number] + GUARD, SIZE - number % 61 * 192, entry);
    }
    // The number of the fiber whose guard lies at this address, or -1.
    int overflowed(const void* address) const {
        for (size_t i = 0; i < stacks.size(); i++)
            if (stacks[i] <= address && address < stacks[i] + GUARD) return int(i);
        return -1;
    }
    ~Stacks() {
        for (unsigned char* stack : stacks) munmap(stack, GUARD + SIZE);
    }

  private:
    static unsigned char* map() {
        void* memory = mmap(nullptr, GUARD + SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) abort();
        mprotect(memory, GUARD, PROT_NONE);
        return static_cast<unsigned char*>(memory);
    }
    std::vector<unsigned char*> stacks;
};

}  // namespace emulator
