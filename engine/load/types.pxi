# What the generator is made of. A call is an HTTP/2 stream: a unary one carries one request, one of the method `stream`
# carries batches until the load ends. What is counted are requests: orders, where requests are orders. A request that
# is sent again is the same one, and is counted once.

cdef enum:
    FRAME_HEAD_BYTES = 9
    FRAME_BYTES_MAX = 16384                    # of a peer that was not told otherwise, which we never do
    PREFIX_BYTES = 5                           # of a gRPC message: compressed or not, size
    RECEIVE_BYTES = 262144                     # read at once from one connection
    UNSENT_BYTES_MAX = 1048576                 # beyond this a connection takes no new calls
    CALL_WINDOW_BYTES = 8388608                # what we let a peer send on a call
    CONNECTION_WINDOW_BYTES = 67108864         # and on all of a connection
    WINDOW_BYTES_DEFAULT = 65535               # of HTTP/2
    WINDOW_BYTES_MAX = 2147483647
    HEADER_BLOCK_BYTES_MAX = 65536
    TIMEOUT_BYTES = 9                          # eight digits and the unit
    STREAM_IDS_MAX = 2147480000                # of a connection, which is then replaced
    RECONNECT_NS = 50000000
    RECONNECT_SOON_NS = 2000000                # with retry: after an attempt that came to nothing
    RETRY_NS = 5000000                         # between two tries of a request after the second one
    PUSHBACK_NS = 100000000                    # where an item of a batch is refused for load
    SWEEP_NS = 5000000                         # between two looks for calls past their deadline
    STATUSES = 18                              # gRPC's codes 0 to 16, and one for what is none of them
    STATUS_EXHAUSTED = 8
    STATUS_UNAVAILABLE = 14
    STATUS_NONE = 17
    RESETS = 16                                # HTTP/2's error codes; the last one for all that follow
    HISTOGRAM_BITS = 7                         # 128 steps in each power of two: a step is at most 0.8 %
    HISTOGRAM_SLOTS = 4352                     # up to 2^40 ns, 18 minutes
    PHASES_MAX = 64
    METHODS_MAX = 2

# What the answer to a request must be.
cdef enum:
    EXPECT_ANYTHING = 1
    EXPECT_NUMBER                              # field 1 is a varint of the expected value
    EXPECT_MESSAGE                             # field 1 is a message that is not empty
    EXPECT_RESULTS                             # PlaceOrdersResponse with a result for each order

cdef enum:
    ANSWER_NONE = 1
    ANSWER_EXPECTED
    ANSWER_OTHER
    ANSWER_SOLD_OUT                            # not enough stock, where that may be
    ANSWER_MALFORMED

cdef enum:
    CONNECTION_CLOSED = 1
    CONNECTION_OPENING                         # until the peer's settings are known
    CONNECTION_READY
    CONNECTION_LEAVING                         # the peer said GOAWAY

cdef enum:
    SLICE_OVER = 1
    SLICE_WANTS_CONNECTION
    LOAD_DONE

ctypedef struct Counts:
    uint64_t offered, sent, retried, expired, unsent
    uint64_t answered, reset, timed_out, lost, unanswered      # what became of those that were sent
    uint64_t acknowledged, refused, malformed                  # what was answered: status OK, another status, nonsense
    uint64_t placed, cancelled, sold_out, wrong                # what was acknowledged
    uint64_t good                                              # as expected, in time
    uint64_t duplicates                                        # of what was acknowledged: decided by an earlier try
    uint64_t[STATUSES] statuses
    uint64_t[RESETS] resets

ctypedef struct Histogram:
    uint64_t count, max_ns
    uint64_t[HISTOGRAM_SLOTS] slots

# The longest time without an acknowledgement, and when it began.
ctypedef struct Gap:
    uint64_t longest_ns, began_ns

# A part of the load that a caller set apart. Latencies belong to it by when requests were due, gaps by when they ended.
ctypedef struct Phase:
    uint64_t began_ns
    Gap gap
    Histogram histogram

# A request, or a batch of them: when it was due, and what makes it the same one when it is sent again.
ctypedef struct Request:
    uint64_t intended_ns
    uint64_t number                            # of its order, or of the first of its batch
    uint32_t tries
    uint32_t method                            # index

# A request that is to be sent again, not before ready_ns. They are a heap.
ctypedef struct Retry:
    uint64_t ready_ns
    Request request

ctypedef struct Bits:
    uint8_t* data
    size_t size

ctypedef struct Call:
    uint32_t id                                # of the stream; 0: the slot is free
    uint32_t first, waiting                    # ring of the requests without an answer
    Request* requests
    int64_t window                             # bytes that the peer takes
    int64_t taken                              # bytes received and not yet given back to the peer's window
    uint16_t http
    uint8_t status                             # STATUS_NONE until the trailers came
    uint8_t answer
    bint duplicate
    int64_t pushback_ms                        # -1: none, or never
    bint blocked                               # has bytes that the windows do not let go
    bint half_closed
    Buffer message                             # what is to be sent; from `message_sent` on
    size_t message_sent
    Buffer received                            # the beginning of a message

ctypedef struct Connection:
    int fd
    SSL* tls                                   # NULL: plaintext
    int phase
    uint32_t index, next_id, open_calls, blocked
    uint32_t streams_max, frame_bytes_max
    uint32_t look                              # the slot that is looked at first for room
    int64_t window, window_initial, taken
    bint headers_known, headers_plain
    bint wants_write, is_dirty
    uint64_t retry_ns
    uint32_t failures                          # since it was last of use
    Call* calls
    Request* requests
    Buffer out
    size_t out_sent
    uint8_t* received
    size_t received_size
    Buffer block                               # header block of more than one frame
    uint32_t block_id
    bint block_ends_call, block_is_open
    nghttp2_hd_inflater* inflater

# Bytes that Python made and keeps.
ctypedef struct Text:
    const uint8_t* data
    size_t size

# What is sent to one path: headers, and a template with the places where digits go (0: nowhere).
ctypedef struct Method:
    Text headers_first, headers_next, headers_plain
    Text request
    size_t order_at, buyer_at, shop_at, sku_at
    uint64_t expected
    Buffer unary                               # headers and message of a unary request, to be patched
    size_t unary_data_at
    Bits acknowledged                          # a bit for each number that was answered as expected

ctypedef struct Load:
    # What is asked for.
    uint32_t connection_count, streams, batch, window
    bint is_open, is_poisson, is_stream, does_spin, does_retry, keeps_acks
    uint64_t rate                              # requests a second
    uint64_t deadline_ns, good_ns
    uint64_t requests_max                      # 0: no bound but time
    uint64_t open_max                          # orders open before the oldest is cancelled; 0: none is
    int expect
    uint64_t sold_out                          # what an order may be answered too; 0: nothing
    Method[METHODS_MAX] methods                # what is sent; and what cancels it
    Text places                                # of ten digits each: shop, SKU
    uint64_t place_count, names                # order ids repeat after so many; 0: never
    # The schedule.
    uint64_t begin_ns, measure_ns, end_ns, drained_ns
    uint64_t taken, next_ns, random
    double gap_ns
    Retry* retries
    uint64_t retry_count, retry_capacity
    uint64_t in_flight, capacity               # requests, or batches, without an answer; how many calls have room for
    uint64_t named, offered                    # numbers given so far; requests
    uint64_t* open_numbers                     # ring of the orders that are to be cancelled
    uint64_t open_first, open_count, open_mask
    # The state.
    int epoll
    SSL_CTX* tls_context                       # NULL: plaintext
    Text host                                  # whose certificate is expected; ends with a 0
    uint32_t mask, turn, ready
    uint64_t sweep_ns
    Connection* connections
    # The results.
    Counts[2] counts                           # before, and while it counts
    uint64_t rate_acknowledged                 # answers that came while it counts
    uint64_t handshakes
    uint64_t acknowledged_ns                   # when the newest acknowledgement came; 0: none while it counts
    Gap gap
    Phase* phases
    uint32_t phase_count
    Histogram histogram
