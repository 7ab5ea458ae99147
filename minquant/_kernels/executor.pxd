# The C functions that executor.pyx wraps.
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint64_t

cdef extern from "int_isa.h" nogil:
    ctypedef struct int_isa:
        pass
    const int_isa *int_isa_find(const char *name)
    void *int_alloc(size_t bytes)
    void int_free(void *memory)

cdef extern from "exec.h" nogil:
    ctypedef struct exec_op:
        int kind
        int inputs[2]
        int operand_count
        const int32_t *operands
        int height, width, channels, kernel_h, kernel_w, stride, padding, groups
        int bits, level_count, input_count, zero, top, factors, shortcut_count, steps
        const uint8_t *stream
        const int8_t *levels
        const int16_t *input_levels
        const uint8_t *table
        const float *multiplier
        const float *offset
        const float *boundaries
        const int8_t *direction
        const int32_t *thresholds
        const float *shortcut
        const uint8_t *wide
        const double *wide_shortcut
        const double *wide_boundaries
        const uint8_t *arithmetic
        const double *values
    ctypedef struct exec_network:
        int height, width, channels, count
        const exec_op *ops
    ctypedef struct exec_state "exec":
        pass
    ctypedef struct exec_call:
        int images, threads
        const uint8_t *pixels
        double *logits
        void *arena
        void **taps
        uint64_t *ticks
        uint64_t (*clock)() noexcept nogil
    size_t exec_bytes(const exec_network *net, const int_isa *isa)
    exec_state *exec_init(const exec_network *net, const int_isa *isa, void *memory)
    size_t exec_arena_bytes(const exec_state *e, int images, int threads)
    void exec_run(const exec_state *e, const exec_call *call)
