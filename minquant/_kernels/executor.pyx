# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""A whole network in one call: the table of exec.h, filled from arrays.

`minquant.deploy.executor` makes the table of a Program, whose operations have been checked against each other.
"""
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

# In the order of exec_kind and of exec_arithmetic.
KINDS = ("QuantizeInput", "Convolution", "Linear", "SumPool", "MaxPool", "PadShortcut", "Flatten", "Concat",
         "Requantize", "AddRequantize", "Logits")
BYTES = {"Convolution": 4, "Linear": 4, "SumPool": 4, "Logits": 8}  # of a value; the others give codes of one
ARITHMETIC = ("multiply", "divide", "add")


cdef uint64_t nanoseconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef class Memory:
    """A 64-byte aligned block."""
    cdef void *start
    cdef size_t size

    def __cinit__(self, size_t size):
        self.start, self.size = int_alloc(size), size
        if self.start == NULL:
            raise MemoryError(f"no memory for {size} bytes; use a smaller batch")

    def __dealloc__(self):
        int_free(self.start)


cdef class Executor:
    """A network in the layout of one instruction set; `run` may be called from several threads at a time.

    rows : for every operation a dict of the fields of exec_op: integers, `kind` a name of KINDS, C-contiguous arrays
    """
    cdef exec_network net
    cdef exec_op *ops
    cdef exec_state *ready
    cdef Memory memory
    cdef list arrays, arenas
    cdef readonly str isa

    def __cinit__(self, tuple image_shape, list rows, str isa):
        cdef const int_isa *chosen = int_isa_find(isa.encode())
        cdef int i
        if chosen == NULL:
            raise ValueError(f"instruction set {isa!r} is not here")
        self.arrays, self.arenas, self.isa = [], [], isa
        self.ops = <exec_op *>calloc(len(rows), sizeof(exec_op))
        if self.ops == NULL:
            raise MemoryError("no memory for the table of operations")
        for i, row in enumerate(rows):
            self.fill(&self.ops[i], row)
        self.net.height, self.net.width, self.net.channels = image_shape
        self.net.count, self.net.ops = len(rows), self.ops
        self.memory = Memory(exec_bytes(&self.net, chosen))
        self.ready = exec_init(&self.net, chosen, self.memory.start)

    def __dealloc__(self):
        free(self.ops)

    cdef int fill(self, exec_op *op, dict row) except -1:
        op.kind = KINDS.index(row["kind"])
        for i, tensor in enumerate(row["inputs"]):
            op.inputs[i] = tensor
        op.operand_count = len(row.get("operands", ()))
        op.operands = <const int32_t *>self.address(row, "operands", "i")
        op.height, op.width, op.channels = row["shape"]
        op.kernel_h, op.kernel_w = row.get("kernel", (0, 0))
        op.stride, op.padding, op.groups = row.get("stride", 0), row.get("padding", 0), row.get("groups", 0)
        op.bits, op.level_count = row.get("bits", 0), len(row.get("levels", ()))
        op.input_count, op.zero, op.top = len(row.get("input_levels", ())), row.get("zero", 0), row.get("top", 0)
        op.factors, op.shortcut_count = len(row.get("multiplier", ())), len(row.get("shortcut", ()))
        op.steps = len(row.get("arithmetic", ()))
        op.stream, op.table = self.bytes_of(row, "stream"), self.bytes_of(row, "table")
        op.wide, op.arithmetic = self.bytes_of(row, "wide"), self.bytes_of(row, "arithmetic")
        op.levels = <const int8_t *>self.address(row, "levels", "b")
        op.direction = <const int8_t *>self.address(row, "direction", "b")
        op.input_levels = <const int16_t *>self.address(row, "input_levels", "h")
        op.thresholds = <const int32_t *>self.address(row, "thresholds", "i")
        op.multiplier, op.offset = self.floats_of(row, "multiplier"), self.floats_of(row, "offset")
        op.boundaries, op.shortcut = self.floats_of(row, "boundaries"), self.floats_of(row, "shortcut")
        op.wide_shortcut, op.wide_boundaries = self.doubles_of(row, "wide_shortcut"), self.doubles_of(
            row, "wide_boundaries")
        op.values = self.doubles_of(row, "values")
        return 0

    cdef const uint8_t *bytes_of(self, dict row, str name) except? NULL:
        return <const uint8_t *>self.address(row, name, "B")

    cdef const float *floats_of(self, dict row, str name) except? NULL:
        return <const float *>self.address(row, name, "f")

    cdef const double *doubles_of(self, dict row, str name) except? NULL:
        return <const double *>self.address(row, name, "d")

    cdef const void *address(self, dict row, str name, str kind) except? NULL:
        """Where an array begins, which is kept; NULL where there is none or nothing in it."""
        cdef const uint8_t[::1] view
        array = row.get(name)
        if array is None or not array.size:
            return NULL
        if array.dtype.char != kind or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype}, it must be of type {kind!r} and without gaps")
        view = array.reshape(-1).view("u1")
        self.arrays.append(array)
        return &view[0]

    @property
    def nbytes(self):
        """Bytes of weights and tables in the layout of the instruction set."""
        return self.memory.size

    def arena_bytes(self, int images, int threads):
        """Bytes of activations for so many images and threads."""
        return exec_arena_bytes(self.ready, images, threads)

    cdef int find_room(self, list taps, int images, void **room) except -1:
        """Where each of the arrays in `taps` begins."""
        cdef uint8_t[::1] view
        cdef Py_ssize_t size
        for i, tap in enumerate(taps):
            if tap is None:
                continue
            view = tap.reshape(-1).view("u1")
            size = <Py_ssize_t>self.ops[<int>i].height * self.ops[<int>i].width * self.ops[<int>i].channels
            size *= images * BYTES.get(KINDS[self.ops[<int>i].kind], 1)
            if view.shape[0] != size:
                raise ValueError(f"taps[{i}] has {view.shape[0]} bytes; operation {i} gives {size}")
            room[<int>i] = &view[0]
        return 0

    def run(self, const uint8_t[:, :, :, ::1] images, double[::1] logits, int threads, list taps=None,
            uint64_t[::1] ticks=None):
        """Overwrite `logits` (N values in a row); taps: for every operation None or room for what it gives, bytes in
        a row of memory; ticks: nanoseconds added."""
        cdef exec_call call
        cdef Memory arena
        cdef const exec_op *last = &self.ops[self.net.count - 1]
        cdef size_t needed
        cdef void **room = NULL
        cdef Py_ssize_t values = images.shape[0] * last.height * last.width * last.channels
        if not (images.shape[1] == self.net.height and images.shape[2] == self.net.width and threads >= 1
                and images.shape[3] == self.net.channels and logits.shape[0] == values
                and (taps is None or len(taps) == self.net.count)
                and (ticks is None or ticks.shape[0] == self.net.count)):
            raise ValueError("images, logits, threads, taps or ticks do not fit the network")
        if images.shape[0] == 0:
            return
        call.images, call.threads, call.ticks, call.clock = images.shape[0], threads, NULL, NULL
        call.pixels, call.logits = &images[0, 0, 0, 0], &logits[0]
        if ticks is not None:
            call.ticks, call.clock = &ticks[0], nanoseconds
        needed = exec_arena_bytes(self.ready, call.images, threads)
        try:
            arena = self.arenas.pop()
        except IndexError:
            arena = None
        if arena is None or arena.size < needed:
            arena = Memory(needed)
        call.arena = arena.start
        if taps is not None:
            room = <void **>PyMem_Calloc(self.net.count, sizeof(void *))
            if room == NULL:
                raise MemoryError("no memory for the list of taps")
        try:
            if taps is not None:
                self.find_room(taps, call.images, room)
            call.taps = room
            with nogil:
                exec_run(self.ready, &call)
        finally:
            PyMem_Free(room)
            self.arenas.append(arena)
