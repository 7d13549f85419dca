# cython: language_level=3, embedsignature=False
# cython: wraparound=False, cdivision=True, freethreading_compatible=True
"""The drivers: loops over blocks of ids, split among OpenMP threads. Arithmetic on rows is in _rows/.

May import: nothing of the package; only ops calls this module, with arrays it has checked. Do not break: a driver
never reads or writes outside its arrays whatever the ids and row splits hold (they may change under our feet), it
reports a bad id by its return value, and no result depends on the number of threads.

Numbers are fe_real: float here, and double in _core64, which is this file once more. The loops are in _drivers/, one
file for each thing that is done; this one has what they share.

The way of an id: it becomes a pointer to its row, a block of pointers goes to a row function. The way of a gradient:
`Groups` sorts keys (row, part) once; `update` and `reduce` walk runs of equal rows, sum the parts of a run in a
fixed order, and hand blocks of rows to an optimizer step. A part is what one id adds to the gradient of its row:
the upstream gradient of the id's bag, times the id's weight, times a factor of the bag.
"""
cimport cython
from cython.parallel cimport parallel, threadid
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

cdef extern from "_rows/rows.h" nogil:
    ctypedef double fe_real       # or a float, as C knows: a choice of it or a double is no double
    enum: FE_AHEAD
    enum: FE_AHEAD_STEP
    enum: FE_ADD
    enum: FE_IN_CACHE
    enum: FE_STEP_store
    enum: FE_STEPS
    enum: FE_NON_NEG
    enum: FE_NORM
    ctypedef struct fe_hyper:
        fe_real learning_rate
        fe_real momentum
        fe_real beta_1
        fe_real beta_2
        fe_real epsilon
        fe_real weight_decay
        fe_real scale_m
        fe_real scale_g
        fe_real scale_v
        fe_real l1
        fe_real l2
        fe_real l2_shrinkage
        fe_real power
        const fe_real *columns
    ctypedef struct fe_constraint:
        int kind
        fe_real low
        fe_real high
        fe_real rate
    ctypedef void fe_step(fe_real **rows, fe_real **states, const fe_real **grads, size_t n, size_t d,
                          const fe_hyper *hyper, double *sums) noexcept nogil
    enum: FE_TERMS
    enum: FE_PARTS
    ctypedef struct fe_lapse:
        fe_real fade
        fe_real decay[FE_PARTS]
        fe_real move[FE_TERMS]
    ctypedef void fe_lapse_row(fe_real **rows, fe_real **states, size_t d, const fe_hyper *hyper,
                               const fe_lapse *lapse) noexcept nogil
    ctypedef struct fe_step_about:
        const char *name
        int numbers
        int columns
    const fe_step_about *fe_steps
    ctypedef struct fe_rounding:
        int stochastic
        uint64_t seed
        uint64_t step
    enum: FE_REAL
    enum: FE_DTYPES
    ctypedef struct fe_dtype_about:
        const char *name
        size_t bits
        size_t head
    const fe_dtype_about *fe_dtypes
    size_t fe_row_bytes(int dtype, size_t d)
    ctypedef struct fe_codec:
        void (*copy)(const void **rows, size_t n, size_t d, fe_real *out, int stream) noexcept nogil
        void (*sum)(const void **rows, const fe_real *w, size_t n, size_t d, fe_real *out, int flags) noexcept nogil
        void (*decode)(const void **rows, size_t n, size_t d, fe_real *out) noexcept nogil
        void (*encode)(void **rows, const int64_t *numbers, size_t n, size_t d, int part, const fe_real *x,
                       const fe_rounding *rounding) noexcept nogil
    ctypedef void fe_fused(void **rows, void **states, const int64_t *numbers, const fe_real **grads, size_t n,
                           size_t d, const fe_hyper *hyper, fe_real fade, const fe_rounding *rounding) noexcept nogil
    ctypedef struct fe_rows:
        const char *isa
        fe_codec *codec
        fe_fused *(*fused)(int dtype, int state_dtype, int step) noexcept nogil
        int (*point32)(const int32_t *ids, size_t n, const char *table, uint64_t v, size_t row_bytes,
                       const void **rows) noexcept nogil
        int (*point64)(const int64_t *ids, size_t n, const char *table, uint64_t v, size_t row_bytes,
                       const void **rows) noexcept nogil
        void (*runs)(const fe_real **parts, const fe_real *w, const int64_t *begins, int64_t first, size_t n, size_t d,
                     fe_real *sums, const fe_real **grads) noexcept nogil
        void (*sum_where)(const fe_real **rows, const int32_t **args, const int32_t *index, const fe_real *w, size_t n,
                          size_t d, fe_real *out, int add) noexcept nogil
        void (*max)(const fe_real **rows, const fe_real *w, size_t n, size_t d, fe_real *out, int32_t *arg,
                    int32_t first, int add) noexcept nogil
        void (*scale)(fe_real *x, fe_real factor, size_t d) noexcept nogil
        fe_real (*dot)(const fe_real *x, const fe_real *y, size_t d) noexcept nogil
        void (*sums)(const fe_real *x, size_t n, double *sums) noexcept nogil
        int (*finite)(const fe_real *x, size_t n) noexcept nogil
        void (*fade)(fe_real **rows, size_t n, size_t d, fe_real fade) noexcept nogil
        void (*blend)(fe_real *x, const fe_real *y, fe_real share, size_t d) noexcept nogil
        void (*shape)(const fe_real *x, fe_real factor, fe_real limit, size_t d, fe_real *out) noexcept nogil
        size_t (*constrain)(fe_real **rows, size_t n, size_t d, const fe_constraint *constraint,
                            int project) noexcept nogil
        void (*uniform)(fe_real *out, uint64_t row, size_t n, size_t d, uint64_t seed, float low,
                        float high) noexcept nogil
        void (*normal)(fe_real *out, uint64_t row, size_t n, size_t d, uint64_t seed, float mean, float stddev,
                       double p_low, double p_span) noexcept nogil
        fe_step **step
        fe_lapse_row **lapse
    const fe_rows *fe_rows_select(const char *isa)
    void fe_prefetch(const void *p, size_t num_bytes)
    void fe_check(bint holds)

cdef extern from "_rows/parallel.h" nogil:
    enum: FE_OPENMP
    int64_t fe_add(int64_t *total, int64_t count)
    void fe_barrier()
    int fe_team_size()
    int fe_max_threads()
    bint fe_end_team()
    int64_t fe_next(int64_t *counter)
    void fe_raise(int32_t *flag)
    int32_t fe_load(const int32_t *number)

cdef extern from "_rows/scalars.h" nogil:
    double fe_power(double base, int64_t n)
    double fe_expm1(double x)

ctypedef fused id_t:
    int32_t
    int64_t

cdef enum:
    WINDOW = 128          # ids turned into pointers at a time
    TASK = 1024           # ids of a gather that a thread takes at a time
    CHUNK = 512           # parts of a row that are summed one after the other; then the sums of chunks are
    HOT = 8 * CHUNK       # a row with so many parts is summed by all threads together
    BLOCK = 512           # keys of an update that a thread takes at a time
    SMALL = 4096          # fewer ids are sorted by one thread
    BATCH = 16            # rows that are stepped together
    BAGS = 128            # bags, or more if they are small, that a thread takes at a time
    STREAM = 4 << 20      # bytes from which a gathered array is stored past the caches
    FAR = 1 << 20         # bytes from which upstream gradients are prefetched
    DECODED = 16          # rows that are decoded together for a look-up
    HUGE_PAGE = 2 << 20   # bytes that are touched by one thread, where rows are made

SUM, MEAN, SQRTN, MAX = 0, 1, 2, 3
cdef enum:
    _SUM = 0
    _MEAN = 1
    _SQRTN = 2
    _MAX = 3

NON_NEG, NORM = FE_NON_NEG, FE_NORM
STEPS = tuple([(<bytes>fe_steps[i].name).decode() for i in range(FE_STEPS)])
DTYPES = tuple([(<bytes>fe_dtypes[i].name).decode() for i in range(FE_DTYPES)])
OPENMP = FE_OPENMP

cdef const fe_rows *rows_of_isa = NULL


def select_isa(str isa):
    """Use the row functions of `isa`; False where this build or processor lacks them."""
    global rows_of_isa
    name = isa.encode()
    cdef const fe_rows *found = fe_rows_select(name)
    if found == NULL:
        return False
    rows_of_isa = found
    return True


def row_bytes(int dtype, int64_t d):
    """The bytes of a row of d elements; dtype: its number in DTYPES."""
    if not 0 <= dtype < FE_DTYPES:
        raise ValueError("`dtype` must be a number of DTYPES")
    return fe_row_bytes(dtype, d)


def has_isa(str isa):
    """True if this build and processor can use `isa`."""
    name = isa.encode()
    return fe_rows_select(name) != NULL


def max_threads():
    """The threads that the runtime would use in this Python thread; without OpenMP a number that limits nobody."""
    return fe_max_threads()


def end_team():
    """Lets the idle threads of this Python thread end; False where the runtime can not."""
    return fe_end_team()


ctypedef void (*worker_t)(void *job, int me) noexcept nogil


cdef void run(worker_t worker, void *job, int num_threads) noexcept:
    """The worker, on one thread or a team of them."""
    if num_threads <= 1:
        with nogil:
            worker(job, 0)
    else:
        with nogil, parallel(num_threads=num_threads):
            worker(job, threadid())


include "_drivers/look_ups.pxi"
include "_drivers/grouping.pxi"
include "_drivers/parts.pxi"
include "_drivers/missed.pxi"
include "_drivers/steps.pxi"
include "_drivers/jobs.pxi"
include "_drivers/tables.pxi"
