// 8-bit pixels -> normalised patches, laid out so that the patch embedding is one GEMM.
//
// CPU reference: src/ops/patchify.rs, whose bits this gives:
//     out[image][patch][c][y][x] = round to T ((pixel / 255 - mean[c]) / std[c]), in f32, each step rounded to nearest,
// with the pixel at row patch / g * p + y, column patch % g * p + x, channel c, where g = s / p.
//
// Input    pixels u8 [n, s, s, 3]. Output: out [n, g², 3p²] of T.
// Launch   256 threads; a thread makes 16 bytes of out; grid x covers n·g²·3p² elements. out is a multiple of 16 where it is
//          written in packs, that is where there are that many elements left.
// Domain   n >= 1, 1 <= p <= s <= 16,384, std not 0.

#include "common.cuh"

template <typename T>
__device__ __forceinline__ void preprocess(const unsigned char* pixels, T* out, long long n, int s, int p, float mean_red,
                                           float mean_green, float mean_blue, float std_red, float std_green, float std_blue) {
    constexpr int SIZE = Pack<T>::SIZE;
    const int g = s / p;
    const long long per_image = 3ll * (g * p) * (g * p);
    const long long count = n * per_image;
    const long long first = (blockIdx.x * 256ll + threadIdx.x) * SIZE;

    // Where the first element comes from; the others follow by counting on. Nothing behind the last one is touched.
    const long long image = first / per_image;
    int rest = static_cast<int>(first - image * per_image);
    const unsigned char* from = pixels + image * s * s * 3;
    int x = rest % p;
    rest /= p;
    int y = rest % p;
    rest /= p;
    int c = rest % 3;
    int patch = rest / 3;
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < SIZE; i++) {
        if (first + i < count) {
            const long long row = patch / g * p + y, column = patch % g * p + x;
            const float pixel = from[(row * s + column) * 3 + c];
            const float mean = c == 0 ? mean_red : c == 1 ? mean_green : mean_blue;
            const float std = c == 0 ? std_red : c == 1 ? std_green : std_blue;
            pack.values[i] = store_f32<T>(__fdiv_rn(__fadd_rn(__fdiv_rn(pixel, 255.0f), -mean), std));
        }
        if (++x == p) {
            x = 0;
            if (++y == p) {
                y = 0;
                if (++c == 3) {
                    c = 0;
                    if (++patch == g * g) {
                        patch = 0;
                        from += 3ll * s * s;
                    }
                }
            }
        }
    }
    if (first + SIZE <= count) {
        store_pack(out + first, pack);
        return;
    }
#pragma unroll
    for (int i = 0; i < SIZE; i++)
        if (first + i < count) out[first + i] = pack.values[i];
}

#define PREPROCESS(NAME, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        NAME(const unsigned char* pixels, T* out, long long n, int s, int p, float mean_red, float mean_green,     \
             float mean_blue, float std_red, float std_green, float std_blue) {                                    \
        preprocess<T>(pixels, out, n, s, p, mean_red, mean_green, mean_blue, std_red, std_green, std_blue);        \
    }                                                                                                              \
    CLIPSIFT_KERNEL(NAME)

PREPROCESS(preprocess_f32, float)
PREPROCESS(preprocess_f16, __half)
PREPROCESS(preprocess_bf16, __nv_bfloat16)
