# Whole tables: constrained, decoded and encoded, summed up, filled with random numbers.

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
