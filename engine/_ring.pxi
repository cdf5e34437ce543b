# One ring of bytes between two processes: one writes, one reads, and each may die at any instruction. Positions count
# bytes from the beginning and only grow. A message is one fragment, or several if it is larger than a fourth of the
# ring; a fragment is a word (its bytes, and how many of the message follow it) and its bytes, filled up to words.
#
# The ring's bytes are mapped twice in a row, so that no fragment is ever cut by the ring's end.
#
# Who has nothing to do says so in a flag, looks once more, and sleeps on the eventfd of its end of the link; who finds
# the flag set after moving its own position clears it and writes that eventfd. The fences between see to it that at
# least one of the two sees what the other did. Nobody pays a system call while both are awake.

cdef extern from "<sys/mman.h>" nogil:
    int MAP_FIXED, PROT_NONE

cdef enum:
    RING_FORMAT_VERSION = 1
    RING_HEADER_BYTES = 4096
    RING_FRAGMENT_HEAD_BYTES = 8
    RING_BYTES_MIN = 4096

cdef extern from *:
    """
    static const uint64_t RING_MAGIC = 0x474E4952524E4F45;   /* "EONRRING", read as little-endian */
    """
    const uint64_t RING_MAGIC

# What one end writes shares no cache line with what the other does.
cdef struct RingHeader:
    uint64_t magic
    uint64_t format_version
    uint64_t capacity
    uint64_t[5] unused
    uint64_t tail                     # the producer's position; what is before it may be read
    uint64_t[7] unused_by_producer
    uint64_t head                     # the consumer's position; what is before it may be overwritten
    uint64_t[7] unused_by_consumer
    uint64_t consumer_sleeps
    uint64_t[7] unused_by_sleeper
    uint64_t producer_waits

# One end of a ring.
cdef struct Ring:
    RingHeader* header
    uint8_t* data
    uint64_t capacity
    uint64_t head                     # consumer: what it has read; producer: what it last saw released
    uint64_t tail                     # producer: what it has written; consumer: what it last saw published
    uint64_t shown                    # of its own position, what the other end may see
    uint32_t missing                  # consumer: bytes of the message in `assembling` that are still to come
    int wake_fd                       # eventfd of the other end; stays the caller's
    bint producer
    bint is_broken                    # the other end wrote what cannot be
    Buffer assembling


# 1: mapped; 0: this is no ring, or there is no memory.
cdef int ring_map(Ring* ring, int memory_fd, int wake_fd, bint producer) noexcept nogil:
    cdef RingHeader* header = <RingHeader*>memory_map(memory_fd, RING_HEADER_BYTES)
    memset(ring, 0, sizeof(Ring))
    if header == NULL:
        return 0
    if header.magic == RING_MAGIC and header.format_version == <uint64_t>RING_FORMAT_VERSION:
        ring.capacity = header.capacity
    munmap(header, RING_HEADER_BYTES)
    if not ring_map_twice(ring, memory_fd):
        return 0
    ring.wake_fd = wake_fd
    ring.producer = producer
    ring.head = eo_load64(&ring.header.head)
    ring.tail = eo_load64(&ring.header.tail)
    ring.shown = ring.tail if producer else ring.head
    if ring_positions_are_possible(ring):
        return 1
    ring_unmap(ring)
    return 0


cdef int ring_map_twice(Ring* ring, int memory_fd) noexcept nogil:
    cdef size_t capacity = ring.capacity, once = RING_HEADER_BYTES + capacity
    cdef uint8_t* base
    if not RING_BYTES_MIN <= ring.capacity <= RING_BYTES or capacity & (capacity - 1) != 0:
        return 0
    # Asked for by its size alone first, so that the file is known to be large enough and the place to be free.
    base = <uint8_t*>memory_map(memory_fd, once)
    if base == NULL:
        return 0
    munmap(base, once)
    base = <uint8_t*>mmap(NULL, once + capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if base == <uint8_t*>MAP_FAILED:
        return 0
    ring.header = <RingHeader*>base
    ring.data = base + RING_HEADER_BYTES
    if (
        mmap(base, once, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_fd, 0) == MAP_FAILED
        or mmap(base + once, capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_fd,
                RING_HEADER_BYTES) == MAP_FAILED
    ):
        ring_unmap(ring)
        return 0
    return 1


cdef void ring_unmap(Ring* ring) noexcept nogil:
    if ring.header != NULL:
        munmap(ring.header, RING_HEADER_BYTES + 2 * ring.capacity)
    buffer_free(&ring.assembling)
    memset(ring, 0, sizeof(Ring))


cdef inline bint ring_positions_are_possible(const Ring* ring) noexcept nogil:
    return ring.tail - ring.head <= ring.capacity and (ring.tail | ring.head) & 7 == 0


# Bytes of a fragment together with its head and what it is filled up with.
cdef inline uint64_t ring_fragment_room(uint64_t size) noexcept nogil:
    return RING_FRAGMENT_HEAD_BYTES + ((size + 7) & ~<uint64_t>7)


cdef inline uint64_t ring_fragment_bytes_max(const Ring* ring) noexcept nogil:
    return ring.capacity // 4 - RING_FRAGMENT_HEAD_BYTES


cdef void ring_wake(const Ring* ring, uint64_t* flag) noexcept nogil:
    cdef uint64_t one = 1
    eo_store64(flag, 0)
    # A full counter refuses the write, and then the eventfd is readable anyway.
    while write_fd(ring.wake_fd, &one, sizeof(one)) < 0 and errno == EINTR:
        pass


# Shows what was pushed, once after a batch of pushes, and wakes the consumer if it sleeps.
cdef void ring_publish(Ring* ring) noexcept nogil:
    if ring.shown == ring.tail:
        return
    ring.shown = ring.tail
    eo_store64(&ring.header.tail, ring.tail)
    eo_fence()
    if eo_load64(&ring.header.consumer_sleeps):
        ring_wake(ring, &ring.header.consumer_sleeps)


# Whether there is room for a fragment. If not, the consumer knows that its next release must wake this end.
cdef bint ring_has_room(Ring* ring, uint64_t room) noexcept nogil:
    if LIKELY(ring.capacity - (ring.tail - ring.head) >= room):
        return True
    ring.head = eo_load64(&ring.header.head)
    if ring_positions_are_possible(ring) and ring.capacity - (ring.tail - ring.head) < room:
        ring_publish(ring)
        eo_store64(&ring.header.producer_waits, 1)
        eo_fence()
        ring.head = eo_load64(&ring.header.head)
    if not ring_positions_are_possible(ring):
        ring.is_broken = True
        return False
    return ring.capacity - (ring.tail - ring.head) >= room


# Bytes of the message that is `head` and then `body`, from `at` on.
cdef void ring_copy(
    uint8_t* into, const uint8_t* head, size_t head_size, const uint8_t* body, size_t at, size_t size
) noexcept nogil:
    cdef size_t of_head = 0
    if at < head_size:
        of_head = head_size - at if head_size - at < size else size
        memcpy(into, head + at, of_head)
    if size > of_head:
        memcpy(into + of_head, body + (at + of_head - head_size), size - of_head)


# Writes what fits of the message, which is head and body and not empty. 1: all of it is in; 0: the ring is full, call
# again with the same message and the same progress (0 at first) when the eventfd of this end says so; -1: the ring is
# broken. Nothing else may be pushed before all of it is in.
cdef int ring_push(
    Ring* ring, const uint8_t* head, size_t head_size, const uint8_t* body, size_t body_size, size_t* progress
) noexcept nogil:
    cdef size_t total = head_size + body_size, size
    cdef uint8_t* at
    INVARIANT(0 < total <= <size_t>RING_MESSAGE_BYTES_MAX, b"a message of a ring has a legal size")
    while progress[0] < total:
        size = total - progress[0]
        if size > ring_fragment_bytes_max(ring):
            size = ring_fragment_bytes_max(ring)
        if ring.is_broken or not ring_has_room(ring, ring_fragment_room(size)):
            return -1 if ring.is_broken else 0
        at = ring.data + (ring.tail & (ring.capacity - 1))
        progress[0] += size
        (<uint64_t*>at)[0] = size | <uint64_t>(total - progress[0]) << 32
        ring_copy(at + RING_FRAGMENT_HEAD_BYTES, head, head_size, body, progress[0] - size, size)
        ring.tail += ring_fragment_room(size)
    return 1


# Looks for more after all that was visible has been read.
cdef bint ring_look(Ring* ring) noexcept nogil:
    ring.tail = eo_load64(&ring.header.tail)
    if not ring_positions_are_possible(ring):
        ring.is_broken = True
    return ring.tail != ring.head and not ring.is_broken


cdef inline bint ring_fragment_is_possible(const Ring* ring, uint64_t size, uint64_t rest) noexcept nogil:
    return (
        0 < size <= ring_fragment_bytes_max(ring)
        and ring_fragment_room(size) <= ring.tail - ring.head
        and (size + rest <= <uint64_t>RING_MESSAGE_BYTES_MAX if ring.missing == 0 else size + rest == ring.missing)
    )


# The next whole message. 1: data and size are set, and last until the next release, those of a message of several
# fragments only until the next call; 0: there is none yet; -1: the ring is broken. What is visible of an unfinished
# message is taken in on the way, so release after a 0, too.
cdef int ring_next(Ring* ring, const uint8_t** data, size_t* size) noexcept nogil:
    cdef uint64_t word, fragment, rest
    cdef uint8_t* at
    while not ring.is_broken and (ring.head != ring.tail or ring_look(ring)):
        at = ring.data + (ring.head & (ring.capacity - 1))
        # Loaded once: what was checked is what is used, whatever the other end does meanwhile.
        word = eo_load64(<const uint64_t*>at)
        fragment = word & UINT32_MAX
        rest = word >> 32
        at += RING_FRAGMENT_HEAD_BYTES
        if not ring_fragment_is_possible(ring, fragment, rest):
            ring.is_broken = True
            return -1
        ring.head += ring_fragment_room(fragment)
        if ring.missing == 0:
            if LIKELY(rest == 0):
                data[0] = at
                size[0] = fragment
                return 1
            ring.assembling.size = 0
            buffer_reserve(&ring.assembling, fragment + rest)
        memcpy(ring.assembling.data + ring.assembling.size, at, fragment)
        ring.assembling.size += fragment
        ring.missing = <uint32_t>rest
        if rest == 0:
            data[0] = ring.assembling.data
            size[0] = ring.assembling.size
            return 1
    return -1 if ring.is_broken else 0


# Gives back the room of what was read, once after a batch of reads, and wakes the producer if it waits for room.
cdef void ring_release(Ring* ring) noexcept nogil:
    if ring.shown == ring.head:
        return
    ring.shown = ring.head
    eo_store64(&ring.header.head, ring.head)
    eo_fence()
    if eo_load64(&ring.header.producer_waits):
        ring_wake(ring, &ring.header.producer_waits)


# The consumer is about to sleep on the eventfd of its end. False: not now, there is something to read.
cdef bint ring_sleep(Ring* ring) noexcept nogil:
    ring_release(ring)
    eo_store64(&ring.header.consumer_sleeps, 1)
    eo_fence()
    if ring.is_broken or ring.head != ring.tail or ring_look(ring) or ring.is_broken:
        ring_awake(ring)
        return False
    return True


# The consumer is awake, for whatever reason; from now on nobody needs to wake it.
cdef inline void ring_awake(Ring* ring) noexcept nogil:
    eo_store64(&ring.header.consumer_sleeps, 0)


def ring_create(size_t capacity=RING_BYTES):
    """The descriptor of a new ring of `capacity` bytes, a power of two of 4,096 to RING_BYTES."""
    if not RING_BYTES_MIN <= capacity <= RING_BYTES or capacity & (capacity - 1):
        raise ValueError(f"{capacity} bytes are no capacity of a ring")
    fd = memory_create("everopen-ring", RING_HEADER_BYTES + capacity)
    words = (RING_MAGIC, RING_FORMAT_VERSION, capacity)
    _files.pwrite(fd, b"".join(word.to_bytes(8, "little") for word in words), 0)
    return fd
