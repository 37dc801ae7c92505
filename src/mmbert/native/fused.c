/* What a layer computes between its matrix products but for attention, forward and backward, each in one pass over
 * memory: LayerNorm with the sum before it, and GeGLU. The residual stream and its gradient are fp32; what goes into products and comes
 * out of them, and its gradient, is fp32 or, where the processor has bf16, bf16.
 *
 * Rows (tokens) stand alone, and a thread takes ``piece`` of them, so that sums over rows do not depend on threads. Widths are
 * multiples of LANES. All memory is the caller's.
 */
#include "lanes.h"
#include "rows.h"
#include "threads.h"

typedef struct {
    const float *x;          /* (T, h) the stream */
    const void *added;       /* (T, h) what is added to it; NULL: nothing */
    const float *weight;     /* (h,) */
    float *sum;              /* (T, h) x + added; not written without ``added`` */
    void *normed;            /* (T, h) LayerNorm of the sum */
    float *moments;          /* (T, 2) its mean and factor, for backward */
    const float *sum_grad;   /* (T, h); NULL: nought */
    const void *normed_grad; /* (T, h) */
    float *x_grad;           /* (T, h) */
    void *added_grad;        /* (T, h) the same in bf16; NULL without ``added`` or in fp32 */
    float *weight_grad;      /* (pieces, h), to be summed */
    int64_t rows, width, piece, bf16;
    float eps;
} Norm;

typedef struct {
    const void *x;     /* (T, 2 i): what is activated, then the gates */
    void *out;         /* (T, i) */
    const void *grad;  /* (T, i) */
    void *x_grad;      /* (T, 2 i) */
    int64_t rows, width /* i */, piece, bf16;
} GeGLU;

INLINE void norm_row(const Norm *n, int64_t row, int bf16) {
    const int64_t h = n->width, at = row * h;
    const float *x = n->x + at;
    if (n->added) {
        float *sum = n->sum + at;
        for (int64_t i = 0; i < h; i += LANES) store(sum + i, load(x + i) + load_numbers(n->added, at + i, bf16));
        x = sum;
    }
    const Moments m = moments(x, n->eps, h);
    n->moments[2 * row] = m.mean[0], n->moments[2 * row + 1] = m.factor[0];
    for (int64_t i = 0; i < h; i += LANES)
        store_numbers(n->normed, at + i, (load(x + i) - m.mean) * m.factor * load(n->weight + i), bf16);
}

/* With y = (x - mean) factor and g = weight normed_grad: factor (g - mean of g - y mean of g y). */
INLINE void norm_row_back(const Norm *n, int64_t row, float *weight_grad, int bf16) {
    const int64_t h = n->width, at = row * h;
    const float *x = n->sum + at;
    const floats mean = all(n->moments[2 * row]), factor = all(n->moments[2 * row + 1]);
    floats sum = all(0), along = sum;
    for (int64_t i = 0; i < h; i += LANES) {
        const floats y = (load(x + i) - mean) * factor, grad = load_numbers(n->normed_grad, at + i, bf16);
        const floats g = grad * load(n->weight + i);
        sum += g, along = multiply_add(g, y, along);
        store(weight_grad + i, multiply_add(grad, y, load(weight_grad + i)));
    }
    sum = all(sum_of(sum) / (float)h), along = all(sum_of(along) / (float)h);
    for (int64_t i = 0; i < h; i += LANES) {
        const floats y = (load(x + i) - mean) * factor;
        const floats g = load_numbers(n->normed_grad, at + i, bf16) * load(n->weight + i);
        floats grad = factor * (g - sum - y * along);
        if (n->sum_grad) grad += load(n->sum_grad + at + i);
        store(n->x_grad + at + i, grad);
        if (n->added_grad) store_numbers(n->added_grad, at + i, grad, bf16);
    }
}

INLINE void geglu_row(const GeGLU *g, int64_t row, int bf16) {
    const int64_t width = g->width, at = 2 * row * width;
    for (int64_t i = 0; i < width; i += LANES) {
        const floats a = load_numbers(g->x, at + i, bf16), gate = load_numbers(g->x, at + width + i, bf16);
        store_numbers(g->out, row * width + i, gelu(a, !bf16) * gate, bf16);
    }
}

/* The slope of gelu(a) = a P(a), with P the normal distribution, is P(a) + a exp(-a^2 / 2) / sqrt(2 pi). */
INLINE void geglu_row_back(const GeGLU *g, int64_t row, int bf16) {
    const int64_t width = g->width, at = 2 * row * width;
    for (int64_t i = 0; i < width; i += LANES) {
        const floats a = load_numbers(g->x, at + i, bf16), gate = load_numbers(g->x, at + width + i, bf16);
        const floats grad = load_numbers(g->grad, row * width + i, bf16);
        const floats bell = gelu_bell(a, !bf16), middle = all(0.5f) - gelu_tail(a, bell); /* P(|a|) - 1/2 */
        const words sign = (words)a & all_words((int32_t)0x80000000);
        const floats normal = all(0.5f) + (floats)((words)middle ^ sign);
        store_numbers(g->x_grad, at + i, grad * gate * multiply_add(a * all(0.39894228f), bell, normal), bf16);
        store_numbers(g->x_grad, at + width + i, grad * a * normal, bf16);
    }
}

/* Pieces of rows by a function of one row, compiled for each type of numbers. */
#define PIECES(name, Type, ROW)                                                                                     \
    INLINE void name##_rows(const Type *p, int64_t index, int bf16) {                                               \
        const int64_t begin = index * p->piece, end = begin + p->piece < p->rows ? begin + p->piece : p->rows;      \
        for (int64_t row = begin; row < end; row++) ROW;                                                            \
    }                                                                                                               \
    static void name##_piece(const void *context, int64_t index, int64_t thread) {                                  \
        const Type *p = context;                                                                                    \
        (void)thread;                                                                                               \
        if (BF16_DOT && p->bf16) name##_rows(p, index, 1);                                                          \
        else name##_rows(p, index, 0);                                                                              \
    }                                                                                                               \
    void name(const Type *p, int64_t threads) { share(name##_piece, p, (p->rows + p->piece - 1) / p->piece, threads); }

PIECES(norm_forward, Norm, norm_row(p, row, bf16))
PIECES(norm_backward, Norm, norm_row_back(p, row, p->weight_grad + index * p->width, bf16))
PIECES(geglu_forward, GeGLU, geglu_row(p, row, bf16))
PIECES(geglu_backward, GeGLU, geglu_row_back(p, row, bf16))
