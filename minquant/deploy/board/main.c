/* Runs the network of model.c: on the images embedded in it, or on those of a file.
 *
 *   model [-t THREADS] [-r REPEATS] [FILE]
 *
 * FILE: a picture (PGM or PPM, binary, of the network's size), or the bytes of one or more images, rows of pixels
 * of channels. Prints for every image its class and logits, then the hash of all logits; with -r also the time of
 * an image. Leaves with 1 where the embedded images do not give the hash that they must. */
#define _POSIX_C_SOURCE 199309L
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef MODEL_THREADS
#define MODEL_THREADS 1
#endif
#ifndef MODEL_ISA
#define MODEL_ISA "" /* the best of the processor */
#endif

static uint8_t memory[MODEL_BYTES] __attribute__((aligned(64)));
static uint8_t arena[MODEL_ARENA(MODEL_THREADS)] __attribute__((aligned(64)));
static double logits[MODEL_LOGITS];

static void fail(const char *what, const char *name)
{
    fprintf(stderr, "model: %s %s\n", what, name);
    exit(2);
}

/* FNV-1a over the bytes of all logits, the least significant first. */
static uint64_t hash_logits(uint64_t hash)
{
    for (int i = 0; i < MODEL_LOGITS; i++) {
        uint64_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        for (int shift = 0; shift < 64; shift += 8)
            hash = (hash ^ (bits >> shift & 255)) * UINT64_C(0x100000001b3);
    }
    return hash;
}

static void print_logits(int image)
{
    int best = 0;
    for (int i = 1; i < MODEL_LOGITS; i++)
        best = logits[i] > logits[best] ? i : best;
    printf("image %d: %s", image, model_classes[best]);
    for (int i = 0; i < MODEL_LOGITS; i++)
        printf(" %.6g", logits[i]);
    printf("\n");
}

static void run(const exec *network, const uint8_t *image, int threads)
{
    exec_call call = {.images = 1, .pixels = image, .logits = logits, .arena = arena, .threads = threads};
    exec_run(network, &call);
}

static double seconds(void)
{
#ifdef CLOCK_MONOTONIC
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#else
    return (double)clock() / CLOCKS_PER_SEC;
#endif
}

static const exec *prepare(int threads)
{
    const int_isa *isa = MODEL_ISA[0] ? int_isa_find(MODEL_ISA) : int_isa_at(0);
    if (!isa)
        fail("this processor, or this build, has no", MODEL_ISA);
    size_t model_bytes = exec_bytes(&model, isa);
    if (model_bytes > sizeof memory)
        fail("MODEL_BYTES is too small for", int_isa_name(isa));
    const exec *network = exec_init(&model, isa, memory);
    size_t arena_bytes = exec_arena_bytes(network, 1, threads);
    if (arena_bytes > sizeof arena)
        fail("MODEL_ARENA is too small for", int_isa_name(isa));
    printf("%s: weights in %lu bytes, arena of %lu bytes, no other memory but the stack\n", int_isa_name(isa),
           (unsigned long)model_bytes, (unsigned long)arena_bytes);
    return network;
}

/* Skips the header of a picture, if the file has one. */
static void skip_header(FILE *file, const char *name)
{
    char kind;
    int width, height, most;
    if (fscanf(file, "P%c %d %d %d", &kind, &width, &height, &most) != 4) {
        rewind(file);
        return;
    }
    if (kind != (MODEL_CHANNELS == 3 ? '6' : '5') || width != MODEL_WIDTH || height != MODEL_HEIGHT || most != 255)
        fail("the picture has not the network's size, channels or 8 bits:", name);
    (void)fgetc(file);
}

static uint64_t run_file(const exec *network, const char *name, int threads)
{
    static uint8_t image[MODEL_PIXELS];
    uint64_t hash = MODEL_HASH_START;
    size_t got;
    FILE *file = fopen(name, "rb");
    if (!file)
        fail("cannot open", name);
    skip_header(file, name);
    for (int i = 0; (got = fread(image, 1, sizeof image, file)) == sizeof image; i++) {
        run(network, image, threads);
        hash = hash_logits(hash);
        print_logits(i);
    }
    fclose(file);
    if (got || hash == MODEL_HASH_START)
        fail("the file does not hold whole images:", name);
    return hash;
}

static uint64_t run_embedded(const exec *network, int threads)
{
    uint64_t hash = MODEL_HASH_START;
    for (int i = 0; i < MODEL_IMAGES; i++) {
        run(network, model_images[i], threads);
        hash = hash_logits(hash);
        print_logits(i);
    }
    return hash;
}

static int number(const char *text, int least, int most)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < least || value > most)
        fail("no number in the range of its option:", text);
    return (int)value;
}

int main(int argc, char **argv)
{
    int threads = 1, repeats = 0;
    const char *file = NULL;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "-t") && i + 1 < argc)
            threads = number(argv[++i], 1, MODEL_THREADS);
        else if (!strcmp(argv[i], "-r") && i + 1 < argc)
            repeats = number(argv[++i], 1, 1000000);
        else if (argv[i][0] == '-' || file)
            fail("use: model [-t THREADS] [-r REPEATS] [FILE], not", argv[i]);
        else
            file = argv[i];
    const exec *network = prepare(threads);
    uint64_t hash = file ? run_file(network, file, threads) : run_embedded(network, threads);
    double start = seconds();
    for (int i = 0; i < repeats; i++)
        run(network, model_images[0], threads);
    if (repeats)
        printf("time %.4f ms\n", 1000 * (seconds() - start) / repeats);
    printf("hash %08lx%08lx\n", (unsigned long)(hash >> 32), (unsigned long)(hash & 0xffffffff));
    if (!file && hash != MODEL_HASH)
        fail("the embedded images do not give the hash of", "model.h");
    return 0;
}
