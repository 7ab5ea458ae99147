/* What the C tests share: repeatable random numbers, memory, a hash of results. */
#ifndef MINQUANT_TESTING_H
#define MINQUANT_TESTING_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t state;

/* splitmix64 */
static uint32_t below(uint32_t limit)
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % limit;
}

static void *need(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "test_int: no memory for %zu bytes\n", bytes);
        exit(2);
    }
    return memory;
}

static uint64_t hash_more(uint64_t hash, const void *data, size_t bytes) /* FNV-1a */
{
    for (const uint8_t *p = data; bytes--; p++)
        hash = (hash ^ *p) * 0x100000001b3u;
    return hash;
}

#define MOST_ISAS 8

#endif
