# An update of one variable in one pass, and the parts of its rows: a block of them becomes pointers, and a sum.

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
