# Look-ups: ids become pointers to rows; rows are copied, or combined for each bag; and the gradient of weights.

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
