"""A ring from both ends, step by step, and native loops that try to lose a wake-up between two processes."""

include "_platform.pxi"
include "_system.pxi"
include "_limits.pxi"
include "_types.pxi"
include "_wire_read.pxi"
include "_wire_write.pxi"
include "_histogram.pxi"
include "_spans.pxi"
include "_board_figures.pxi"
include "_board.pxi"
include "_quota.pxi"
include "_ring.pxi"

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events, revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms) noexcept
    const short POLLIN

cdef extern from "<unistd.h>" nogil:
    ssize_t read_fd "read"(int fd, void* into, size_t size) noexcept

HEAD_AT, TAIL_AT, CONSUMER_SLEEPS_AT, PRODUCER_WAITS_AT = 128, 64, 192, 256
HEADER_BYTES = RING_HEADER_BYTES


# 0: nothing came within a time in which something must have come.
cdef int wait_for(int fd) noexcept nogil:
    cdef pollfd watched
    cdef uint64_t count
    watched.fd = fd
    watched.events = POLLIN
    watched.revents = 0
    if poll(&watched, 1, 20000) != 1:
        return 0
    return read_fd(fd, &count, sizeof(count)) == sizeof(count)


# Message `number` of a stream: its size and each byte follow from the number, so that any mix-up shows.
cdef size_t numbered_size(uint64_t number, size_t large) noexcept nogil:
    cdef uint64_t mixed = (number + 1) * 0x9E3779B97F4A7C15ULL
    mixed ^= mixed >> 29
    if mixed % 1000 == 0:
        return 8 + mixed // 1000 % large
    return 8 + mixed // 1000 % 200


cdef void fill_numbered(uint8_t* into, uint64_t number, size_t size) noexcept nogil:
    memset(into, <int>(number * 131 & 0xFF), size)
    memcpy(into, &number, 8)


cdef bint is_numbered(const uint8_t* data, size_t size, uint64_t number, size_t large) noexcept nogil:
    cdef size_t i
    if size != numbered_size(number, large) or memcmp(data, &number, 8) != 0:
        return False
    for i in range(8, size):
        if data[i] != <uint8_t>(number * 131 & 0xFF):
            return False
    return True


cdef class End:
    """One end of a ring."""

    cdef Ring ring
    cdef size_t progress

    def __cinit__(self, int memory_fd, int wake_fd, bint producer):
        if not ring_map(&self.ring, memory_fd, wake_fd, producer):
            raise ValueError("not a ring")

    def __dealloc__(self):
        ring_unmap(&self.ring)

    @property
    def fragment_bytes_max(self):
        return ring_fragment_bytes_max(&self.ring)

    def push(self, bytes head, bytes body):
        """Whether all of the message is in; if not, to be called again with the same message."""
        cdef int done = ring_push(&self.ring, head, len(head), body, len(body), &self.progress)
        if done < 0:
            raise BrokenPipeError("the ring is broken")
        if done:
            self.progress = 0
        return bool(done)

    def publish(self):
        ring_publish(&self.ring)

    def next(self):
        """The next message, None if there is none yet."""
        cdef const uint8_t* data = NULL
        cdef size_t size = 0
        cdef int more = ring_next(&self.ring, &data, &size)
        if more < 0:
            raise BrokenPipeError("the ring is broken")
        return data[:size] if more else None

    def release(self):
        ring_release(&self.ring)

    def sleep(self):
        return ring_sleep(&self.ring)

    def awake(self):
        ring_awake(&self.ring)

    def send_numbered(self, uint64_t count, size_t large, int wake_in_fd):
        """Pushes messages 0 to count - 1 in batches and sleeps when the ring is full; how many went in."""
        cdef uint8_t* message = <uint8_t*>malloc(8 + large + 200)
        cdef uint64_t number = 0
        cdef size_t size, progress
        cdef int done
        with nogil:
            while number < count:
                size = numbered_size(number, large)
                fill_numbered(message, number, size)
                progress = 0
                done = ring_push(&self.ring, message, 5, message + 5, size - 5, &progress)
                while done == 0 and wait_for(wake_in_fd):
                    done = ring_push(&self.ring, message, 5, message + 5, size - 5, &progress)
                if done != 1:
                    break
                number += 1
                if number % (1 + (number >> 4) % 9) == 0:
                    ring_publish(&self.ring)
            ring_publish(&self.ring)
        free(message)
        return number

    def receive_numbered(self, uint64_t first, uint64_t count, size_t large, int wake_in_fd):
        """Takes messages until `count` came, one was wrong, or a wake-up is missing; (how many came, sleeps)."""
        cdef const uint8_t* data = NULL
        cdef size_t size = 0
        cdef uint64_t number = first, sleeps = 0
        cdef int more = 1
        with nogil:
            while number < first + count and more >= 0:
                more = ring_next(&self.ring, &data, &size)
                if more == 1:
                    if not is_numbered(data, size, number, large):
                        break
                    number += 1
                    if number % 64 == 0:
                        ring_release(&self.ring)
                elif more == 0:
                    ring_release(&self.ring)
                    if ring_sleep(&self.ring):
                        sleeps += 1
                        if not wait_for(wake_in_fd):
                            break
                        ring_awake(&self.ring)
            ring_release(&self.ring)
        return number - first, sleeps

    def drain_numbered(self, uint64_t first, size_t large):
        """Takes what is there without waiting; how many whole and right messages, and whether all were."""
        cdef const uint8_t* data = NULL
        cdef size_t size = 0
        cdef uint64_t number = first
        cdef int more = ring_next(&self.ring, &data, &size)
        while more == 1 and is_numbered(data, size, number, large):
            number += 1
            more = ring_next(&self.ring, &data, &size)
        return number - first, more == 0


def ping_pong(End outgoing, End incoming, int wake_in_fd, uint64_t count, bint first):
    """Sends one message for each that came, so that a wake-up that is lost leaves both ends asleep. Before it sleeps,
    an end looks a while, of another length each time, so that messages arrive while it makes up its mind. Returns how
    many came, and how often this end slept."""
    cdef const uint8_t* data = NULL
    cdef size_t size = 0, progress
    cdef uint64_t number = 0, sleeps = 0, mixed
    cdef uint32_t spins
    cdef int more
    with nogil:
        while number < count:
            if first or number > 0:
                progress = 0
                if ring_push(&outgoing.ring, <const uint8_t*>&number, 8, NULL, 0, &progress) != 1:
                    break
                ring_publish(&outgoing.ring)
            mixed = (number + 1) * 0x9E3779B97F4A7C15ULL
            spins = <uint32_t>(mixed >> 40) % 4096
            more = ring_next(&incoming.ring, &data, &size)
            while more == 0:
                if spins:
                    spins -= 1
                elif ring_sleep(&incoming.ring):
                    sleeps += 1
                    if not wait_for(wake_in_fd):
                        break
                    ring_awake(&incoming.ring)
                more = ring_next(&incoming.ring, &data, &size)
            if more != 1:
                break
            ring_release(&incoming.ring)
            number += 1
        if not first and number == count:
            progress = 0
            ring_push(&outgoing.ring, <const uint8_t*>&number, 8, NULL, 0, &progress)
            ring_publish(&outgoing.ring)
    return number, sleeps
