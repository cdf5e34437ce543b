"""The load generator: one thread that keeps many HTTP/2 calls going, at a fixed rate or as fast as answers come.

It frames by hand and decodes as little as honesty demands: each header block, each status, and what each answer says.
"""

include "_platform.pxi"
include "_limits.pxi"
include "_types.pxi"
include "_wire_read.pxi"
include "_wire_write.pxi"
include "_nghttp2.pxi"
include "load/system.pxi"
include "load/types.pxi"
include "load/request.pxi"
include "load/answer.pxi"
include "load/connection.pxi"
include "load/loop.pxi"

EXPECTATIONS = {
    "anything": EXPECT_ANYTHING, "number": EXPECT_NUMBER, "message": EXPECT_MESSAGE, "results": EXPECT_RESULTS,
}

cdef enum:
    NS_PER_MS = 1000000
    NS_PER_S = 1000000000


cdef Text text_of(bytes data):
    cdef Text text
    text.data = data
    text.size = <size_t>len(data)
    return text


cdef dict counts_as_dict(const Counts* counts):
    return {
        "offered": counts.offered, "sent": counts.sent, "retried": counts.retried, "expired": counts.expired,
        "unsent": counts.unsent, "answered": counts.answered, "reset": counts.reset, "timed_out": counts.timed_out,
        "lost": counts.lost, "unanswered": counts.unanswered, "acknowledged": counts.acknowledged,
        "refused": counts.refused, "malformed": counts.malformed, "placed": counts.placed, "wrong": counts.wrong,
        "good": counts.good,
        "statuses": {code: counts.statuses[code] for code in range(STATUSES) if counts.statuses[code]},
        "resets": {code: counts.resets[code] for code in range(RESETS) if counts.resets[code]},
    }


cdef class Generator:
    """A load. Sockets come from the caller, who runs it in slices and so stays able to stop it."""
    cdef Load* load
    cdef list kept                             # the bytes that the load points into

    def __cinit__(self):
        self.load = <Load*>calloc(1, sizeof(Load))
        if self.load == NULL:
            raise MemoryError("no memory for a load")
        self.load.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.kept = []

    def __init__(
        self, *, int connections, int streams, int batch, int window, bint is_stream, bint is_poisson, bint spin,
        uint64_t rate, uint64_t deadline_ms, uint64_t goodput_ms, str expect not None, uint64_t expected,
        bytes headers_first not None, bytes headers_next not None, bytes headers_plain not None,
        bytes request not None, dict digits_at not None, bytes places not None, uint64_t names, uint64_t seed,
    ):
        """`rate` is requests a second, 0 for a closed loop; `digits_at` says where the template's digits stand."""
        cdef Load* l = self.load
        cdef Connection* c
        cdef uint32_t i, j
        if l.connections != NULL or connections < 1 or streams < 1 or batch < 1 or window < 1 or len(places) % 10:
            raise ValueError("a load of nothing")
        self.kept += [headers_first, headers_next, headers_plain, request, places]
        l.connection_count, l.streams, l.batch, l.window = connections, streams, batch, window
        l.is_stream, l.is_poisson, l.does_spin, l.is_open = is_stream, is_poisson, spin, rate > 0
        l.rate, l.deadline_ns, l.good_ns = rate, deadline_ms * NS_PER_MS, goodput_ms * NS_PER_MS
        l.expect, l.expected = EXPECTATIONS[expect], expected
        l.headers_first, l.headers_next = text_of(headers_first), text_of(headers_next)
        l.headers_plain, l.request = text_of(headers_plain), text_of(request)
        l.order_at, l.buyer_at = digits_at.get("order", 0), digits_at.get("buyer", 0)
        l.shop_at, l.sku_at = digits_at.get("shop", 0), digits_at.get("sku", 0)
        l.places, l.place_count, l.names = text_of(places), max(1, len(places) // 10), names
        l.random = seed | 1
        if rate > 0:
            l.gap_ns = 1e9 * batch / rate
        l.begin_ns = l.measure_ns = l.end_ns = l.drained_ns = UINT64_MAX
        l.mask = 7
        while l.mask + 1 < 4 * l.streams:
            l.mask = 2 * l.mask + 1
        make_unary(l)
        l.connections = <Connection*>calloc(l.connection_count, sizeof(Connection))
        if l.connections == NULL:
            raise MemoryError("no memory for connections")
        for i in range(l.connection_count):
            c = &l.connections[i]
            c.index, c.fd, c.phase = i, -1, CONNECTION_CLOSED
            c.received = <uint8_t*>malloc(RECEIVE_BYTES)
            c.calls = <Call*>calloc(l.mask + 1, sizeof(Call))
            c.intended_ns = <uint64_t*>calloc((l.mask + 1) * l.window, sizeof(uint64_t))
            if c.received == NULL or c.calls == NULL or c.intended_ns == NULL:
                raise MemoryError("no memory for a connection")
            for j in range(l.mask + 1):
                c.calls[j].intended_ns = c.intended_ns + j * l.window

    def __dealloc__(self):
        cdef Load* l = self.load
        cdef Connection* c
        cdef uint32_t i, j
        if l == NULL:
            return
        for i in range(l.connection_count if l.connections != NULL else 0):
            c = &l.connections[i]
            if c.calls != NULL and c.intended_ns != NULL:
                close_connection(l, c, 0)
            for j in range(l.mask + 1 if c.calls != NULL else 0):
                buffer_free(&c.calls[j].message)
                buffer_free(&c.calls[j].received)
            free(c.calls)
            free(c.intended_ns)
            free(c.received)
            buffer_free(&c.out)
            buffer_free(&c.block)
        posix_close(l.epoll)
        buffer_free(&l.unary)
        free(l.connections)
        free(l.retries)
        free(l)

    def wanted(self):
        """The connections that want a socket now."""
        cdef uint64_t now = now_ns()
        cdef uint32_t i
        return [i for i in range(self.load.connection_count)
                if self.load.connections[i].phase == CONNECTION_CLOSED and now >= self.load.connections[i].retry_ns]

    def attach(self, uint32_t index, int fd):
        """Takes over a non-blocking socket, which may still be connecting."""
        if index >= self.load.connection_count or self.load.connections[index].phase != CONNECTION_CLOSED:
            raise ValueError("no such connection, or it is open")
        if not open_connection(self.load, &self.load.connections[index], fd):
            raise MemoryError("no memory for a connection")

    def start(self, double seconds, double warmup_s, double drain_s):
        """The schedule begins now. Requests of the warm-up are counted apart."""
        cdef Load* l = self.load
        # The kernel may otherwise wake a sleeper 50 us late.
        prctl(PR_SET_TIMERSLACK, 1)
        l.begin_ns = now_ns()
        l.next_ns = l.begin_ns
        l.measure_ns = l.begin_ns + <uint64_t>(warmup_s * NS_PER_S)
        l.end_ns = l.measure_ns + <uint64_t>(seconds * NS_PER_S)
        l.drained_ns = l.end_ns + <uint64_t>(drain_s * NS_PER_S)

    def run(self, int milliseconds):
        """Runs for so long, or until a connection wants a socket, or until the load is done: True then."""
        cdef int end
        with nogil:
            end = run_slice(self.load, now_ns() + <uint64_t>milliseconds * NS_PER_MS)
        return end == LOAD_DONE

    def finish(self):
        """Counts what was due and not sent, and what was sent and has no answer."""
        settle(self.load)

    @property
    def ready(self):
        """How many connections take calls."""
        return self.load.ready

    @property
    def handshakes(self):
        return self.load.handshakes

    @property
    def acknowledged_in_time(self):
        """How many answers with status OK came while it counted, whenever their requests were due."""
        return self.load.rate_acknowledged

    def counts(self, bint measured):
        """What was counted of requests due during the warm-up, or after it."""
        return counts_as_dict(&self.load.counts[measured])

    def latencies(self):
        """(greatest latency in ns, how many) for each step that has any, in order; and the greatest of all."""
        cdef uint32_t slot
        steps = [(histogram_value(slot), self.load.histogram.slots[slot])
                 for slot in range(<uint32_t>HISTOGRAM_SLOTS) if self.load.histogram.slots[slot]]
        return steps, self.load.histogram.max_ns
