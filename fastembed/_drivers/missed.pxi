# Steps that a row has missed: replayed one after the other, or taken at once (`leap`).

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
