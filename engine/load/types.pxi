# What the generator is made of. A call is an HTTP/2 stream: a unary one carries one request, one of the method `stream`
# carries batches until the load ends. What is counted are requests: orders, where requests are orders.

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
    SWEEP_NS = 5000000                         # between two looks for calls past their deadline
    STATUSES = 18                              # gRPC's codes 0 to 16, and one for what is none of them
    STATUS_NONE = 17
    RESETS = 16                                # HTTP/2's error codes; the last one for all that follow
    HISTOGRAM_BITS = 7                         # 128 steps in each power of two: a step is at most 0.8 %
    HISTOGRAM_SLOTS = 4352                     # up to 2^40 ns, 18 minutes

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
    uint64_t placed, wrong                                     # what was acknowledged: as expected, or otherwise
    uint64_t good                                              # placed in time
    uint64_t[STATUSES] statuses
    uint64_t[RESETS] resets

ctypedef struct Histogram:
    uint64_t count, max_ns
    uint64_t[HISTOGRAM_SLOTS] slots

ctypedef struct Call:
    uint32_t id                                # of the stream; 0: the slot is free
    uint32_t first, waiting                    # ring of the requests without an answer, by their intended times
    uint64_t* intended_ns
    int64_t window                             # bytes that the peer takes
    int64_t taken                              # bytes received and not yet given back to the peer's window
    uint16_t http
    uint8_t status                             # STATUS_NONE until the trailers came
    uint8_t answer
    bint blocked                               # has bytes that the windows do not let go
    bint half_closed
    Buffer message                             # what is to be sent; from `message_sent` on
    size_t message_sent
    Buffer received                            # the beginning of a message

ctypedef struct Connection:
    int fd
    int phase
    uint32_t index, next_id, open_calls, blocked
    uint32_t streams_max, frame_bytes_max
    uint32_t look                              # the slot that is looked at first for room
    int64_t window, window_initial, taken
    bint headers_known, headers_plain
    bint wants_write, is_dirty
    uint64_t retry_ns
    Call* calls
    uint64_t* intended_ns
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

ctypedef struct Load:
    # What is asked for.
    uint32_t connection_count, streams, batch, window
    bint is_open, is_poisson, is_stream, does_spin
    uint64_t rate                              # requests a second
    uint64_t deadline_ns, good_ns
    int expect
    uint64_t expected
    Text headers_first, headers_next, headers_plain
    Text request                               # a template
    size_t order_at, buyer_at, shop_at, sku_at # where its digits go; 0: nowhere
    Text places                                # of ten digits each: shop, SKU
    uint64_t place_count, names                # order ids repeat after so many; 0: never
    # The schedule.
    uint64_t begin_ns, measure_ns, end_ns, drained_ns
    uint64_t taken, next_ns, random
    double gap_ns
    uint64_t* retries                          # intended times of requests that a GOAWAY gave back
    uint64_t retry_count, retry_capacity
    uint64_t named
    # The state.
    int epoll
    uint32_t mask, turn, ready
    uint64_t sweep_ns
    Connection* connections
    Buffer unary                               # headers and message of a unary request, to be patched
    size_t unary_data_at
    # The results.
    Counts[2] counts                           # before, and while it counts
    uint64_t rate_acknowledged                 # answers that came while it counts
    uint64_t handshakes
    Histogram histogram
