# Memory of the state machine: an arena of 8-byte granules addressed by 32-bit handles, and a hash index that grows by
# one bucket at a time. Handles are half as wide as pointers, and an index that never rehashes as a whole never stalls
# an order.

cdef enum:
    PAGE_BYTES = 4096
    ARENA_OBJECT_BYTES_MAX = 16384
    ARENA_CLASSES = ARENA_OBJECT_BYTES_MAX // 8 + 1
    INDEX_LINE_ENTRIES = 7
    INDEX_LINE_LOAD = 5                        # entries per bucket on the average

cdef extern from *:
    """
    static const uint64_t INDEX_BYTES = (uint64_t)4 << 30;   /* of address space for each index: 320 million entries */
    """
    const uint64_t INDEX_BYTES

cdef struct Arena:
    uint8_t* base                              # address space is reserved whole, memory comes with the first touch
    uint64_t reserved_bytes
    uint64_t bump, bump_end                    # the next granule never used, and the end
    uint64_t used_bytes                        # of live objects
    uint32_t free_heads[ARENA_CLASSES]         # by size in granules; a free object's first word is the next one

# A node of a doubly linked list, somewhere inside of an object.
cdef struct Links:
    uint32_t prev, next

# Seven entries and what follows them: one cache line, so that most look-ups cost one miss.
cdef struct IndexLine:
    uint32_t count, overflow                   # overflow: handle of the next line, when all seven are taken
    uint32_t hashes[7]
    uint32_t handles[7]

cdef struct HashIndex:
    IndexLine* lines                           # one per bucket; address space is reserved whole
    uint64_t reserved_bytes
    uint64_t buckets, round                    # round: the greatest power of two <= buckets
    uint64_t count

# Where a look-up stands.
cdef struct Probe:
    const IndexLine* line
    uint32_t hash, at

cdef inline void* arena_at(const Arena* arena, uint32_t handle) noexcept nogil:
    return arena.base + (<size_t>handle << 3)


cdef void* grown(void* block, size_t bytes) noexcept nogil:
    cdef void* bigger = realloc(block, bytes)
    INVARIANT(bigger != NULL, "out of memory")
    return bigger


# Asks the kernel for memory now, so that the first touches in a busy hour cost no page faults. Where it can't, they do.
cdef void populate(uint8_t* base, uint64_t used, uint64_t reserved, uint64_t more) noexcept nogil:
    cdef uint64_t begin = used & ~<uint64_t>(PAGE_BYTES - 1)
    if more > reserved - begin:
        more = reserved - begin
    madvise(base + begin, more, MADV_POPULATE_WRITE)


# Zeroed address space, `bytes` of it or, under a limit, what there is; memory comes with the first touch.
cdef void* reserve_addresses(uint64_t* bytes) noexcept nogil:
    cdef void* base
    while bytes[0] >= (1 << 22):
        base = mmap(NULL, bytes[0], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base != MAP_FAILED:
            return base
        bytes[0] >>= 1
    return NULL


cdef int arena_init(Arena* arena) noexcept nogil:
    memset(arena, 0, sizeof(Arena))
    arena.reserved_bytes = <uint64_t>8 << 32   # all that 32-bit handles reach
    arena.base = <uint8_t*>reserve_addresses(&arena.reserved_bytes)
    if arena.base == NULL:
        return 0
    # A huge page saves 511 page faults and most TLB misses; where the kernel says no, nothing is lost.
    madvise(arena.base, arena.reserved_bytes, MADV_HUGEPAGE)
    arena.bump = 1                             # handle 0 means none
    arena.bump_end = arena.reserved_bytes >> 3
    return 1


# A zeroed object of `bytes`; its handle.
cdef uint32_t arena_new(Arena* arena, size_t bytes) noexcept nogil:
    cdef uint32_t granules = <uint32_t>((bytes + 7) >> 3), handle
    INVARIANT(granules < ARENA_CLASSES, "an object is larger than the arena's largest class")
    handle = arena.free_heads[granules]
    if handle:
        arena.free_heads[granules] = (<uint32_t*>arena_at(arena, handle))[0]
        memset(arena_at(arena, handle), 0, granules << 3)
    else:
        INVARIANT(arena.bump_end - arena.bump >= granules, "the arena is full")
        handle = <uint32_t>arena.bump          # fresh memory is zero
        arena.bump += granules
    arena.used_bytes += granules << 3
    return handle


# Whether the greatest command surely fits: its orders, plans and rows are far below a mebibyte.
cdef inline bint arena_has_room(const Arena* arena) noexcept nogil:
    return arena.bump_end - arena.bump >= (1 << 20) >> 3


cdef void arena_free(Arena* arena, uint32_t handle, size_t bytes) noexcept nogil:
    cdef uint32_t granules = <uint32_t>((bytes + 7) >> 3)
    (<uint32_t*>arena_at(arena, handle))[0] = arena.free_heads[granules]
    arena.free_heads[granules] = handle
    arena.used_bytes -= granules << 3


cdef void arena_destroy(Arena* arena) noexcept nogil:
    if arena.base != NULL:
        munmap(arena.base, arena.reserved_bytes)


# Linear hashing (W. Litwin, VLDB 1980): when the lines fill up, the next bucket of the round is split in two, so that
# no order ever waits for the whole index. Entries carry their hashes: neither a split nor a miss looks at an object.
cdef inline uint64_t bucket_of(const HashIndex* index, uint32_t hash) noexcept nogil:
    cdef uint64_t bucket = hash & (2 * index.round - 1)
    return bucket if bucket < index.buckets else hash & (index.round - 1)


cdef int index_init(HashIndex* index, bint large) noexcept nogil:
    memset(index, 0, sizeof(HashIndex))
    index.reserved_bytes = INDEX_BYTES
    index.lines = <IndexLine*>reserve_addresses(&index.reserved_bytes)
    if index.lines == NULL:
        return 0
    if large:
        madvise(index.lines, index.reserved_bytes, MADV_HUGEPAGE)
    index.buckets = index.round = 1
    return 1


cdef void line_add(IndexLine* line, Arena* arena, uint32_t hash, uint32_t handle) noexcept nogil:
    while line.count == INDEX_LINE_ENTRIES:
        if line.overflow == 0:
            line.overflow = arena_new(arena, sizeof(IndexLine))
        line = <IndexLine*>arena_at(arena, line.overflow)
    line.hashes[line.count] = hash
    line.handles[line.count] = handle
    line.count += 1


cdef void index_split(HashIndex* index, Arena* arena) noexcept nogil:
    cdef uint64_t target = index.buckets
    cdef IndexLine* source = &index.lines[target & (index.round - 1)]
    cdef IndexLine line = source[0]
    cdef uint32_t i, overflow
    INVARIANT((target + 1) * sizeof(IndexLine) <= index.reserved_bytes, "an index is full")
    memset(source, 0, sizeof(IndexLine))
    while True:
        for i in range(line.count):
            if (line.hashes[i] & (2 * index.round - 1)) == target:
                line_add(&index.lines[target], arena, line.hashes[i], line.handles[i])
            else:
                line_add(source, arena, line.hashes[i], line.handles[i])
        overflow = line.overflow
        if overflow == 0:
            break
        line = (<IndexLine*>arena_at(arena, overflow))[0]
        arena_free(arena, overflow, sizeof(IndexLine))
    index.buckets += 1
    if index.buckets == 2 * index.round:
        index.round = index.buckets


cdef inline void index_insert(HashIndex* index, Arena* arena, uint32_t handle, uint32_t hash) noexcept nogil:
    if index.count >= index.buckets * INDEX_LINE_LOAD:
        index_split(index, arena)
    line_add(&index.lines[bucket_of(index, hash)], arena, hash, handle)
    index.count += 1


# The last entry of the chain takes the place of the one that goes.
cdef void index_remove(HashIndex* index, Arena* arena, uint32_t handle, uint32_t hash) noexcept nogil:
    cdef IndexLine* last = &index.lines[bucket_of(index, hash)]
    cdef IndexLine* before = NULL
    cdef IndexLine* found = NULL
    cdef uint32_t i, at = 0
    while True:
        for i in range(last.count):
            if last.handles[i] == handle:
                found = last
                at = i
        if last.overflow == 0:
            break
        before = last
        last = <IndexLine*>arena_at(arena, last.overflow)
    INVARIANT(found != NULL, "an object is not in its index")
    last.count -= 1
    found.hashes[at] = last.hashes[last.count]
    found.handles[at] = last.handles[last.count]
    index.count -= 1
    if last.count == 0 and before != NULL:
        arena_free(arena, before.overflow, sizeof(IndexLine))
        before.overflow = 0


cdef inline Probe index_probe(const HashIndex* index, uint32_t hash) noexcept nogil:
    cdef Probe probe
    probe.line = &index.lines[bucket_of(index, hash)]
    probe.hash = hash
    probe.at = 0
    return probe

# The next object with the hash; 0: there is none. The caller compares the ids.
cdef inline uint32_t probe_next(const Arena* arena, Probe* probe) noexcept nogil:
    while True:
        while probe.at < probe.line.count:
            probe.at += 1
            if probe.line.hashes[probe.at - 1] == probe.hash:
                return probe.line.handles[probe.at - 1]
        if probe.line.overflow == 0:
            return 0
        probe.line = <const IndexLine*>arena_at(arena, probe.line.overflow)
        probe.at = 0


cdef void index_destroy(HashIndex* index) noexcept nogil:
    if index.lines != NULL:
        munmap(index.lines, index.reserved_bytes)


# Visiting every object of an index that does not change: start with cursor 0, end at handle 0. The order is arbitrary:
# never let it decide anything.
cdef uint32_t index_each(const HashIndex* index, const Arena* arena, uint64_t* cursor) noexcept nogil:
    cdef const IndexLine* line
    cdef uint64_t bucket = cursor[0] >> 16, at = cursor[0] & 0xFFFF, skip
    while bucket < index.buckets:
        line = &index.lines[bucket]
        skip = at
        while skip >= line.count and line.overflow:
            skip -= line.count
            line = <const IndexLine*>arena_at(arena, line.overflow)
        if skip < line.count:
            cursor[0] = bucket << 16 | (at + 1)
            return line.handles[skip]
        bucket += 1
        at = 0
    cursor[0] = bucket << 16
    return 0


cdef struct List:
    uint32_t head, tail


cdef inline Links* links_at(const Arena* arena, uint32_t handle, size_t offset) noexcept nogil:
    return <Links*>(<uint8_t*>arena_at(arena, handle) + offset)


# `offset`: where the Links stand in the listed objects.
cdef void list_append(List* items, const Arena* arena, uint32_t handle, size_t offset) noexcept nogil:
    cdef Links* links = links_at(arena, handle, offset)
    links.prev = items.tail
    links.next = 0
    if items.tail:
        links_at(arena, items.tail, offset).next = handle
    else:
        items.head = handle
    items.tail = handle


cdef void list_remove(List* items, const Arena* arena, uint32_t handle, size_t offset) noexcept nogil:
    cdef Links* links = links_at(arena, handle, offset)
    if links.prev:
        links_at(arena, links.prev, offset).next = links.next
    else:
        items.head = links.next
    if links.next:
        links_at(arena, links.next, offset).prev = links.prev
    else:
        items.tail = links.prev
    links.prev = links.next = 0
