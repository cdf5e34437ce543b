"""Token buckets and the policy on pings, with the time as an argument."""

include "_platform.pxi"
include "_front_bucket.pxi"


cdef class Peer:
    """What the front remembers of how one peer behaves."""

    cdef Guard guard
    cdef uint64_t burst
    cdef uint64_t per_s

    def __cinit__(self, uint64_t now_ns, uint64_t burst, uint64_t per_s):
        self.burst = burst
        self.per_s = per_s
        bucket_begin(&self.guard.control, now_ns, burst)

    def control(self, uint64_t now_ns):
        return bool(bucket_take(&self.guard.control, now_ns, self.burst, self.per_s))

    def answered(self):
        guard_earn(&self.guard, self.burst)

    def ping(self, uint64_t now_ns, uint64_t interval_ns, uint64_t strikes_max):
        return bool(ping_is_allowed(&self.guard, now_ns, interval_ns, strikes_max))

    def stuck(self, bint waits, uint64_t progress, uint64_t now_ns, uint64_t patience_ns):
        return bool(sending_is_stuck(&self.guard, waits, progress, now_ns, patience_ns))

    def headers_slow(self, uint64_t began_ns, uint64_t received_ns, uint64_t now_ns, uint64_t patience_ns):
        self.guard.headers_began_ns = began_ns
        return bool(headers_are_slow(&self.guard, received_ns, now_ns, patience_ns))
