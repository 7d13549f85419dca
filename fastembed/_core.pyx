# cython: language_level=3, embedsignature=False
# cython: wraparound=False, cdivision=True, freethreading_compatible=True
"""The drivers: loops over blocks of ids, split among OpenMP threads. Arithmetic on rows is in _rows/.

May import: nothing of the package; only ops calls this module, with arrays it has checked. Do not break: a driver
never reads or writes outside its arrays whatever the ids and row splits hold (they may change under our feet), it
reports a bad id by its return value, and no result depends on the number of threads.

Numbers are fe_real: fe_real here, and double in _core64, which is this file once more.

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


# ---- ids ---------------------------------------------------------------------------------------------------------

cdef struct Ids:
    const int32_t *narrow     # one of the two is NULL
    const int64_t *wide
    int64_t n
    int64_t padding           # this id is passed over; -1: none


cdef Ids make_ids(const id_t[::1] ids_n, int64_t padding) noexcept:
    cdef Ids ids
    ids.narrow = NULL
    ids.wide = NULL
    ids.n = ids_n.shape[0]
    ids.padding = padding
    if ids.n:
        if id_t is int32_t:
            ids.narrow = &ids_n[0]
        else:
            ids.wide = &ids_n[0]
    return ids


cdef inline int64_t id_at(const Ids *ids, int64_t i) noexcept nogil:
    return ids.wide[i] if ids.wide != NULL else ids.narrow[i]


cdef inline int64_t index_of(const int64_t *starts, int64_t count, int64_t position) noexcept nogil:
    """The last i < count whose start lies at or before `position`: of row splits, the bag."""
    cdef int64_t low = 0, high = count, middle
    while low + 1 < high:
        middle = (low + high) // 2
        if starts[middle] <= position:
            low = middle
        else:
            high = middle
    return low


def check_ids(const id_t[::1] ids_n not None, int64_t v):
    """True if every id is a row of 0..v."""
    cdef Ids ids = make_ids(ids_n, -1)
    cdef int64_t i
    cdef bint good = True
    with nogil:
        for i in range(ids.n):
            good &= <uint64_t>id_at(&ids, i) < <uint64_t>v
    return good


def find_unmade(const id_t[::1] ids_n not None, int64_t v, const unsigned char[::1] made not None,
                int64_t[::1] found_n not None):
    """Writes the ids whose bit in `made` is 0 to the begin of found_n; returns how many they are, -1 if one is no
    row."""
    cdef int64_t i, id, count = 0, n = ids_n.shape[0]
    if found_n.shape[0] < n or made.shape[0] < (v + 7) // 8:
        raise ValueError("`found_n` or `made` is too short")
    with nogil:
        for i in range(n):
            id = ids_n[i]
            if id < 0 or id >= v:
                count = -1
                break
            if not made[id >> 3] >> (id & 7) & 1:
                found_n[count] = id
                count += 1
    return count


# ---- gather and pool -----------------------------------------------------------------------------------------------

cdef struct Look:
    const fe_rows *rows
    const fe_codec *codec
    bint coded                # rows are not fe_real
    Ids ids
    const char *table
    int64_t row_bytes
    int64_t v
    int64_t d
    fe_real *scratch          # for each thread: DECODED rows; where rows are decoded
    const int64_t *splits     # b + 1, or NULL: every id is a bag
    int64_t bags
    const fe_real *weights    # NULL: ones
    const fe_real *upstream   # weights_gradient only
    int combiner
    fe_real *out
    int32_t *arg              # pool by maximum only: position in the bag, or NULL
    int64_t step              # bags (or ids) a thread takes at a time
    int64_t next
    int32_t bad


cdef struct Window:           # the rows of ids low .. ready
    int64_t low
    int64_t ready
    const void *pointers[WINDOW + FE_AHEAD]


cdef void slide(Look *look, Window *window, int64_t at, int64_t end) noexcept nogil:
    """Moves the window to begin at id `at` and to hold the ids up to `end`, WINDOW at most, and FE_AHEAD more."""
    cdef int64_t i, ready = window.ready, start, stop
    cdef bint good, first = not window.low <= at < ready
    if first:
        ready = at
    else:
        memmove(window.pointers, window.pointers + (at - window.low), (ready - at) * sizeof(void *))
    stop = (end if end < at + WINDOW else at + WINDOW) + FE_AHEAD
    start = ready
    ready = stop if stop < look.ids.n else look.ids.n
    fe_check(0 <= at < ready and start <= stop <= at + WINDOW + FE_AHEAD)
    if start < ready:
        if look.ids.wide != NULL:
            good = look.rows.point64(look.ids.wide + start, ready - start, look.table, look.v, look.row_bytes,
                                     window.pointers + (start - at))
        else:
            good = look.rows.point32(look.ids.narrow + start, ready - start, look.table, look.v, look.row_bytes,
                                     window.pointers + (start - at))
        if not good:
            fe_raise(&look.bad)
    for i in range(ready, stop):           # behind the last id
        window.pointers[i - at] = window.pointers[ready - at - 1]
    if first:                              # nobody has asked for these
        for i in range(FE_AHEAD):
            fe_prefetch(window.pointers[i], look.row_bytes)
    window.low = at
    window.ready = stop


cdef void gather_worker(void *job, int me) noexcept nogil:
    cdef Look *look = <Look *>job
    cdef Window window
    cdef int64_t at, end, count
    cdef bint stream = look.ids.n * look.d * <int64_t>sizeof(fe_real) >= STREAM
    while True:
        at = fe_next(&look.next) * TASK
        if at >= look.ids.n:
            return
        end = look.ids.n if look.ids.n - at < TASK else at + TASK
        window.low = window.ready = -1
        while at < end:
            slide(look, &window, at, end)
            count = end - at if end - at < WINDOW else WINDOW
            look.codec.copy(window.pointers, count, look.d, look.out + at * look.d, stream)
            at += count


cdef inline double bag_factor(const Ids *ids, const fe_real *weights, int combiner, int64_t start,
                              int64_t end) noexcept nogil:
    """What the sum of a bag is multiplied by: mean 1 / sum(w), sqrtn 1 / sqrt(sum(w^2)), nothing divided by zero."""
    cdef int64_t i
    cdef double total = 0
    if combiner == _SUM or combiner == _MAX:
        return 1
    if weights == NULL and ids.padding < 0:
        total = end - start
    else:
        for i in range(start, end):
            if ids.padding >= 0 and id_at(ids, i) == ids.padding:
                continue
            if weights == NULL:
                total += 1
            else:
                total += <double>weights[i] if combiner == _MEAN else <double>weights[i] * weights[i]
    if total == 0:
        return 0
    return 1 / total if combiner == _MEAN else 1 / sqrt(total)


cdef void max_rows(Look *look, const void **rows, const fe_real *weights, int64_t n, fe_real *out, int32_t *arg,
                   int32_t first, int add, int me) noexcept nogil:
    """The maximum of rows of any storage dtype; coded ones are decoded, DECODED at a time."""
    cdef const fe_real *decoded[DECODED + FE_AHEAD]
    cdef fe_real *scratch
    cdef int64_t i, at, count
    if not look.coded:
        look.rows.max(<const fe_real **>rows, weights, n, look.d, out, arg, first, add)
        return
    scratch = look.scratch + me * DECODED * look.d
    for i in range(DECODED + FE_AHEAD):
        decoded[i] = scratch + (i if i < DECODED else 0) * look.d
    at = 0
    while at < n:
        count = min(n - at, <int64_t>DECODED)
        look.codec.copy(rows + at, count, look.d, scratch, 0)
        look.rows.max(decoded, weights + at if weights != NULL else NULL, count, look.d, out, arg,
                      <int32_t>(first + at), add or at > 0)
        at += count


cdef void pool_worker(void *job, int me) noexcept nogil:
    cdef Look *look = <Look *>job
    cdef Window window
    cdef int64_t first, bag, last, start, end, at, stop, run, last_id
    cdef const fe_real *weights
    cdef const void **pointers
    cdef fe_real *out
    cdef int32_t *arg
    cdef int add
    cdef double factor
    while True:
        first = fe_next(&look.next) * look.step
        if first >= look.bags:
            return
        last = first + look.step if first + look.step < look.bags else look.bags
        last_id = look.splits[last]
        window.low = window.ready = -1
        for bag in range(first, last):
            start = look.splits[bag]
            end = look.splits[bag + 1]
            if start < 0 or end < start or end > look.ids.n:
                fe_raise(&look.bad)
                return
            out = look.out + bag * look.d
            arg = look.arg + bag * look.d if look.arg != NULL else NULL
            add = 0
            at = start
            while at < end:
                stop = end if end < at + WINDOW else at + WINDOW
                if stop + FE_AHEAD > window.ready or at < window.low:
                    slide(look, &window, at, last_id if last_id > stop else stop)
                if look.ids.padding >= 0:
                    while at < stop and id_at(&look.ids, at) == look.ids.padding:
                        at += 1
                    run = at
                    while run < stop and id_at(&look.ids, run) != look.ids.padding:
                        run += 1
                    stop = run
                if at < stop:
                    pointers = window.pointers + (at - window.low)
                    weights = look.weights + at if look.weights != NULL else NULL
                    if look.combiner == _MAX:
                        max_rows(look, pointers, weights, stop - at, out, arg, <int32_t>(at - start), add, me)
                    else:
                        look.codec.sum(pointers, weights, stop - at, look.d, out, FE_ADD if add else 0)
                    add = 1
                at = stop
            if not add:
                memset(out, 0, look.d * sizeof(fe_real))
                if arg != NULL:
                    memset(arg, 0xff, look.d * sizeof(int32_t))
            elif look.combiner == _MEAN or look.combiner == _SQRTN:
                factor = bag_factor(&look.ids, look.weights, look.combiner, start, end)
                if factor != 1:
                    look.rows.scale(out, <fe_real>factor, look.d)


cdef int check_rows(const unsigned char[:, ::1] table_vb, int dtype, int64_t d) except -1:
    if not 0 <= dtype < FE_DTYPES or <size_t>table_vb.shape[1] != fe_row_bytes(dtype, d):
        raise ValueError("`table` has rows of another length than its dtype and dimension say")
    return 0


cdef Look make_look(const unsigned char[:, ::1] table_vb, int dtype, int64_t d, Ids ids) except *:
    cdef Look look
    check_rows(table_vb, dtype, d)
    memset(&look, 0, sizeof(look))
    look.rows = rows_of_isa
    look.codec = &rows_of_isa.codec[dtype]
    look.coded = dtype != FE_REAL
    look.ids = ids
    look.v = table_vb.shape[0]
    look.d = d
    look.row_bytes = table_vb.shape[1]
    look.table = <const char *>&table_vb[0, 0] if look.v and look.d else NULL
    return look


cdef int run_look(worker_t worker, Look *look, int num_threads, bint decodes) except -1:
    """run(); decodes: the worker needs rows of fe_real. Returns 0 if an id or split was bad."""
    if decodes and look.coded:
        look.scratch = <fe_real *>malloc(max(num_threads, 1) * DECODED * look.d * sizeof(fe_real))
        if look.scratch == NULL:
            raise MemoryError("no memory for rows of a table")
    run(worker, look, num_threads)
    free(look.scratch)
    return not look.bad


def gather(const unsigned char[:, ::1] table_vb not None, int dtype, const id_t[::1] ids_n not None,
           fe_real[:, ::1] out_nd not None, int num_threads):
    """out_nd[i] = the row ids_n[i] of the table. Returns False if an id was bad (out_nd is then partly written)."""
    cdef Look look = make_look(table_vb, dtype, out_nd.shape[1], make_ids(ids_n, -1))
    if look.ids.n == 0 or look.d == 0:
        return True
    if look.v == 0:
        return False
    look.out = &out_nd[0, 0]
    return run_look(gather_worker, &look, num_threads, False) != 0


def pool(const unsigned char[:, ::1] table_vb not None, int dtype, const id_t[::1] ids_n not None,
         const int64_t[::1] splits_b1 not None, const fe_real[::1] weights_n, int combiner, int64_t padding,
         fe_real[:, ::1] out_bd not None, int32_t[:, ::1] arg_bd, int num_threads):
    """out_bd[b] = the combined rows of ids_n[splits_b1[b] : splits_b1[b + 1]]; arg_bd: for a maximum, which id of the
    bag gave it (-1: the bag is empty). Returns False if an id or split was bad (out_bd is then partly written)."""
    cdef Look look = make_look(table_vb, dtype, out_bd.shape[1], make_ids(ids_n, padding))
    look.bags = splits_b1.shape[0] - 1
    if look.bags <= 0 or look.d == 0:
        return True
    if look.v == 0 and look.ids.n:
        return False
    look.splits = &splits_b1[0]
    look.weights = &weights_n[0] if weights_n is not None and look.ids.n else NULL
    look.combiner = combiner
    look.out = &out_bd[0, 0]
    look.arg = &arg_bd[0, 0] if arg_bd is not None else NULL
    look.step = BAGS if look.ids.n > WINDOW * 2 else look.bags
    if look.ids.n < look.bags * 8:
        look.step = BAGS * 16
    if num_threads <= 1:
        look.step = look.bags
    return run_look(pool_worker, &look, num_threads, combiner == _MAX) != 0


cdef void weights_gradient_worker(void *job, int me) noexcept nogil:
    """d loss / d w[i]; with c the bag's factor and y its output, u its upstream gradient, r the row of id i:
    sum u.r; mean c (u.r - u.y); sqrtn c u.r - c^2 w[i] u.y; max the u.r of the columns where i gave the maximum."""
    cdef Look *look = <Look *>job
    cdef int64_t bag, first, last, i, j, start, end, row
    cdef double factor, dot_out, dot_row
    cdef const fe_real *upstream
    cdef const fe_real *vector
    cdef const void *one[1 + FE_AHEAD]
    while True:
        first = fe_next(&look.next) * BAGS
        if first >= look.bags:
            return
        last = first + BAGS if first + BAGS < look.bags else look.bags
        for bag in range(first, last):
            start = look.splits[bag]
            end = look.splits[bag + 1]
            if start < 0 or end < start or end > look.ids.n:
                fe_raise(&look.bad)
                return
            upstream = look.upstream + bag * look.d
            factor = bag_factor(&look.ids, look.weights, look.combiner, start, end)
            dot_out = 0
            for i in range(start, end):
                look.out[i] = 0
                row = id_at(&look.ids, i)
                if row == look.ids.padding and row >= 0:
                    continue
                if <uint64_t>row >= <uint64_t>look.v:
                    fe_raise(&look.bad)
                    return
                vector = <const fe_real *>(look.table + row * look.row_bytes)
                if look.coded:
                    for j in range(1 + FE_AHEAD):
                        one[j] = vector
                    look.codec.copy(one, 1, look.d, look.scratch + me * DECODED * look.d, 0)
                    vector = look.scratch + me * DECODED * look.d
                if look.combiner == _MAX:
                    dot_row = 0
                    for j in range(look.d):
                        if look.arg[bag * look.d + j] == i - start:
                            dot_row += <double>upstream[j] * vector[j]
                else:
                    dot_row = look.rows.dot(upstream, vector, look.d)
                dot_out += dot_row * (look.weights[i] if look.weights != NULL else 1)
                look.out[i] = <fe_real>dot_row
            dot_out *= factor
            if look.combiner == _MEAN or look.combiner == _SQRTN:
                for i in range(start, end):
                    if look.ids.padding >= 0 and id_at(&look.ids, i) == look.ids.padding:
                        continue
                    dot_row = look.out[i] * factor
                    if look.combiner == _MEAN:
                        look.out[i] = <fe_real>(dot_row - factor * dot_out)
                    else:
                        look.out[i] = <fe_real>(dot_row - factor * factor * dot_out
                                                * (look.weights[i] if look.weights != NULL else 1))


def weights_gradient(const unsigned char[:, ::1] table_vb not None, int dtype, const id_t[::1] ids_n not None,
                     const int64_t[::1] splits_b1 not None, const fe_real[::1] weights_n, int combiner, int64_t padding,
                     const fe_real[:, ::1] upstream_bd not None, int32_t[:, ::1] arg_bd, fe_real[::1] out_n not None,
                     int num_threads):
    """out_n[i] = the gradient of weights_n[i] in pool(). Returns False if an id or split was bad."""
    cdef Look look = make_look(table_vb, dtype, upstream_bd.shape[1], make_ids(ids_n, padding))
    look.bags = splits_b1.shape[0] - 1
    if look.ids.n == 0 or look.bags <= 0 or look.d == 0:
        return True
    if look.v == 0:
        return False
    look.splits = &splits_b1[0]
    look.weights = &weights_n[0] if weights_n is not None else NULL
    look.combiner = combiner
    look.upstream = &upstream_bd[0, 0]
    look.arg = &arg_bd[0, 0] if arg_bd is not None else NULL
    look.out = &out_n[0]
    return run_look(weights_gradient_worker, &look, num_threads, True) != 0


# ---- grouping ------------------------------------------------------------------------------------------------------

cdef struct Sort:
    Ids ids
    int64_t v
    const int64_t *splits     # NULL: every id is a bag
    int64_t bags
    const fe_real *weights
    int combiner
    bint by_position          # a part is named by its position, not by its bag
    int part_bits
    int digit_bits
    int passes
    uint64_t *keys            # sorted at the end
    uint64_t *other
    uint32_t *counts          # for each thread, a histogram of each digit
    int64_t *bag_n            # by_position only: the bag of each position
    fe_real *factor_b         # mean and sqrtn only
    int64_t kept              # ids that are not padding
    int32_t bad               # an id or split was


cdef inline int64_t share(int64_t n, int64_t t, int64_t threads) noexcept nogil:
    return n // threads * t + (n % threads) * t // threads


cdef inline int64_t make_keys(const id_t *ids, int64_t low, int64_t high, const Sort *sort, uint64_t *keys,
                              uint32_t *counts) noexcept nogil:
    """Makes the keys of ids low .. high, reading each id once, and counts their last two digits. Returns how many they
    are, or -1 if one is no row."""
    cdef int64_t i, row, end, stop, bag = 0, m = 0, v = sort.v, padding = sort.ids.padding
    cdef int64_t *bag_n = sort.bag_n
    cdef int part_bits = sort.part_bits, digit_bits = sort.digit_bits
    cdef uint64_t mask = (<uint64_t>1 << digit_bits) - 1
    cdef uint32_t *counts_2 = counts + mask + 1
    cdef bint good = True, by_position = sort.by_position or sort.splits == NULL
    if sort.splits != NULL:
        bag = index_of(sort.splits, sort.bags, low)
    i = low
    while i < high:
        end = high
        if sort.splits != NULL:
            stop = sort.splits[bag + 1]        # read once: what was compared is what is used
            while bag + 1 < sort.bags and stop <= i:
                bag += 1
                stop = sort.splits[bag + 1]
            if bag + 1 < sort.bags and stop < end:
                end = stop
        for i in range(i, end):
            row = ids[i]
            good &= <uint64_t>row < <uint64_t>v
            if bag_n != NULL:
                bag_n[i] = bag
            if row == padding:
                continue
            keys[m] = (<uint64_t>row << part_bits) | <uint64_t>(i if by_position else bag)
            counts[<uint64_t>row & mask] += 1
            counts_2[(<uint64_t>row >> digit_bits) & mask] += 1
            m += 1
        i = end
    return m if good else -1


cdef void sort_digit(const uint64_t *keys, uint64_t *other, int64_t m, int shift, uint64_t mask,
                     uint32_t *counts) noexcept nogil:
    """Copies m keys to `other`, ordered by the digit at `shift`: a stable counting sort. counts[digit], how often it
    occurs, becomes the end of its keys."""
    cdef uint32_t at[4]
    cdef uint32_t start = 0
    cdef int64_t i, digit
    cdef int j
    for digit in range(<int64_t>mask + 1):
        at[0] = counts[digit]
        counts[digit] = start
        start += at[0]
    fe_check(start == m)
    # Four places are found before the first key is written: a processor does not read a count before it knows where the
    # writes before it go.
    for i in range(0, m - 3, 4):
        for j in range(4):
            digit = (keys[i + j] >> shift) & mask
            at[j] = counts[digit]
            counts[digit] = at[j] + 1
        for j in range(4):
            other[at[j]] = keys[i + j]
    for i in range(m - m % 4, m):
        digit = (keys[i] >> shift) & mask
        other[counts[digit]] = keys[i]
        counts[digit] += 1


cdef struct Strand:           # what is left of two sorted runs, and where they go as one
    const uint64_t *a
    const uint64_t *a_end
    const uint64_t *b
    const uint64_t *b_end
    uint64_t *out


cdef inline void merge_step(Strand *s) noexcept nogil:
    """Moves the smaller key, without a branch, since it can not be predicted."""
    cdef uint64_t a = s.a[0], b = s.b[0]
    cdef bint first = a <= b
    s.out[0] = a if first else b
    s.out += 1
    s.a += first
    s.b += not first


cdef inline int64_t sure_steps(const Strand *s) noexcept nogil:
    """As many steps can not pass the end of a run."""
    return s.a_end - s.a if s.a_end - s.a < s.b_end - s.b else s.b_end - s.b


cdef int64_t taken(const uint64_t *a, int64_t na, const uint64_t *b, int64_t nb, int64_t k) noexcept nogil:
    """How many of the first k keys of the merged runs come from `a`."""
    cdef int64_t low = k - nb if k > nb else 0, high = k if k < na else na, middle
    while low < high:
        middle = (low + high) // 2
        if a[middle] <= b[k - middle - 1]:
            low = middle + 1
        else:
            high = middle
    return low


cdef void merge(const uint64_t *a, int64_t na, const uint64_t *b, int64_t nb, int64_t low, int64_t high,
                uint64_t *out) noexcept nogil:
    """out[low .. high] = keys low .. high of the merged runs, in four strands: a step waits for the one before it."""
    cdef Strand strands[4]
    cdef Strand s0, s1, s2, s3
    cdef int64_t i, k, _, steps
    cdef int t
    for t in range(4):
        k = low + share(high - low, t, 4)
        i = taken(a, na, b, nb, k)
        strands[t].a = a + i
        strands[t].b = b + (k - i)
        strands[t].out = out + k
        k = low + share(high - low, t + 1, 4)
        i = taken(a, na, b, nb, k)
        strands[t].a_end = a + i
        strands[t].b_end = b + (k - i)
    s0, s1, s2, s3 = strands[0], strands[1], strands[2], strands[3]
    while True:
        steps = min(sure_steps(&s0), sure_steps(&s1), sure_steps(&s2), sure_steps(&s3))
        if steps == 0:
            break
        for _ in range(steps):
            merge_step(&s0)
            merge_step(&s1)
            merge_step(&s2)
            merge_step(&s3)
    strands[0], strands[1], strands[2], strands[3] = s0, s1, s2, s3
    for t in range(4):
        while sure_steps(&strands[t]):
            for _ in range(sure_steps(&strands[t])):
                merge_step(&strands[t])
        memcpy(strands[t].out, strands[t].a, (strands[t].a_end - strands[t].a) * sizeof(uint64_t))
        strands[t].out += strands[t].a_end - strands[t].a
        memcpy(strands[t].out, strands[t].b, (strands[t].b_end - strands[t].b) * sizeof(uint64_t))


cdef inline int64_t kept_by(const Sort *sort, int t, int end) noexcept nogil:
    """The keys of the threads t .. end: for each the last number that sort_digit left in its first histogram."""
    cdef int64_t radix = <int64_t>1 << sort.digit_bits, size = max(sort.passes, 2) * radix, kept = 0
    for t in range(t, end):
        kept += sort.counts[t * size + radix - 1]
    return kept


cdef void sort_keys(Sort *sort, int me, int threads) noexcept nogil:
    """Each thread sorts the keys of its share of the ids in its own cache. Then all threads merge pairs of sorted runs,
    until there is one. A run begins where the ids of its first thread do."""
    cdef int pass_, shift, width = 1, first, second, end
    cdef int64_t radix = <int64_t>1 << sort.digit_bits, size = max(sort.passes, 2) * radix
    cdef uint32_t *counts = sort.counts + me * size
    cdef uint64_t *keys = sort.keys
    cdef uint64_t *other = sort.other
    cdef int64_t n = sort.ids.n, i, bag, low, high, m, na, nb

    if sort.factor_b != NULL:
        for bag in range(share(sort.bags, me, threads), share(sort.bags, me + 1, threads)):
            low = sort.splits[bag]
            high = sort.splits[bag + 1]
            if low < 0 or high < low or high > n:
                fe_raise(&sort.bad)
            else:
                sort.factor_b[bag] = <fe_real>bag_factor(&sort.ids, sort.weights, sort.combiner, low, high)

    low = share(n, me, threads)
    high = share(n, me + 1, threads)
    # Brings the array into the cache line after line; the scattered writes below would do so one by one.
    memset(other + low, 0, (high - low) * sizeof(uint64_t))
    memset(counts, 0, size * sizeof(uint32_t))
    if sort.ids.wide != NULL:
        m = make_keys(sort.ids.wide, low, high, sort, keys + low, counts)
    else:
        m = make_keys(sort.ids.narrow, low, high, sort, keys + low, counts)
    if m < 0:
        fe_raise(&sort.bad)
    for pass_ in range(sort.passes if m >= 0 else 0):
        shift = sort.part_bits + pass_ * sort.digit_bits
        if pass_ > 1:
            for i in range(low, low + m):
                counts[pass_ * radix + ((keys[i] >> shift) & (radix - 1))] += 1
        sort_digit(keys + low, other + low, m, shift, radix - 1, counts + pass_ * radix)
        keys, other = other, keys

    while width < threads:
        fe_barrier()
        if sort.bad:                       # no thread raises it after this: all leave here, or none
            return
        low = share(kept_by(sort, 0, threads), me, threads)        # this thread writes low .. high of all keys
        high = share(kept_by(sort, 0, threads), me + 1, threads)
        first = 0
        while first < threads:
            second = min(first + width, threads)
            end = min(second + width, threads)
            na = kept_by(sort, first, second)
            nb = kept_by(sort, second, end)
            i = share(n, first, threads)
            merge(keys + i, na, keys + share(n, second, threads), nb, min(max(low, 0), na + nb),
                  min(max(high, 0), na + nb), other + i)
            low -= na + nb
            high -= na + nb
            first = end
        keys, other = other, keys
        width *= 2
    if me == 0:                            # the others have read it before the first barrier
        sort.keys = keys
        sort.kept = kept_by(sort, 0, threads)


cdef inline int bits_for(uint64_t count) noexcept nogil:
    """Bits that hold every number below `count`."""
    cdef int bits = 0
    while bits < 64 and count > (<uint64_t>1 << bits):
        bits += 1
    return bits


cdef class Groups:
    """The parts of a gradient, sorted by row: keys (row << part_bits | part). Parts of a row keep their order."""
    cdef Sort sort
    cdef uint64_t *memory
    cdef const int64_t[::1] splits_b1    # these keep alive what `sort` points to
    cdef object ids_n
    cdef const fe_real[::1] weights_n
    cdef readonly int64_t num_rows
    cdef readonly Py_ssize_t unique      # rows that occur; -1: not counted yet

    def __cinit__(self):
        self.memory = NULL
        self.unique = -1
        memset(&self.sort, 0, sizeof(self.sort))

    def __dealloc__(self):
        free(self.memory)
        free(self.sort.bag_n)
        free(self.sort.factor_b)

    @property
    def num_parts(self):
        """Ids that are not padding."""
        return self.sort.kept


def group(const id_t[::1] ids_n not None, const int64_t[::1] splits_b1, const fe_real[::1] weights_n, int combiner,
          int64_t padding, int64_t v, int64_t bags):
    """Groups of the ids by row, not sorted yet: see sort().

    splits_b1 None: every id is a bag. Raises ValueError where a key does not fit 64 bits, or 2^32 ids are passed.
    """
    cdef Groups groups = Groups()
    cdef Sort *sort = &groups.sort
    cdef int row_bits, most
    cdef bint factors = splits_b1 is not None and (combiner == _MEAN or combiner == _SQRTN)
    sort.ids = make_ids(ids_n, padding)
    sort.v = v
    sort.bags = bags
    sort.combiner = combiner
    groups.splits_b1 = splits_b1
    groups.ids_n = ids_n
    groups.weights_n = weights_n
    sort.splits = &splits_b1[0] if splits_b1 is not None else NULL
    sort.weights = &weights_n[0] if weights_n is not None and sort.ids.n else NULL
    sort.by_position = sort.splits != NULL and (sort.weights != NULL or combiner == _MAX)
    sort.part_bits = bits_for(sort.ids.n if sort.by_position or sort.splits == NULL else bags)
    row_bits = max(1, bits_for(v))
    if sort.ids.n >> 32 or row_bits + sort.part_bits > 64:
        raise ValueError(f"too many ids or rows for one update: {sort.ids.n} ids, {v} rows. Split the batch.")
    groups.num_rows = v
    if sort.ids.n == 0:
        return groups
    most = 6 if sort.ids.n < 1024 else 8 if sort.ids.n < 1 << 14 else 12
    sort.passes = (row_bits + most - 1) // most
    sort.digit_bits = (row_bits + sort.passes - 1) // sort.passes
    sort.bad = bags <= 0 and sort.splits != NULL
    groups.memory = <uint64_t *>malloc(2 * sort.ids.n * sizeof(uint64_t))
    if sort.by_position:
        sort.bag_n = <int64_t *>malloc(sort.ids.n * sizeof(int64_t))
    if factors:
        sort.factor_b = <fe_real *>malloc(max(bags, 1) * sizeof(fe_real))
    if groups.memory == NULL or (sort.by_position and sort.bag_n == NULL) or (factors and sort.factor_b == NULL):
        raise MemoryError(f"no memory to group {sort.ids.n} ids")
    sort.keys = groups.memory
    sort.other = groups.memory + sort.ids.n
    return groups


cdef struct Sorts:                # small ones, each for one thread, and then large ones, each for all threads
    Sort **sorts
    int64_t count
    int64_t next


cdef inline bint is_large(const Sort *sort) noexcept nogil:
    return sort.ids.n >= SMALL


cdef void sort_worker(void *job, int me) noexcept nogil:
    cdef Sorts *sorts = <Sorts *>job
    cdef int64_t i = fe_next(&sorts.next)
    while i < sorts.count:
        if not is_large(sorts.sorts[i]):
            sort_keys(sorts.sorts[i], 0, 1)
        i = fe_next(&sorts.next)
    for i in range(sorts.count):           # all threads come to the same barriers, whatever the ids are
        if is_large(sorts.sorts[i]):
            sort_keys(sorts.sorts[i], me, fe_team_size())


def sort(list all_groups not None, int num_threads):
    """Sorts groups, together. Returns the index of the first that has a bad id or split; -1: none has."""
    cdef Py_ssize_t i, count = len(all_groups)
    cdef Sort *one
    cdef Sorts sorts
    sorts.count = sorts.next = 0
    sorts.sorts = <Sort **>calloc(count + 1, sizeof(Sort *))
    if sorts.sorts == NULL:
        raise MemoryError("no memory for a list of groups")
    try:
        for i in range(count):
            one = &(<Groups?>all_groups[i]).sort
            if one.ids.n and one.kept == 0 and not one.bad:
                one.counts = <uint32_t *>malloc(((num_threads if is_large(one) else 1) * max(one.passes, 2)
                                                 * sizeof(uint32_t)) << one.digit_bits)
                sorts.sorts[sorts.count] = one
                sorts.count += 1
                if one.counts == NULL:
                    raise MemoryError("no memory to sort ids")
        run(sort_worker, &sorts, num_threads)
    finally:
        for i in range(sorts.count):
            free(sorts.sorts[i].counts)
            sorts.sorts[i].counts = NULL
        free(sorts.sorts)
    for i in range(count):
        if (<Groups>all_groups[i]).sort.bad:
            return i
    return -1


# ---- update --------------------------------------------------------------------------------------------------------

cdef enum:
    MOMENT = 8            # doubles of a line of `moments`: FE_TERMS of drift, then these two:
    LOG_KEPT = 6          # the log of what weight decay has left of a weight since step 0
    TRAVELLED = 7         # the sum of all drifts since step 0
    REPLAY = 14           # numbers of a line of `replays`: the numbers of fe_hyper, then weight decay times the rate
    ROUNDINGS = 4         # different ones in a step: each pass has its own

cdef struct Update:               # one variable in one pass
    const fe_rows *rows
    char *table
    int64_t v
    int64_t d
    int64_t row_bytes
    int64_t stride                # bytes from row to row: row_bytes, or 0 for a step that looks at gradients alone
    char *state
    int64_t state_width           # numbers, once it is decoded
    int64_t state_bytes           # of a row; 0 as `stride`
    const fe_codec *coded         # of the table; NULL: it is fe_real
    const fe_codec *coded_state   # likewise
    fe_rounding rounding          # of both
    fe_fused *fused               # decodes, steps and encodes in one; NULL: there is none for this step
    fe_step *step                 # NULL: none
    fe_hyper hyper
    fe_constraint constraint
    int64_t blocks
    double *sums                  # what the step leaves for a further pass, for each block; or NULL
    int64_t sums_width
    # the gradient: parts in groups, or a vector for each row
    Sort *sort
    const fe_real *upstream
    int64_t bags
    bint plain                    # a part is an upstream gradient, times nothing
    bint far                      # the upstream gradients are too large for the caches
    const fe_real *weights
    const int32_t *arg            # a maximum: which id of the bag gave it
    const fe_real *dense
    bint everywhere               # rows without a gradient take a step too, with zeros
    const fe_real *zeros
    # what is done to the sums, and to rows, before the step
    bint shaped
    fe_real factor
    fe_real limit
    fe_real fade                  # weight decay times learning rate
    const fe_real *scales         # of the learning rate, for each row; 0: the row is frozen
    # steps that rows have missed
    int32_t *last                 # the last step of each row, 0: none yet; NULL: rows do not catch up
    int32_t now                   # the last step that is done
    bint looks                    # rows in groups catch up, no more
    bint idle                     # a row that was never touched has missed nothing
    fe_step *replayed
    fe_lapse_row *lapse           # NULL: missed steps are replayed
    const double *moments         # a line for each step from `first` on
    const fe_real *replays        # likewise
    int32_t most                  # only so many of the missed steps are replayed, the last ones
    int32_t first
    int32_t reach                 # steps after which a row no longer drifts
    bint endless                  # or rows drift for ever, all by the same
    double weight_decay
    double decays[FE_PARTS]
    const fe_real *powers         # decays[p] to the power n at p * num_powers + n
    int64_t num_powers
    # averages of the weights over the calls
    fe_real *average
    int32_t *averaged             # the last call that a row's average has in it
    int32_t calls                 # calls before this one
    double average_keeps          # what a call leaves of an average
    fe_real average_takes         # what it takes of the new weights; below 0: this is no call
    # "store" only: rows are put one after the other, their numbers into unique_rows
    int64_t *unique_rows
    int64_t *unique_before        # for each block: the rows that begin before it
    # rows with very many parts
    int64_t hot
    int64_t *hot_begin            # first key of the row
    int64_t *hot_end
    int64_t *hot_chunks           # chunks of the hot rows before this one; hot + 1 numbers
    fe_real *hot_sums             # the sum of each chunk


cdef struct Team:                 # updates that are done together
    Update **updates
    int64_t count
    int64_t *blocks               # those of the updates before each; count + 1 numbers
    int64_t *chunks               # of hot rows, likewise
    int64_t next_chunk
    int64_t next_block
    fe_real *scratch              # for each thread: BATCH sums, one more, and sums that nobody reads
    int64_t scratch_size


cdef struct Parts:                # a block of parts, ready for a row function
    const fe_real *rows[BLOCK + CHUNK + FE_AHEAD]
    const int32_t *args[BLOCK + CHUNK]
    int32_t index[BLOCK + CHUNK]
    fe_real factors[BLOCK + CHUNK]


cdef struct Rows:                 # a block of rows and their states
    int64_t numbers[BLOCK + 1]
    char *rows[BLOCK + FE_AHEAD_STEP]
    char *states[BLOCK + FE_AHEAD_STEP]


cdef inline int64_t row_at(const Update *u, int64_t k) noexcept nogil:
    return <int64_t>(u.sort.keys[k] >> u.sort.part_bits)


cdef void load_parts(const Update *u, int64_t first, int64_t count, Parts *parts) noexcept nogil:
    cdef const uint64_t *keys = u.sort.keys + first
    cdef uint64_t mask = (<uint64_t>1 << u.sort.part_bits) - 1
    cdef const fe_real *upstream = u.upstream
    cdef int64_t i, part, bag, d = u.d
    fe_check(0 <= count <= BLOCK + CHUNK and first + count <= u.sort.kept)
    if u.plain:
        for i in range(count):
            parts.rows[i] = upstream + <int64_t>(keys[i] & mask) * d
    else:
        for i in range(count):
            part = <int64_t>(keys[i] & mask)
            bag = u.sort.bag_n[part] if u.sort.bag_n != NULL else part
            parts.rows[i] = upstream + bag * d
            if u.arg != NULL:
                parts.args[i] = u.arg + bag * d
                parts.index[i] = <int32_t>(part - u.sort.splits[bag])
            parts.factors[i] = u.weights[part] if u.weights != NULL else 1
            if u.sort.factor_b != NULL:
                parts.factors[i] *= u.sort.factor_b[bag]
    for i in range(count, count + FE_AHEAD):
        parts.rows[i] = parts.rows[count - 1] if count else upstream


cdef inline void sum_parts(const Update *u, Parts *parts, int64_t first, int64_t count, fe_real *out) noexcept nogil:
    cdef const fe_real *factors = NULL if u.plain else parts.factors + first
    if u.arg != NULL:
        u.rows.sum_where(parts.rows + first, parts.args + first, parts.index + first, factors, count, u.d, out, 0)
    else:
        u.rows.codec[FE_REAL].sum(<const void **>(parts.rows + first), factors, count, u.d, out,
                                  0 if u.far else FE_IN_CACHE)


cdef void sum_long_run(Update *u, int64_t begin, int64_t end, Parts *parts, fe_real *out,
                       fe_real *spare) noexcept nogil:
    """The sum of more than CHUNK parts: of the sums of its chunks, in order."""
    cdef const fe_real *one[1 + FE_AHEAD]
    cdef int64_t at, h, i, count
    cdef const fe_real *ready = NULL
    for h in range(u.hot):
        if u.hot_begin[h] == begin:
            ready = u.hot_sums + u.hot_chunks[h] * u.d
    at = begin
    while at < end:
        count = CHUNK if end - at > CHUNK else end - at
        for i in range(1 + FE_AHEAD):
            one[i] = ready if ready != NULL else spare
        if ready != NULL:
            ready += u.d
        else:
            load_parts(u, at, count, parts)
            sum_parts(u, parts, 0, count, spare)
        u.rows.codec[FE_REAL].sum(<const void **>one, NULL, 1, u.d, out,
                                  FE_ADD | FE_IN_CACHE if at > begin else FE_IN_CACHE)
        at += count


cdef inline int64_t end_of_run(const Update *u, int64_t begin) noexcept nogil:
    """One past the last key of the row of key `begin`."""
    cdef int64_t row = row_at(u, begin), n = u.sort.kept, low = begin, high = begin + 1, stride = 1
    while high < n and row_at(u, high) == row:
        low = high
        stride *= 2
        high = low + stride if low + stride < n else n
        if high == n:
            break
    while low + 1 < high:                 # row_at(low) == row; high is n or another row
        stride = (low + high) // 2
        if row_at(u, stride) == row:
            low = stride
        else:
            high = stride
    return low + 1


cdef inline int64_t first_key(const Update *u, int64_t row) noexcept nogil:
    """The first key of `row` or of a row behind it."""
    cdef int64_t low = 0, high = u.sort.kept, middle
    while low < high:
        middle = (low + high) // 2
        if row_at(u, middle) < row:
            low = middle + 1
        else:
            high = middle
    return low


# ---- steps that a row missed

cdef void encode(const Update *u, char **rows, char **states, const int64_t *numbers, int64_t n, uint64_t step,
                 fe_real *row, fe_real *state) noexcept nogil:
    """Writes rows and states that were decoded; they are no longer valid then. step: the one they are rounded for."""
    cdef fe_rounding rounding = u.rounding
    rounding.step = step
    if u.coded != NULL:
        u.coded.encode(<void **>rows, numbers, n, u.d, 0, row, &rounding)
    if u.coded_state != NULL:
        u.coded_state.encode(<void **>states, numbers, n, u.state_width, 1, state, &rounding)


cdef inline uint64_t last_rounding(const Update *u) noexcept nogil:
    """How rows that catch up, no more, are rounded: as in the last step that is done."""
    return u.rounding.step - ROUNDINGS


cdef void round_row(const Update *u, int64_t number, uint64_t step, fe_real *row, fe_real *state) noexcept nogil:
    """A row and its state become what the table holds after a step."""
    cdef char *rows[1 + FE_AHEAD_STEP]
    cdef char *states[1 + FE_AHEAD_STEP]
    cdef int i
    for i in range(1 + FE_AHEAD_STEP):
        rows[i] = u.table + number * u.row_bytes
        states[i] = u.state + number * u.state_bytes
    encode(u, rows, states, &number, 1, step, row, state)
    if u.coded != NULL:
        u.coded.decode(<const void **>rows, 1, u.d, row)
    if u.coded_state != NULL:
        u.coded_state.decode(<const void **>states, 1, u.state_width, state)


cdef void replay(const Update *u, int64_t number, fe_real *row, fe_real *state, int32_t since, fe_real scale,
                 double *unread) noexcept nogil:
    """The steps after `since`, up to `now`, with gradients of zeros: what updates of all rows would have done."""
    cdef fe_real *rows[1 + FE_AHEAD_STEP]
    cdef fe_real *states[1 + FE_AHEAD_STEP]
    cdef const fe_real *grads[1]
    cdef const fe_real *line
    cdef fe_hyper hyper = u.hyper
    cdef int32_t t
    cdef int i
    fe_check(max(since, u.now - u.most) + 1 >= u.first)
    for i in range(1 + FE_AHEAD_STEP):
        rows[i] = row
        states[i] = state
    grads[0] = u.zeros
    for t in range(max(since, u.now - u.most), u.now):
        line = u.replays + <int64_t>(t + 1 - u.first) * REPLAY
        memcpy(&hyper, line, (REPLAY - 1) * sizeof(fe_real))
        hyper.learning_rate *= scale
        if line[REPLAY - 1] != 0:
            u.rows.fade(rows, 1, u.d, line[REPLAY - 1] * scale)
        u.replayed(rows, states, grads, 1, u.d, &hyper, unread)
        if u.constraint.kind:
            u.rows.constrain(rows, 1, u.d, &u.constraint, 1)
        if u.coded != NULL or u.coded_state != NULL:
            round_row(u, number, u.rounding.step - ROUNDINGS * (u.now - t), row, state)


cdef double NOTHING = 2.0 ** -64


cdef void leap(const Update *u, fe_real **rows, fe_real **states, int32_t since) noexcept nogil:
    """The same in closed form (fe_lapse in rows.h). rows[1], states[1]: what comes later."""
    cdef fe_lapse lapse
    cdef const double *start = u.moments + <int64_t>(since - u.first) * MOMENT
    cdef const double *end = u.moments + <int64_t>(u.now - u.first) * MOMENT
    cdef double fade = 0, kept = 1
    cdef int64_t missed = u.now - since
    cdef int p
    fe_check(since >= u.first)
    if u.weight_decay != 0:
        fade = -fe_expm1(end[LOG_KEPT] - start[LOG_KEPT])
        if missed > u.reach:               # drifts end at step since + reach; they fade from then on
            kept += fe_expm1(end[LOG_KEPT] - start[u.reach * MOMENT + LOG_KEPT])
    lapse.fade = <fe_real>fade
    for p in range(FE_TERMS):
        lapse.move[p] = <fe_real>(start[p] * kept)
    if u.endless:
        lapse.move[0] = <fe_real>(fade / u.weight_decay if u.weight_decay != 0 else end[TRAVELLED] - start[TRAVELLED])
    for p in range(FE_PARTS):
        lapse.decay[p] = (u.powers[p * u.num_powers + missed] if missed < u.num_powers
                          else <fe_real>fe_power(u.decays[p], missed))
        if lapse.decay[p] < NOTHING and not u.endless:     # products with numbers below 1e-38 would take 10 x the time
            lapse.decay[p] = 0
    u.lapse(rows, states, u.d, &u.hyper, &lapse)


cdef inline bint is_behind(const Update *u, int64_t number) noexcept nogil:
    """Whether a row has missed steps."""
    cdef int32_t since = u.last[number]
    return since < u.now and not (u.idle and since == 0) and (u.scales == NULL or u.scales[number] != 0)


cdef inline void catch_up(const Update *u, int64_t number, fe_real **rows, fe_real **states,
                          double *unread) noexcept nogil:
    """A row takes the steps that it has missed. rows[1], states[1]: what comes later."""
    cdef int32_t since = u.last[number]
    if u.lapse != NULL:
        leap(u, rows, states, since)
    else:
        replay(u, number, rows[0], states[0], since, 1 if u.scales == NULL else u.scales[number], unread)
    u.last[number] = u.now


# ---- blocks of rows

cdef inline void take_steps(const Update *u, fe_real **rows, fe_real **states, const fe_real **grads, int64_t n,
                            fe_real scale, double *sums) noexcept nogil:
    cdef fe_hyper scaled
    cdef const fe_hyper *hyper = &u.hyper
    if scale != 1:
        scaled = u.hyper
        scaled.learning_rate *= scale
        hyper = &scaled
    if u.fade != 0:
        u.rows.fade(rows, n, u.d, u.fade * scale)
    if u.step != NULL:
        u.step(rows, states, grads, n, u.d, hyper, sums)
    if u.constraint.kind and u.step != NULL:   # what rows have missed has satisfied it already
        u.rows.constrain(rows, n, u.d, &u.constraint, 1)


cdef inline double *unread_sums(const Update *u, fe_real *scratch) noexcept nogil:
    """Behind the sums of gradients: where steps that are replayed may leave theirs."""
    return <double *>(scratch + ((BATCH + 1) * u.d + 1) // 2 * 2)


cdef inline void shape(const Update *u, const fe_real **grads, int64_t n, fe_real *scratch) noexcept nogil:
    """Gradients are scaled and cut off, where that is asked for."""
    cdef int64_t i
    if u.shaped:
        for i in range(n):
            u.rows.shape(grads[i], u.factor, u.limit, u.d, scratch + i * u.d)
            grads[i] = scratch + i * u.d


cdef inline int64_t decoded_at(const Update *u) noexcept nogil:
    """Behind unread_sums(): BATCH decoded rows, and their states."""
    return (BATCH + 4) * u.d + 32


cdef inline bint is_kept(const Update *u, int64_t number) noexcept nogil:
    """Whether a row stays as it is, or replay() has written it: codes that are encoded again may be others."""
    if u.scales != NULL and u.scales[number] == 0:
        return True
    return u.step == NULL and (u.last == NULL or u.lapse == NULL or not is_behind(u, number))


cdef void step_batch(Update *u, Rows *block, int64_t at, int64_t n, const fe_real **grads, fe_real *scratch,
                     double *sums) noexcept nogil:
    """The step of rows at .. at + n of a block, n <= BATCH, and all that comes before and after it."""
    cdef fe_real *decoded_rows[BATCH + FE_AHEAD_STEP]
    cdef fe_real *decoded_states[BATCH + FE_AHEAD_STEP]
    cdef fe_real *row = scratch + decoded_at(u)
    cdef fe_real *state = row + BATCH * u.d
    cdef fe_real **rows = <fe_real **>(block.rows + at)
    cdef fe_real **states = <fe_real **>(block.states + at)
    cdef const int64_t *numbers = block.numbers + at
    cdef bint stays[BATCH]
    cdef int64_t i, end
    if u.fused != NULL:
        shape(u, grads, n, scratch)
        u.fused(<void **>rows, <void **>states, numbers, grads, n, u.d, &u.hyper, u.fade, &u.rounding)
        return
    if u.coded == NULL and u.coded_state == NULL:
        step_rows(u, rows, states, numbers, n, grads, scratch, sums)
        return
    for i in range(BATCH + FE_AHEAD_STEP):
        decoded_rows[i] = row + (i if i < BATCH else 0) * u.d
        decoded_states[i] = state + (i if i < BATCH else 0) * u.state_width
    if u.coded != NULL:
        u.coded.decode(<const void **>rows, n, u.d, row)
        rows = decoded_rows
    if u.coded_state != NULL:
        u.coded_state.decode(<const void **>states, n, u.state_width, state)
        states = decoded_states
    for i in range(n):
        stays[i] = is_kept(u, numbers[i])
    step_rows(u, rows, states, numbers, n, grads, scratch, sums)
    i = 0
    while i < n:                           # runs of rows that have changed
        end = i
        while end < n and not stays[end]:
            end += 1
        if end > i:
            encode(u, block.rows + at + i, block.states + at + i, numbers + i, end - i,
                   u.rounding.step if u.step != NULL else last_rounding(u), row + i * u.d, state + i * u.state_width)
        i = end + 1


cdef inline void step_rows(Update *u, fe_real **rows, fe_real **states, const int64_t *numbers, int64_t n,
                           const fe_real **grads, fe_real *scratch, double *sums) noexcept nogil:
    """step_batch on rows of fe_real."""
    cdef double *unread = unread_sums(u, scratch)
    cdef fe_real *one_row[2]
    cdef fe_real *one_state[2]
    cdef int64_t i, end
    cdef int32_t since
    cdef fe_real scale
    shape(u, grads, n, scratch)
    if u.last != NULL:
        for i in range(n):
            if is_behind(u, numbers[i]):
                one_row[0] = one_row[1] = rows[i]
                one_state[0] = one_state[1] = states[i]
                catch_up(u, numbers[i], one_row, one_state, unread)
            if u.step != NULL:
                u.last[numbers[i]] = u.now + 1
    if u.average != NULL:
        for i in range(n):
            since = u.averaged[numbers[i]]
            if since < u.calls:
                u.rows.blend(u.average + numbers[i] * u.d, rows[i],
                             <fe_real>(1 - fe_power(u.average_keeps, u.calls - since)), u.d)
    if u.scales == NULL:
        take_steps(u, rows, states, grads, n, 1, sums)
    else:                                  # runs of rows with one scale
        i = 0
        while i < n:
            scale = u.scales[numbers[i]]
            end = i + 1
            while end < n and u.scales[numbers[end]] == scale:
                end += 1
            if scale != 0:
                take_steps(u, rows + i, states + i, grads + i, end - i, scale, sums)
            i = end
    if u.average != NULL:
        for i in range(n):
            u.averaged[numbers[i]] = u.calls
            if u.average_takes >= 0:
                u.rows.blend(u.average + numbers[i] * u.d, rows[i], u.average_takes, u.d)
                u.averaged[numbers[i]] = u.calls + 1


cdef inline void point_rows(const Update *u, Rows *block, int64_t m) noexcept nogil:
    """Pointers to m rows and their states by their numbers, and FE_AHEAD_STEP more."""
    cdef int64_t i
    for i in range(m):
        block.rows[i] = u.table + block.numbers[i] * u.stride
        block.states[i] = u.state + block.numbers[i] * u.state_bytes
    for i in range(m, m + FE_AHEAD_STEP):
        block.rows[i] = block.rows[m - 1]
        block.states[i] = block.states[m - 1]


cdef int64_t rows_of_block(Update *u, int64_t block, int64_t *begins, Rows *out) noexcept nogil:
    """The rows whose first key is in this block, and where their keys begin (and the last one's end). Returns how many
    they are."""
    cdef const uint64_t *keys = u.sort.keys
    cdef int64_t k = block * BLOCK, stop = k + BLOCK if k + BLOCK < u.sort.kept else u.sort.kept
    cdef int64_t row, m = 0, i, before, last = row_at(u, k - 1) if k else -1
    cdef int shift = u.sort.part_bits
    for k in range(k, stop):               # no branch: whether a row is new can not be predicted
        row = <int64_t>(keys[k] >> shift)
        begins[m] = k
        out.numbers[m] = row
        m += row != last
        last = row
    fe_check(m <= BLOCK)
    if m == 0:
        return 0
    begins[m] = end_of_run(u, begins[m - 1])
    if u.unique_rows != NULL:
        before = u.unique_before[block]
        for i in range(m):
            u.unique_rows[before + i] = out.numbers[i]
            out.numbers[i] = before + i
    point_rows(u, out, m)
    return m


cdef void update_keys(Update *u, int64_t block, Parts *parts, fe_real *scratch, double *sums) noexcept nogil:
    """Sums the parts of the rows of a block of keys and steps them, BATCH rows at a time. Only the last row can have
    more than CHUNK parts (as CHUNK >= BLOCK)."""
    cdef int64_t begins[BLOCK + 1]
    cdef Rows rows
    cdef const fe_real *grads[BATCH]
    cdef int64_t i, k, n, at, short, count, first, m = rows_of_block(u, block, begins, &rows)
    if m == 0:
        return
    first = begins[0]
    count = begins[m if begins[m] - begins[m - 1] <= CHUNK else m - 1] - first
    load_parts(u, first, count, parts)
    if u.last != NULL:
        for i in range(m):
            fe_prefetch(u.last + rows.numbers[i], sizeof(int32_t))
    for i in range(FE_AHEAD_STEP if FE_AHEAD_STEP < m else m):
        fe_prefetch(rows.rows[i], u.row_bytes)
        fe_prefetch(rows.states[i], u.state_bytes)
    at = 0
    while at < m:
        n = m - at if m - at < BATCH else BATCH
        short = n if begins[at + n] - begins[at + n - 1] <= CHUNK else n - 1
        if not u.far and u.arg == NULL:
            u.rows.runs(parts.rows, NULL if u.plain else parts.factors, begins + at, first, short, u.d, scratch, grads)
        else:
            for i in range(short):
                k = begins[at + i] - first
                count = begins[at + i + 1] - begins[at + i]
                grads[i] = scratch + i * u.d
                if count == 1 and u.plain:
                    grads[i] = parts.rows[k]
                    fe_prefetch(parts.rows[k + FE_AHEAD_STEP], u.d * sizeof(fe_real))
                else:
                    sum_parts(u, parts, k, count, scratch + i * u.d)
        if short < n:
            grads[short] = scratch + short * u.d
            sum_long_run(u, begins[at + short], begins[m], parts, scratch + short * u.d, scratch + BATCH * u.d)
        step_batch(u, &rows, at, n, grads, scratch, sums)
        at += n


cdef void catch_up_keys(Update *u, int64_t block, fe_real *scratch) noexcept nogil:
    """Brings the rows of a block of keys up to date, to be looked at."""
    cdef int64_t begins[BLOCK + 1]
    cdef Rows rows
    cdef fe_real *one_row[2]
    cdef fe_real *one_state[2]
    cdef const void *coded_rows[1 + FE_AHEAD_STEP]
    cdef const void *coded_states[1 + FE_AHEAD_STEP]
    cdef fe_real *row = scratch + decoded_at(u)
    cdef fe_real *state = row + BATCH * u.d
    cdef int64_t i, k, later, count = 0, m = rows_of_block(u, block, begins, &rows)
    for i in range(m):
        fe_prefetch(u.last + rows.numbers[i], sizeof(int32_t))
    for i in range(m):                     # those that are behind move to the front
        if is_behind(u, rows.numbers[i]):
            rows.numbers[count] = rows.numbers[i]
            count += 1
    for i in range(min(count, FE_AHEAD_STEP)):
        fe_prefetch(u.table + rows.numbers[i] * u.row_bytes, u.row_bytes)
        fe_prefetch(u.state + rows.numbers[i] * u.state_bytes, u.state_bytes)
    for i in range(count):
        later = rows.numbers[min(i + FE_AHEAD_STEP, count - 1)]
        if u.lapse != NULL:
            fe_prefetch(u.moments + <int64_t>(u.last[later] - u.first) * MOMENT, MOMENT * sizeof(double))
        rows.rows[0] = u.table + rows.numbers[i] * u.row_bytes
        rows.rows[1] = u.table + later * u.row_bytes
        rows.states[0] = u.state + rows.numbers[i] * u.state_bytes
        rows.states[1] = u.state + later * u.state_bytes
        for k in range(2):
            one_row[k] = <fe_real *>rows.rows[k] if u.coded == NULL else row
            one_state[k] = <fe_real *>rows.states[k] if u.coded_state == NULL else state
        if u.coded != NULL:
            for k in range(1 + FE_AHEAD_STEP):
                coded_rows[k] = rows.rows[min(k, 1)]
            u.coded.decode(coded_rows, 1, u.d, row)
        if u.coded_state != NULL:
            for k in range(1 + FE_AHEAD_STEP):
                coded_states[k] = rows.states[min(k, 1)]
            u.coded_state.decode(coded_states, 1, u.state_width, state)
        catch_up(u, rows.numbers[i], one_row, one_state, unread_sums(u, scratch))
        if u.lapse != NULL and (u.coded != NULL or u.coded_state != NULL):
            encode(u, rows.rows, rows.states, rows.numbers + i, 1, last_rounding(u), row, state)


cdef void update_range(Update *u, int64_t block, Parts *parts, fe_real *scratch, double *sums) noexcept nogil:
    """Steps all rows of a block of the table, those without a gradient with zeros."""
    cdef Rows rows
    cdef const fe_real *grads[BATCH]
    cdef int64_t first = block * BLOCK, count = BLOCK if u.v - first > BLOCK else u.v - first
    cdef int64_t i, r, end, k = 0, kept = 0
    for i in range(count):
        rows.numbers[i] = first + i
    point_rows(u, &rows, count)
    if u.sort != NULL and u.upstream != NULL:
        kept = u.sort.kept
        k = first_key(u, first)
    for i in range(count):
        r = i % BATCH
        grads[r] = u.zeros
        if u.dense != NULL:
            grads[r] = u.dense + (first + i) * u.d
        elif k < kept and row_at(u, k) == first + i:
            grads[r] = scratch + r * u.d
            end = end_of_run(u, k)
            if end - k <= CHUNK:
                load_parts(u, k, end - k, parts)
                sum_parts(u, parts, 0, end - k, scratch + r * u.d)
            else:
                sum_long_run(u, k, end, parts, scratch + r * u.d, scratch + BATCH * u.d)
            k = end
        if r == BATCH - 1 or i == count - 1:
            step_batch(u, &rows, i - r, r + 1, grads, scratch, sums)


cdef void update_worker(void *job, int me) noexcept nogil:
    cdef Team *team = <Team *>job
    cdef Update *u
    cdef Parts parts
    cdef fe_real *scratch = team.scratch + me * team.scratch_size
    cdef double *sums
    cdef int64_t chunk, h, i, first, end, block
    while team.chunks[team.count]:
        chunk = fe_next(&team.next_chunk)
        if chunk >= team.chunks[team.count]:
            break
        i = index_of(team.chunks, team.count, chunk)
        u = team.updates[i]
        chunk -= team.chunks[i]
        h = index_of(u.hot_chunks, u.hot, chunk)
        first = u.hot_begin[h] + (chunk - u.hot_chunks[h]) * CHUNK
        end = first + CHUNK if first + CHUNK < u.hot_end[h] else u.hot_end[h]
        load_parts(u, first, end - first, &parts)
        sum_parts(u, &parts, 0, end - first, u.hot_sums + chunk * u.d)
    if team.chunks[team.count]:
        fe_barrier()
    while True:
        block = fe_next(&team.next_block)
        if block >= team.blocks[team.count]:
            return
        i = index_of(team.blocks, team.count, block)
        u = team.updates[i]
        block -= team.blocks[i]
        sums = u.sums + block * u.sums_width if u.sums != NULL else NULL
        if u.looks:
            if u.last != NULL:
                catch_up_keys(u, block, scratch)
        elif u.everywhere:
            update_range(u, block, &parts, scratch, sums)
        else:
            update_keys(u, block, &parts, scratch, sums)


cdef int find_hot(Update *u) except -1:
    """Rows of HOT parts or more: such a run holds two neighbours of every HOT / 2-th key."""
    cdef int64_t at = 0, n = u.sort.kept, most = n // HOT, begin, end, chunks = 0
    if most == 0:
        return 0
    u.hot_begin = <int64_t *>malloc((3 * most + 1) * sizeof(int64_t))
    if u.hot_begin == NULL:
        raise MemoryError("no memory for the list of frequent rows")
    u.hot_end = u.hot_begin + most
    u.hot_chunks = u.hot_end + most
    u.hot_chunks[0] = 0
    while at + HOT // 2 < n:
        if row_at(u, at) != row_at(u, at + HOT // 2):
            at += HOT // 2
            continue
        begin = at
        while begin > 0 and row_at(u, begin - 1) == row_at(u, at):
            begin -= 1
        end = end_of_run(u, at)
        if end - begin >= HOT:
            u.hot_begin[u.hot] = begin
            u.hot_end[u.hot] = end
            chunks += (end - begin + CHUNK - 1) // CHUNK
            u.hot += 1
            u.hot_chunks[u.hot] = chunks
        at = end
    if chunks:
        u.hot_sums = <fe_real *>malloc(chunks * u.d * sizeof(fe_real))
        if u.hot_sums == NULL:
            raise MemoryError("no memory for the sums of frequent rows")
    return 0


cdef int make_team(Team *team, Update **updates, int64_t count, int num_threads) except -1:
    """All memory that the updates take; free_team() gives it back, also after an error here."""
    cdef int64_t i, d = 0, decoded = 0
    memset(team, 0, sizeof(team[0]))
    team.updates = updates
    team.count = count
    team.blocks = <int64_t *>calloc(2 * (count + 1), sizeof(int64_t))
    if team.blocks == NULL:
        raise MemoryError("no memory for a list of updates")
    team.chunks = team.blocks + count + 1
    for i in range(count):
        d = max(d, updates[i].d)
        if updates[i].last != NULL or updates[i].average != NULL or updates[i].scales != NULL:
            updates[i].fused = NULL        # these look at decoded rows
        if updates[i].coded != NULL or updates[i].coded_state != NULL:
            decoded = max(decoded, BATCH * (updates[i].d + updates[i].state_width))
        if updates[i].sort != NULL and updates[i].upstream != NULL:
            find_hot(updates[i])
        team.blocks[i + 1] = team.blocks[i] + updates[i].blocks
        team.chunks[i + 1] = team.chunks[i] + (updates[i].hot_chunks[updates[i].hot] if updates[i].hot else 0)
    team.scratch_size = (BATCH + 4) * d + 32 + decoded
    team.scratch = <fe_real *>malloc(max(num_threads, 1) * team.scratch_size * sizeof(fe_real))
    if team.scratch == NULL:
        raise MemoryError("no memory for the sums of an update")
    return 0


cdef void free_team(Team *team) noexcept:
    cdef int64_t i
    free(team.blocks)
    free(team.scratch)
    for i in range(team.count):
        if team.updates[i] != NULL:
            free(team.updates[i].hot_begin)
            free(team.updates[i].hot_sums)
            team.updates[i].hot_begin = NULL
            team.updates[i].hot_sums = NULL
            team.updates[i].hot = 0


cdef fe_constraint make_constraint(tuple numbers) except *:
    cdef fe_constraint constraint
    memset(&constraint, 0, sizeof(constraint))
    if numbers is not None:
        constraint.kind, constraint.low, constraint.high, constraint.rate = numbers
    return constraint


cdef int set_parts(Update *u, Groups groups, const fe_real[:, ::1] upstream_bd, const fe_real[::1] weights_n,
                   const int32_t[:, ::1] arg_bd) except -1:
    """The gradient. The arrays must be those that `groups` was made for: their lengths are checked again here."""
    u.sort = &groups.sort
    u.bags = upstream_bd.shape[0]
    if upstream_bd.shape[1] != u.d:
        raise ValueError("`upstream` has rows of another length than the table")
    if u.bags < (groups.sort.bags if groups.sort.splits != NULL else groups.sort.ids.n):
        raise ValueError("`upstream` has fewer rows than the groups were made for")
    if groups.sort.kept and u.d:
        u.upstream = &upstream_bd[0, 0]
        u.far = u.bags * u.d * <int64_t>sizeof(fe_real) > FAR
        if weights_n is not None:
            if weights_n.shape[0] < groups.sort.ids.n:
                raise ValueError("`weights` is shorter than the ids of the groups")
            u.weights = &weights_n[0]
        if arg_bd is not None:
            if arg_bd.shape[0] < u.bags or arg_bd.shape[1] != u.d or groups.sort.bag_n == NULL:
                raise ValueError("`argmax` has another shape than `upstream`")
            u.arg = &arg_bd[0, 0]
    u.plain = u.weights == NULL and u.sort.factor_b == NULL and u.arg == NULL
    u.blocks = (u.sort.kept + BLOCK - 1) // BLOCK if u.upstream != NULL else 0
    return 0


cdef class Job:
    """One pass over rows of one variable, for run(): what step they take, with which gradient, and what else happens to
    them. Arrays stay alive as long as the job."""
    cdef Update u
    cdef unsigned char[:, ::1] table_vb, state_vb
    cdef fe_real[:, ::1] average_vd
    cdef const fe_real[:, ::1] upstream_bd, dense_vd
    cdef const fe_real[::1] weights_n, zeros_d, columns_d, scales_v
    cdef const int32_t[:, ::1] arg_bd
    cdef int32_t[::1] last_v, averaged_v
    cdef const double[:, ::1] moments_tm
    cdef const fe_real[:, ::1] replays_th, powers_pn
    cdef Groups groups

    def __cinit__(self, unsigned char[:, ::1] table_vb not None, int dtype, int64_t d, unsigned char[:, ::1] state_vb,
                  int state_dtype, int64_t state_width, int step, tuple hyper not None, tuple constraint):
        """dtype: its number in DTYPES; d: elements of a row. step: its number in STEPS, or -1 for none. hyper: the
        numbers of fe_hyper, in order; constraint: the four of fe_constraint, or None."""
        cdef Update *u = &self.u
        memset(u, 0, sizeof(self.u))
        u.rows = rows_of_isa
        check_rows(table_vb, dtype, d)
        u.v = table_vb.shape[0]
        u.d = d
        u.row_bytes = u.stride = table_vb.shape[1]
        if dtype != FE_REAL:
            u.coded = &u.rows.codec[dtype]
        self.table_vb = table_vb
        u.table = <char *>&table_vb[0, 0] if u.v and u.d else NULL
        if state_vb is not None:
            check_rows(state_vb, state_dtype, state_width)
            if state_vb.shape[0] < u.v:
                raise ValueError("`state` has fewer rows than the table")
            self.state_vb = state_vb
            u.state_width = state_width
            u.state_bytes = state_vb.shape[1]
            u.state = <char *>&state_vb[0, 0] if u.v and u.state_bytes else NULL
            if state_dtype != FE_REAL:
                u.coded_state = &u.rows.codec[state_dtype]
        if step >= 0:
            u.step = u.rows.step[step]
            u.replayed = u.step
            u.sums_width = fe_steps[step].numbers + fe_steps[step].columns * u.d
            if constraint is None and u.d % 32 == 0:
                u.fused = u.rows.fused(dtype, state_dtype, step)
        (u.hyper.learning_rate, u.hyper.momentum, u.hyper.beta_1, u.hyper.beta_2, u.hyper.epsilon,
         u.hyper.weight_decay, u.hyper.scale_m, u.hyper.scale_g, u.hyper.scale_v, u.hyper.l1, u.hyper.l2,
         u.hyper.l2_shrinkage, u.hyper.power) = hyper
        u.constraint = make_constraint(constraint)

    def parts(self, Groups groups not None, const fe_real[:, ::1] upstream_bd not None, const fe_real[::1] weights_n,
              const int32_t[:, ::1] arg_bd):
        """A row-sparse gradient."""
        if self.u.v < groups.num_rows:
            raise ValueError("`table` has another shape than the groups were made for")
        self.groups, self.upstream_bd, self.weights_n, self.arg_bd = groups, upstream_bd, weights_n, arg_bd
        set_parts(&self.u, groups, upstream_bd, weights_n, arg_bd)

    def dense(self, const fe_real[:, ::1] grads_vd not None):
        """A gradient that has every row."""
        if grads_vd.shape[0] != self.u.v or grads_vd.shape[1] != self.u.d:
            raise ValueError("the gradient has another shape than the table")
        self.dense_vd = grads_vd
        self.u.dense = &grads_vd[0, 0] if self.u.v and self.u.d else NULL
        self.step_everywhere()

    def everywhere(self, const fe_real[::1] zeros_d not None):
        """Rows without a gradient step too."""
        self.set_zeros(zeros_d)
        self.step_everywhere()

    cdef step_everywhere(self):
        self.u.everywhere = True
        self.u.blocks = (self.u.v + BLOCK - 1) // BLOCK if self.u.d else 0

    cdef set_zeros(self, const fe_real[::1] zeros_d):
        if zeros_d.shape[0] < self.u.d:
            raise ValueError("`zeros` is shorter than a row")
        self.zeros_d = zeros_d
        self.u.zeros = &zeros_d[0] if self.u.d else NULL

    def without_table(self):
        """The step looks at gradients alone: no row of the table is asked for."""
        self.u.stride = self.u.state_bytes = 0
        self.u.coded = self.u.coded_state = NULL
        self.u.fused = NULL

    def round(self, bint stochastic, uint64_t seed, uint64_t step, int pass_):
        """How rows and states are rounded where they are not fe_real."""
        self.u.rounding.stochastic, self.u.rounding.seed = stochastic, seed
        self.u.rounding.step = step * ROUNDINGS + pass_

    def columns(self, const fe_real[::1] columns_d not None):
        """The numbers that fe_hyper has for each column."""
        if columns_d.shape[0] < self.u.d:
            raise ValueError("`columns` is shorter than a row")
        self.columns_d = columns_d
        self.u.hyper.columns = &columns_d[0] if self.u.d else NULL

    def shape(self, fe_real factor, fe_real limit):
        """Summed gradients are multiplied by `factor` and cut off at -limit and limit."""
        self.u.shaped = True
        self.u.factor = factor
        self.u.limit = limit

    def fade(self, fe_real fade):
        """w -= fade w before the step."""
        self.u.fade = fade

    def scale(self, const fe_real[::1] scales_v not None):
        """The learning rate of each row is multiplied by a number; a row with 0 is left out."""
        if scales_v.shape[0] < self.u.v:
            raise ValueError("`scales` is shorter than the table")
        self.scales_v = scales_v
        self.u.scales = &scales_v[0] if self.u.v else NULL

    def catch_up(self, int32_t[::1] last_v not None, int32_t now, bint idle, const fe_real[::1] zeros_d):
        """Rows first take the steps that they have missed up to step `now`."""
        if last_v.shape[0] < self.u.v:
            raise ValueError("`last` is shorter than the table")
        self.last_v = last_v
        self.set_zeros(zeros_d)
        self.u.last = &last_v[0] if self.u.v else NULL
        self.u.now, self.u.idle = now, idle

    def look(self, Groups groups not None):
        """Only the rows in the groups catch up, and nothing else happens."""
        if self.u.v < groups.num_rows:
            raise ValueError("`table` has another shape than the groups were made for")
        self.groups = groups
        self.u.sort = &groups.sort
        self.u.looks = True
        self.u.blocks = (groups.sort.kept + BLOCK - 1) // BLOCK if self.u.d else 0

    def replays(self, const fe_real[:, ::1] replays_th not None, int32_t first, int step, int32_t most):
        """Missed steps are taken one after the other, the last `most` of them: step number `step` with the numbers of
        line t - first."""
        if replays_th.shape[1] != REPLAY or replays_th.shape[0] <= self.u.now - first:
            raise ValueError("`replays` has another shape than the steps")
        self.replays_th = replays_th
        self.u.replays = &replays_th[0, 0]
        self.u.first, self.u.most = first, most
        self.u.replayed = self.u.rows.step[step]

    def leaps(self, const double[:, ::1] moments_tm not None, int32_t first, int step, int32_t reach, bint endless,
              double weight_decay, tuple decays not None, const fe_real[:, ::1] powers_pn not None):
        """Missed steps are taken at once, in closed form: see leap(). powers_pn: decays[p] to the powers 0, 1, ..."""
        cdef int p
        if moments_tm.shape[1] != MOMENT or moments_tm.shape[0] <= self.u.now - first:
            raise ValueError("`moments` has another shape than the steps")
        if self.u.rows.lapse[step] == NULL:
            raise ValueError(f"{STEPS[step]} has no closed form")
        self.moments_tm = moments_tm
        self.u.moments = &moments_tm[0, 0]
        self.u.lapse = self.u.rows.lapse[step]
        self.u.first, self.u.reach, self.u.endless, self.u.weight_decay = first, reach, endless, weight_decay
        if powers_pn.shape[0] != FE_PARTS or powers_pn.shape[1] == 0:
            raise ValueError("`powers` has another shape than the parts")
        self.powers_pn = powers_pn
        self.u.powers = &powers_pn[0, 0]
        self.u.num_powers = powers_pn.shape[1]
        for p in range(FE_PARTS):
            self.u.decays[p] = decays[p] if p < len(decays) else 1

    def average(self, fe_real[:, ::1] average_vd not None, int32_t[::1] averaged_v not None, int32_t calls,
                double keeps, fe_real takes):
        """Averages of rows over the calls: average += (w - average) (1 - keeps) for each call that a row has missed,
        and (w - average) takes for this one (takes < 0: there is none)."""
        if average_vd.shape[0] < self.u.v or average_vd.shape[1] != self.u.d or averaged_v.shape[0] < self.u.v:
            raise ValueError("`average` has another shape than the table")
        self.average_vd, self.averaged_v = average_vd, averaged_v
        self.u.average = &average_vd[0, 0] if self.u.v and self.u.d else NULL
        self.u.averaged = &averaged_v[0] if self.u.v else NULL
        self.u.calls, self.u.average_keeps, self.u.average_takes = calls, keeps, takes


@cython.no_gc_clear                    # the jobs hold what is freed
cdef class Pass:
    """Jobs that are done together, with all memory that they take: once it is made, it can no longer fail."""
    cdef list jobs
    cdef Update **updates
    cdef Team team
    cdef int num_threads

    def __cinit__(self, list jobs not None, int num_threads):
        cdef Py_ssize_t i, count = len(jobs)
        cdef Update *u
        memset(&self.team, 0, sizeof(self.team))
        self.jobs, self.num_threads = jobs, num_threads
        self.updates = <Update **>calloc(count + 1, sizeof(Update *))
        if self.updates == NULL:
            raise MemoryError("no memory for a list of updates")
        for i in range(count):
            u = self.updates[i] = &(<Job?>jobs[i]).u
            if u.sums_width and u.blocks:
                u.sums = <double *>calloc(u.blocks * u.sums_width, sizeof(double))
                if u.sums == NULL:
                    raise MemoryError("no memory for the sums of a step")
        make_team(&self.team, self.updates, count, num_threads)

    def __dealloc__(self):
        cdef int64_t i = 0
        if self.updates != NULL:
            free_team(&self.team)
            while self.updates[i] != NULL:
                free(self.updates[i].sums)
                self.updates[i].sums = NULL
                i += 1
            free(self.updates)

    def run(self):
        """Does the jobs, once. Returns for each what its step has summed up: a list of floats."""
        cdef Py_ssize_t i
        cdef int64_t b, s
        cdef Update *u
        cdef list results = []
        run(update_worker, &self.team, self.num_threads)
        for i in range(self.team.count):
            u = self.updates[i]
            if u.sums != NULL:
                for b in range(1, u.blocks):
                    for s in range(u.sums_width):
                        u.sums[s] += u.sums[b * u.sums_width + s]
            results.append([u.sums[s] if u.sums != NULL else 0.0 for s in range(u.sums_width)])
        return results


def count_unique(Groups groups not None):
    """The number of rows that occur in the groups."""
    cdef Update u
    cdef int64_t at = 0, unique = 0
    if groups.unique < 0:
        u.sort = &groups.sort
        while at < groups.sort.kept:
            at = end_of_run(&u, at)
            unique += 1
        groups.unique = unique
    return groups.unique


def touched(Groups groups not None, int64_t[::1] rows_n not None):
    """Writes the rows that occur in the groups to the begin of rows_n, rising; returns how many they are."""
    cdef Update u
    cdef int64_t k, row, last = -1, unique = 0
    if rows_n.shape[0] < groups.sort.kept:
        raise ValueError("`rows_n` is too short")
    u.sort = &groups.sort
    with nogil:
        for k in range(groups.sort.kept):
            row = row_at(&u, k)
            if row != last:
                rows_n[unique] = row
                unique += 1
                last = row
    groups.unique = unique
    return unique


def reduce(Groups groups not None, const fe_real[:, ::1] upstream_bd not None, const fe_real[::1] weights_n,
           const int32_t[:, ::1] arg_bd, int64_t[::1] rows_u not None, fe_real[:, ::1] values_ud not None,
           int num_threads):
    """rows_u = the rows that occur, rising; values_ud[i] = the sum of the parts of rows_u[i]."""
    cdef Update u
    cdef Update *one = &u
    cdef Team team
    cdef int64_t at = 0, unique = 0, block, blocks = groups.sort.kept // BLOCK + 1
    memset(&u, 0, sizeof(u))
    memset(&team, 0, sizeof(team))
    u.rows = rows_of_isa
    u.d = values_ud.shape[1]
    u.row_bytes = u.stride = u.d * sizeof(fe_real)
    if rows_u.shape[0] != count_unique(groups) or values_ud.shape[0] != rows_u.shape[0]:
        raise ValueError("`rows_u` or `values_ud` has the wrong shape")
    set_parts(&u, groups, upstream_bd, weights_n, arg_bd)
    if u.upstream == NULL:
        return
    u.unique_before = <int64_t *>calloc(blocks, sizeof(int64_t))
    if u.unique_before == NULL:
        raise MemoryError("no memory to number the rows")
    try:
        block = 0
        while at < groups.sort.kept:
            while block * BLOCK <= at:
                u.unique_before[block] = unique
                block += 1
            at = end_of_run(&u, at)
            unique += 1
        while block < blocks:
            u.unique_before[block] = unique
            block += 1
        u.unique_rows = &rows_u[0]
        u.table = <char *>&values_ud[0, 0]
        u.step = u.rows.step[FE_STEP_store]
        make_team(&team, &one, 1, num_threads)
        run(update_worker, &team, num_threads)
    finally:
        free_team(&team)
        free(u.unique_before)


# ---- every row -----------------------------------------------------------------------------------------------------

cdef struct Every:                # rows and their constraint
    const fe_rows *rows
    fe_real *table
    int64_t v
    int64_t d
    fe_constraint constraint
    int project
    int64_t broken                # rows that broke the constraint
    int64_t next


cdef void constrain_worker(void *job, int me) noexcept nogil:
    cdef Every *every = <Every *>job
    cdef fe_real *rows[BLOCK]
    cdef int64_t first, count, i, broken = 0
    while True:
        first = fe_next(&every.next) * BLOCK
        if first >= every.v:
            fe_add(&every.broken, broken)
            return
        count = BLOCK if every.v - first > BLOCK else every.v - first
        for i in range(count):
            rows[i] = every.table + (first + i) * every.d
        broken += every.rows.constrain(rows, count, every.d, &every.constraint, every.project)


cdef int64_t constrain_all(const fe_real[:, ::1] table_vd, tuple constraint, bint project, int num_threads) except -1:
    cdef Every every
    memset(&every, 0, sizeof(every))
    every.rows = rows_of_isa
    every.v = table_vd.shape[0]
    every.d = table_vd.shape[1]
    if every.v == 0 or every.d == 0:
        return 0
    every.table = <fe_real *>&table_vd[0, 0]
    every.constraint = make_constraint(constraint)
    every.project = project
    run(constrain_worker, &every, num_threads)
    return every.broken


def broken(const fe_real[:, ::1] table_vd not None, tuple constraint not None, int num_threads):
    """The number of rows that break the constraint by more than rounding."""
    return constrain_all(table_vd, constraint, False, num_threads)


def project(fe_real[:, ::1] table_vd not None, tuple constraint not None, int num_threads):
    """Projects all rows."""
    constrain_all(table_vd, constraint, True, num_threads)


cdef struct Recode:               # rows of a table, and the same as fe_real
    const fe_codec *codec
    char *table
    int64_t row_bytes
    int64_t v
    int64_t d
    fe_real *values
    const fe_real *given          # what is encoded
    fe_rounding rounding
    int64_t first_row
    int64_t next


cdef void decode_worker(void *job, int me) noexcept nogil:
    cdef Recode *code = <Recode *>job
    cdef const void *rows[BLOCK + FE_AHEAD]
    cdef int64_t first, count, i
    while True:
        first = fe_next(&code.next) * BLOCK
        if first >= code.v:
            return
        count = min(code.v - first, <int64_t>BLOCK)
        for i in range(count + FE_AHEAD):
            rows[i] = code.table + (first + min(i, count - 1)) * code.row_bytes
        code.codec.copy(rows, count, code.d, code.values + first * code.d, 0)


cdef void encode_worker(void *job, int me) noexcept nogil:
    cdef Recode *code = <Recode *>job
    cdef void *rows[BLOCK]
    cdef int64_t numbers[BLOCK]
    cdef int64_t first, count, i
    while True:
        first = fe_next(&code.next) * BLOCK
        if first >= code.v:
            return
        count = min(code.v - first, <int64_t>BLOCK)
        for i in range(count):
            rows[i] = code.table + (first + i) * code.row_bytes
            numbers[i] = code.first_row + first + i
        code.codec.encode(rows, numbers, count, code.d, 0, code.given + first * code.d, &code.rounding)


cdef Recode make_recode(const unsigned char[:, ::1] table_vb, int dtype, const fe_real[:, ::1] values_vd) except *:
    cdef Recode code
    memset(&code, 0, sizeof(code))
    check_rows(table_vb, dtype, values_vd.shape[1])
    if values_vd.shape[0] != table_vb.shape[0]:
        raise ValueError("`values` has another number of rows than the table")
    if dtype == FE_REAL:
        raise ValueError("`dtype` must be a coded one")
    code.codec = &rows_of_isa.codec[dtype]
    code.row_bytes, code.v, code.d = table_vb.shape[1], table_vb.shape[0], values_vd.shape[1]
    if code.d == 0:
        code.v = 0
    return code


def decode(const unsigned char[:, ::1] table_vb not None, int dtype, fe_real[:, ::1] values_vd not None,
           int num_threads):
    """values_vd = the rows of a table of another dtype than fe_real."""
    cdef Recode code = make_recode(table_vb, dtype, values_vd)
    if code.v:
        code.table = <char *>&table_vb[0, 0]
        code.values = &values_vd[0, 0]
        run(decode_worker, &code, num_threads)


def encode_rows(unsigned char[:, ::1] table_vb not None, int dtype, const fe_real[:, ::1] values_vd not None,
                int64_t first_row, bint stochastic, uint64_t seed, uint64_t step, int num_threads):
    """The rows of a table of another dtype than fe_real = values_vd, rounded. first_row: the number of the first."""
    cdef Recode code = make_recode(table_vb, dtype, values_vd)
    if code.v == 0:
        return
    code.table = <char *>&table_vb[0, 0]
    code.given = &values_vd[0, 0]
    code.first_row = first_row
    code.rounding.stochastic, code.rounding.seed, code.rounding.step = stochastic, seed, step * ROUNDINGS
    run(encode_worker, &code, num_threads)


cdef struct Sums:
    const fe_rows *rows
    const fe_real *x
    int64_t n
    double *pieces            # two sums for each
    int64_t next
    int32_t bad               # an element was not finite

cdef enum:
    PIECE = 1 << 16           # elements that are summed by one thread


cdef void sums_worker(void *job, int me) noexcept nogil:
    cdef Sums *sums = <Sums *>job
    cdef int64_t piece, left
    while True:
        piece = fe_next(&sums.next)
        left = sums.n - piece * PIECE
        if left <= 0:
            return
        sums.rows.sums(sums.x + piece * PIECE, left if left < PIECE else PIECE, sums.pieces + 2 * piece)


cdef void finite_worker(void *job, int me) noexcept nogil:
    cdef Sums *sums = <Sums *>job
    cdef int64_t piece, left
    while not fe_load(&sums.bad):
        piece = fe_next(&sums.next)
        left = sums.n - piece * PIECE
        if left <= 0:
            return
        if not sums.rows.finite(sums.x + piece * PIECE, left if left < PIECE else PIECE):
            fe_raise(&sums.bad)


def finite(const fe_real[::1] x_n not None, int num_threads):
    """True if no element is infinite or NaN."""
    cdef Sums sums
    memset(&sums, 0, sizeof(sums))
    sums.rows = rows_of_isa
    sums.n = x_n.shape[0]
    if sums.n:
        sums.x = &x_n[0]
        run(finite_worker, &sums, num_threads)
    return not sums.bad


def sums(const fe_real[:, ::1] table_vd not None, int num_threads):
    """(sum of |x|, sum of x^2) over all elements."""
    cdef Sums sums
    cdef double magnitudes = 0, squares = 0
    cdef int64_t i, count
    sums.rows = rows_of_isa
    sums.n = table_vd.shape[0] * table_vd.shape[1]
    sums.next = 0
    if sums.n == 0:
        return 0.0, 0.0
    sums.x = &table_vd[0, 0]
    count = (sums.n + PIECE - 1) // PIECE
    sums.pieces = <double *>malloc(2 * count * sizeof(double))
    if sums.pieces == NULL:
        raise MemoryError("no memory for the sums of a table")
    run(sums_worker, &sums, num_threads)
    for i in range(count):
        magnitudes += sums.pieces[2 * i]
        squares += sums.pieces[2 * i + 1]
    free(sums.pieces)
    return magnitudes, squares


cdef struct Fill:
    const fe_rows *rows
    fe_real *out
    int64_t n
    int64_t d
    uint64_t row
    uint64_t seed
    float a
    float b
    double p_low
    double p_span
    int kind
    const fe_real *values
    const int64_t *numbers        # of the rows; NULL: row, row + 1, ...
    int64_t step
    int64_t next

cdef enum:
    _UNIFORM = 0
    _NORMAL = 1
    _ROW = 2
UNIFORM, NORMAL, ROW = 0, 1, 2


cdef inline void fill_rows(const Fill *fill, int64_t first, uint64_t row, int64_t count) noexcept nogil:
    """Fills rows from `first` on; they have the numbers row, row + 1, ..."""
    cdef fe_real *out = fill.out + first * fill.d
    cdef const fe_real *pointers[1 + FE_AHEAD]
    cdef int64_t i
    if fill.kind == _UNIFORM:
        fill.rows.uniform(out, row, count, fill.d, fill.seed, fill.a, fill.b)
    elif fill.kind == _NORMAL:
        fill.rows.normal(out, row, count, fill.d, fill.seed, fill.a, fill.b, fill.p_low, fill.p_span)
    else:
        for i in range(1 + FE_AHEAD):
            pointers[i] = fill.values
        for i in range(count):
            fill.rows.codec[FE_REAL].copy(<const void **>pointers, 1, fill.d, out + i * fill.d, 0)


cdef void fill_worker(void *job, int me) noexcept nogil:
    cdef Fill *fill = <Fill *>job
    cdef int64_t first, count, i
    while True:
        first = fe_next(&fill.next) * fill.step
        if first >= fill.n:
            return
        count = fill.step if fill.n - first > fill.step else fill.n - first
        if fill.numbers == NULL:
            fill_rows(fill, first, fill.row + first, count)
            continue
        for i in range(first, first + count):
            fill_rows(fill, i, fill.numbers[i], 1)


def fill(fe_real[:, ::1] out_vd not None, int kind, const fe_real[::1] values, float a, float b, double p_low,
         double p_span, uint64_t seed, uint64_t first_row, const int64_t[::1] numbers, int num_threads):
    """Every row of out_vd: UNIFORM in [a, b); NORMAL with mean a and standard deviation b, from the probabilities p_low
    to p_low + p_span; or ROW, a copy of values. The rows have these numbers; None: first_row and those after it."""
    cdef Fill fill
    fill.rows = rows_of_isa
    fill.n = out_vd.shape[0]
    fill.d = out_vd.shape[1]
    if fill.n == 0 or fill.d == 0:
        return
    if kind == _ROW and (values is None or values.shape[0] != fill.d):
        raise ValueError("`values` must be one row")
    if numbers is not None and numbers.shape[0] != fill.n:
        raise ValueError("`numbers` must be one for each row")
    fill.numbers = NULL
    if numbers is not None:
        fill.numbers = &numbers[0]
    fill.out = &out_vd[0, 0]
    fill.kind = kind
    fill.values = &values[0] if values is not None else NULL
    fill.a = a
    fill.b = b
    fill.p_low = p_low
    fill.p_span = p_span
    fill.seed = seed
    fill.row = first_row
    fill.next = 0
    fill.step = max(1, HUGE_PAGE // (fill.d * <int64_t>sizeof(fe_real)))
    run(fill_worker, &fill, num_threads)
