/* A layer but for its attention, for CPUs with AVX-512, VNNI and bf16 dot products: norms, matrices, GeGLU and sums of
 * some rows (tokens) at a time, which stay in the cache from the first to the last. Rows stand alone: their numbers
 * depend on nothing else, and threads share nothing.
 *
 * Matrices are int8 (and then what they are multiplied with is rounded to int8, row by row) or bf16. One loop serves
 * both: a lane adds four products of int8 or two of bf16 at once. What comes next is done to the sums in registers.
 *
 * Widths are multiples of 64, the MLP's of 32. For gcc and clang; all memory is the caller's.
 */
#include "lanes.h"

enum { BLOCK = 48 /* the most rows at a time */, COLUMNS = WIDE * LANES };

typedef struct {
    const char *weight;      /* (N / 64, K / n, 64, n): n = 4 of int8 or 2 of bf16 */
    const float *scale;      /* of int8: (N,), what a column counts in */
    const int32_t *first;    /* of int8: (N,), where sums begin: inputs are unsigned, 128 too large */
    int64_t in, out;         /* K, N */
} Matrix;

typedef struct {
    Matrix qkv, out, wide, narrow;  /* of wide, every 32 columns that are activated stand before their 32 gates */
    const float *attn_norm;         /* (h,); NULL in the first layer, which has none */
    const float *mlp_norm;
    float eps;
    int32_t int8;
} Layer;

typedef struct {
    const float *x;            /* (T, h) */
    const uint16_t *attended;  /* mix: (T, h) bf16 */
    void *to;                  /* project: (T, 3 h) bf16; mix: (T, h) fp32 */
    char *scratch;             /* (threads, room) bytes */
    int64_t room, tokens, block, threads;
} Rows;

typedef enum { STORE, GATE, ADD } Then;

/* GELU, exact: erf by Abramowitz and Stegun 7.1.26, within 1.5e-7. */
INLINE __m512 gelu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1), two = _mm512_set1_ps(2), size = _mm512_abs_ps(x);
    const __m512 below = _mm512_fmadd_ps(size, _mm512_set1_ps(0.3275911f * 0.70710678f), one);
    __m512 t = _mm512_rcp14_ps(below);
    t = t * _mm512_fnmadd_ps(below, t, two);
    __m512 p = _mm512_set1_ps(1.061405429f / 2);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f / 2));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f / 2));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f / 2));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f / 2));
    const __m512 tail = p * t * power(x * x * _mm512_set1_ps(-0.5f * 1.44269504f)); /* (1 - erf(|x| / sqrt 2)) / 2 */
    return _mm512_fnmadd_ps(size, tail, _mm512_max_ps(x, _mm512_setzero_ps()));
}

/* LayerNorm of a row. */
INLINE void norm(const float *x, const float *weight, float eps, float *to, int64_t n) {
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (int64_t i = 0; i < n; i += LANES) sum += _mm512_loadu_ps(x + i);
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n);
    for (int64_t i = 0; i < n; i += LANES) {
        const __m512 centred = _mm512_loadu_ps(x + i) - mean;
        squares = _mm512_fmadd_ps(centred, centred, squares);
    }
    const __m512 variance = _mm512_set1_ps(_mm512_reduce_add_ps(squares) / n + eps);
    const __m512 factor = _mm512_set1_ps(1) / _mm512_sqrt_ps(variance);
    for (int64_t i = 0; i < n; i += LANES)
        _mm512_storeu_ps(to + i, (_mm512_loadu_ps(x + i) - mean) * factor * _mm512_loadu_ps(weight + i));
}

/* A row as matrices take it: bf16, or int8 plus 128, its largest number 127. Returns what the latter counts in. */
INLINE float rounded(const float *x, char *to, int64_t n, int int8) {
    if (!int8) {
        for (int64_t i = 0; i < n; i += LANES) store_bf16((uint16_t *)to + i, _mm512_loadu_ps(x + i));
        return 1;
    }
    __m512 top = _mm512_set1_ps(1e-12f);
    for (int64_t i = 0; i < n; i += LANES) top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    const float largest = _mm512_reduce_max_ps(top);
    const __m512 factor = _mm512_set1_ps(127 / largest);
    for (int64_t i = 0; i < n; i += LANES) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_loadu_ps(x + i) * factor);
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(128)));
        _mm_storeu_si128((__m128i *)(to + i), bytes);
    }
    return largest / 127;
}

/* ROWS x 64 sums of products, from column on. */
INLINE void multiply(const Matrix *m, int64_t column, const char *rows, __m512i sums[ROWS][WIDE], int int8) {
    const int64_t stride = int8 ? m->in : 2 * m->in;
    const char *weight = m->weight + column * stride;
    __m512i sum[ROWS][WIDE];
    EACH(r, ROWS) EACH(v, WIDE)
        sum[r][v] = int8 ? _mm512_loadu_si512(m->first + column + v * LANES) : _mm512_setzero_si512();
    for (int64_t k = 0; k < stride; k += 4, weight += COLUMNS * 4) {
        __m512i w[WIDE];
        EACH(v, WIDE) w[v] = _mm512_loadu_si512(weight + v * 64);
        EACH(r, ROWS) {
            const __m512i in = _mm512_set1_epi32(*(const int32_t *)(rows + r * stride + k));
            EACH(v, WIDE) sum[r][v] = int8 ? _mm512_dpbusd_epi32(sum[r][v], in, w[v])
                : (__m512i)_mm512_dpbf16_ps((__m512)sum[r][v], (__m512bh)in, (__m512bh)w[v]);
        }
    }
    EACH(r, ROWS) EACH(v, WIDE) sums[r][v] = sum[r][v];
}

/* Functions of their own, for gcc to find a register for each sum. */
static __attribute__((noinline)) void multiply_int8(const Matrix *m, int64_t column, const char *rows,
                                                    __m512i sums[ROWS][WIDE]) {
    multiply(m, column, rows, sums, 1);
}
static __attribute__((noinline)) void multiply_bf16(const Matrix *m, int64_t column, const char *rows,
                                                    __m512i sums[ROWS][WIDE]) {
    multiply(m, column, rows, sums, 0);
}

/* 64 sums of a row to where they belong; ``scale``: what the row counts in, of int8. */
INLINE void finish(const Matrix *m, int64_t column, const __m512i sums[WIDE], float scale, Then then, const float *x,
                   void *to, int int8) {
    __m512 out[WIDE];
    EACH(v, WIDE) {
        out[v] = (__m512)sums[v];
        if (int8) out[v] = _mm512_cvtepi32_ps(sums[v]) * _mm512_set1_ps(scale) *
            _mm512_loadu_ps(m->scale + column + v * LANES);
    }
    if (then == STORE) EACH(v, WIDE) store_bf16((uint16_t *)to + column + v * LANES, out[v]);
    if (then == ADD) EACH(v, WIDE)
        _mm512_storeu_ps((float *)to + column + v * LANES, _mm512_loadu_ps(x + column + v * LANES) + out[v]);
    if (then == GATE) EACH(v, WIDE / 2)
        _mm512_storeu_ps((float *)to + column / 2 + v * LANES, gelu(out[v]) * out[WIDE / 2 + v]);
}

/* rows (count, K) -> to (count, N): bf16 (STORE), x + fp32 (ADD), or (count, N / 2) fp32 (GATE). */
INLINE void product(const Matrix *m, const char *rows, const float *scales, int64_t count, Then then, const float *x,
                    void *to, int int8) {
    const int64_t in = m->in * (int8 ? 1 : 2), out = m->out * (then == ADD ? 4 : 2); /* bytes of a row */
    __m512i sums[ROWS][WIDE];
    for (int64_t column = 0; column < m->out; column += COLUMNS) /* its weights stay near for all rows */
        for (int64_t begin = 0; begin < count; begin += ROWS) {
            (int8 ? multiply_int8 : multiply_bf16)(m, column, rows + begin * in, sums);
            for (int64_t r = begin; r < begin + ROWS && r < count; r++)
                finish(m, column, sums[r - begin], scales[r], then, x + r * m->out, (char *)to + r * out, int8);
        }
}

/* Where rounded rows are kept: behind room for the MLP of ``count`` rows and those that fill the last ROWS up. */
INLINE char *behind(float *room, int64_t count, int64_t inner) {
    return (char *)(room + (count + ROWS - 1) / ROWS * ROWS * inner);
}

/* Norm and Wqkv of ``count`` rows. */
INLINE void project_rows(const Layer *l, const float *x, uint16_t *qkv, int64_t count, float *room, int int8) {
    const int64_t h = l->qkv.in;
    char *rows = behind(room, count, l->narrow.in);
    float scales[BLOCK];
    for (int64_t r = 0; r < count; r++) {
        if (l->attn_norm) norm(x + r * h, l->attn_norm, l->eps, room, h);
        scales[r] = rounded(l->attn_norm ? room : x + r * h, rows + r * h * (int8 ? 1 : 2), h, int8);
    }
    product(&l->qkv, rows, scales, count, STORE, x, qkv, int8);
}

/* Wo, norm and MLP of ``count`` rows, added to x. */
INLINE void mix_rows(const Layer *l, const float *x, const uint16_t *attended, float *to, int64_t count, float *room,
                     int int8) {
    const int64_t h = l->out.out, inner = l->narrow.in, size = int8 ? 1 : 2;
    char *rows = behind(room, count, inner);
    float scales[BLOCK];
    for (int64_t r = 0; r < count; r++) {
        for (int64_t i = 0; i < h; i += LANES)
            _mm512_storeu_si512(room + i, _mm512_slli_epi32(widened(attended + r * h + i), 16));
        scales[r] = rounded(room, rows + r * h * size, h, int8);
    }
    product(&l->out, rows, scales, count, ADD, x, to, int8);
    for (int64_t r = 0; r < count; r++) {
        norm(to + r * h, l->mlp_norm, l->eps, room, h);
        scales[r] = rounded(room, rows + r * h * size, h, int8);
    }
    product(&l->wide, rows, scales, count, GATE, to, room, int8);
    for (int64_t r = 0; r < count; r++)
        scales[r] = rounded(room + r * inner, rows + r * inner * size, inner, int8);
    product(&l->narrow, rows, scales, count, ADD, to, to, int8);
}

static void project_int8(const Layer *l, const float *x, uint16_t *qkv, int64_t count, float *room) {
    project_rows(l, x, qkv, count, room, 1);
}
static void project_bf16(const Layer *l, const float *x, uint16_t *qkv, int64_t count, float *room) {
    project_rows(l, x, qkv, count, room, 0);
}
static void mix_int8(const Layer *l, const float *x, const uint16_t *a, float *to, int64_t count, float *room) {
    mix_rows(l, x, a, to, count, room, 1);
}
static void mix_bf16(const Layer *l, const float *x, const uint16_t *a, float *to, int64_t count, float *room) {
    mix_rows(l, x, a, to, count, room, 0);
}

/* ``mixing``: what comes after attention, else what comes before it. */
void run_layer(const Layer *l, const Rows *b, int mixing) {
    const int64_t h = l->qkv.in;
#pragma omp parallel for schedule(dynamic) num_threads((int)b->threads)
    for (int64_t begin = 0; begin < b->tokens; begin += b->block) {
        float *room = (float *)(b->scratch + omp_get_thread_num() * b->room);
        const int64_t count = b->tokens - begin < b->block ? b->tokens - begin : b->block;
        const float *x = b->x + begin * h;
        if (mixing)
            (l->int8 ? mix_int8 : mix_bf16)(l, x, b->attended + begin * h, (float *)b->to + begin * h, count, room);
        else
            (l->int8 ? project_int8 : project_bf16)(l, x, (uint16_t *)b->to + begin * 3 * h, count, room);
    }
}
