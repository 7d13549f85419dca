# What Python holds: Job, an update with its arrays; Pass, jobs that are done together with all their memory; and the
# sums of a gradient without a step.

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
