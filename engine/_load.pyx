"""The load generator: one thread that keeps many HTTP/2 calls going, at a fixed rate or as fast as answers come.

It frames by hand and decodes as little as honesty demands: each header block, each status, and what each answer says.
"""

include "_platform.pxi"
include "_limits.pxi"
include "_types.pxi"
include "_wire_read.pxi"
include "_wire_write.pxi"
include "_nghttp2.pxi"
include "_openssl.pxi"
include "load/system.pxi"
include "load/types.pxi"
include "load/tls.pxi"
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
        "refused": counts.refused, "malformed": counts.malformed, "placed": counts.placed,
        "cancelled": counts.cancelled, "sold_out": counts.sold_out, "wrong": counts.wrong, "good": counts.good,
        "duplicates": counts.duplicates,
        "statuses": {code: counts.statuses[code] for code in range(STATUSES) if counts.statuses[code]},
        "resets": {code: counts.resets[code] for code in range(RESETS) if counts.resets[code]},
    }


cdef tuple gap_as_tuple(const Gap* gap):
    return gap.longest_ns, gap.began_ns


cdef list steps_of(const Histogram* histogram):
    cdef uint32_t slot
    return [(histogram_value(slot), histogram.slots[slot])
            for slot in range(<uint32_t>HISTOGRAM_SLOTS) if histogram.slots[slot]]


cdef class Generator:
    """A load. Sockets come from the caller, who runs it in slices and so stays able to stop it."""
    cdef Load* load
    cdef list kept                             # the bytes that the load points into

    def __cinit__(self):
        self.load = <Load*>calloc(1, sizeof(Load))
        if self.load == NULL:
            raise MemoryError("no memory for a load")
        self.load.phases = <Phase*>calloc(PHASES_MAX, sizeof(Phase))
        if self.load.phases == NULL:
            raise MemoryError("no memory for phases")
        self.load.phase_count = 1
        self.load.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.kept = []

    def __init__(
        self, *, int connections, int streams, int batch, int window, bint is_stream, bint is_poisson, bint spin,
        bint retry, bint keep_acks, uint64_t rate, uint64_t requests_max, uint64_t open_max, uint64_t deadline_ms,
        uint64_t goodput_ms, str expect not None, uint64_t sold_out, list methods not None, bytes places not None,
        uint64_t names, uint64_t seed, bytes tls_ca not None, bytes host not None,
    ):
        """`rate` is requests a second, 0 for a closed loop. `methods`: what is sent and, if orders are to be cancelled
        once `open_max` of them are open, what cancels one. `tls_ca`: the path of the CA's certificates, empty for
        plaintext; the peer's must be for `host`."""
        cdef Load* l = self.load
        cdef Connection* c
        cdef uint32_t i, j
        cdef int index
        if l.connections != NULL or connections < 1 or streams < 1 or batch < 1 or window < 1 or len(places) % 10:
            raise ValueError("a load of nothing")
        if len(methods) != 1 + (open_max > 0):
            raise ValueError("what is sent, and what cancels it")
        self.kept.append(places)
        self.kept.append(host)
        if tls_ca:
            l.tls_context = client_context(tls_ca)
            if l.tls_context == NULL:
                raise ValueError(f"{tls_ca.decode()}: there is no certificate in it")
            l.host = text_of(host)
        for index in range(<int>len(methods)):
            self.take_method(&l.methods[index], methods[index])
        l.connection_count, l.streams, l.batch, l.window = connections, streams, batch, window
        l.is_stream, l.is_poisson, l.does_spin, l.is_open = is_stream, is_poisson, spin, rate > 0
        l.does_retry, l.keeps_acks, l.requests_max, l.open_max = retry, keep_acks, requests_max, open_max
        l.rate, l.deadline_ns, l.good_ns = rate, deadline_ms * NS_PER_MS, goodput_ms * NS_PER_MS
        l.expect, l.sold_out = EXPECTATIONS[expect], sold_out
        l.places, l.place_count, l.names = text_of(places), max(1, len(places) // 10), names
        l.random = seed | 1
        if rate > 0:
            l.gap_ns = 1e9 * batch / rate
        l.begin_ns = l.measure_ns = l.end_ns = l.drained_ns = UINT64_MAX
        l.mask = 7
        while l.mask + 1 < 4 * l.streams:
            l.mask = 2 * l.mask + 1
        l.capacity = <uint64_t>connections * streams * window
        l.open_mask = 1
        while l.open_mask < open_max + <uint64_t>connections * (l.mask + 1):
            l.open_mask = 2 * l.open_mask + 1
        if open_max > 0:
            l.open_numbers = <uint64_t*>calloc(l.open_mask + 1, sizeof(uint64_t))
            if l.open_numbers == NULL:
                raise MemoryError("no memory for open orders")
        l.connections = <Connection*>calloc(l.connection_count, sizeof(Connection))
        if l.connections == NULL:
            raise MemoryError("no memory for connections")
        for i in range(l.connection_count):
            c = &l.connections[i]
            c.index, c.fd, c.phase = i, -1, CONNECTION_CLOSED
            c.received = <uint8_t*>malloc(RECEIVE_BYTES)
            c.calls = <Call*>calloc(l.mask + 1, sizeof(Call))
            c.requests = <Request*>calloc((l.mask + 1) * l.window, sizeof(Request))
            if c.received == NULL or c.calls == NULL or c.requests == NULL:
                raise MemoryError("no memory for a connection")
            for j in range(l.mask + 1):
                c.calls[j].requests = c.requests + j * l.window

    cdef int take_method(self, Method* m, dict given) except -1:
        cdef dict digits_at = given["digits_at"]
        self.kept.append(given)
        m.headers_first, m.headers_next = text_of(given["headers_first"]), text_of(given["headers_next"])
        m.headers_plain, m.request = text_of(given["headers_plain"]), text_of(given["request"])
        m.order_at, m.buyer_at = digits_at.get("order", 0), digits_at.get("buyer", 0)
        m.shop_at, m.sku_at = digits_at.get("shop", 0), digits_at.get("sku", 0)
        m.expected = given["expected"]
        make_unary(m)
        return 0

    def __dealloc__(self):
        cdef Load* l = self.load
        cdef Connection* c
        cdef uint32_t i, j
        if l == NULL:
            return
        for i in range(l.connection_count if l.connections != NULL else 0):
            c = &l.connections[i]
            if c.calls != NULL and c.requests != NULL:
                close_connection(l, c, 0, 0)
            for j in range(l.mask + 1 if c.calls != NULL else 0):
                buffer_free(&c.calls[j].message)
                buffer_free(&c.calls[j].received)
            free(c.calls)
            free(c.requests)
            free(c.received)
            buffer_free(&c.out)
            buffer_free(&c.block)
        SSL_CTX_free(l.tls_context)
        posix_close(l.epoll)
        for i in range(METHODS_MAX):
            buffer_free(&l.methods[i].unary)
            free(l.methods[i].acknowledged.data)
        free(l.connections)
        free(l.retries)
        free(l.open_numbers)
        free(l.phases)
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

    def end(self):
        """No request becomes due any more. Not while run() is under way."""
        cdef Load* l = self.load
        cdef uint64_t now = now_ns()
        if now < l.end_ns != UINT64_MAX:
            l.drained_ns -= l.end_ns - now
            l.end_ns = now

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

    @property
    def numbers(self):
        """How many orders were begun: each has a number below."""
        return self.load.named

    @property
    def gap(self):
        """(longest time without an acknowledgement, when it began: CLOCK_MONOTONIC), in ns, of what counts."""
        return gap_as_tuple(&self.load.gap)

    def mark(self):
        """A new phase begins now. From any thread. Returns its index; phase 0 began before all."""
        cdef Load* l = self.load
        cdef uint32_t count = l.phase_count
        if count == PHASES_MAX:
            raise ValueError("a load has no more phases")
        l.phases[count].began_ns = now_ns()
        __atomic_store_n(&l.phase_count, count + 1, __ATOMIC_RELEASE)
        return count

    def phase(self, uint32_t index):
        """(when it began, steps as in latencies(), greatest latency, gap as in `gap`)"""
        if index >= self.load.phase_count:
            raise ValueError("no such phase")
        cdef Phase* phase = &self.load.phases[index]
        return phase.began_ns, steps_of(&phase.histogram), phase.histogram.max_ns, gap_as_tuple(&phase.gap)

    def acks(self, uint32_t method):
        """A bit for each number that was acknowledged as expected, lowest bit first."""
        if method >= METHODS_MAX:
            raise ValueError("no such method")
        cdef Bits* bits = &self.load.methods[method].acknowledged
        cdef size_t size = min(bits.size, <size_t>(self.load.named + 7) // 8)
        return bits.data[:size] if bits.data != NULL else b""

    def counts(self, bint measured):
        """What was counted of requests due during the warm-up, or after it."""
        return counts_as_dict(&self.load.counts[measured])

    def latencies(self):
        """(greatest latency in ns, how many) for each step that has any, in order; and the greatest of all."""
        return steps_of(&self.load.histogram), self.load.histogram.max_ns
