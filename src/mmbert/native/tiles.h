/* Products of int8 and bf16 by AMX: of tiles, 16 rows of 64 bytes, which the processor keeps in eight registers. What is
 * packed for vectors is read as tiles as it is: 16 columns of weights, keys or values in 16 words (of 4 int8 or 2 bf16). */
#ifndef MMBERT_TILES_H
#define MMBERT_TILES_H

enum { TILE_ROWS = 16, TILE = 64 /* bytes of a row */, TILE_BLOCKS = 3 /* of rows that are multiplied together */ };

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#define TILES 1

extern int32_t tiles_allowed; /* by Linux; layer.c asks */

/* Registers for rows of so many bytes, a multiple of 32. If they end within a tile, 6 and 7 are for that end. */
INLINE void begin_tiles(int64_t bytes) {
    struct {
        uint8_t palette, first, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    EACH(i, 8) shape.bytes[i] = TILE, shape.rows[i] = TILE_ROWS;
    if (bytes % TILE) shape.bytes[6] = TILE / 2, shape.rows[7] = TILE_ROWS / 2;
    _tile_loadconfig(&shape);
}

/* Registers that are in use cost time at every change of threads. */
INLINE void end_tiles(void) { _tile_release(); }

enum { ROW = 4 * TILE /* bytes of a row of a panel, and of sums */, BLOCK_OF_SUMS = TILE_ROWS * TILE };

/* A tile of sums of block ``row`` and columns ``column``: where it begins, what is added to it, and where it is kept. */
#define BEGIN(tile, column)                                                                                          \
    if (first) _tile_loadd(tile, first + 16 * (column), 0); /* all rows begin with the same */                        \
    else _tile_zero(tile)
#define MULTIPLY_TILE(tile, inputs, weights)                                                                         \
    if (bf16) _tile_dpbf16ps(tile, inputs, weights);                                                                 \
    else _tile_dpbusd(tile, inputs, weights)
#define KEEP(tile, row, column) _tile_stored(tile, sums + (row) * BLOCK_OF_SUMS + 16 * (column), ROW)

/* One block of rows and all columns: few rows. */
INLINE void one_block(const char *rows, int64_t bytes, const char *weight, const int32_t *first, int32_t *sums, int bf16) {
#define COLUMN(column, inputs, weights)                                                                              \
    _tile_loadd(weights, weight + (column) * TILE, ROW);                                                             \
    MULTIPLY_TILE(column, inputs, weights)
#define EACH_COLUMN(inputs, weights)                                                                                 \
    _tile_loadd(inputs, rows, stride);                                                                               \
    COLUMN(0, inputs, weights);                                                                                      \
    COLUMN(1, inputs, weights);                                                                                      \
    COLUMN(2, inputs, weights);                                                                                      \
    COLUMN(3, inputs, weights)
    const int64_t stride = bytes;
    BEGIN(0, 0);
    BEGIN(1, 1);
    BEGIN(2, 2);
    BEGIN(3, 3);
    for (; bytes >= TILE; bytes -= TILE, rows += TILE, weight += TILE_ROWS * ROW) {
        EACH_COLUMN(4, 5);
    }
    if (bytes) {
        EACH_COLUMN(6, 7);
    }
    KEEP(0, 0, 0);
    KEEP(1, 0, 1);
    KEEP(2, 0, 2);
    KEEP(3, 0, 3);
#undef EACH_COLUMN
#undef COLUMN
}

/* Two or three blocks of rows and half of the columns: every tile of weights, which come from the second cache, is used
 * for all of them. */
INLINE void several_blocks(const char *rows, int64_t bytes, const char *weight, const int32_t *first, int32_t *sums,
                           int column, int three, int bf16) {
    const int64_t block = TILE_ROWS * bytes;
    weight += column * TILE;
    BEGIN(0, column);
    BEGIN(1, column);
    if (three) {
        BEGIN(2, column);
    }
    BEGIN(3, column + 1);
    BEGIN(4, column + 1);
    if (three) {
        BEGIN(5, column + 1);
    }
    for (int64_t k = 0; k < bytes; k += TILE, weight += TILE_ROWS * ROW) {
        _tile_loadd(6, weight, ROW);
        _tile_loadd(7, rows + k, bytes);
        MULTIPLY_TILE(0, 7, 6);
        _tile_loadd(7, rows + block + k, bytes);
        MULTIPLY_TILE(1, 7, 6);
        if (three) {
            _tile_loadd(7, rows + 2 * block + k, bytes);
            MULTIPLY_TILE(2, 7, 6);
        }
        _tile_loadd(6, weight + TILE, ROW);
        if (three) {
            MULTIPLY_TILE(5, 7, 6);
            _tile_loadd(7, rows + block + k, bytes);
        }
        MULTIPLY_TILE(4, 7, 6);
        _tile_loadd(7, rows + k, bytes);
        MULTIPLY_TILE(3, 7, 6);
    }
    KEEP(0, 0, column);
    KEEP(1, 1, column);
    if (three) KEEP(2, 2, column);
    KEEP(3, 0, column + 1);
    KEEP(4, 1, column + 1);
    if (three) KEEP(5, 2, column + 1);
}

/* sums (16 blocks, 64) = first + rows (16 blocks, ``bytes``) times a panel.
 * first: (64,) words, or NULL for zeros. bf16: or else of unsigned and signed int8. */
INLINE void multiply_tiles(const char *rows, int64_t blocks, int64_t bytes, const char *weight, const int32_t *first,
                           int32_t *sums, int bf16) {
    if (blocks == 1 || bytes % TILE)
        for (int64_t i = 0; i < blocks; i++)
            one_block(rows + i * TILE_ROWS * bytes, bytes, weight, first, sums + i * BLOCK_OF_SUMS, bf16);
    else
        for (int column = 0; column < 4; column += 2) {
            if (blocks == 2) several_blocks(rows, bytes, weight, first, sums, column, 0, bf16);
            else several_blocks(rows, bytes, weight, first, sums, column, 1, bf16);
        }
}

/* Scores of 16 queries and n keys, a multiple of 32, as attention.c packs them; ``stride``: bytes of a row of scores. */
INLINE void score_tiles(const int32_t *query, const char *keys, float *scores, int64_t stride, int D, int n) {
    const int bf16 = 1, group = 32 * D; /* bytes of the keys of a vector */
    _tile_loadd(6, query, 2 * D);
    if (D == 64) _tile_loadd(7, query + 16, 2 * D);
#define SCORE(tile, keys_of_tile, keys, to)                                                                          \
    _tile_zero(tile);                                                                                                \
    _tile_loadd(keys_of_tile, keys, TILE);                                                                           \
    MULTIPLY_TILE(tile, 6, keys_of_tile);                                                                            \
    if (D == 64) {                                                                                                   \
        _tile_loadd(keys_of_tile, (keys) + TILE_ROWS * TILE, TILE);                                                  \
        MULTIPLY_TILE(tile, 7, keys_of_tile);                                                                        \
    }                                                                                                                \
    _tile_stored(tile, to, stride)
    for (int i = 0; i < n; i += 32, keys += 2 * group) {
        SCORE(0, 4, keys, scores + i);
        SCORE(1, 5, keys + group, scores + i + 16);
    }
#undef SCORE
}

/* Adds n values, a multiple of 32, by 16 rows of weights; ``stride``: bytes of a row of weights. Of out: ROW. */
INLINE void weigh_tiles(const int32_t *weights, int64_t stride, const char *values, float *out, int D, int n) {
    const int bf16 = 1;
    _tile_loadd(0, out, ROW);
    _tile_loadd(1, out + 16, ROW);
    if (D == 64) {
        _tile_loadd(2, out + 32, ROW);
        _tile_loadd(3, out + 48, ROW);
    }
    for (int k = 0; k < n; k += 32, weights += 16, values += 64 * D) {
        _tile_loadd(4, weights, stride);
        _tile_loadd(5, values, 4 * D);
        MULTIPLY_TILE(0, 4, 5);
        _tile_loadd(6, values + TILE, 4 * D);
        MULTIPLY_TILE(1, 4, 6);
        if (D == 64) {
            _tile_loadd(5, values + 2 * TILE, 4 * D);
            MULTIPLY_TILE(2, 4, 5);
            _tile_loadd(6, values + 3 * TILE, 4 * D);
            MULTIPLY_TILE(3, 4, 6);
        }
    }
    _tile_stored(0, out, ROW);
    _tile_stored(1, out + 16, ROW);
    if (D == 64) {
        _tile_stored(2, out + 32, ROW);
        _tile_stored(3, out + 48, ROW);
    }
}

#undef BEGIN
#undef MULTIPLY_TILE
#undef KEEP

#else
#define TILES 0
enum { tiles_allowed = 0 };
INLINE void begin_tiles(int64_t bytes) { (void)bytes; }
INLINE void end_tiles(void) {}
INLINE void multiply_tiles(const char *rows, int64_t blocks, int64_t bytes, const char *weight, const int32_t *first,
                           int32_t *sums, int bf16) {
    (void)rows, (void)blocks, (void)bytes, (void)weight, (void)first, (void)sums, (void)bf16;
}
INLINE void score_tiles(const int32_t *query, const char *keys, float *scores, int64_t stride, int D, int n) {
    (void)query, (void)keys, (void)scores, (void)stride, (void)D, (void)n;
}
INLINE void weigh_tiles(const int32_t *weights, int64_t stride, const char *values, float *out, int D, int n) {
    (void)weights, (void)stride, (void)values, (void)out, (void)D, (void)n;
}
#endif

#endif
