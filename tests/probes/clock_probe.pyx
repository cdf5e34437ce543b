"""The logged clock with injected times."""

include "_platform.pxi"
include "_system.pxi"

cdef uint64_t journal_now_ns(int clock) noexcept nogil:
    return 0

include "_clock.pxi"


cdef class Kept:
    """Memory that outlives a process."""
    cdef KeptClock kept


cdef class Clock:
    cdef LoggedClock clock
    cdef Kept kept

    def keep(self, Kept kept, uint64_t boot, int64_t boot_ns):
        self.kept = kept
        clock_keep(&self.clock, &kept.kept, boot, boot_ns)

    def read_ms(self, int64_t real_ns, int64_t boot_ns):
        return clock_read_ms(&self.clock, real_ns, boot_ns)

    @property
    def alarms(self):
        return self.clock.alarms
