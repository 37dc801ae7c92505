/* GELU and LayerNorm of vectors and rows, for inference (layer.c) and training (fused.c). */
#ifndef MMBERT_ROWS_H
#define MMBERT_ROWS_H

#include "lanes.h"

/* (1 - erf(|x| / sqrt 2)) / 2, by Abramowitz and Stegun 7.1.26, within 1.5e-7; ``bell`` is exp(-x^2 / 2). */
INLINE floats gelu_tail(floats x, floats bell) {
    const floats t = reciprocal(multiply_add(magnitude(x), all(0.3275911f * 0.70710678f), all(1)));
    floats p = all(1.061405429f / 2);
    p = multiply_add(p, t, all(-1.453152027f / 2));
    p = multiply_add(p, t, all(1.421413741f / 2));
    p = multiply_add(p, t, all(-0.284496736f / 2));
    p = multiply_add(p, t, all(0.254829592f / 2));
    return p * t * bell;
}
INLINE floats gelu_bell(floats x, int exact) { return power(x * x * all(-0.5f * 1.44269504f), exact); }

/* GELU, the one with erf. */
INLINE floats gelu(floats x, int exact) {
    return larger(x, all(0)) - magnitude(x) * gelu_tail(x, gelu_bell(x, exact));
}

/* The mean of a row, and what its LayerNorm multiplies by, in every lane. */
typedef struct {
    floats mean, factor;
} Moments;

INLINE Moments moments(const float *x, float eps, int64_t n) {
    floats sum = all(0), squares = sum;
    for (int64_t i = 0; i < n; i += LANES) sum += load(x + i);
    const floats mean = all(sum_of(sum) / (float)n);
    for (int64_t i = 0; i < n; i += LANES) {
        const floats centred = load(x + i) - mean;
        squares = multiply_add(centred, centred, squares);
    }
    return (Moments){mean, all(1) / root(all(sum_of(squares) / (float)n + eps))};
}

#endif
