# Memory of the state machine: an arena of 8-byte granules addressed by 32-bit handles, and a hash index that grows by one
# bucket at a time. Handles are half as wide as pointers, and an index that never rehashes as a whole never stalls an order.

cdef enum:
    ARENA_OBJECT_BYTES_MAX = 16384
    ARENA_CLASSES = ARENA_OBJECT_BYTES_MAX // 8 + 1
    INDEX_SEGMENT_SHIFT = 12                   # bucket heads in a segment

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_HUGEPAGE
    void* MAP_FAILED
    void* mmap(void* address, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t size)
    int madvise(void* address, size_t size, int advice)

cdef struct Arena:
    uint8_t* base                              # address space is reserved whole, memory comes with the first touch
    uint64_t reserved_bytes
    uint64_t bump, bump_end                    # the next granule never used, and the end
    uint64_t used_bytes                        # of live objects
    uint32_t free_heads[ARENA_CLASSES]         # by size in granules; a free object's first word is the next one

# Every hashed object begins like this.
cdef struct Link:
    uint32_t next, hash

# A node of a doubly linked list, somewhere inside of an object.
cdef struct Links:
    uint32_t prev, next

cdef struct HashIndex:
    uint32_t** segments
    uint32_t segment_capacity
    uint64_t buckets, round                    # round: the greatest power of two <= buckets
    uint64_t count


cdef inline void* arena_at(const Arena* arena, uint32_t handle) noexcept nogil:
    return arena.base + (<size_t>handle << 3)


cdef void* grown(void* block, size_t bytes) noexcept nogil:
    cdef void* bigger = realloc(block, bytes)
    INVARIANT(bigger != NULL, "out of memory")
    return bigger


cdef int arena_init(Arena* arena) noexcept nogil:
    memset(arena, 0, sizeof(Arena))
    arena.reserved_bytes = <uint64_t>8 << 32   # all that 32-bit handles reach
    while True:
        arena.base = <uint8_t*>mmap(
            NULL, arena.reserved_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if arena.base != <uint8_t*>MAP_FAILED:
            break
        arena.reserved_bytes >>= 1             # a limit on address space: take what there is
        if arena.reserved_bytes < (1 << 26):
            arena.base = NULL
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


cdef void arena_free(Arena* arena, uint32_t handle, size_t bytes) noexcept nogil:
    cdef uint32_t granules = <uint32_t>((bytes + 7) >> 3)
    (<uint32_t*>arena_at(arena, handle))[0] = arena.free_heads[granules]
    arena.free_heads[granules] = handle
    arena.used_bytes -= granules << 3


cdef void arena_destroy(Arena* arena) noexcept nogil:
    if arena.base != NULL:
        munmap(arena.base, arena.reserved_bytes)


# Linear hashing (W. Litwin, VLDB 1980): bucket b of the next round is split off when the objects outnumber the buckets.
cdef inline uint32_t* index_bucket(const HashIndex* index, uint32_t hash) noexcept nogil:
    cdef uint64_t bucket = hash & (2 * index.round - 1)
    if bucket >= index.buckets:
        bucket = hash & (index.round - 1)
    return &index.segments[bucket >> INDEX_SEGMENT_SHIFT][bucket & ((1 << INDEX_SEGMENT_SHIFT) - 1)]


cdef void index_add_segment(HashIndex* index) noexcept nogil:
    cdef uint32_t segment = <uint32_t>(index.buckets >> INDEX_SEGMENT_SHIFT)
    if segment >= index.segment_capacity:
        index.segment_capacity = index.segment_capacity * 2 if index.segment_capacity else 16
        index.segments = <uint32_t**>grown(index.segments, index.segment_capacity * sizeof(uint32_t*))
    index.segments[segment] = <uint32_t*>calloc(1 << INDEX_SEGMENT_SHIFT, sizeof(uint32_t))
    INVARIANT(index.segments[segment] != NULL, "out of memory")


cdef void index_init(HashIndex* index) noexcept nogil:
    memset(index, 0, sizeof(HashIndex))
    index_add_segment(index)
    index.buckets = index.round = 1


cdef void index_split(HashIndex* index, const Arena* arena) noexcept nogil:
    cdef uint64_t target = index.buckets
    cdef uint32_t* source_head
    cdef uint32_t* target_head
    cdef uint32_t handle, following, kept = 0, moved = 0
    cdef Link* link
    source_head = index_bucket(index, <uint32_t>(target & (index.round - 1)))
    if (target & ((1 << INDEX_SEGMENT_SHIFT) - 1)) == 0:
        index_add_segment(index)
    handle = source_head[0]
    while handle:
        link = <Link*>arena_at(arena, handle)
        following = link.next
        if (link.hash & (2 * index.round - 1)) == target:
            link.next, moved = moved, handle
        else:
            link.next, kept = kept, handle
        handle = following
    source_head[0] = kept
    target_head = &index.segments[target >> INDEX_SEGMENT_SHIFT][target & ((1 << INDEX_SEGMENT_SHIFT) - 1)]
    target_head[0] = moved
    index.buckets += 1
    if index.buckets == 2 * index.round:
        index.round = index.buckets


cdef inline void index_insert(HashIndex* index, const Arena* arena, uint32_t handle, uint32_t hash) noexcept nogil:
    cdef Link* link = <Link*>arena_at(arena, handle)
    cdef uint32_t* head
    if index.count >= index.buckets:
        index_split(index, arena)
    head = index_bucket(index, hash)
    link.hash = hash
    link.next = head[0]
    head[0] = handle
    index.count += 1


cdef void index_remove(HashIndex* index, const Arena* arena, uint32_t handle) noexcept nogil:
    cdef Link* link = <Link*>arena_at(arena, handle)
    cdef uint32_t* at = index_bucket(index, link.hash)
    while at[0] != handle:
        INVARIANT(at[0] != 0, "an object is not in its index")
        at = &(<Link*>arena_at(arena, at[0])).next
    at[0] = link.next
    index.count -= 1


cdef void index_destroy(HashIndex* index) noexcept nogil:
    cdef uint64_t i
    for i in range((index.buckets + (1 << INDEX_SEGMENT_SHIFT) - 1) >> INDEX_SEGMENT_SHIFT):
        free(index.segments[i])
    free(index.segments)


# Visiting every object of an index: start with cursor = handle = 0, end at 0. The order is arbitrary: never let it decide.
cdef uint32_t index_each(const HashIndex* index, const Arena* arena, uint64_t* cursor, uint32_t handle) noexcept nogil:
    if handle:
        handle = (<Link*>arena_at(arena, handle)).next
    while handle == 0 and cursor[0] < index.buckets:
        handle = index.segments[cursor[0] >> INDEX_SEGMENT_SHIFT][cursor[0] & ((1 << INDEX_SEGMENT_SHIFT) - 1)]
        cursor[0] += 1
    return handle


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
