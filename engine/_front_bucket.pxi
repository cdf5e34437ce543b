# How much a peer may ask for what costs it little and us much: token buckets, and the policy on pings that gRPC's
# servers have. Leaves over plain values; the time is an argument.

cdef enum:
    BUCKET_TOKEN = 1000000000            # a frame in units of a bucket, so that n frames a second are n units in a ns
    BUCKET_REFILL_NS_MAX = 3600000000000  # longer than any bucket takes to fill; keeps the product within 64 bits
    CONTROL_EARNED = 4                   # control frames for each frame of an answer, see guard_earn

cdef struct Bucket:
    uint64_t filled_ns
    uint64_t tokens

cdef struct Guard:
    Bucket control                       # SETTINGS, PING, WINDOW_UPDATE, PRIORITY, unknown and empty DATA frames
    Bucket resets
    Bucket bad_credentials
    uint64_t last_ping_ns
    uint64_t pings_earned
    uint32_t ping_strikes
    uint32_t continuations               # in a row
    uint64_t headers_began_ns            # 0: no header block is being received
    uint64_t stuck_since_ns              # 0: nothing waits to be sent
    uint64_t closing_since_ns
    uint64_t progress                    # of what is sent, as seen when it was looked at last


cdef inline void bucket_begin(Bucket* bucket, uint64_t now_ns, uint64_t burst) noexcept nogil:
    bucket.filled_ns = now_ns
    bucket.tokens = burst * <uint64_t>BUCKET_TOKEN


cdef inline void bucket_add(Bucket* bucket, uint64_t units, uint64_t burst) noexcept nogil:
    cdef uint64_t full = burst * <uint64_t>BUCKET_TOKEN
    bucket.tokens += units
    if bucket.tokens > full:
        bucket.tokens = full


# Whether one more fits into `burst` at once and `per_s` in the long run.
cdef bint bucket_take(Bucket* bucket, uint64_t now_ns, uint64_t burst, uint64_t per_s) noexcept nogil:
    cdef uint64_t elapsed_ns
    if now_ns > bucket.filled_ns:
        elapsed_ns = now_ns - bucket.filled_ns
        if elapsed_ns > <uint64_t>BUCKET_REFILL_NS_MAX:
            elapsed_ns = BUCKET_REFILL_NS_MAX
        bucket_add(bucket, elapsed_ns * per_s, burst)
        bucket.filled_ns = now_ns
    if bucket.tokens < <uint64_t>BUCKET_TOKEN:
        return False
    bucket.tokens -= <uint64_t>BUCKET_TOKEN
    return True


# For each frame of an answer the peer may send a WINDOW_UPDATE for its stream and one for the connection, and a ping
# that measures the bandwidth; so what a working connection needs grows with its work.
cdef inline void guard_earn(Guard* guard, uint64_t burst) noexcept nogil:
    bucket_add(&guard.control, <uint64_t>CONTROL_EARNED * <uint64_t>BUCKET_TOKEN, burst)
    guard.ping_strikes = 0
    if guard.pings_earned < burst:
        guard.pings_earned += 1


# A ping that no answer earned must keep an interval to the one before, or it is a strike. A tenth of the interval is
# left for what the network does to the distance of two pings.
cdef bint ping_is_allowed(Guard* guard, uint64_t now_ns, uint64_t interval_ns, uint64_t strikes_max) noexcept nogil:
    cdef uint64_t before_ns = guard.last_ping_ns
    guard.last_ping_ns = now_ns
    if guard.pings_earned > 0:
        guard.pings_earned -= 1
    elif before_ns != 0 and now_ns - before_ns < interval_ns - interval_ns // 10:
        guard.ping_strikes += 1
    return guard.ping_strikes <= strikes_max


# Whether something waits to be sent that did not move for `patience_ns`. `progress` changes with each byte that goes.
cdef bint sending_is_stuck(Guard* guard, bint waits, uint64_t progress, uint64_t now_ns,
                           uint64_t patience_ns) noexcept nogil:
    if not waits:
        guard.stuck_since_ns = 0
    elif guard.stuck_since_ns == 0 or guard.progress != progress:
        guard.stuck_since_ns = now_ns
        guard.progress = progress
    return guard.stuck_since_ns != 0 and now_ns - guard.stuck_since_ns >= patience_ns


# A header block that goes on and on. Bytes must have come since it began: an end that was not reported (a block for a
# stream that is gone) is then only mistaken for one if its connection is not idle and yet begins no other frame.
cdef inline bint headers_are_slow(const Guard* guard, uint64_t received_ns, uint64_t now_ns,
                                  uint64_t patience_ns) noexcept nogil:
    return (guard.headers_began_ns != 0 and received_ns > guard.headers_began_ns
            and now_ns - guard.headers_began_ns >= patience_ns)
