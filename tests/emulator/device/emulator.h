// The host's side of common.cuh: included by a kernel file that is compiled for the emulator, once in each shared object.

#pragma once

#include "instructions.h"
#include "kernel.h"
#include "machine.h"
#include "types.h"

namespace emulator {

template <typename P>
struct Parameter;
template <typename T>
struct Parameter<T*> {
    static constexpr char KIND = 'p';
    static T* from(uint64_t bits) { return reinterpret_cast<T*>(bits); }
};
template <>
struct Parameter<long long> {
    static constexpr char KIND = 'l';
    static long long from(uint64_t bits) { return static_cast<long long>(bits); }
};
template <>
struct Parameter<int> {
    static constexpr char KIND = 'i';
    static int from(uint64_t bits) { return static_cast<int>(static_cast<uint32_t>(bits)); }
};
template <>
struct Parameter<float> {
    static constexpr char KIND = 'f';
    static float from(uint64_t bits) { return emulator_bit_cast<float>(static_cast<uint32_t>(bits)); }
};
template <>
struct Parameter<double> {
    static constexpr char KIND = 'd';
    static double from(uint64_t bits) { return emulator_bit_cast<double>(bits); }
};

// The kernels of this shared object.
static Kernel* kernels = nullptr;

template <auto FUNCTION>
struct Registered;
template <typename... P, void (*FUNCTION)(P...)>
struct Registered<FUNCTION> {
    Kernel kernel;
    char kinds[sizeof...(P) + 1] = {Parameter<P>::KIND..., 0};

    explicit Registered(const char* name) : kernel{name, kinds, invoke, kernels} { kernels = &kernel; }

    template <size_t... I>
    static void call(const uint64_t* args, std::index_sequence<I...>) { FUNCTION(Parameter<P>::from(args[I])...); }
    static void invoke(const uint64_t* args) { call(args, std::index_sequence_for<P...>()); }
};

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) const emulator::Kernel* clipsift_kernels() { return emulator::kernels; }

#define CLIPSIFT_KERNEL(name) static emulator::Registered<&name> registered_##name(#name);
