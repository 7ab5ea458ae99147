/* What one instruction set provides, and what it is handed: the only thing the files named after one
 * implement. */
#ifndef MINQUANT_INT_ISA_H
#define MINQUANT_INT_ISA_H
#include "int.h"

/* A run of rows of a product (gemm.h). */
typedef struct {
    int image, run, rows;
} int_run;

/* One tile of a product: `rows` rows of activations times one panel of weights. Those from row `upper` on lie
 * elsewhere where the instruction set takes pairs of runs (gemm.h), else behind the others. */
typedef struct {
    const uint8_t *a;           /* first row */
    ptrdiff_t row;              /* bytes between rows */
    int upper;                  /* at most half of the rows that a tile may have */
    ptrdiff_t lower, out_lower; /* from a, in bytes, and from out, in elements, to row `upper` */
    const ptrdiff_t *offsets;   /* where each segment of a row begins */
    int segments, groups;       /* groups of consecutive k per segment that are read */
    const void *w;              /* panel of codes of `bits` bits, or decoded: 8 is int8, 16 is int16 */
    ptrdiff_t segment_bytes;    /* of the panel */
    const int_weights *weights; /* its table, its bounds */
    const int32_t *start;       /* per column, added to the sums; int_zeros where that is for nothing */
    int bits, rows, columns;
    const int_requantization *q; /* already at the first column of the panel; NULL: int32 */
    void *out; /* NULL where the results of its rows lie apart, and int_first_piece takes the tile apart */
    ptrdiff_t out_row;  /* elements */
    int ends_in_memory; /* out is memory for sums alone, which int_end_tile ends */
    int_run at;         /* the run of its first row, which is row `first` there */
    int first, is_pair; /* whether row `upper` begins another run */
} int_tile;

extern const int32_t int_zeros[];

/* The tiles of a task, handed out one after another; NULL behind the last. A tile is overwritten by the next
 * call, or the next but one where the instruction set takes all tiles of a task (`tiles`). */
typedef struct int_tiles int_tiles;
int_tile *int_next_tile(int_tiles *from);

/* What ends the sums acc of a tile, `pitch` from row to row, where it ends in memory. */
void int_end_tile(const int_tiles *from, const int_tile *t, const int32_t *acc, int pitch);

/* The rows of a tile in pieces that lie in one run each; one without rows is behind the last. */
typedef struct {
    int_run run;
    int skip;            /* rows of the tile before it that are no results */
    int row, rows, left; /* the first, in its run; how many; of this and all further pieces */
} int_piece;
void int_first_piece(const int_tiles *from, const int_tile *t, int_piece *piece);
void int_next_piece(const int_tiles *from, int_piece *piece);

/* What is worth fetching into the second-level cache meanwhile: *lines lines of 64 bytes with every 64 bytes
 * of a segment that a tile reads. */
const uint8_t *int_look_ahead(const int_tiles *from, int *lines);

/* Where the result of a row of a run begins. */
void *int_out(const int_tiles *from, int_run run, int row);

/* A depthwise kernel: `count` taps, at byte offsets from the first input of an output pixel. */
typedef struct {
    const int16_t *levels; /* count x pitch */
    const ptrdiff_t *offsets;
    const int32_t *start;       /* per channel, added to the sums */
    int count, channels, pitch; /* pitch: channels up to a whole number of vectors */
} int_taps;

/* Lines of outputs of a depthwise convolution, channels side by side. */
typedef struct {
    int pixels, lines;
    const uint8_t *x;       /* first input of the first output */
    ptrdiff_t step, x_line; /* bytes to that of the next output, of the next line */
    void *out;
    ptrdiff_t out_line; /* elements to the next line: uint8 where they are requantized, else int32 */
} int_lines;

/* Up to 32 rows of sums of the channels first .. first + columns, on their way to codes, with the codes k of
 * a second operand or NULL. Whole vectors of acc and k are read. */
typedef struct {
    const int32_t *acc;
    const uint8_t *k;
    uint8_t *to;
    ptrdiff_t acc_row, k_row, to_row;
    int rows, first, columns;
} int_ending;

/* The operations that are loops over channels (ops_loops.h); `place`: elements of out before the pixel. */
typedef struct {
    const char *name; /* of the instruction set */
    void (*depthwise)(const int_taps *t, const int_lines *lines, const int_requantization *q);
    void (*maximum)(const uint8_t *x, int channels, int flip, uint8_t *to);
    /* to[i] = tables[i % channels][x[i]]; a table has 256 entries */
    void (*translate)(const uint8_t *tables, int channels, const uint8_t *x, int count, uint8_t *to);
    void (*add_pixel)(const uint8_t *x, int channels, int is_signed, int32_t *sums);
    /* Codes of sums, the ladder aside; bit r is 1 where a code of row r is in doubt. */
    uint32_t (*end)(const int_requantization *q, const int_shortcut *s, const int_ending *rows);
    void (*finish)(const int_requantization *q, const int32_t *acc, int channels, void *out, ptrdiff_t place);
    /* Elements from .. end of a run whose factors repeat every `period` elements, a multiple of INT_BLOCK. */
    void (*add)(const int_addition *s, ptrdiff_t from, ptrdiff_t end, int period, const uint8_t *a,
                const uint8_t *b, uint8_t *to);
    void (*quantize)(const int_requantization *q, ptrdiff_t from, ptrdiff_t end, int period, const float *x,
                     uint8_t *to);
} int_loops;

extern const int_loops *const int_loops_generic, *const int_loops_avx2, *const int_loops_avx512vnni,
                                                                            *const int_loops_neon;

/* A panel holds `columns` output channels of all K in the order [K / group][columns][group]; the last panel
 * is `narrow` wide where that many suffice. Codes of 4 or 2 bits share bytes with codes `vector` bytes later:
 *
 *   2 bits, byte j of a block:   | code[3 V + j] | code[2 V + j] | code[V + j] | code[j] |   V = vector
 *                          bit    7           6   5           4   3         2   1     0
 *
 * so that one load, shift and mask give V codes in order. */
struct int_isa {
    const char *name;
    int rate;        /* multiply-adds of a thread in a nanosecond, about: what a second thread saves */
    int rows;        /* most rows of a tile */
    int takes_pairs; /* a tile may be two short runs of rows, one below the other */
    int packs_up_to; /* rows of a run that are copied side by side with others, if many panels read them */
    int columns, narrow, group, vector;
    int fused_rows;     /* up to so many rows, codes are decoded in registers, beyond in a buffer */
    int centre;         /* activations are read as a - centre: 128 where the kernel takes int8, else 0 */
    int plain_top;      /* unless none is beyond this */
    int widest_product; /* products beyond +-this need panels of int16 (-1: always) */
    void (*decode)(const int_weights *w, const uint8_t *from, size_t codes, void *to);
    void (*tile)(const int_tile *t);
    void (*tiles)(int_tiles *from); /* all tiles of a task, or NULL: `tile` and int_end_tile for each */
    int settles;                    /* whether these put right the codes that are in doubt */
    const int_loops *const *loops;
    const struct codebook_isa *const *floats; /* codebook.h */
};

struct int_weights {
    const int_isa *isa;
    int segments, length, padded, columns; /* padded: length of a segment with zeros behind it */
    int top;                               /* greatest code of an activation */
    int bits;                              /* 2, 4 or 8: of a stored code */
    int centre;                            /* of the activations, as the kernel reads them */
    int product;                           /* greatest magnitude of an activation, so read, times a level */
    int wide;                              /* decoded panels are int16 */
    int8_t table[16];                      /* level of a stored code; 8-bit codes are their levels */
    uint8_t *panels;
    size_t bytes;
    int32_t *sums; /* per column: sum of the levels */
};

/* Provided by the file of each instruction set; NULL where the compiler could not build it. */
extern const int_isa *const int_isa_generic,
    *const int_isa_avx2, *const int_isa_avxvnni, *const int_isa_avx512vnni, *const int_isa_amx;
struct codebook_isa;
extern const struct codebook_isa *const codebook_isa_generic,
    *const codebook_isa_avx2, *const codebook_isa_avx512vnni, *const codebook_isa_neon;
extern const int_isa *const int_isa_neon, *const int_isa_neon_dotprod, *const int_isa_neon_i8mm;

#define INT_MAX_PRODUCT (255 * 128)

/* Instruction sets that this source knows, best first: NULL where the compiler had it not (dispatch.c). */
#define INT_CANDIDATES 8
const int_isa *int_isa_candidate(int index, int *present);

static inline int int_min(int a, int b) { return a < b ? a : b; }
static inline int int_up(int a, int to) { return (a + to - 1) / to * to; }

/* Threads for so many tasks; inside another parallel region one, so that teams do not multiply. */
int int_team(int threads, int tasks);

/* Runs tasks 0 .. tasks - 1, each on thread 0 .. threads - 1; what they return, or-ed (int_share.c). */
typedef int int_job(const void *context, int task, int thread);
int int_share(int tasks, int threads, int_job *run, const void *context);

/* 64-byte aligned memory for a vector kernel; freed by int_free. */
void *int_alloc(size_t bytes);
void int_free(void *memory);

/* Tables for instructions that look up a nibble: it is one code of 4 bits, or two of 2 bits, whose levels
 * then are low[nibble] and high[nibble]. */
static inline void int_nibble_levels(const int8_t *levels, int bits, int8_t low[16], int8_t high[16])
{
    for (int i = 0; i < 16; i++) {
        low[i] = levels[bits == 2 ? i & 3 : i];
        high[i] = levels[bits == 2 ? i >> 2 : i];
    }
}

/* Columns and place of panel p; how a thread team shares it out. */
static inline int int_panels(const int_weights *w)
{
    return (w->columns + w->isa->columns - 1) / w->isa->columns;
}
static inline int int_panel_width(const int_weights *w, int p)
{
    return w->columns - p * w->isa->columns <= w->isa->narrow ? w->isa->narrow : w->isa->columns;
}
static inline size_t int_panel_codes(const int_weights *w, int width)
{
    return (size_t)w->segments * (size_t)w->padded * (size_t)width;
}

#endif
