# Blocks of rows take their step: decoded, caught up, stepped, constrained, averaged, encoded. One thread has a row.

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
