# Digest marks: behind the slots of the board a page for each shard, in which its leader leaves what the state digest
# was at some sequences, for a follower to stop there and compare. One writes and many read; a mark that is being
# replaced is no mark for that moment.
#
# What a leader marked and did not make durable before it died never was; so whoever leads next clears the page first.

cdef enum:
    MARKS = 64                           # of one shard: a follower that far behind misses some, and meets later ones

# `sealed` is the sequence once more, stored last; before the rest changes it becomes 0.
cdef struct Mark:
    uint64_t sequence
    uint64_t low                         # of the digest
    uint64_t high
    uint64_t sealed

cdef struct MarkPage:
    uint64_t count                       # so far; the writer's
    uint64_t[7] unused
    Mark[MARKS] marks

INVARIANT(sizeof(MarkPage) <= MARK_PAGE_BYTES, b"a page has room for its marks")


cdef inline MarkPage* board_marks(const BoardMap* board, uint32_t shard) noexcept nogil:
    INVARIANT(shard < <uint32_t>SHARDS_MAX, b"a shard has a page of marks")
    return <MarkPage*>(board.pages + board_slots_bytes(board.workers) + <size_t>shard * MARK_PAGE_BYTES)


cdef void marks_clear(MarkPage* page) noexcept nogil:
    cdef int i
    for i in range(MARKS):
        eo_store64(&page.marks[i].sealed, 0)
    eo_store64(&page.count, 0)


# Only the shard's leader.
cdef void mark_put(MarkPage* page, uint64_t sequence, uint64_t low, uint64_t high) noexcept nogil:
    cdef Mark* mark = &page.marks[page.count % MARKS]
    eo_store64(&mark.sealed, 0)
    eo_fence()
    eo_store64(&mark.sequence, sequence)
    eo_store64(&mark.low, low)
    eo_store64(&mark.high, high)
    eo_store64(&mark.sealed, sequence)
    eo_store64(&page.count, page.count + 1)


cdef inline bint mark_read(const Mark* at, Mark* mark) noexcept nogil:
    mark.sealed = eo_load64(&at.sealed)
    mark.sequence = eo_load64(&at.sequence)
    mark.low = eo_load64(&at.low)
    mark.high = eo_load64(&at.high)
    eo_fence()
    return mark.sealed != 0 and mark.sealed == mark.sequence and eo_load64(&at.sealed) == mark.sealed


# The mark with the least sequence beyond this one. False: there is none yet. Ask again when standing at its sequence:
# what was marked and never became durable is cleared by the next leader, and does not count.
cdef bint mark_next(const MarkPage* page, uint64_t after_sequence, Mark* mark) noexcept nogil:
    cdef Mark one
    cdef bint found = False
    cdef int i
    for i in range(MARKS):
        if mark_read(&page.marks[i], &one) and one.sequence > after_sequence \
                and (not found or one.sequence < mark.sequence):
            mark[0] = one
            found = True
    return found


def board_mark_next(Board board not None, uint32_t shard, uint64_t after_sequence):
    """The mark of a shard with the least sequence beyond `after_sequence`, as sequence and state digest; or None."""
    cdef Mark mark
    if shard >= <uint32_t>SHARDS_MAX:
        raise ValueError(f"shard {shard} is out of bounds")
    if not mark_next(board_marks(&board.board, shard), after_sequence, &mark):
        return None
    return mark.sequence, f"{mark.high:016x}{mark.low:016x}"
