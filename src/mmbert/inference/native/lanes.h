/* What the kernels share: sixteen numbers at a time, on CPUs with AVX-512. For gcc and clang. */
#ifndef MMBERT_LANES_H
#define MMBERT_LANES_H

#include <immintrin.h>
#include <omp.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

enum { LANES = 16, ROWS = 6, WIDE = 4 /* ROWS x WIDE registers of sums leave eight for what is multiplied */ };

/* 2^x for x <= 0. With |f| <= 1/2 the polynomial is within 3e-6 of 2^f, relatively; bf16 keeps 2e-3. */
INLINE __m512 power(__m512 x) {
    __m512 n = _mm512_roundscale_ps(x, 0), f = x - n;
    __m512 p = _mm512_set1_ps(0.00957010f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05591786f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24024745f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69312178f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99999926f));
    return _mm512_scalef_ps(p, n);
}

/* 16 numbers of bf16, each in the lower half of 32 bits. */
INLINE __m512i widened(const uint16_t *x) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)); }

/* 16 numbers to bf16. */
INLINE void store_bf16(uint16_t *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

#endif
