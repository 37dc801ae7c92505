/* Attention over documents laid end to end: RoPE, scores, softmax and the sum of values in one pass. Sums, angles and
 * the softmax are fp32. Numbers come, go and are multiplied in fp32, or in bf16 where the processor has dot products of
 * bf16. lanes.h has the instruction sets.
 *
 * qkv (T, 3, H, D) holds queries and keys that are not rotated yet: RoPE's pairs are the numbers d and D/2 + d.
 * The work is cut into units: up to some hundred queries of one document and one head. A unit packs the keys and
 * values it sees, then takes its queries ROWS at a time against CHUNK keys at a time:
 *
 *   score    ROWS x (WIDE vectors of keys) in registers; a lane holds one dimension of a key, or two in bf16
 *   soften   softmax online: largest score and sum go on from chunk to chunk (windows and most documents are one)
 *   weigh    ROWS x (a panel of up to WIDE vectors of D) in registers; a lane holds one key's number, or two keys' in bf16
 *
 * Where there are tiles (AMX), bf16 takes TILE_ROWS queries at a time, and reads what was packed as tiles.
 *
 * A document's numbers depend on that document alone. All memory is the caller's.
 */
#include "lanes.h"
#include "threads.h"
#include "tiles.h"

enum { CHUNK = 512, MOST = TILES ? TILE_ROWS : ROWS /* queries at a time */ };

static const float HIDDEN = -1e30f; /* finite: a chunk in which a query sees nothing must not make NaN */

typedef struct {
    int64_t begin, end;   /* queries */
    int64_t first, last;  /* keys that any of them sees: [first, last) */
} Unit;

typedef struct {
    const void *qkv;         /* (T, 3, H, D) bf16 or fp32 */
    void *out;               /* (T, H, D) the same */
    float *softmax;          /* (T, H, 2) largest score, for powers of 2, and sum of each query; NULL: not wanted */
    const float *cos, *sin;  /* (T, D / 2) */
    const Unit *units;       /* (count,) */
    char *scratch;           /* (threads, room) bytes, aligned to 64: keys and values of a unit */
    int64_t room, count, heads, threads;
    int64_t half;            /* of the window: i sees j iff |i - j| <= half */
    int64_t head_dim;        /* 32 or 64 */
    int64_t bf16;            /* only where BF16_DOT */
} Batch;

/* The compiler, for who asks what is installed. */
const char built_by[] =
#ifdef __clang__
    __VERSION__;
#else
    "gcc " __VERSION__;
#endif

/* What the caller must know: lanes, and whether bf16 can be asked for. */
const int32_t attention_traits[2] = {LANES, BF16_DOT};

/* Numbers of a lane, and vectors of a panel of values. */
#define PAIR(bf16) ((bf16) ? 2 : 1)
#define PANEL(D) ((D) / LANES < WIDE ? (D) / LANES : WIDE)
/* Keys come in groups of so many. */
#define GROUP(tiles) ((tiles) ? 2 * LANES : LANES)
#define WHOLE(n, tiles) (((n) + GROUP(tiles) - 1) / GROUP(tiles) * GROUP(tiles))

/* Where a token begins: part 0 queries, 1 keys, 2 values; head h. */
INLINE int64_t place(const Batch *b, int64_t token, int part, int64_t h, int D) {
    return ((token * 3 + part) * b->heads + h) * D;
}

/* LANES pairs of a query or key, from the g-th LANES on, rotated and scaled: the first of all pairs, then the second,
 * as two vectors of fp32 or one of bf16 (any order will do, if it is the same for queries and keys). */
INLINE void rotated(const Batch *b, int64_t token, int part, int64_t h, int g, float scale, words to[2], int D, int bf16) {
    const int64_t at = place(b, token, part, h, D) + g * LANES, angle = token * (D / 2) + g * LANES;
    const floats first = load_numbers(b->qkv, at, bf16), second = load_numbers(b->qkv, at + D / 2, bf16);
    const floats cos = load(b->cos + angle) * all(scale), sin = load(b->sin + angle) * all(scale);
    const floats a = first * cos - second * sin, z = second * cos + first * sin;
#if BF16_DOT
    if (bf16) {
        to[0] = joined_bf16(a, z);
        return;
    }
#endif
    to[0] = (words)a, to[1] = (words)z;
}

/* LANES numbers of the value of one token, or in bf16 of two that follow one another; nought beyond ``last``. */
INLINE words value(const Batch *b, int64_t token, int64_t last, int64_t h, int g, int D, int bf16) {
    (void)bf16;
    if (token >= last) return all_words(0);
    const int64_t at = place(b, token, 2, h, D) + g * LANES;
#if BF16_DOT
    if (bf16) {
        const uint16_t *row = (const uint16_t *)b->qkv + at;
        return token + 1 < last ? widened(row) | widened(row + 3 * b->heads * D) << 16 : widened(row);
    }
#endif
    return load_words((const float *)b->qkv + at);
}

/* Keys and values of a unit and head, zeros up to a whole number of groups:
 * keys (n / LANES, D / PAIR, LANES keys, PAIR dimensions),
 * values (D / (PANEL LANES) panels, n / PAIR, PANEL LANES numbers, PAIR keys). */
INLINE void pack(const Batch *b, const Unit *p, int64_t h, words *keys, words *values, int D, int bf16, int tiles) {
    const int vectors = 2 / PAIR(bf16); /* of LANES pairs */
    const int64_t n = WHOLE(p->last - p->first, tiles);
    for (int64_t at = p->first; at < p->first + n; at += LANES) {
        EACH(g, D / 2 / LANES) {
            words columns[2][LANES];
            for (int i = 0; i < LANES; i++) {
                words pairs[2] = {all_words(0), all_words(0)};
                if (at + i < p->last) rotated(b, at + i, 1, h, g, 1, pairs, D, bf16);
                EACH(s, vectors) columns[s][i] = pairs[s];
            }
            EACH(s, vectors) {
                transpose(columns[s]);
                EACH(i, LANES) *keys++ = columns[s][i];
            }
        }
        for (int i = 0; i < LANES; i += PAIR(bf16)) {
            words *row = values + (at - p->first + i) / PAIR(bf16) * PANEL(D);
            EACH(g, D / LANES)
                row[g / PANEL(D) * (n / PAIR(bf16)) * PANEL(D) + g % PANEL(D)] = value(b, at + i, p->last, h, g, D, bf16);
        }
    }
}

/* Scores of ROWS queries and LANES n keys. */
INLINE void score(const int32_t query[], const words *keys, float *scores, int D, int n, int bf16) {
    const int inner = D / PAIR(bf16);
    floats sum[ROWS][WIDE];
    EACH(r, ROWS) EACH(v, n) sum[r][v] = all(0);
    for (int d = 0; d < inner; d++) {
        words key[WIDE];
        EACH(v, n) key[v] = keys[v * inner + d];
        EACH(r, ROWS) {
            const words q = all_words(query[r * inner + d]);
            EACH(v, n) sum[r][v] = dot(sum[r][v], q, key[v], bf16);
        }
    }
    EACH(r, ROWS) EACH(v, n) store(scores + r * CHUNK + v * LANES, sum[r][v]);
}

/* The same for any n up to CHUNK that is a multiple of LANES. */
INLINE void score_all(const int32_t query[], const words *keys, float *scores, int D, int n, int bf16) {
    for (; n >= WIDE * LANES; n -= WIDE * LANES, keys += WIDE * D / PAIR(bf16), scores += WIDE * LANES)
        score(query, keys, scores, D, WIDE, bf16);
    if (WIDE > 3 && n == 3 * LANES) score(query, keys, scores, D, 3, bf16);
    if (WIDE > 2 && n == 2 * LANES) score(query, keys, scores, D, 2, bf16);
    if (n == 1 * LANES) score(query, keys, scores, D, 1, bf16);
}

/* HIDDEN over scores [from, to) of n. */
INLINE void hide(float *scores, int64_t from, int64_t to, int64_t n) {
    if (from < 0) from = 0;
    if (to > n) to = n;
    for (; from < to; from += LANES) store_first(scores + from, all(HIDDEN), to - from);
}

/* Scores of one query -> weights; moves its largest score and its sum on. Returns by how much the weights given before
 * are now too large. */
INLINE floats soften(const float *scores, void *weights, int n, float *largest, floats *sum, int bf16) {
    floats top = load(scores);
    for (int v = LANES; v < n; v += LANES) top = larger(top, load(scores + v));
    float before = *largest, now = largest_of(top);
    *largest = now = now > before ? now : before;
    floats fade = power(all(before - now), !bf16), total = *sum * fade;
    for (int v = 0; v < n; v += LANES) {
        floats weight = power(load(scores + v) - all(now), !bf16);
        total += weight;
        store_numbers(weights, v, weight, bf16);
    }
    *sum = total;
    return fade;
}

/* Adds a panel of n values, from vector ``at`` of D on, by their weights, (ROWS, CHUNK) numbers. */
INLINE void weigh(const int32_t weights[], const words *values, floats out[ROWS][64 / LANES], int at, int D, int n,
                  int bf16) {
    const int panel = PANEL(D);
    floats sum[ROWS][WIDE];
    EACH(r, ROWS) EACH(g, panel) sum[r][g] = out[r][at + g];
    for (int k = 0; k < n / PAIR(bf16); k++) {
        words value[WIDE];
        EACH(g, panel) value[g] = values[k * panel + g];
        EACH(r, ROWS) {
            const words w = all_words(weights[r * (CHUNK / PAIR(bf16)) + k]);
            EACH(g, panel) sum[r][g] = dot(sum[r][g], w, value[g], bf16);
        }
    }
    EACH(r, ROWS) EACH(g, panel) out[r][at + g] = sum[r][g];
}

/* Queries q, q + 1, ... of a unit and head: reads its packed keys and values, writes their rows of ``out``. */
INLINE void answer(const Batch *b, const Unit *p, int64_t h, int64_t q, const words *keys, const words *values, int D,
                   int bf16, int tiles) {
    const int rows = tiles ? TILE_ROWS : ROWS;
    _Alignas(64) int32_t query[MOST * 64];
    _Alignas(64) float scores[MOST * CHUNK];
    _Alignas(64) int32_t weights[MOST * CHUNK];
    const int inner = D / PAIR(bf16), row = CHUNK / PAIR(bf16); /* words of a query, and of its weights */
    const int vectors = 2 / PAIR(bf16); /* of LANES pairs */
    floats out[MOST][64 / LANES], sum[MOST];
    float largest[MOST];
    const float scale = 1.44269504f / (D == 64 ? 8 : 5.65685425f); /* log2(e) / sqrt(D) */
    for (int r = 0; r < rows; r++) {
        const int64_t token = q + r < p->end ? q + r : p->end - 1; /* rows to spare repeat the last query */
        EACH(g, D / 2 / LANES) {
            words pairs[2];
            rotated(b, token, 0, h, g, scale, pairs, D, bf16);
            EACH(s, vectors) store_words(query + r * inner + (g * vectors + s) * LANES, pairs[s]);
        }
        EACH(g, D / LANES) out[r][g] = all(0);
        sum[r] = all(0), largest[r] = HIDDEN;
    }
    /* what these queries see, counted from the first key of the unit, from a whole group on */
    int64_t from = q - b->half > p->first ? (q - b->half - p->first) / GROUP(tiles) * GROUP(tiles) : 0;
    const int64_t to = (q + rows + b->half < p->last ? q + rows + b->half : p->last) - p->first;
    const int64_t panel = WHOLE(p->last - p->first, tiles) / PAIR(bf16) * PANEL(D);
    for (; from < to; from += CHUNK) {
        const int n = to - from < CHUNK ? (int)WHOLE(to - from, tiles) : CHUNK;
        const words *at = values + from / PAIR(bf16) * PANEL(D), *of = keys + from / LANES * inner;
        if (tiles) score_tiles(query, (const char *)of, scores, CHUNK * sizeof *scores, D, n);
        else score_all(query, of, scores, D, n, bf16);
        for (int r = 0; r < rows; r++) {
            const int64_t own = q + r - p->first - from, stop = p->last - p->first - from;
            hide(scores + r * CHUNK, 0, own - b->half, n);
            hide(scores + r * CHUNK, own + b->half + 1 < stop ? own + b->half + 1 : stop, n, n);
            const floats fade = soften(scores + r * CHUNK, weights + r * row, n, largest + r, sum + r, bf16);
            EACH(g, D / LANES) out[r][g] *= fade;
        }
        if (tiles) weigh_tiles(weights, row * sizeof *weights, (const char *)at, (float *)out, D, n);
        else for (int g = 0; g < D / LANES; g += PANEL(D), at += panel) weigh(weights, at, out, g, D, n, bf16);
    }
    for (int r = 0; r < rows && q + r < p->end; r++) {
        const int64_t at = (q + r) * b->heads + h;
        const float total = sum_of(sum[r]);
        if (b->softmax) b->softmax[2 * at] = largest[r], b->softmax[2 * at + 1] = total;
        EACH(g, D / LANES) store_numbers(b->out, at * D + g * LANES, out[r][g] / all(total), bf16);
    }
}

INLINE void work(const Batch *b, const Unit *p, int64_t h, words *scratch, int D, int bf16, int tiles) {
    words *keys = scratch, *values = keys + WHOLE(p->last - p->first, tiles) * (D / PAIR(bf16)) / LANES;
    pack(b, p, h, keys, values, D, bf16, tiles);
    for (int64_t q = p->begin; q < p->end; q += tiles ? TILE_ROWS : ROWS) answer(b, p, h, q, keys, values, D, bf16, tiles);
}

#define WORK(name, D, bf16, tiles)                                                                                   \
    static void name(const Batch *b, const Unit *p, int64_t h, words *scratch) {                                     \
        work(b, p, h, scratch, D, bf16, tiles);                                                                      \
    }
WORK(work_32, 32, 0, 0)
WORK(work_64, 64, 0, 0)
#if BF16_DOT
WORK(work_32_bf16, 32, 1, 0)
WORK(work_64_bf16, 64, 1, 0)
#endif
#if TILES
WORK(work_32_tiles, 32, 1, 1)
WORK(work_64_tiles, 64, 1, 1)
#endif

static void attend_piece(const void *context, int64_t index, int64_t thread) {
    const Batch *b = context;
    const int64_t i = b->count * b->heads - 1 - index; /* long documents are last, and begun first */
    words *scratch = (words *)(b->scratch + thread * b->room);
    const Unit *unit = b->units + i / b->heads;
#if TILES
    if (b->bf16 && tiles_allowed) {
        begin_tiles(TILE);
        (b->head_dim == 32 ? work_32_tiles : work_64_tiles)(b, unit, i % b->heads, scratch);
        end_tiles();
        return;
    }
#endif
#if BF16_DOT
    if (b->bf16) {
        (b->head_dim == 32 ? work_32_bf16 : work_64_bf16)(b, unit, i % b->heads, scratch);
        return;
    }
#endif
    (b->head_dim == 32 ? work_32 : work_64)(b, unit, i % b->heads, scratch);
}

void attend(const Batch *b) { share(attend_piece, b, b->count * b->heads, b->threads); }
