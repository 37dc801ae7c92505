/* Attention over documents laid end to end, for CPUs with AVX-512 and its bf16 dot products: RoPE, scores, softmax and
 * the sum of values in one pass. Numbers come, go and are multiplied in bf16; sums, angles and the softmax are fp32.
 *
 * qkv (T, 3, H, D) holds queries and keys that are not turned yet, RoPE's two halves side by side (0, D/2, 1, ...).
 * The work is cut into units: up to some hundred queries of one document and one head. A unit packs the keys and
 * values it sees, then takes its queries ROWS at a time against CHUNK keys at a time:
 *
 *   score    ROWS x 64 products in 24 registers; two dimensions of one key share a lane, as vdpbf16ps adds them
 *   soften   softmax online: largest score and sum go on from chunk to chunk (windows and most documents are one)
 *   weigh    ROWS x D sums, 24 registers for D = 64; two keys share a lane
 *
 * A document's numbers depend on that document alone. All memory is the caller's.
 */
#include "lanes.h"

enum { CHUNK = 512 };

static const float HIDDEN = -1e30f; /* finite: a chunk in which a query sees nothing must not make NaN */

typedef struct {
    int64_t begin, end;   /* queries */
    int64_t first, last;  /* keys that any of them sees: [first, last) */
} Unit;

typedef struct {
    const uint16_t *qkv;     /* (T, 3, H, D) bf16 */
    uint16_t *out;           /* (T, H, D) bf16 */
    const float *cos, *sin;  /* (T, D / 2) */
    const Unit *units;     /* (count,) */
    char *scratch;           /* (threads, room) bytes, aligned to 64: keys and values of a unit */
    int64_t room, count, heads, threads;
    int64_t half;            /* of the window: i sees j iff |i - j| <= half */
} Batch;

/* The compiler, for who asks what is installed. */
const char built_by[] =
#ifdef __clang__
    __VERSION__;
#else
    "gcc " __VERSION__;
#endif

/* Where 32 numbers of a token begin: part 0 queries, 1 keys, 2 values; head h; g-th 32 of D. */
INLINE int64_t place(const Batch *b, int64_t token, int part, int64_t h, int g, int D) {
    return ((token * 3 + part) * b->heads + h) * D + g * 32;
}

/* 16 pairs of a query or key, turned and scaled: the first of all pairs, then the second (any order will do). */
INLINE __m512i turned(const Batch *b, int64_t token, int part, int64_t h, int g, float scale, int D) {
    const __m512i x = _mm512_loadu_si512(b->qkv + place(b, token, part, h, g, D));
    const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); /* bf16 is the upper half of fp32 */
    const __m512 second = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff0000)));
    const int64_t angle = token * (D / 2) + g * LANES;
    const __m512 cos = _mm512_loadu_ps(b->cos + angle) * _mm512_set1_ps(scale);
    const __m512 sin = _mm512_loadu_ps(b->sin + angle) * _mm512_set1_ps(scale);
    return (__m512i)_mm512_cvtne2ps_pbh(second * cos + first * sin, first * cos - second * sin);
}

/* Rows become columns: blocks of 1, 2, 4 and 8 lanes change places across the diagonal. */
INLINE void transpose(__m512i rows[LANES]) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    EACH(step, 4) {
        const int size = 1 << step;
        const __mmask16 upper = (const int[]){0xaaaa, 0xcccc, 0xf0f0, 0xff00}[step];
        const __m512i by = _mm512_set1_epi32(size), other = _mm512_set1_epi32(LANES);
        const __m512i left = _mm512_mask_add_epi32(lane, upper, lane, _mm512_sub_epi32(other, by));
        const __m512i right = _mm512_mask_add_epi32(_mm512_add_epi32(lane, by), upper, lane, other);
        EACH(i, LANES) {
            if (i & size) continue;
            __m512i a = rows[i], z = rows[i + size];
            rows[i] = _mm512_permutex2var_epi32(a, left, z);
            rows[i + size] = _mm512_permutex2var_epi32(a, right, z);
        }
    }
}

/* Keys and values of a unit and head, zeros up to a multiple of 16:
 * keys (n / 16, D / 2, 16 keys, 2 dimensions), values (n / 2, D, 2 keys). */
INLINE void pack(const Batch *b, const Unit *p, int64_t h, __m512i *keys, __m512i *values, int D) {
    const __m512i zero = _mm512_setzero_si512();
    for (int64_t at = p->first; at < p->last; at += LANES) {
        EACH(g, D / 32) {
            __m512i rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = at + i < p->last ? turned(b, at + i, 1, h, g, 1, D) : zero;
            transpose(rows);
            EACH(i, LANES) *keys++ = rows[i];
        }
        for (int i = 0; i < LANES; i += 2)
            EACH(g, D / LANES) {
                const uint16_t *row = b->qkv + place(b, at + i, 2, h, 0, D) + g * LANES;
                const __m512i even = at + i < p->last ? widened(row) : zero;
                const __m512i odd = at + i + 1 < p->last ? widened(row + 3 * b->heads * D) : zero;
                *values++ = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
            }
    }
}

/* Scores of ROWS queries and 16 n keys. */
INLINE void score(const int32_t query[], const __m512i *keys, float *scores, int D, int n) {
    __m512 sum[ROWS][WIDE];
    EACH(r, ROWS) EACH(v, n) sum[r][v] = _mm512_setzero_ps();
    for (int d = 0; d < D / 2; d++) {
        __m512i key[WIDE];
        EACH(v, n) key[v] = keys[v * (D / 2) + d];
        EACH(r, ROWS) {
            __m512i q = _mm512_set1_epi32(query[r * (D / 2) + d]);
            EACH(v, n) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)q, (__m512bh)key[v]);
        }
    }
    EACH(r, ROWS) EACH(v, n) _mm512_store_ps(scores + r * CHUNK + v * LANES, sum[r][v]);
}

/* The same for any n up to CHUNK that is a multiple of 16. */
INLINE void score_all(const int32_t query[], const __m512i *keys, float *scores, int D, int n) {
    for (; n >= 4 * LANES; n -= 4 * LANES, keys += 4 * D / 2, scores += 4 * LANES) score(query, keys, scores, D, 4);
    if (n == 3 * LANES) score(query, keys, scores, D, 3);
    if (n == 2 * LANES) score(query, keys, scores, D, 2);
    if (n == 1 * LANES) score(query, keys, scores, D, 1);
}

/* HIDDEN over scores [from, to) of n. */
INLINE void hide(float *scores, int64_t from, int64_t to, int64_t n) {
    if (from < 0) from = 0;
    if (to > n) to = n;
    for (; from < to; from += LANES) {
        const __mmask16 lanes = to - from < LANES ? (1 << (to - from)) - 1 : 0xffff;
        _mm512_mask_storeu_ps(scores + from, lanes, _mm512_set1_ps(HIDDEN));
    }
}

/* Scores of one query -> weights in bf16; moves its largest score and its sum on. Returns by how much the
 * weights given before are now too large. */
INLINE __m512 soften(const float *scores, uint16_t *weights, int n, float *largest, __m512 *sum) {
    __m512 top = _mm512_load_ps(scores);
    for (int v = LANES; v < n; v += LANES) top = _mm512_max_ps(top, _mm512_load_ps(scores + v));
    float before = *largest, now = _mm512_reduce_max_ps(top);
    *largest = now = now > before ? now : before;
    __m512 fade = power(_mm512_set1_ps(before - now)), total = *sum * fade;
    for (int v = 0; v < n; v += LANES) {
        __m512 weight = power(_mm512_load_ps(scores + v) - _mm512_set1_ps(now));
        total += weight;
        _mm256_store_si256((__m256i *)(weights + v), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    *sum = total;
    return fade;
}

/* Adds n values by their weights. */
INLINE void weigh(const uint16_t *weights, const __m512i *values, __m512 out[ROWS][WIDE], int D, int n) {
    __m512 sum[ROWS][WIDE];
    EACH(r, ROWS) EACH(g, D / LANES) sum[r][g] = out[r][g];
    for (int k = 0; k < n / 2; k++) {
        __m512i value[WIDE];
        EACH(g, D / LANES) value[g] = values[k * (D / LANES) + g];
        EACH(r, ROWS) {
            __m512i w = _mm512_set1_epi32(((const int32_t *)(weights + r * CHUNK))[k]);
            EACH(g, D / LANES) sum[r][g] = _mm512_dpbf16_ps(sum[r][g], (__m512bh)w, (__m512bh)value[g]);
        }
    }
    EACH(r, ROWS) EACH(g, D / LANES) out[r][g] = sum[r][g];
}

/* Queries q, q + 1, ... of a unit and head: reads its packed keys and values, writes their rows of ``out``. */
INLINE void tile(const Batch *b, const Unit *p, int64_t h, int64_t q, const __m512i *keys, const __m512i *values,
                 int D) {
    _Alignas(64) int32_t query[ROWS * 32];
    _Alignas(64) float scores[ROWS * CHUNK];
    _Alignas(64) uint16_t weights[ROWS * CHUNK];
    __m512 out[ROWS][WIDE], sum[ROWS];
    float largest[ROWS];
    const float scale = 1.44269504f / (D == 64 ? 8 : 5.65685425f); /* log2(e) / sqrt(D) */
    EACH(r, ROWS) {
        const int64_t token = q + r < p->end ? q + r : p->end - 1; /* rows to spare repeat the last query */
        EACH(g, D / 32)
            _mm512_store_si512(query + r * (D / 2) + g * LANES, turned(b, token, 0, h, g, scale, D));
        EACH(g, D / LANES) out[r][g] = _mm512_setzero_ps();
        sum[r] = _mm512_setzero_ps(), largest[r] = HIDDEN;
    }
    /* what these queries see, counted from the first key of the unit, from a whole group of 16 on */
    int64_t from = q - b->half > p->first ? (q - b->half - p->first) / LANES * LANES : 0;
    const int64_t to = (q + ROWS + b->half < p->last ? q + ROWS + b->half : p->last) - p->first;
    for (; from < to; from += CHUNK) {
        const int n = to - from < CHUNK ? (to - from + LANES - 1) / LANES * LANES : CHUNK;
        score_all(query, keys + from * D / 32, scores, D, n);
        EACH(r, ROWS) {
            const int64_t at = q + r - p->first - from, stop = p->last - p->first - from;
            hide(scores + r * CHUNK, 0, at - b->half, n);
            hide(scores + r * CHUNK, at + b->half + 1 < stop ? at + b->half + 1 : stop, n, n);
            const __m512 fade = soften(scores + r * CHUNK, weights + r * CHUNK, n, largest + r, sum + r);
            EACH(g, D / LANES) out[r][g] *= fade;
        }
        weigh(weights, values + from * D / 32, out, D, n);
    }
    for (int r = 0; r < ROWS && q + r < p->end; r++)
        EACH(g, D / LANES) {
            const __m512 mean = out[r][g] / _mm512_set1_ps(_mm512_reduce_add_ps(sum[r]));
            store_bf16(b->out + ((q + r) * b->heads + h) * D + g * LANES, mean);
        }
}

INLINE void work(const Batch *b, const Unit *p, int64_t h, __m512i *scratch, int D) {
    __m512i *keys = scratch, *values = keys + (p->last - p->first + LANES - 1) / LANES * (D / 2);
    pack(b, p, h, keys, values, D);
    for (int64_t q = p->begin; q < p->end; q += ROWS) tile(b, p, h, q, keys, values, D);
}

static void work_32(const Batch *b, const Unit *p, int64_t h, __m512i *scratch) { work(b, p, h, scratch, 32); }
static void work_64(const Batch *b, const Unit *p, int64_t h, __m512i *scratch) { work(b, p, h, scratch, 64); }

/* ``head_dim`` is 32 or 64. */
void attend(const Batch *b, int head_dim) {
#pragma omp parallel for schedule(dynamic) num_threads((int)b->threads)
    for (int64_t i = b->count * b->heads - 1; i >= 0; i--) { /* long documents are last, and begun first */
        __m512i *scratch = (__m512i *)(b->scratch + omp_get_thread_num() * b->room);
        (head_dim == 32 ? work_32 : work_64)(b, b->units + i / b->heads, i % b->heads, scratch);
    }
}
