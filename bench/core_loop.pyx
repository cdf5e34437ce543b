"""Native loops around the state machine: what Python would cost per order must not show in the figures."""

include "_platform.pxi"
include "_system.pxi"
include "_limits.pxi"
include "_types.pxi"
include "_wire_read.pxi"
include "_wire_write.pxi"
include "_wire_request.pxi"
include "_wire_decode.pxi"
include "_wire_encode.pxi"
include "_wire_status.pxi"
include "_arena.pxi"
include "_state.pxi"
include "_digest.pxi"
include "_order_view.pxi"
include "_remember.pxi"
include "_stock.pxi"
include "_catalogue.pxi"
include "_allocate.pxi"
include "_holds.pxi"
include "_backorder.pxi"
include "_orders.pxi"
include "_lifecycle.pxi"
include "_execute.pxi"

cdef extern from "<time.h>" nogil:
    int CLOCK_THREAD_CPUTIME_ID


# CPU time of the thread: other processes on a shared machine take turns, not time.
cdef uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


# `width` digits of a number.
cdef inline void put_digits(uint8_t* at, int width, uint64_t number) noexcept nogil:
    cdef int i
    for i in range(width - 1, -1, -1):
        at[i] = <uint8_t>(c"0" + number % 10)
        number //= 10


# PlaceOrderRequest: order_id, shop_id, buyer_id, one line of one unit; the digits are filled in per order.
cdef const uint8_t* REQUEST = (
    b"\x0a\x14o-000000000000000000" b"\x12\x01s" b"\x1a\x0800000000" b"\x22\x0d\x0a\x09s00000000\x10\x01"
)


cdef class CoreLoop:
    """A shard under one-line orders with unique 20-byte order ids and 8-byte buyer ids over `skus` SKUs of one shop."""
    cdef State* state
    cdef uint32_t skus
    cdef uint64_t orders, random
    cdef uint8_t request[64]
    cdef Buffer scratch

    def __cinit__(self):
        self.state = <State*>calloc(1, sizeof(State))
        if self.state == NULL or not state_init(self.state, b"everopen-benches", 1):
            raise MemoryError("no memory for a shard")

    def __dealloc__(self):
        state_destroy(self.state)
        free(self.state)

    def __init__(self, uint32_t skus):
        self.skus = skus
        self.random = 88172645463325252
        memcpy(self.request, REQUEST, 50)

    def command(self, int method, bytes request not None, int64_t now_ms):
        """Carries out one command for the set-up; True if it was decided."""
        return execute(self.state, method, request, len(request), now_ms) == DECIDED

    cdef void fill(self, uint64_t sku) noexcept nogil:
        put_digits(self.request + 4, 18, self.orders)
        put_digits(self.request + 27, 8, self.orders)
        put_digits(self.request + 40, 8, sku)

    cdef uint64_t next_sku(self) noexcept nogil:
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return self.random % self.skus

    def run(self, uint64_t count, int64_t now_ms):
        """Request bytes to answer and record. Returns (ns, orders placed)."""
        cdef uint64_t i, placed = 0, began = now_ns()
        with nogil:
            for i in range(count):
                self.fill(self.next_sku())
                execute(self.state, PLACE_ORDER, self.request, 50, now_ms)
                placed += self.state.record.data[5] == OUTCOME_PLACED
                self.orders += 1
        return now_ns() - began, placed

    def match(self, uint64_t count, int64_t now_ms):
        """Decoded commands, ids as strings, to outcome and effects: what a shard costs beside the wire."""
        cdef uint64_t i, placed = 0, spent = 0, began
        cdef Reply reply
        cdef PlaceOrder* c = &self.state.place_order
        cdef State* s = self.state
        began = now_ns()
        self.fill(0)
        decode_place_order(self.request, 50, c, &self.scratch, &s.fault)
        with nogil:
            for i in range(count):
                self.fill(self.next_sku())
                memset(&reply, 0, sizeof(reply))
                reply.line = -1
                s.now_ms = now_ms
                s.current = s.sequence + 1
                place_order(s, c, &reply)
                s.sequence = s.current
                finish(s)
                write_record(s, PLACE_ORDER, reply.outcome, c.head.canonical)
                placed += reply.outcome == OUTCOME_PLACED
                self.orders += 1
        return now_ns() - began, placed

    def loop_alone(self, uint64_t count):
        """What the loop itself costs, in ns."""
        cdef uint64_t i, began = now_ns()
        with nogil:
            for i in range(count):
                self.fill(self.next_sku())
                self.orders += 1
        self.orders -= count
        return now_ns() - began

    @property
    def open_orders(self):
        return self.state.orders.count

    @property
    def arena_bytes(self):
        return self.state.arena.used_bytes
