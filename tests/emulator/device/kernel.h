// What a shared object of kernels tells the runtime.

#pragma once

#include <stdint.h>

#include <utility>

namespace emulator {

// A kernel: its name, the kinds of its parameters (p pointer, l long long, i int, f float, d double), and a call with the bits
// of its arguments, for one thread.
struct Kernel {
    const char* name;
    const char* kinds;
    void (*invoke)(const uint64_t* args);
    Kernel* next;
};

}  // namespace emulator
