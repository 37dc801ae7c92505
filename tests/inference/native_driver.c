/* Runs a kernel on buffers that it reads from a file, and writes the result to another: for builds that Python cannot
 * load, with sanitizers or for another processor. Each buffer is an allocation of exactly its size. Usage:
 *
 *   driver              prints the traits of attention.c and layer.c, and whether there are tiles
 *   driver INPUT OUTPUT
 */
#include <stdio.h>
#include <stdlib.h>

#include "attention.c"
#include "layer.c"

static void fail(const char *what) {
    perror(what);
    exit(2);
}

static void fetch(FILE *file, void *to, size_t size) {
    if (size && fread(to, size, 1, file) != 1) fail("input");
}

static int64_t number(FILE *file) {
    int64_t read;
    fetch(file, &read, sizeof read);
    return read;
}

/* The size in bytes (-1: NULL), whether its contents follow, and these; else it is filled with NaN. */
static void *buffer(FILE *file, int64_t *size) {
    void *made = NULL;
    *size = number(file);
    const int64_t given = number(file);
    if (*size < 0) return NULL;
    if (posix_memalign(&made, 64, (size_t)*size)) fail("memory");
    if (given) fetch(file, made, (size_t)*size);
    else memset(made, 0xff, (size_t)*size);
    return made;
}

static Matrix matrix(FILE *file) {
    int64_t size;
    Matrix m = {buffer(file, &size), buffer(file, &size), buffer(file, &size), 0, 0};
    m.in = number(file), m.out = number(file);
    return m;
}

int main(int count, char **given) {
    const int32_t tiles = allow_tiles();
    if (count != 3) {
        printf("%d %d", attention_traits[0], attention_traits[1]);
        for (size_t i = 0; i < sizeof layer_traits / sizeof *layer_traits; i++) printf(" %d", layer_traits[i]);
        printf(" %d", tiles);
        return 0;
    }
    FILE *in = fopen(given[1], "rb"), *out = fopen(given[2], "wb");
    if (!in || !out) fail("file");
    void *result;
    int64_t size, other;
    if (number(in) == 0) {
        Batch b;
        b.qkv = buffer(in, &other), b.out = result = buffer(in, &size);
        b.cos = buffer(in, &other), b.sin = buffer(in, &other), b.units = buffer(in, &other);
        b.scratch = buffer(in, &other);
        b.room = number(in), b.count = number(in), b.heads = number(in), b.threads = number(in);
        b.half = number(in), b.head_dim = number(in), b.bf16 = number(in);
        attend(&b);
    } else {
        Layer l;
        Rows r;
        l.qkv = matrix(in), l.out = matrix(in), l.wide = matrix(in), l.narrow = matrix(in);
        l.attn_norm = buffer(in, &other), l.mlp_norm = buffer(in, &other);
        fetch(in, &l.eps, sizeof l.eps);
        fetch(in, &l.kind, sizeof l.kind);
        r.layer = &l, r.x = buffer(in, &other), r.attended = buffer(in, &other);
        r.to = result = buffer(in, &size), r.scratch = buffer(in, &other);
        r.room = number(in), r.tokens = number(in), r.block = number(in), r.threads = number(in);
        run_layer(&r);
    }
    if (fwrite(result, (size_t)size, 1, out) != 1 || fclose(out)) fail("output");
    return 0;
}
