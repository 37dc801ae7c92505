/* A layer but for its attention: norms, matrices, GeGLU and sums of some rows (tokens) at a time, which stay in the cache
 * from the first to the last. Rows stand alone: their numbers depend on nothing else, and threads share nothing.
 *
 * Matrices are fp32, bf16 or int8. What they are multiplied with is of the same kind: rounded to int8, row by row; to
 * bf16, where the processor has dot products of bf16, else fp32, to which the weights are widened in registers. What
 * comes next is done to the sums in registers. lanes.h has the instruction sets, tiles.h that of AMX.
 *
 * Widths are multiples of COLUMNS, the MLP's of half of it. All memory is the caller's.
 */
#include <string.h>

#include "lanes.h"
#include "rows.h"
#include "threads.h"
#include "tiles.h"

enum { BLOCK = 144 /* the most rows at a time */, COLUMNS = WIDE * LANES, LINE = 64 /* bytes of a line of caches */ };

/* Linux gives a process the registers of tiles when it asks for them, if it has them and signals have room for them. */
#if TILES
#include <sys/syscall.h>
#include <unistd.h>

int32_t tiles_allowed;
int32_t allow_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return tiles_allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#else
int32_t allow_tiles(void) { return 0; }
#endif

typedef enum { INT8, BF16, FP32 } Kind;

/* What the caller must know to pack matrices. */
const int32_t layer_traits[4] = {COLUMNS, INT8_ZERO, INT8_LARGEST, INT8_WEIGHT};

typedef struct {
    const char *weight;      /* (N / COLUMNS, K / n, COLUMNS, n): n = 4 of int8, 2 of bf16 or 1 of fp32 */
    const float *scale;      /* of int8: (N,), what a column counts in */
    const int32_t *first;    /* of int8: (N,), where sums begin: inputs are INT8_ZERO too large */
    int64_t in, out;         /* K, N */
} Matrix;

typedef struct {
    Matrix qkv, out, wide, narrow;  /* of wide, every COLUMNS / 2 that are activated stand before their gates */
    const float *attn_norm;         /* (h,); NULL in the first layer, which has none */
    const float *mlp_norm;
    float eps;
    int32_t kind;
} Layer;

typedef struct {
    const Layer *layer;
    const float *x;            /* (T, h) */
    const void *attended;      /* (T, h) as attention gives it, fp32 or bf16; NULL before attention */
    void *to;                  /* before attention: (T, 3 h) as it takes it; after: (T, h) fp32 */
    char *scratch;             /* (threads, room) bytes */
    int64_t room, tokens, block, threads;
} Rows;

typedef enum { STORE, GATE, ADD } Then;

/* Whether attention, and what int8 and bf16 are multiplied with, is bf16. */
#define HALF(kind) (BF16_DOT && (kind) != FP32)
/* Bytes of a weight, and of what it is multiplied with. */
#define WEIGHT(kind) ((kind) == INT8 ? 1 : (kind) == BF16 ? 2 : 4)
#define INPUT(kind) ((kind) == INT8 ? 1 : HALF(kind) ? 2 : 4)
/* Rows that are multiplied together in registers, and when fewer are left; or as tiles. */
#define TOGETHER(kind) ((kind) == INT8 ? INT8_ROWS : ROWS)
#define FEW(kind) (TOGETHER(kind) - 2)
#define BY_TILES(kind) (tiles_allowed && (kind) != FP32)
#define AT_ONCE(kind) (BY_TILES(kind) ? TILE_ROWS * TILE_BLOCKS : TOGETHER(kind))

/* LayerNorm of a row. */
INLINE void norm(const float *x, const float *weight, float eps, float *to, int64_t n) {
    const Moments m = moments(x, eps, n);
    for (int64_t i = 0; i < n; i += LANES) store(to + i, (load(x + i) - m.mean) * m.factor * load(weight + i));
}

/* A row as matrices take it; int8 is at most INT8_LARGEST, and INT8_ZERO is added. Returns what that counts in. */
INLINE float rounded(const float *x, char *to, int64_t n, Kind kind) {
    if (kind != INT8) {
        for (int64_t i = 0; i < n; i += LANES) store_numbers(to, i, load(x + i), HALF(kind));
        return 1;
    }
    floats top = all(1e-12f);
    for (int64_t i = 0; i < n; i += LANES) top = larger(top, magnitude(load(x + i)));
    const float largest = largest_of(top);
    const floats factor = all(INT8_LARGEST / largest);
    for (int64_t i = 0; i < n; i += LANES)
        store_bytes(to + i, rounded_words(load(x + i) * factor) + all_words(INT8_ZERO));
    return largest / INT8_LARGEST;
}

INLINE words spread(const char *word) {
    int32_t read;
    memcpy(&read, word, sizeof read);
    return all_words(read);
}

/* Adds the products of INT8_STEP words of ROWS inputs and of a panel's weights. */
INLINE void add_int8(words sum[ROWS][WIDE], const char *rows, int64_t stride, const char *weight, int together) {
    words w[WIDE][INT8_STEP];
    EACH(v, WIDE) EACH(s, INT8_STEP) w[v][s] = load_words(weight + (s * COLUMNS + v * LANES) * 4);
    EACH(r, together) {
        words in[INT8_STEP];
        EACH(s, INT8_STEP) in[s] = spread(rows + r * stride + 4 * s);
        EACH(v, WIDE) sum[r][v] = dot_int8(sum[r][v], in, w[v]);
    }
}

/* The same of one word of weights: a number of fp32, or a pair of bf16 and then as many inputs. */
INLINE void add_floats(words sum[ROWS][WIDE], const char *rows, int64_t stride, const char *weight, int together,
                       Kind kind) {
    words w[WIDE];
    EACH(v, WIDE) w[v] = load_words(weight + v * LANES * 4);
    if (kind == FP32 || HALF(kind)) {
        EACH(r, together) {
            const words in = spread(rows + r * stride);
            EACH(v, WIDE) sum[r][v] = (words)dot((floats)sum[r][v], in, w[v], HALF(kind));
        }
        return;
    }
    EACH(part, 2) {
        EACH(v, WIDE) w[v] = (words)(part ? second_of(load_words(weight + v * LANES * 4)) : first_of(w[v]));
        EACH(r, together) {
            const words in = spread(rows + r * stride + 4 * part);
            EACH(v, WIDE) sum[r][v] = (words)multiply_add((floats)in, (floats)w[v], (floats)sum[r][v]);
        }
        EACH(r, together) EACH(v, WIDE) IN_REGISTER(sum[r][v]); /* or gcc mixes the two, for which there are too few */
    }
}

/* Sums of the products of some rows and a panel of COLUMNS, from ``column`` on, over inputs [from, to). */
INLINE void multiply(const Matrix *m, int64_t column, int64_t from, int64_t to, const char *rows,
                     words sums[ROWS][WIDE], int together, Kind kind) {
    const int64_t stride = INPUT(kind) * m->in, end = WEIGHT(kind) * (to - from) / 4; /* bytes of a row, words */
    const int step = kind == INT8 ? INT8_STEP : 1, read = step * 4 * INPUT(kind) / WEIGHT(kind);
    const char *weight = m->weight + (column * m->in + from * COLUMNS) * WEIGHT(kind);
    words sum[ROWS][WIDE];
    EACH(r, together) EACH(v, WIDE)
        sum[r][v] = kind == INT8 && !from ? load_words(m->first + column + v * LANES) : all_words(0);
    rows += from * INPUT(kind);
    for (int64_t k = 0; k < end; k += step, rows += read, weight += step * COLUMNS * 4) {
        if (AHEAD > 0 && (kind != INT8 || AHEAD_INT8))
            EACH(i, step * COLUMNS * 4 / LINE) __builtin_prefetch(weight + AHEAD + i * LINE, 0, AHEAD_TO);
        if (kind == INT8) add_int8(sum, rows, stride, weight, together);
        else add_floats(sum, rows, stride, weight, together, kind);
    }
    EACH(r, together) EACH(v, WIDE) sums[r][v] = sum[r][v];
}

/* Functions of their own, for gcc to find a register for each sum. */
#define MULTIPLY(name, together, kind)                                                                                        \
    static __attribute__((noinline)) void name(const Matrix *m, int64_t column, int64_t from, int64_t to,           \
                                               const char *rows, words sums[ROWS][WIDE]) {                          \
        multiply(m, column, from, to, rows, sums, together, kind);                                                            \
    }
MULTIPLY(multiply_int8, INT8_ROWS, INT8)
MULTIPLY(multiply_bf16, ROWS, BF16)
MULTIPLY(multiply_fp32, ROWS, FP32)
MULTIPLY(multiply_few_int8, FEW(INT8), INT8)
MULTIPLY(multiply_few_bf16, FEW(BF16), BF16)
MULTIPLY(multiply_few_fp32, FEW(FP32), FP32)

typedef void Multiply(const Matrix *, int64_t, int64_t, int64_t, const char *, words[ROWS][WIDE]);

/* A panel's sums of a row to where they belong; ``scale``: what the row counts in, of int8. */
INLINE void finish(const Matrix *m, int64_t column, const words sums[WIDE], float scale, Then then, const float *x,
                   void *to, Kind kind) {
    floats out[WIDE];
    EACH(v, WIDE) {
        out[v] = (floats)sums[v];
        if (kind == INT8) out[v] = to_floats(sums[v]) * all(scale) * load(m->scale + column + v * LANES);
    }
    if (then == STORE) EACH(v, WIDE) store_numbers(to, column + v * LANES, out[v], HALF(kind));
    if (then == ADD) EACH(v, WIDE)
        store((float *)to + column + v * LANES, load(x + column + v * LANES) + out[v]);
    if (then == GATE) EACH(v, WIDE / 2)
        store((float *)to + column / 2 + v * LANES, gelu(out[v], kind == FP32) * out[WIDE / 2 + v]);
}

/* Rows up to a whole number of those that are multiplied together. */
INLINE int64_t filled(int64_t count, Kind kind) {
    const int64_t whole = BY_TILES(kind) ? TILE_ROWS : TOGETHER(kind);
    return (count + whole - 1) / whole * whole;
}

/* rows (count, K) -> to (count, N): as attention takes it (STORE), x + fp32 (ADD), or (count, N / 2) fp32 (GATE). */
INLINE void product(const Matrix *m, const char *rows, const float *scales, int64_t count, Then then, const float *x,
                    void *to, Kind kind) {
    const int64_t in = m->in * INPUT(kind); /* bytes of a row */
    const int64_t out = m->out * (then == ADD ? 4 : then == GATE ? 2 : HALF(kind) ? 2 : 4);
    const int64_t depth = then == ADD && DEPTH / WEIGHT(kind) < m->in ? DEPTH / WEIGHT(kind) : m->in;
    words sums[TILES ? TILE_ROWS * TILE_BLOCKS : ROWS][WIDE];
    if (BY_TILES(kind)) begin_tiles(in);
    for (int64_t from = 0; from < m->in; from += depth, x = to)
        for (int64_t column = 0; column < m->out; column += COLUMNS) /* its weights stay near for all rows */
            for (int64_t begin = 0; begin < count; begin += AT_ONCE(kind)) {
                const int64_t end = from + depth < m->in ? from + depth : m->in;
                const int64_t behind = begin + AT_ONCE(kind) < count ? begin + AT_ONCE(kind) : count;
                Multiply *all_rows = kind == INT8 ? multiply_int8 : kind == BF16 ? multiply_bf16 : multiply_fp32;
                Multiply *few = kind == INT8 ? multiply_few_int8 : kind == BF16 ? multiply_few_bf16 : multiply_few_fp32;
                if (BY_TILES(kind))
                    multiply_tiles(rows + begin * in, filled(behind - begin, kind) / TILE_ROWS, in,
                                   m->weight + column * m->in * WEIGHT(kind), kind == INT8 ? m->first + column : NULL,
                                   (int32_t *)sums, kind == BF16);
                else
                    (count - begin > FEW(kind) ? all_rows : few)(m, column, from, end, rows + begin * in, sums);
                for (int64_t r = begin; r < behind; r++)
                    finish(m, column, sums[r - begin], scales[r], then, x + r * m->out, (char *)to + r * out, kind);
            }
}

/* Norm and Wqkv of ``count`` rows. ``room``: the MLP of filled rows in fp32, and behind it rows to be multiplied. */
INLINE void project_rows(const Layer *l, const float *x, void *qkv, int64_t count, float *room, Kind kind) {
    const int64_t h = l->qkv.in, row = h * INPUT(kind);
    char *rows = (char *)(room + filled(count, kind) * l->narrow.in);
    float scales[BLOCK];
    memset(rows + count * row, 0, (size_t)((filled(count, kind) - count) * row)); /* nothing there may be slow */
    for (int64_t r = 0; r < count; r++) {
        if (l->attn_norm) norm(x + r * h, l->attn_norm, l->eps, room, h);
        scales[r] = rounded(l->attn_norm ? room : x + r * h, rows + r * row, h, kind);
    }
    product(&l->qkv, rows, scales, count, STORE, x, qkv, kind);
}

/* Wo, norm and MLP of ``count`` rows, added to x. */
INLINE void mix_rows(const Layer *l, const float *x, const void *attended, float *to, int64_t count, float *room,
                     Kind kind) {
    const int64_t h = l->out.out, inner = l->narrow.in, row = h * INPUT(kind);
    char *rows = (char *)(room + filled(count, kind) * inner);
    float scales[BLOCK];
    memset(rows + count * row, 0, (size_t)((filled(count, kind) - count) * row));
    for (int64_t r = 0; r < count; r++) {
        for (int64_t i = 0; i < h; i += LANES) store(room + i, load_numbers(attended, r * h + i, HALF(kind)));
        scales[r] = rounded(room, rows + r * row, h, kind);
    }
    product(&l->out, rows, scales, count, ADD, x, to, kind);
    for (int64_t r = 0; r < count; r++) {
        norm(to + r * h, l->mlp_norm, l->eps, room, h);
        scales[r] = rounded(room, rows + r * row, h, kind);
    }
    product(&l->wide, rows, scales, count, GATE, to, room, kind);
    if (INPUT(kind) == 4) { /* they are what is multiplied */
        rows = (char *)room;
        memset(room + count * inner, 0, (size_t)((filled(count, kind) - count) * inner * 4));
    } else
        for (int64_t r = 0; r < count; r++)
            scales[r] = rounded(room + r * inner, rows + r * inner * INPUT(kind), inner, kind);
    product(&l->narrow, rows, scales, count, ADD, to, to, kind);
}

#define LAYER(name, kind)                                                                                           \
    static void name(const Rows *b, const float *x, const char *attended, char *to, int64_t count, float *room) {   \
        if (attended)                                                                                               \
            mix_rows(b->layer, x, attended, (float *)to, count, room, kind);                                        \
        else                                                                                                        \
            project_rows(b->layer, x, to, count, room, kind);                                                       \
    }
LAYER(layer_int8, INT8)
LAYER(layer_bf16, BF16)
LAYER(layer_fp32, FP32)

static void run_block(const void *context, int64_t index, int64_t thread) {
    const Rows *b = context;
    const int64_t h = b->layer->qkv.in, begin = index * b->block, number = HALF(b->layer->kind) ? 2 : 4;
    const int64_t count = b->tokens - begin < b->block ? b->tokens - begin : b->block;
    const char *attended = b->attended ? (const char *)b->attended + begin * h * number : NULL;
    char *to = (char *)b->to + begin * h * (attended ? 4 : 3 * number);
    float *room = (float *)(b->scratch + thread * b->room);
    const Kind kind = (Kind)b->layer->kind;
    (kind == INT8 ? layer_int8 : kind == BF16 ? layer_bf16 : layer_fp32)(b, b->x + begin * h, attended, to, count, room);
    if (BY_TILES(kind)) end_tiles();
}

/* What comes after attention, if there is something ``attended``, else what comes before it. */
void run_layer(const Rows *b) { share(run_block, b, (b->tokens + b->block - 1) / b->block, b->threads); }
