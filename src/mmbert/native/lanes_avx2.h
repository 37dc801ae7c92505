/* AVX2 with FMA: 8 lanes, 16 registers. bf16 is only stored, and multiplied in fp32.
 *
 * int8 without VNNI: vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits and cuts them off at
 * 32,767. With inputs of 7 bits (-63..63, and 64 added: 1..127) and weights of 7 bits (-63..63) two products are at most
 * 2 * 127 * 63 = 16,002, so that two such sums, of 8 bytes of each row and column, still fit into 16 bits (32,004)
 * before vpmaddwd widens them to 32. Nothing can saturate, and three multiplications do what would take four. With
 * AVX-VNNI (vpdpbusd, or its AVX-512 form) both have 8 bits.
 */
#include <immintrin.h>

enum { LANES = 8, ROWS = 6, WIDE = 2 /* ROWS x WIDE registers of sums leave four for what is multiplied */ };

/* Bytes of a column of weights that are multiplied before the next: with ROWS inputs they fit into 32 KB of cache. */
enum { DEPTH = 1536 };
/* Bytes of weights to fetch ahead, into the first cache: with few rows they come from memory, and hardware looks ahead too
 * little. Not of int8, which waits for products. */
enum { AHEAD = 2048, AHEAD_TO = 3, AHEAD_INT8 = 0 };

#define BF16_DOT 0

typedef float floats __attribute__((vector_size(32)));
typedef int32_t words __attribute__((vector_size(32)));

INLINE floats all(float x) { return (floats)_mm256_set1_ps(x); }
INLINE words all_words(int32_t x) { return (words)_mm256_set1_epi32(x); }
INLINE floats multiply_add(floats a, floats b, floats sum) {
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
}
INLINE floats larger(floats a, floats b) { return (floats)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE floats nearest(floats x) { return (floats)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE words rounded_words(floats x) { return (words)_mm256_cvtps_epi32((__m256)x); }
INLINE floats to_floats(words x) { return (floats)_mm256_cvtepi32_ps((__m256i)x); }

/* x 2^exponent by the exponent's bits; whole exponents up to 127, and nought from -127 on. */
INLINE floats scaled(floats x, floats exponent) {
    return x * (floats)((rounded_words(larger(exponent, all(-127))) + all_words(127)) << 23);
}
INLINE floats reciprocal(floats x) {
    const floats guess = (floats)_mm256_rcp_ps((__m256)x), better = guess * (all(2) - x * guess);
    return better * (all(2) - x * better);
}
INLINE floats root(floats x) { return (floats)_mm256_sqrt_ps((__m256)x); }
INLINE float sum_of(floats x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INLINE float largest_of(floats x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

INLINE void store_first(float *to, floats x, int64_t n) {
    static const int32_t kept[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const __m256i lanes = _mm256_loadu_si256((const __m256i *)(kept + (n < LANES ? LANES - n : 0)));
    _mm256_maskstore_ps(to, lanes, (__m256)x);
}

/* The lowest byte of each lane, which holds 0 to 255. */
INLINE void store_bytes(char *to, words x) {
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(halves, halves));
}

/* Rows become columns: pairs, fours, halves. */
INLINE void transpose(words rows[LANES]) {
    __m256 x[LANES], y[LANES];
    EACH(i, 4) {
        x[2 * i] = _mm256_unpacklo_ps((__m256)rows[2 * i], (__m256)rows[2 * i + 1]);
        x[2 * i + 1] = _mm256_unpackhi_ps((__m256)rows[2 * i], (__m256)rows[2 * i + 1]);
    }
    EACH(i, 2) EACH(j, 2) {
        y[4 * i + 2 * j] = _mm256_shuffle_ps(x[4 * i + j], x[4 * i + 2 + j], 0x44);
        y[4 * i + 2 * j + 1] = _mm256_shuffle_ps(x[4 * i + j], x[4 * i + 2 + j], 0xee);
    }
    EACH(i, 4) {
        rows[i] = (words)_mm256_permute2f128_ps(y[i], y[4 + i], 0x20);
        rows[4 + i] = (words)_mm256_permute2f128_ps(y[i], y[4 + i], 0x31);
    }
}

/* sum + four products of unsigned and signed bytes in each lane, for INT8_STEP words that follow one another. */
#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
enum { INT8_ROWS = 6, INT8_STEP = 1, INT8_LARGEST = 127, INT8_WEIGHT = 127, INT8_ZERO = 128 };
INLINE words dot_int8(words sum, const words in[INT8_STEP], const words weight[INT8_STEP]) {
#ifdef __AVXVNNI__
    return (words)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)in[0], (__m256i)weight[0]);
#else
    return (words)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)in[0], (__m256i)weight[0]);
#endif
}
#else
enum { INT8_ROWS = 4, INT8_STEP = 2, INT8_LARGEST = 63, INT8_WEIGHT = 63, INT8_ZERO = 64 };
INLINE words dot_int8(words sum, const words in[INT8_STEP], const words weight[INT8_STEP]) {
    const __m256i first = _mm256_maddubs_epi16((__m256i)in[0], (__m256i)weight[0]);
    const __m256i both = _mm256_add_epi16(first, _mm256_maddubs_epi16((__m256i)in[1], (__m256i)weight[1]));
    return sum + (words)_mm256_madd_epi16(both, _mm256_set1_epi16(1));
}
#endif
