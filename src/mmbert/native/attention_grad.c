/* The gradient of attention.c: of the projection (T, 3, H, D), given the output's. Everything is computed in fp32; what
 * attention.c rounded to bf16 before its products is rounded here too, so that the weights are those of the output.
 *
 * With the weights P = softmax(Q K^T), the output O = P V and its gradient G, row by row (2205.14135, appendix B):
 *
 *   dV = P^T G,  S = P (G V^T - sum of G O),  dQ = S K,  dK = S^T Q
 *
 * A document and head is the work of one thread, which adds in a fixed order. It takes SQUARE queries and SQUARE keys at a
 * time, as far as the window reaches. All five products are ``multiply_block``: sums of ROWS by a panel of vectors in
 * registers, of broadcast numbers of the first factor and vectors of the second. Where there are tiles (AMX), bf16 goes by
 * attention_grad_tiles.h. All memory is the caller's.
 */
#include <string.h>

#include "lanes.h"
#include "threads.h"
#include "tiles.h"

enum {
    SQUARE = 48,                                              /* a multiple of ROWS and of all LANES */
    KEY_PANEL = SQUARE / LANES < WIDE ? SQUARE / LANES : WIDE  /* vectors of keys that are summed together */
};

typedef struct {
    const void *qkv, *out, *out_grad; /* (T, 3, H, D), (T, H, D) twice, bf16 or fp32 */
    const float *softmax;             /* (T, H, 2) largest score and sum of each query, as attention.c gives them */
    const float *cos, *sin;           /* (T, D / 2) */
    const int64_t *documents;         /* (count, 2) first token and end */
    void *qkv_grad;                   /* (T, 3, H, D) */
    char *scratch;                    /* (threads, room) bytes, aligned to 64 */
    int64_t room, count, heads, threads;
    int64_t half;                     /* of the window: i sees j iff |i - j| <= half */
    int64_t head_dim, bf16;
} Grad;

/* What a document and head need, each (n, D) filled up to whole blocks, or turned: (n / SQUARE, D, SQUARE). */
typedef struct {
    float *q, *k, *g, *q_grad, *k_grad, *v_grad; /* q scaled for powers of 2 */
    float *turned_k, *turned_v;
    float *largest, *factor, *along;             /* (n,) of each query: largest score, 1 / sum, sum of G O */
} Parts;

/* to (rows, n) = or += a b, with a (rows, depth) at a[r row + k step] and b (depth, n) in rows of ``stride``. */
INLINE void multiply_block(const float *a, int64_t row, int64_t step, const float *b, int64_t stride, float *to,
                           int64_t to_stride, int rows, int depth, int n, int panel, int add) {
    for (int at = 0; at < n; at += panel * LANES)
        for (int r = 0; r < rows; r += ROWS) {
            floats sum[ROWS][WIDE];
            EACH(i, ROWS) EACH(v, panel) sum[i][v] = add ? load(to + (r + i) * to_stride + at + v * LANES) : all(0);
            for (int k = 0; k < depth; k++) {
                floats right[WIDE];
                EACH(v, panel) right[v] = load(b + k * stride + at + v * LANES);
                EACH(i, ROWS) {
                    const floats left = all(a[(r + i) * row + k * step]);
                    EACH(v, panel) sum[i][v] = multiply_add(left, right[v], sum[i][v]);
                }
            }
            EACH(i, ROWS) EACH(v, panel) store(to + (r + i) * to_stride + at + v * LANES, sum[i][v]);
        }
}

/* (rows, n) of a (rows, D) and a turned block. */
static __attribute__((noinline)) void scores(const float *a, const float *b, float *to, int rows, int n, int D) {
    const int whole = n / (KEY_PANEL * LANES) * KEY_PANEL * LANES;
    multiply_block(a, D, 1, b, SQUARE, to, SQUARE, rows, D, whole, KEY_PANEL, 0);
    for (int at = whole; at < n; at += LANES) multiply_block(a, D, 1, b + at, SQUARE, to + at, SQUARE, rows, D, LANES, 1, 0);
}

/* to (rows, D) += a (rows, depth), or where ``turned`` (depth, rows) turned, times b (depth, D). */
#define ADD_PRODUCT(D)                                                                                               \
    static __attribute__((noinline)) void add_product_##D(const float *a, int turned, const float *b, float *to,     \
                                                          int rows, int depth) {                                     \
        multiply_block(a, turned ? 1 : SQUARE, turned ? SQUARE : 1, b, D, to, D, rows, depth, D,                       \
                       D / LANES < WIDE ? D / LANES : WIDE, 1);                                                      \
    }
ADD_PRODUCT(32)
ADD_PRODUCT(64)

INLINE int64_t least(int64_t a, int64_t z) { return a < z ? a : z; }
INLINE int64_t most(int64_t a, int64_t z) { return a > z ? a : z; }
INLINE int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

INLINE floats as_multiplied(floats x, int bf16) {
#if BF16_DOT
    uint16_t rounded[LANES];
    if (bf16) {
        store_bf16(rounded, x);
        return first_of(widened(rounded));
    }
#endif
    (void)bf16;
    return x;
}

/* Rows of a query or key, rotated and scaled. */
INLINE void turn(const Grad *b, int64_t token, int part, int64_t h, float scale, float *to, int D, int bf16) {
    const int64_t at = ((token * 3 + part) * b->heads + h) * D;
    EACH(g, D / 2 / LANES) {
        const int64_t i = g * LANES;
        const floats first = load_numbers(b->qkv, at + i, bf16), second = load_numbers(b->qkv, at + D / 2 + i, bf16);
        const floats cos = load(b->cos + token * (D / 2) + i) * all(scale);
        const floats sin = load(b->sin + token * (D / 2) + i) * all(scale);
        store(to + i, as_multiplied(first * cos - second * sin, bf16));
        store(to + D / 2 + i, as_multiplied(second * cos + first * sin, bf16));
    }
}

/* Rows (n, D) -> (n / SQUARE, D, SQUARE). */
INLINE void turn_blocks(const float *rows, float *to, int64_t n, int D) {
    for (int64_t at = 0; at < n; at += LANES)
        for (int g = 0; g < D; g += LANES) {
            words square[LANES];
            EACH(i, LANES) square[i] = load_words(rows + (at + i) * D + g);
            transpose(square);
            float *place = to + at / SQUARE * SQUARE * D + at % SQUARE;
            EACH(i, LANES) store_words(place + (g + i) * SQUARE, square[i]);
        }
}

INLINE void gather(const Grad *b, Parts p, int64_t begin, int64_t n, int64_t h, float scale, int D, int bf16) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t token = begin + i, at = (token * b->heads + h) * D;
        turn(b, token, 0, h, scale, p.q + i * D, D, bf16);
        turn(b, token, 1, h, 1, p.k + i * D, D, bf16);
        floats along = all(0);
        EACH(v, D / LANES) {
            const int64_t d = v * LANES;
            const floats g = load_numbers(b->out_grad, at + d, bf16);
            along = multiply_add(g, load_numbers(b->out, at + d, bf16), along);
            store(p.g + i * D + d, g);
            store(p.v_grad + i * D + d, load_numbers(b->qkv, ((token * 3 + 2) * b->heads + h) * D + d, bf16));
        }
        p.along[i] = sum_of(along);
        p.largest[i] = b->softmax[2 * (token * b->heads + h)];
        p.factor[i] = 1 / b->softmax[2 * (token * b->heads + h) + 1];
    }
    turn_blocks(p.k, p.turned_k, up_to(n, LANES), D);
    turn_blocks(p.v_grad, p.turned_v, up_to(n, LANES), D); /* values stood there until now */
    memset(p.v_grad, 0, (size_t)(n * D) * sizeof(float));
}

/* Scores and G V^T of a block -> P and S. Keys [from, to) are seen by none or some of the queries. */
INLINE void soften_back(const Grad *b, Parts p, int64_t q, int rows, int64_t k, int keys, int64_t n, float *weights,
                        float *changes, int bf16) {
    for (int r = 0; r < rows; r++) {
        const floats largest = all(p.largest[q + r]), factor = all(p.factor[q + r]), along = all(p.along[q + r]);
        const int64_t first = q + r - b->half - k, behind = least(q + r + b->half + 1, n) - k; /* seen: [first, behind) */
        float *weight = weights + r * SQUARE, *change = changes + r * SQUARE;
        if (first > 0 || behind < keys)
            for (int i = 0; i < keys; i++)
                if (i < first || i >= behind) weight[i] = -1e30f;
        for (int i = 0; i < keys; i += LANES) {
            const floats share = power(load(weight + i) - largest, !bf16) * factor;
            store(weight + i, share);
            store(change + i, share * (load(change + i) - along));
        }
    }
}

/* A row of a gradient back by its angle. */
INLINE void turn_back(const Grad *b, int64_t token, int part, int64_t h, float scale, const float *from, int D,
                      int bf16) {
    const int64_t at = ((token * 3 + part) * b->heads + h) * D;
    EACH(g, D / 2 / LANES) {
        const int64_t i = g * LANES;
        const floats a = load(from + i) * all(scale), z = load(from + D / 2 + i) * all(scale);
        const floats cos = load(b->cos + token * (D / 2) + i), sin = load(b->sin + token * (D / 2) + i);
        store_numbers(b->qkv_grad, at + i, a * cos + z * sin, bf16);
        store_numbers(b->qkv_grad, at + D / 2 + i, z * cos - a * sin, bf16);
    }
}

INLINE void document(const Grad *b, int64_t begin, int64_t n, int64_t h, float *scratch, int D, int bf16) {
    const int64_t filled = up_to(n + ROWS, SQUARE), size = filled * D; /* ROWS that begin at the last key fit in */
    const float root = D == 64 ? 8 : 5.65685425f;
    Parts p = {scratch, scratch + size, scratch + 2 * size, scratch + 3 * size, scratch + 4 * size, scratch + 5 * size,
               scratch + 6 * size, scratch + 7 * size, scratch + 8 * size, scratch + 8 * size + filled,
               scratch + 8 * size + 2 * filled};
    _Alignas(64) float weights[SQUARE * SQUARE] = {0}, changes[SQUARE * SQUARE] = {0};
    const size_t spare = (size_t)(filled - n) * sizeof(float); /* rows to spare are nought, so that they add nothing */
    EACH(i, 3) memset(scratch + i * size + n * D, 0, spare * D);
    memset(p.q_grad, 0, (size_t)(3 * size) * sizeof(float));
    EACH(i, 3) memset(p.largest + i * filled + n, 0, spare);
    gather(b, p, begin, n, h, 1.44269504f / root, D, bf16);
    for (int64_t q = 0; q < n; q += SQUARE) {
        const int rows = (int)up_to(least(SQUARE, n - q), ROWS);
        const int64_t seen = most(q - b->half, 0) / LANES * LANES, end = least(q + SQUARE + b->half, n); /* of the keys */
        for (int64_t k = seen; k < end; k = (k / SQUARE + 1) * SQUARE) {
            const int keys = (int)(least((k / SQUARE + 1) * SQUARE, end) - k);
            const int columns = (int)up_to(keys, LANES), more = (int)up_to(keys, ROWS);
            const int64_t turned = k / SQUARE * SQUARE * D + k % SQUARE;
            scores(p.q + q * D, p.turned_k + turned, weights, rows, columns, D);
            scores(p.g + q * D, p.turned_v + turned, changes, rows, columns, D);
            soften_back(b, p, q, rows, k, columns, n, weights, changes, bf16);
            for (int r = 0; r < rows; r++)
                for (int i = columns; i < more; i++) weights[r * SQUARE + i] = changes[r * SQUARE + i] = 0;
            (D == 64 ? add_product_64 : add_product_32)(changes, 0, p.k + k * D, p.q_grad + q * D, rows, keys);
            (D == 64 ? add_product_64 : add_product_32)(changes, 1, p.q + q * D, p.k_grad + k * D, more, rows);
            (D == 64 ? add_product_64 : add_product_32)(weights, 1, p.g + q * D, p.v_grad + k * D, more, rows);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t token = begin + i, at = ((token * 3 + 2) * b->heads + h) * D;
        turn_back(b, token, 0, h, 1 / root, p.q_grad + i * D, D, bf16);
        turn_back(b, token, 1, h, 0.69314718f, p.k_grad + i * D, D, bf16); /* q has 1 / root and log2(e) */
        EACH(v, D / LANES) store_numbers(b->qkv_grad, at + v * LANES, load(p.v_grad + i * D + v * LANES), bf16);
    }
}

#if TILES
#include "attention_grad_tiles.h"
#endif

static void grad_piece(const void *context, int64_t index, int64_t thread) {
    const Grad *b = context;
    const int64_t i = b->count * b->heads - 1 - index, *own = b->documents + i / b->heads * 2; /* long ones are last */
    float *scratch = (float *)(b->scratch + thread * b->room);
    const int64_t begin = own[0], n = own[1] - own[0], h = i % b->heads;
#if TILES
    if (b->bf16 && tiles_allowed) {
        begin_tiles(TILE);
        b->head_dim == 32 ? document_of_tiles(b, begin, n, h, (char *)scratch, 32)
                          : document_of_tiles(b, begin, n, h, (char *)scratch, 64);
        end_tiles();
        return;
    }
#endif
    if (BF16_DOT && b->bf16)
        b->head_dim == 32 ? document(b, begin, n, h, scratch, 32, 1) : document(b, begin, n, h, scratch, 64, 1);
    else
        b->head_dim == 32 ? document(b, begin, n, h, scratch, 32, 0) : document(b, begin, n, h, scratch, 64, 0);
}

void attend_backward(const Grad *b) { share(grad_piece, b, b->count * b->heads, b->threads); }
