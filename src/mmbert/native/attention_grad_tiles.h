/* attention_grad.c by AMX: the same, of SIDE queries and SIDE keys at a time, and every factor of a product is bf16.
 *
 * A tile of left factors is 16 rows of 32 numbers that are multiplied, one of right factors 16 rows of pairs of them. So
 * S comes in two forms, as rows and as pairs of rows, and the gradients of keys and values are computed turned, dK^T =
 * Q^T S, for which S need not be.
 */
#ifndef MMBERT_ATTENTION_GRAD_TILES_H
#define MMBERT_ATTENTION_GRAD_TILES_H

enum { SIDE = 32 };

typedef uint16_t half;

/* What a document and head need; n is filled up to whole blocks. */
typedef struct {
    half *q, *g;                               /* (n, D) rows; q scaled for powers of 2 */
    words *turned_k, *turned_v;                /* (n / SIDE, D / 2, SIDE) pairs of dimensions */
    words *k_pairs;                            /* (n / 2, D) pairs of keys */
    half *turned_q, *turned_g;                 /* (n / SIDE, D, SIDE) */
    float *q_grad, *turned_k_grad, *turned_v_grad; /* (n, D), and (n / SIDE, D, SIDE) twice */
    float *largest, *factor, *along;           /* (n,) as in Parts */
} TileParts;

/* to (32, 32) = or += a (32, 32 depth) b, all in bytes of a row. */
INLINE void product_of_tiles(const void *a, int64_t a_row, const void *b, int64_t b_row, float *to, int64_t to_row,
                             int depth, int add) {
    const char *left = a, *right = b;
    char *out = (char *)to;
    if (add) {
        _tile_loadd(0, out, to_row);
        _tile_loadd(1, out + TILE, to_row);
        _tile_loadd(2, out + TILE_ROWS * to_row, to_row);
        _tile_loadd(3, out + TILE_ROWS * to_row + TILE, to_row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int d = 0; d < depth; d++, left += TILE, right += TILE_ROWS * b_row) {
        _tile_loadd(4, left, a_row);
        _tile_loadd(6, right, b_row);
        _tile_loadd(7, right + TILE, b_row);
        _tile_loadd(5, left + TILE_ROWS * a_row, a_row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, to_row);
    _tile_stored(1, out + TILE, to_row);
    _tile_stored(2, out + TILE_ROWS * to_row, to_row);
    _tile_stored(3, out + TILE_ROWS * to_row + TILE, to_row);
}

/* Two vectors as pairs of bf16, lane by lane. */
INLINE words pairs_of(floats a, floats z) {
    const __m512i first = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)a));
    const __m512i second = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)z));
    return (words)first | (words)second << 16;
}

/* Rows (n, D) of bf16 -> (n / 2, D) pairs of rows. */
INLINE void pair_rows(const half *rows, words *to, int64_t n, int D) {
    for (int64_t i = 0; i < n; i += 2)
        EACH(g, D / LANES) {
            const half *at = rows + i * D + g * LANES;
            *to++ = widened(at) | widened(at + D) << 16;
        }
}

/* Words (n, w) -> (n / block, w, block). */
INLINE void turn_words(const void *rows, void *to, int64_t n, int w, int block) {
    const int32_t *from = rows;
    for (int64_t at = 0; at < n; at += LANES)
        for (int g = 0; g < w; g += LANES) {
            words square[LANES];
            EACH(i, LANES) square[i] = load_words(from + (at + i) * w + g);
            transpose(square);
            int32_t *place = (int32_t *)to + at / block * block * w + at % block;
            EACH(i, LANES) store_words(place + (g + i) * block, square[i]);
        }
}

/* Everything that products read; ``rows`` (2, n, D) and ``pairs`` (n / 2, D) are free again behind it. */
INLINE void gather_tiles(const Grad *b, TileParts p, int64_t begin, int64_t n, int64_t filled, int64_t h, int D,
                         half *rows, words *pairs) {
    const float root = D == 64 ? 8 : 5.65685425f;
    half *k = rows, *v = rows + filled * D;
    for (int64_t i = 0; i < n; i++) {
        const int64_t token = begin + i, at = (token * b->heads + h) * D;
        float turned[2][64];
        turn(b, token, 0, h, 1.44269504f / root, turned[0], D, 1);
        turn(b, token, 1, h, 1, turned[1], D, 1);
        floats along = all(0);
        EACH(g, D / LANES) {
            const int64_t d = g * LANES;
            const floats grad = load_numbers(b->out_grad, at + d, 1);
            along = multiply_add(grad, load_numbers(b->out, at + d, 1), along);
            store_bf16(p.q + i * D + d, load(turned[0] + d));
            store_bf16(k + i * D + d, load(turned[1] + d));
            store_bf16(p.g + i * D + d, grad);
            store_bf16(v + i * D + d, load_numbers(b->qkv, ((token * 3 + 2) * b->heads + h) * D + d, 1));
        }
        p.along[i] = sum_of(along);
        p.largest[i] = b->softmax[2 * (token * b->heads + h)];
        p.factor[i] = 1 / b->softmax[2 * (token * b->heads + h) + 1];
    }
    turn_words(k, p.turned_k, filled, D / 2, SIDE);
    turn_words(v, p.turned_v, filled, D / 2, SIDE);
    pair_rows(k, p.k_pairs, filled, D);
    pair_rows(p.q, pairs, filled, D);
    turn_words(pairs, p.turned_q, filled / 2, D, SIDE / 2);
    pair_rows(p.g, pairs, filled, D);
    turn_words(pairs, p.turned_g, filled / 2, D, SIDE / 2);
}

/* Scores and G V^T -> P as pairs of rows, S as rows and as pairs of rows. */
INLINE void soften_tiles(const Grad *b, TileParts p, int64_t q, int64_t k, int64_t n, float *scores,
                         const float *changes, words *weight_pairs, half *change_rows, words *change_pairs) {
    for (int r = 0; r < SIDE; r++) {
        const int64_t first = q + r - b->half - k, behind = least(q + r + b->half + 1, n) - k; /* seen: [first, behind) */
        if (first > 0 || behind < SIDE)
            for (int i = 0; i < SIDE; i++)
                if (i < first || i >= behind) scores[r * SIDE + i] = -1e30f;
    }
    for (int r = 0; r < SIDE; r += 2)
        EACH(g, SIDE / LANES) {
            floats share[2], change[2];
            EACH(i, 2) {
                const int64_t row = q + r + i, at = (r + i) * SIDE + g * LANES;
                share[i] = power(load(scores + at) - all(p.largest[row]), 0) * all(p.factor[row]);
                change[i] = share[i] * (load(changes + at) - all(p.along[row]));
                store_bf16(change_rows + at, change[i]);
            }
            weight_pairs[r / 2 * (SIDE / LANES) + g] = pairs_of(share[0], share[1]);
            change_pairs[r / 2 * (SIDE / LANES) + g] = pairs_of(change[0], change[1]);
        }
}

/* All products of a block of queries and a block of keys. */
INLINE void block_of_tiles(const Grad *b, TileParts p, int64_t q, int64_t k, int64_t n, int D) {
    enum { FLOATS = SIDE * 4, HALVES = SIDE * 2 /* bytes of a row */ };
    _Alignas(64) float scores[SIDE * SIDE], changes[SIDE * SIDE];
    _Alignas(64) half change_rows[SIDE * SIDE];
    words weight_pairs[SIDE * SIDE / 2 / LANES], change_pairs[SIDE * SIDE / 2 / LANES];
    const int32_t *keys = (int32_t *)p.turned_k + k * D / 2, *values = (int32_t *)p.turned_v + k * D / 2;
    const int32_t *key_pairs = (int32_t *)p.k_pairs + k * D / 2;
    product_of_tiles(p.q + q * D, 2 * D, keys, FLOATS, scores, FLOATS, D / 32, 0);
    product_of_tiles(p.g + q * D, 2 * D, values, FLOATS, changes, FLOATS, D / 32, 0);
    soften_tiles(b, p, q, k, n, scores, changes, weight_pairs, change_rows, change_pairs);
    for (int d = 0; d < D; d += 32) {
        product_of_tiles(change_rows, HALVES, key_pairs + d, 4 * D, p.q_grad + q * D + d, 4 * D, 1, 1);
        product_of_tiles(p.turned_q + q * D + d * SIDE, HALVES, change_pairs, FLOATS,
                         p.turned_k_grad + k * D + d * SIDE, FLOATS, 1, 1);
        product_of_tiles(p.turned_g + q * D + d * SIDE, HALVES, weight_pairs, FLOATS,
                         p.turned_v_grad + k * D + d * SIDE, FLOATS, 1, 1);
    }
}

INLINE void document_of_tiles(const Grad *b, int64_t begin, int64_t n, int64_t h, char *scratch, int D) {
    const int64_t filled = up_to(n, SIDE), size = filled * D; /* numbers of an array */
    TileParts p;
    p.q_grad = (float *)scratch, p.turned_k_grad = p.q_grad + size, p.turned_v_grad = p.turned_k_grad + size;
    p.q = (half *)(p.turned_v_grad + size), p.g = p.q + size, p.turned_q = p.g + size, p.turned_g = p.turned_q + size;
    p.turned_k = (words *)(p.turned_g + size), p.turned_v = p.turned_k + size / 2 / LANES;
    p.k_pairs = p.turned_v + size / 2 / LANES;
    p.largest = (float *)(p.k_pairs + size / 2 / LANES), p.factor = p.largest + filled, p.along = p.factor + filled;
    /* keys, values and pairs stand where gradients are summed later */
    half *rows = (half *)p.q_grad;
    words *pairs = (words *)p.turned_k_grad;
    EACH(i, 2) {
        memset((i ? p.g : p.q) + n * D, 0, (size_t)((filled - n) * D) * sizeof(half));
        memset(rows + i * size + n * D, 0, (size_t)((filled - n) * D) * sizeof(half));
    }
    EACH(i, 3) memset(p.largest + i * filled + n, 0, (size_t)(filled - n) * sizeof(float));
    gather_tiles(b, p, begin, n, filled, h, D, rows, pairs);
    memset(p.q_grad, 0, (size_t)(3 * size) * sizeof(float));
    for (int64_t q = 0; q < n; q += SIDE)
        for (int64_t k = most(q - b->half, 0) / SIDE * SIDE; k < least(q + SIDE + b->half, n); k += SIDE)
            block_of_tiles(b, p, q, k, n, D);
    for (int64_t i = 0; i < n; i++) {
        const int64_t token = begin + i, at = ((token * 3 + 2) * b->heads + h) * D;
        float k_grad[64];
        EACH(part, 2) {
            const float *turned = (part ? p.turned_v_grad : p.turned_k_grad) + i / SIDE * SIDE * D + i % SIDE;
            for (int d = 0; d < D; d++) k_grad[d] = turned[d * SIDE];
            if (!part) turn_back(b, token, 1, h, 0.69314718f, k_grad, D, 1);
            else EACH(v, D / LANES) store_numbers(b->qkv_grad, at + v * LANES, load(k_grad + v * LANES), 1);
        }
        turn_back(b, token, 0, h, D == 64 ? 0.125f : 0.17677670f, p.q_grad + i * D, D, 1);
    }
}

#endif
