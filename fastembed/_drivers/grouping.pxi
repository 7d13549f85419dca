# Groups: the ids of a gradient, sorted by row once, with the part that each comes from; small sorts beside each other,
# large ones by all threads together.

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
