/* Attention over documents laid end to end, for CPUs with AVX-512 and bf16 dot products: what fast.py does with
 * turn_pairs and attend, in one pass. Products take bf16 and add up in fp32; angles and softmax are fp32.
 *
 * qkv (T, 3, H, D) holds unturned queries and keys whose RoPE halves lie side by side (0, D/2, 1, D/2 + 1, ...).
 * A piece of work is up to a few hundred queries of one document and one head: its keys and values are packed once,
 * then queries go through in tiles of ROWS, each against CHUNK keys at a time:
 *
 *   scores   ROWS x 64 at a time, 24 registers; two dimensions of a key lie in one lane, as vdpbf16ps adds them
 *   softmax  online: largest score and sum go from chunk to chunk (most documents, and all windows, are one chunk)
 *   weigh    ROWS x D, up to 24 registers; two keys lie in one lane
 *
 * A document's numbers depend on that document alone. Needs gcc or clang; memory is the caller's.
 */
#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

enum { LANES = 16, ROWS = 6, WIDE = 4 /* registers of keys side by side */, CHUNK = 512 };

static const float HIDDEN = -1e30f; /* finite: a chunk in which a query sees nothing must not make NaN */

typedef struct {
    const char *qkv;         /* (T, 3, H, D) bf16 or fp32 */
    char *out;               /* (T, H, D), of the same type */
    const float *cos, *sin;  /* (T, D / 2) */
    const int64_t *pieces;   /* (N, 4): first query, end of queries, first token and end of their document */
    char *scratch;           /* (threads, room) bytes, aligned to 64 */
    int64_t room, heads, half; /* half: of the window, negative for none */
    int32_t count, threads, fp32;
} Batch;

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

INLINE __m512 low_half(__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
INLINE __m512 high_half(__m512i x) { return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff0000))); }

/* Where numbers of head h begin: part 0 queries, 1 keys, 2 values. */
INLINE int64_t place(const Batch *b, int64_t token, int part, int64_t h, int D) {
    return ((token * 3 + part) * b->heads + h) * D;
}

/* 16 pairs at x[0..31], turned and scaled, as bf16: the first of all pairs, then the second. */
INLINE __m512i turned(const Batch *b, int64_t at, const float *cos, const float *sin, float scale) {
    __m512 first, second, c = _mm512_loadu_ps(cos) * _mm512_set1_ps(scale), s = _mm512_loadu_ps(sin) * _mm512_set1_ps(scale);
    if (b->fp32) {
        const float *x = (const float *)b->qkv + at;
        __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + LANES);
        __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        first = _mm512_permutex2var_ps(low, even, high);
        second = _mm512_permutex2var_ps(low, _mm512_or_si512(even, _mm512_set1_epi32(1)), high);
    } else {
        __m512i x = _mm512_loadu_si512((const uint16_t *)b->qkv + at);
        first = low_half(x), second = high_half(x);
    }
    return (__m512i)_mm512_cvtne2ps_pbh(second * c + first * s, first * c - second * s);
}

/* 16 numbers as bf16, one in each lane of 32 bits. */
INLINE __m512i rounded(const Batch *b, int64_t at) {
    if (b->fp32) return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps((const float *)b->qkv + at)));
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)((const uint16_t *)b->qkv + at)));
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

/* Keys and values of head h, from token ``first`` to ``end``, zeros up to a multiple of 16:
 * keys (n / 16, D / 2, 16 keys, 2 dimensions), values (n / 2, D, 2 keys). */
INLINE void pack(const Batch *b, int64_t first, int64_t end, int64_t h, __m512i *keys, __m512i *values, int D) {
    for (int64_t at = first; at < end; at += LANES) {
        EACH(g, D / 32) {
            __m512i rows[LANES];
            for (int i = 0; i < LANES; i++) {
                int64_t turn = (at + i) * (D / 2) + g * LANES;
                rows[i] = at + i < end ? turned(b, place(b, at + i, 1, h, D) + g * 32, b->cos + turn, b->sin + turn, 1)
                                       : _mm512_setzero_si512();
            }
            transpose(rows);
            EACH(i, LANES) *keys++ = rows[i];
        }
        for (int i = 0; i < LANES; i += 2)
            EACH(g, D / LANES) {
                __m512i even = _mm512_setzero_si512(), odd = even;
                if (at + i < end) even = rounded(b, place(b, at + i, 2, h, D) + g * LANES);
                if (at + i + 1 < end) odd = rounded(b, place(b, at + i + 1, 2, h, D) + g * LANES);
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

/* HIDDEN over scores[from..to). */
INLINE void hide(float *scores, int64_t from, int64_t to) {
    for (; from < to; from += LANES)
        _mm512_mask_storeu_ps(scores + from, to - from < LANES ? (1 << (to - from)) - 1 : 0xffff, _mm512_set1_ps(HIDDEN));
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

INLINE void piece(const Batch *b, const int64_t *p, int64_t h, char *scratch, int D) {
    const int64_t begin = p[0], end = p[1], half = b->half < 0 ? INT32_MAX : b->half;
    const int64_t first = begin - half > p[2] ? begin - half : p[2], last = end + half < p[3] ? end + half : p[3];
    const int64_t packed = (last - first + LANES - 1) / LANES * LANES;
    const float scale = 1.44269504f / (D == 64 ? 8.0f : 5.65685425f); /* log2(e) / sqrt(D) */
    __m512i *keys = (__m512i *)scratch, *values = keys + packed * D / 32;
    pack(b, first, last, h, keys, values, D);

    for (int64_t q = begin; q < end; q += ROWS) {
        _Alignas(64) int32_t query[ROWS * 32];
        _Alignas(64) float scores[ROWS * CHUNK];
        _Alignas(64) uint16_t weights[ROWS * CHUNK];
        __m512 out[ROWS][WIDE], sum[ROWS];
        float largest[ROWS];
        EACH(r, ROWS) {
            int64_t token = q + r < end ? q + r : end - 1; /* rows to spare repeat the last query */
            EACH(g, D / 32) {
                int64_t turn = token * (D / 2) + g * LANES;
                __m512i x = turned(b, place(b, token, 0, h, D) + g * 32, b->cos + turn, b->sin + turn, scale);
                _mm512_store_si512(query + r * (D / 2) + g * LANES, x);
            }
            EACH(g, D / LANES) out[r][g] = _mm512_setzero_ps();
            sum[r] = _mm512_setzero_ps(), largest[r] = HIDDEN;
        }
        /* keys that a query of the tile sees, counted from ``first``, from a whole group of 16 on */
        int64_t from = q - half > first ? (q - half - first) / LANES * LANES : 0;
        int64_t to = (q + ROWS + half < last ? q + ROWS + half : last) - first;
        for (; from < to; from += CHUNK) {
            int n = to - from < CHUNK ? (to - from + LANES - 1) / LANES * LANES : CHUNK, k = 0;
            const __m512i *key = keys + from * D / 32, *value = values + from * D / 32;
            for (; k + 64 <= n; k += 64) score(query, key + k * D / 32, scores + k, D, 4);
            if (n - k == 48) score(query, key + k * D / 32, scores + k, D, 3);
            if (n - k == 32) score(query, key + k * D / 32, scores + k, D, 2);
            if (n - k == 16) score(query, key + k * D / 32, scores + k, D, 1);
            EACH(r, ROWS) {
                int64_t at = q + r - first - from, low = at - half, high = at + half + 1, stop = last - first - from;
                if (high > stop) high = stop;
                hide(scores + r * CHUNK, 0, low < n ? low : n);
                hide(scores + r * CHUNK, high > 0 ? high : 0, n);
                __m512 fade = soften(scores + r * CHUNK, weights + r * CHUNK, n, largest + r, sum + r);
                EACH(g, D / LANES) out[r][g] *= fade;
            }
            weigh(weights, value, out, D, n);
        }
        for (int r = 0; r < ROWS && q + r < end; r++) {
            __m512 share = _mm512_set1_ps(1 / _mm512_reduce_add_ps(sum[r]));
            EACH(g, D / LANES) {
                int64_t at = ((q + r) * b->heads + h) * D + g * LANES;
                __m512 x = out[r][g] * share;
                if (b->fp32) _mm512_storeu_ps((float *)b->out + at, x);
                else _mm256_storeu_si256((__m256i *)((uint16_t *)b->out + at), (__m256i)_mm512_cvtneps_pbh(x));
            }
        }
    }
}

static __attribute__((noinline)) void piece_32(const Batch *b, const int64_t *p, int64_t h, char *s) { piece(b, p, h, s, 32); }
static __attribute__((noinline)) void piece_64(const Batch *b, const int64_t *p, int64_t h, char *s) { piece(b, p, h, s, 64); }

#include <omp.h>

/* head_dim 32 or 64 */
void attend(const Batch *b, int head_dim) {
    /* the last documents are the longest, and begun first */
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
    for (int64_t i = b->count * b->heads - 1; i >= 0; i--) {
        char *scratch = b->scratch + omp_get_thread_num() * b->room;
        (head_dim == 32 ? piece_32 : piece_64)(b, b->pieces + i / b->heads * 4, i % b->heads, scratch);
    }
}
