/* aarch64 NEON: 4 lanes, 32 registers. Dot products of int8 (dotprod) and of bf16 where the processor has them; the
 * matrix forms (smmla, bfmmla), which need other tiles, are not used.
 *
 * int8 has signed bytes on both sides, of 8 bits, with and without dotprod. Without, smull and smlal add two products
 * in 16 bits: at most 2 * 127 * 127 = 32,258, so that nothing can saturate before saddlp widens them.
 */
#include <arm_neon.h>

enum { LANES = 4, ROWS = 6, WIDE = 4 /* ROWS x WIDE registers of sums leave eight for what is multiplied */ };

/* Bytes of a column of weights that are multiplied before the next, as in lanes_avx2.h; not measured. */
enum { DEPTH = 1536 };
/* Bytes of weights to fetch ahead: none; not measured. */
enum { AHEAD = 0, AHEAD_TO = 3, AHEAD_INT8 = 0 };

typedef float floats __attribute__((vector_size(16)));
typedef int32_t words __attribute__((vector_size(16)));

INLINE floats all(float x) { return (floats)vdupq_n_f32(x); }
INLINE words all_words(int32_t x) { return (words)vdupq_n_s32(x); }
INLINE floats multiply_add(floats a, floats b, floats sum) {
    return (floats)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
}
INLINE floats larger(floats a, floats b) { return (floats)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
INLINE floats nearest(floats x) { return (floats)vrndnq_f32((float32x4_t)x); }
INLINE words rounded_words(floats x) { return (words)vcvtnq_s32_f32((float32x4_t)x); }
INLINE floats to_floats(words x) { return (floats)vcvtq_f32_s32((int32x4_t)x); }

/* x 2^exponent by the exponent's bits; whole exponents up to 127, and nought from -127 on. */
INLINE floats scaled(floats x, floats exponent) {
    return x * (floats)((rounded_words(larger(exponent, all(-127))) + all_words(127)) << 23);
}
/* The first guess has 8 bits, which each step doubles. */
INLINE floats reciprocal(floats x) {
    const floats guess = (floats)vrecpeq_f32((float32x4_t)x), better = guess * (all(2) - x * guess);
    return better * (all(2) - x * better);
}
INLINE floats root(floats x) { return (floats)vsqrtq_f32((float32x4_t)x); }
INLINE float sum_of(floats x) { return vaddvq_f32((float32x4_t)x); }
INLINE float largest_of(floats x) { return vmaxvq_f32((float32x4_t)x); }

INLINE void store_first(float *to, floats x, int64_t n) {
    for (int i = 0; i < LANES && i < n; i++) to[i] = x[i];
}

/* The lowest byte of each lane. */
INLINE void store_bytes(char *to, words x) {
    const int16x4_t halves = vmovn_s32((int32x4_t)x);
    vst1_lane_s32((int32_t *)to, vreinterpret_s32_s8(vmovn_s16(vcombine_s16(halves, halves))), 0);
}

/* Rows become columns: pairs, halves. */
INLINE void transpose(words rows[LANES]) {
    const int32x4x2_t upper = vtrnq_s32((int32x4_t)rows[0], (int32x4_t)rows[1]);
    const int32x4x2_t lower = vtrnq_s32((int32x4_t)rows[2], (int32x4_t)rows[3]);
    EACH(i, 2) {
        rows[i] = (words)vcombine_s32(vget_low_s32(upper.val[i]), vget_low_s32(lower.val[i]));
        rows[i + 2] = (words)vcombine_s32(vget_high_s32(upper.val[i]), vget_high_s32(lower.val[i]));
    }
}

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#define BF16_DOT 1
/* Numbers of bf16, each in the lower half of a lane. */
INLINE words widened(const uint16_t *x) { return (words)vmovl_u16(vld1_u16(x)); }
INLINE void store_bf16(uint16_t *to, floats x) {
    vst1_u16(to, vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)x)));
}
/* Two vectors rounded to bf16 and put into one; which number stands where is the same for all. */
INLINE words joined_bf16(floats a, floats z) {
    return (words)vcombine_u16(vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)a)),
                               vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)z)));
}
INLINE floats dot_bf16(floats sum, words a, words b) {
    return (floats)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)a, (bfloat16x8_t)b);
}
#else
#define BF16_DOT 0
#endif

/* sum + four products of signed bytes in each lane, for INT8_STEP words that follow one another. */
enum { INT8_ROWS = 6, INT8_LARGEST = 127, INT8_WEIGHT = 127, INT8_ZERO = 0 };
#ifdef __ARM_FEATURE_DOTPROD
enum { INT8_STEP = 1 };
INLINE words dot_int8(words sum, const words in[INT8_STEP], const words weight[INT8_STEP]) {
    return (words)vdotq_s32((int32x4_t)sum, (int8x16_t)in[0], (int8x16_t)weight[0]);
}
#else
enum { INT8_STEP = 2 };
INLINE words dot_int8(words sum, const words in[INT8_STEP], const words weight[INT8_STEP]) {
    const int8x16_t a = (int8x16_t)in[0], b = (int8x16_t)weight[0], c = (int8x16_t)in[1], d = (int8x16_t)weight[1];
    const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vget_low_s8(c), vget_low_s8(d));
    const int16x8_t high = vmlal_high_s8(vmull_high_s8(a, b), c, d);
    return sum + (words)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
}
#endif
