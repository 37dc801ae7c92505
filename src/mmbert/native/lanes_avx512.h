/* AVX-512: 16 lanes, 32 registers. Dot products of bf16 and of int8 (VNNI) where the processor has them. */
#include <immintrin.h>

enum { LANES = 16, ROWS = 6, WIDE = 4 /* ROWS x WIDE registers of sums leave eight for what is multiplied */ };

/* Bytes of a column of weights that are multiplied before the next: all, which come from the second cache in time. */
enum { DEPTH = 1 << 30 };
/* Bytes of weights to fetch ahead, into the second cache, where hardware stops at the end of every 4 KiB: a query of ten
 * tokens takes 0.7 to 0.9 of the time in fp32, bf16 and int8. */
enum { AHEAD = 8192, AHEAD_TO = 2, AHEAD_INT8 = 1 };

typedef float floats __attribute__((vector_size(64)));
typedef int32_t words __attribute__((vector_size(64)));

INLINE floats all(float x) { return (floats)_mm512_set1_ps(x); }
INLINE words all_words(int32_t x) { return (words)_mm512_set1_epi32(x); }
INLINE floats multiply_add(floats a, floats b, floats sum) {
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
}
INLINE floats larger(floats a, floats b) { return (floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE floats nearest(floats x) { return (floats)_mm512_roundscale_ps((__m512)x, 0); }
INLINE floats scaled(floats x, floats exponent) { return (floats)_mm512_scalef_ps((__m512)x, (__m512)exponent); }
INLINE floats reciprocal(floats x) {
    const floats guess = (floats)_mm512_rcp14_ps((__m512)x);
    return guess * (all(2) - x * guess);
}
INLINE floats root(floats x) { return (floats)_mm512_sqrt_ps((__m512)x); }
INLINE float sum_of(floats x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float largest_of(floats x) { return _mm512_reduce_max_ps((__m512)x); }
INLINE words rounded_words(floats x) { return (words)_mm512_cvtps_epi32((__m512)x); }
INLINE floats to_floats(words x) { return (floats)_mm512_cvtepi32_ps((__m512i)x); }

INLINE void store_first(float *to, floats x, int64_t n) {
    _mm512_mask_storeu_ps(to, n < LANES ? (__mmask16)((1 << n) - 1) : (__mmask16)0xffff, (__m512)x);
}

/* The lowest byte of each lane. */
INLINE void store_bytes(char *to, words x) { _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)x)); }

/* Rows become columns: blocks of 1, 2, 4 and 8 lanes change places across the diagonal. */
INLINE void transpose(words rows[LANES]) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    EACH(step, 4) {
        const int size = 1 << step;
        const __mmask16 upper = (const __mmask16[]){0xaaaa, 0xcccc, 0xf0f0, 0xff00}[step];
        const __m512i by = _mm512_set1_epi32(size), other = _mm512_set1_epi32(LANES);
        const __m512i left = _mm512_mask_add_epi32(lane, upper, lane, _mm512_sub_epi32(other, by));
        const __m512i right = _mm512_mask_add_epi32(_mm512_add_epi32(lane, by), upper, lane, other);
        EACH(i, LANES) {
            if (i & size) continue;
            const __m512i a = (__m512i)rows[i], z = (__m512i)rows[i + size];
            rows[i] = (words)_mm512_permutex2var_epi32(a, left, z);
            rows[i + size] = (words)_mm512_permutex2var_epi32(a, right, z);
        }
    }
}

#ifdef __AVX512BF16__
#define BF16_DOT 1
/* Numbers of bf16, each in the lower half of a lane. */
INLINE words widened(const uint16_t *x) { return (words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)); }
INLINE void store_bf16(uint16_t *to, floats x) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)x));
}
/* Two vectors rounded to bf16 and put into one; which number stands where is the same for all. */
INLINE words joined_bf16(floats a, floats z) { return (words)_mm512_cvtne2ps_pbh((__m512)z, (__m512)a); }
INLINE floats dot_bf16(floats sum, words a, words b) {
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
#define BF16_DOT 0
#endif

/* sum + four products of unsigned and signed bytes in each lane, for INT8_STEP words that follow one another. */
#ifdef __AVX512VNNI__
enum { INT8_ROWS = 6, INT8_STEP = 1, INT8_LARGEST = 127, INT8_WEIGHT = 127, INT8_ZERO = 128 };
INLINE words dot_int8(words sum, const words in[INT8_STEP], const words weight[INT8_STEP]) {
    return (words)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)in[0], (__m512i)weight[0]);
}
#else
/* 7 bits, as in lanes_avx2.h. */
enum { INT8_ROWS = 6, INT8_STEP = 2, INT8_LARGEST = 63, INT8_WEIGHT = 63, INT8_ZERO = 64 };
INLINE words dot_int8(words sum, const words in[INT8_STEP], const words weight[INT8_STEP]) {
    const __m512i first = _mm512_maddubs_epi16((__m512i)in[0], (__m512i)weight[0]);
    const __m512i both = _mm512_add_epi16(first, _mm512_maddubs_epi16((__m512i)in[1], (__m512i)weight[1]));
    return sum + (words)_mm512_madd_epi16(both, _mm512_set1_epi16(1));
}
#endif
