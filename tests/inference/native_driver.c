/* Runs a kernel on buffers that it reads from a file, and writes the result to another: for builds that Python cannot
 * load, with sanitizers or for another processor. Each buffer is an allocation of exactly its size. Usage:
 *
 *   driver              prints the traits of attention.c and layer.c, and whether there are tiles
 *   driver INPUT OUTPUT
 */
#include <stdio.h>
#include <stdlib.h>

#include "attention.c"
#include "attention_grad.c"
#include "fused.c"
#include "layer.c"
#include "softmax.c"

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

/* A function of training by its number, on a struct of pointers and what follows them; all buffers are written. */
static void run_training(FILE *in, FILE *out) {
    void *made[16];
    int64_t sizes[16];
    _Alignas(8) char given[512];
    const int64_t function = number(in), pointers = number(in);
    for (int64_t i = 0; i < pointers; i++) made[i] = buffer(in, sizes + i);
    memcpy(given, made, (size_t)pointers * sizeof *made);
    fetch(in, given + pointers * (int64_t)sizeof *made, (size_t)number(in));
    switch (function) {
        case 0: norm_forward((const Norm *)given, 1); break;
        case 1: norm_backward((const Norm *)given, 1); break;
        case 2: geglu_forward((const GeGLU *)given, 1); break;
        case 3: geglu_backward((const GeGLU *)given, 1); break;
        case 4: attend((const Batch *)given); break;
        case 5: attend_backward((const Grad *)given); break;
        default: softmax_gradient((const Scores *)given);
    }
    for (int64_t i = 0; i < pointers; i++)
        if (made[i] && fwrite(made[i], (size_t)sizes[i], 1, out) != 1) fail("output");
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
    const int64_t kernel = number(in);
    if (kernel == 2) {
        run_training(in, out);
        if (fclose(out)) fail("output");
        return 0;
    }
    if (kernel == 0) {
        Batch b;
        b.qkv = buffer(in, &other), b.out = result = buffer(in, &size), b.softmax = NULL;
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
