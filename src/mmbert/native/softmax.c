/* Scores of a vocabulary -> what a cross entropy needs of them and its gradient, in place: softmax(scores + bias) less 1 at
 * the label. A row is read once and written once; in between it is fp32, in a row of scratch. All memory is the caller's.
 */
#include <string.h>

#include "lanes.h"
#include "threads.h"

enum { COLUMNS_AT_ONCE = 4096 /* that a thread sums: they stay in the nearest cache */ };

typedef struct {
    void *scores;          /* (n, V) fp32, or bf16 where BF16_DOT */
    const float *bias;     /* (V,) */
    const int64_t *labels; /* (n,) */
    float *found;          /* (n, 3): the largest score, the sum of exp(score - largest), the label's score */
    float *sums;           /* (V,) of the gradient over rows */
    char *scratch;         /* (threads, room) bytes, aligned to 64 */
    int64_t room, rows, width, threads, bf16;
    int64_t gradient;      /* whether it is wanted; else scores stay */
} Scores;

/* The row's numbers [i, V), fewer than LANES, as a vector that has ``rest`` behind them. */
INLINE floats last_numbers(const void *from, int64_t i, int64_t n, float rest, int bf16) {
    char numbers[LANES * 4];
    const int size = bf16 ? 2 : 4;
    floats x;
    memset(numbers, 0, sizeof numbers);
    memcpy(numbers, (const char *)from + i * size, (size_t)((n - i) * size));
    x = load_numbers(numbers, 0, bf16);
    for (int64_t lane = n - i; lane < LANES; lane++) x[lane] = rest;
    return x;
}

INLINE void store_last(void *to, int64_t i, int64_t n, floats x, int bf16) {
    char numbers[LANES * 4];
    const int size = bf16 ? 2 : 4;
    store_numbers(numbers, 0, x, bf16);
    memcpy((char *)to + i * size, numbers, (size_t)((n - i) * size));
}

INLINE void soften_row(const Scores *s, int64_t row, float *shares, int bf16) {
    const int64_t n = s->width, whole = n / LANES * LANES, label = s->labels[row];
    char *scores = (char *)s->scores + row * n * (bf16 ? 2 : 4);
    floats top = all(-1e30f), sum = all(0);
    for (int64_t i = 0; i < whole; i += LANES) {
        const floats x = load_numbers(scores, i, bf16) + load(s->bias + i);
        top = larger(top, x);
        store(shares + i, x);
    }
    if (whole < n) {
        const floats x = last_numbers(scores, whole, n, -1e30f, bf16) + last_numbers(s->bias, whole, n, 0, 0);
        top = larger(top, x);
        store(shares + whole, x);
    }
    const float largest = largest_of(top);
    float *found = s->found + 3 * row;
    found[0] = largest, found[2] = shares[label];
    for (int64_t i = 0; i < n; i += LANES) {
        const floats share = power((load(shares + i) - all(largest)) * all(1.44269504f), 1);
        sum += share;
        store(shares + i, share);
    }
    found[1] = sum_of(sum);
    if (!s->gradient) return;
    const floats factor = all(1 / found[1]);
    const float of_label = shares[label] / found[1] - 1;
    for (int64_t i = 0; i < whole; i += LANES) store_numbers(scores, i, load(shares + i) * factor, bf16);
    if (whole < n) store_last(scores, whole, n, load(shares + whole) * factor, bf16);
    store_last(scores, label, label + 1, all(of_label), bf16);
}

static void softmax_piece(const void *context, int64_t row, int64_t thread) {
    const Scores *s = context;
    float *shares = (float *)(s->scratch + thread * s->room);
    if (BF16_DOT && s->bf16) soften_row(s, row, shares, 1);
    else soften_row(s, row, shares, 0);
}

INLINE void sum_columns(const Scores *s, int64_t from, int bf16) {
    const int64_t n = s->width, end = from + COLUMNS_AT_ONCE < n ? from + COLUMNS_AT_ONCE : n;
    const int64_t whole = from + (end - from) / LANES * LANES;
    floats last = all(0);
    memset(s->sums + from, 0, (size_t)(end - from) * sizeof(float));
    for (int64_t row = 0; row < s->rows; row++) {
        const char *gradient = (const char *)s->scores + row * n * (bf16 ? 2 : 4);
        for (int64_t i = from; i < whole; i += LANES)
            store(s->sums + i, load(s->sums + i) + load_numbers(gradient, i, bf16));
        if (whole < end) last += last_numbers(gradient, whole, end, 0, bf16);
    }
    if (whole < end) store_last(s->sums, whole, end, last, 0);
}

static void columns_piece(const void *context, int64_t index, int64_t thread) {
    const Scores *s = context;
    (void)thread;
    if (BF16_DOT && s->bf16) sum_columns(s, index * COLUMNS_AT_ONCE, 1);
    else sum_columns(s, index * COLUMNS_AT_ONCE, 0);
}

void softmax_gradient(const Scores *s) {
    share(softmax_piece, s, s->rows, s->threads);
    if (s->gradient) share(columns_piece, s, (s->width + COLUMNS_AT_ONCE - 1) / COLUMNS_AT_ONCE, s->threads);
}
