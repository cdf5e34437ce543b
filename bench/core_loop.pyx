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
include "_crc32c.pxi"
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
include "_order_item.pxi"
include "_retention.pxi"
include "_execute.pxi"
include "_ready.pxi"

cdef extern from "<time.h>" nogil:
    int CLOCK_THREAD_CPUTIME_ID


# CPU time of the thread: other processes on a shared machine take turns, not time.
cdef uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


# The number that ends at `last`, one more.
cdef inline void count_up(uint8_t* last) noexcept nogil:
    while last[0] == c"9":
        last[0] = c"0"
        last -= 1
    last[0] += 1


# `width` digits of a number.
cdef inline void put_digits(uint8_t* at, int width, uint32_t number) noexcept nogil:
    cdef int i
    for i in range(width - 1, -1, -1):
        at[i] = <uint8_t>(c"0" + number % 10)
        number //= 10


# PlaceOrderRequest: order_id, shop_id, buyer_id, one line of one unit; the digits are filled in per order.
cdef const uint8_t* REQUEST = (
    b"\x0a\x14o-000000000000000000" b"\x12\x01s" b"\x1a\x0800000000" b"\x22\x0d\x0a\x09s00000000\x10\x01"
)


cdef enum:
    REQUEST_BYTES = 50


cdef class CoreLoop:
    """A shard under one-line orders with unique 20-byte order ids and 8-byte buyer ids over `skus` SKUs of one shop."""
    cdef State* state
    cdef uint32_t skus
    cdef uint64_t random
    cdef uint8_t order_digits[18]
    cdef uint8_t requests[GROUP][REQUEST_BYTES]

    def __cinit__(self):
        self.state = <State*>calloc(1, sizeof(State))
        if self.state == NULL or not state_init(self.state, b"everopen-benches", 1):
            raise MemoryError("no memory for a shard")

    def __dealloc__(self):
        state_destroy(self.state)
        free(self.state)

    def __init__(self, uint32_t skus):
        cdef int i
        self.skus = skus
        self.random = 88172645463325252
        memset(self.order_digits, c"0", 18)
        for i in range(GROUP):
            memcpy(self.requests[i], REQUEST, REQUEST_BYTES)

    def command(self, int method, bytes request not None, int64_t now_ms):
        """Carries out one command for the set-up; True if it was decided."""
        return execute(self.state, method, request, len(request), now_ms) == DECIDED

    # The next request: a new order, a SKU among the first `spread`.
    cdef void fill(self, int i, uint32_t spread) noexcept nogil:
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        count_up(self.order_digits + 17)
        memcpy(self.requests[i] + 4, self.order_digits, 18)
        memcpy(self.requests[i] + 27, self.order_digits + 10, 8)
        put_digits(self.requests[i] + 40, 8, <uint32_t>((self.random >> 32) * spread >> 32))

    def expect(self, uint64_t orders):
        """Populates memory for so many one-line orders, as a server that expects a peak does."""
        with nogil:
            expect_orders(self.state, orders)

    def place_one_by_one(self, uint64_t count, uint32_t spread, int64_t now_ms):
        """As unary calls come: request bytes to answer and record. Returns (ns of CPU, orders placed)."""
        cdef uint64_t _i, placed = 0, began = now_ns()
        with nogil:
            for _i in range(count):
                self.fill(0, spread)
                execute(self.state, PLACE_ORDER, self.requests[0], REQUEST_BYTES, now_ms)
                placed += self.state.record.data[5] == OUTCOME_PLACED
        return now_ns() - began, placed

    def place_in_groups(self, uint64_t count, uint32_t spread, int64_t now_ms, bint wire=True):
        """As batches come; `count` is a multiple of GROUP (8). Without `wire`: from decoded command to record."""
        cdef uint64_t done = 0, placed = 0, began
        cdef State* s = self.state
        cdef Span items[GROUP]
        cdef PlaceOrder* orders[GROUP]
        cdef Reply reply
        cdef int i, verdict
        for i in range(GROUP):
            items[i] = span_of(self.requests[i], REQUEST_BYTES)
            orders[i] = NULL
        make_ready(s, items, GROUP, orders)
        began = now_ns()
        with nogil:
            while done < count:
                # All ids have their places in the request, so that a decoded command follows when they change.
                for i in range(GROUP):
                    self.fill(i, spread)
                if wire:
                    make_ready(s, items, GROUP, orders)
                else:
                    look_ahead(s, orders, GROUP)
                for i in range(GROUP):
                    verdict = carry_out(s, PLACE_ORDER, items[i].data, items[i].size, orders[i], now_ms, &reply)
                    if wire and verdict != FAULT:
                        answer(s, PLACE_ORDER, verdict, &reply)
                    placed += reply.outcome == OUTCOME_PLACED
                done += GROUP
        return now_ns() - began, placed

    def make_requests(self, uint64_t count, uint32_t spread):
        """What making the requests costs, in ns; no order is placed."""
        cdef uint64_t _i, began = now_ns()
        cdef uint8_t before[18]
        memcpy(before, self.order_digits, 18)
        with nogil:
            for _i in range(count):
                self.fill(0, spread)
        memcpy(self.order_digits, before, 18)
        return now_ns() - began

    @property
    def open_orders(self):
        return self.state.orders.count

    @property
    def arena_bytes(self):
        return self.state.arena.used_bytes
