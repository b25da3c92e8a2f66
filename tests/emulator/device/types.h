// The words and types of CUDA C++ that kernel files use, for a host compiler.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <cmath>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
using dim3 = uint3;

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- Half precision

struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };

template <typename To, typename From>
inline To emulator_bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline float __half2float(__half h) {
#if defined(__F16C__)
    return _cvtsh_ss(h.bits);
#else
    uint32_t sign = uint32_t(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, mantissa = h.bits & 0x3ff;
    if (exponent == 31) return emulator_bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
    if (exponent != 0) return emulator_bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
    float magnitude = float(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
#endif
}

inline __half __float2half_rn(float x) {
#if defined(__F16C__)
    return {uint16_t(_cvtss_sh(x, 0))};
#else
    uint32_t bits = emulator_bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (rest >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
    if (rest < 0x38800000) {  // subnormal: adding 0.5 rounds at 2^-24, to nearest, ties to even
        float shifted = emulator_bit_cast<float>(rest) + 0.5f;
        return {uint16_t(sign | (emulator_bit_cast<uint32_t>(shifted) - 0x3f000000))};
    }
    rest += 0xfff + (rest >> 13 & 1);
    return {uint16_t(sign | ((rest >> 13) - (112u << 10)))};
#endif
}

inline float __bfloat162float(__nv_bfloat16 h) { return emulator_bit_cast<float>(uint32_t(h.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    uint32_t bits = emulator_bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return {uint16_t(0x7fff)};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

// ---- Arithmetic

using std::isfinite;
using std::isinf;
using std::isnan;

template <typename A, typename B>
inline std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <typename A, typename B>
inline std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double x) { return sqrt(x); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline unsigned __float_as_uint(float x) { return emulator_bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bit_cast<float>(x); }
inline int __float_as_int(float x) { return emulator_bit_cast<int>(x); }
inline float __int_as_float(int x) { return emulator_bit_cast<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
template <typename T>
inline T __ldg(const T* p) { return *p; }
