/* What the kernels are written in: LANES numbers of 32 bits at a time. One header for each instruction set says how many,
 * and has what C cannot say; the rest is arithmetic on vectors, as gcc and clang know it. A new instruction set is one
 * more such header, with all the names that lanes_avx2.h has. */
#ifndef MMBERT_LANES_H
#define MMBERT_LANES_H

#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

/* Keeps a vector in a register at this point, and what is computed from it on its side. */
#ifdef __x86_64__
#define IN_REGISTER(x) __asm__("" : "+x"(x))
#else
#define IN_REGISTER(x) __asm__("" : "+w"(x))
#endif

#if defined(__AVX512F__)
#include "lanes_avx512.h"
#elif defined(__AVX2__)
#include "lanes_avx2.h"
#elif defined(__ARM_NEON)
#include "lanes_neon.h"
#endif

/* Vectors in memory, aligned to their numbers alone. */
typedef float floats_in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t words_in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE floats load(const float *from) { return (floats)*(const floats_in_memory *)from; }
INLINE void store(float *to, floats x) { *(floats_in_memory *)to = (floats_in_memory)x; }
INLINE words load_words(const void *from) { return (words)*(const words_in_memory *)from; }
INLINE void store_words(void *to, words x) { *(words_in_memory *)to = (words_in_memory)x; }
INLINE floats magnitude(floats x) { return (floats)((words)x & all_words(0x7fffffff)); }

/* bf16 is the upper half of fp32: of two numbers in a word, the first is in the lower bits. */
INLINE floats first_of(words pairs) { return (floats)(pairs << 16); }
INLINE floats second_of(words pairs) { return (floats)(pairs & all_words((int32_t)0xffff0000)); }

/* Numbers i, i + 1, ... of fp32 or (``bf16``, where BF16_DOT) of bf16, as fp32; and back. */
INLINE floats load_numbers(const void *from, int64_t i, int bf16) {
#if BF16_DOT
    if (bf16) return first_of(widened((const uint16_t *)from + i));
#endif
    (void)bf16;
    return load((const float *)from + i);
}

INLINE void store_numbers(void *to, int64_t i, floats x, int bf16) {
#if BF16_DOT
    if (bf16) {
        store_bf16((uint16_t *)to + i, x);
        return;
    }
#endif
    (void)bf16;
    store((float *)to + i, x);
}

/* sum + a b, lane by lane: of fp32, or of the two products of a lane's pairs of bf16. */
INLINE floats dot(floats sum, words a, words b, int bf16) {
#if BF16_DOT
    if (bf16) return dot_bf16(sum, a, b);
#endif
    (void)bf16;
    return multiply_add((floats)a, (floats)b, sum);
}

/* 2^x for x <= 0. With |f| <= 1/2 the polynomial is within 3e-6 of 2^f, relatively, where bf16 keeps 2e-3; the longer
 * one (``exact``, for fp32) is within 1e-7. */
INLINE floats power(floats x, int exact) {
    const floats n = nearest(x), f = x - n;
    floats p;
    if (exact) {
        p = multiply_add(all(1.535336188319500e-4f), f, all(1.339887440266574e-3f));
        p = multiply_add(p, f, all(9.618437357674640e-3f));
        p = multiply_add(p, f, all(5.550332471162809e-2f));
        p = multiply_add(p, f, all(2.402264791363012e-1f));
        p = multiply_add(p, f, all(6.931472028550421e-1f));
        p = multiply_add(p, f, all(1));
    } else {
        p = multiply_add(all(0.00957010f), f, all(0.05591786f));
        p = multiply_add(p, f, all(0.24024745f));
        p = multiply_add(p, f, all(0.69312178f));
        p = multiply_add(p, f, all(0.99999926f));
    }
    return scaled(p, n);
}

#endif
