# The clock that commands are logged by. Wall time, as long as it moves with the time since boot; a step of more than a
# second is not believed at once but slewed, and counted: a wrong hour must not expire every hold of the night.

cdef enum:
    CLOCK_STEP_NS_MAX = 1000000000             # beyond this a difference is a step
    CLOCK_SLEW_SHARE = 20                      # while slewing, one part in so many of the time that passes

# What a process leaves of its clock to the one that leads after it: a step of the wall in between is a step as well.
cdef struct KeptClock:
    uint64_t boot                              # of the machine; offsets to another one say nothing
    int64_t offset_ns

cdef struct LoggedClock:
    int64_t offset_ns                          # of the clock in use to the time since boot
    int64_t boot_ns                            # at the last reading
    uint64_t alarms                            # steps seen
    bint slewing
    KeptClock* kept                            # NULL: nobody goes on after this process
    uint64_t boot


# Goes on with the clock of the process before, if that ran since the machine did.
cdef void clock_keep(LoggedClock* clock, KeptClock* kept, uint64_t boot, int64_t boot_ns) noexcept nogil:
    clock.kept = kept
    clock.boot = boot
    if eo_load64(&kept.boot) == boot:
        clock.offset_ns = kept.offset_ns
        clock.boot_ns = boot_ns


cdef int64_t clock_read_ms(LoggedClock* clock, int64_t real_ns, int64_t boot_ns) noexcept nogil:
    cdef int64_t step_ns, slew_ns
    if not SAFE(SAFETY_LOGGED_TIME):
        return real_ns // 1000000
    if clock.boot_ns == 0:
        clock.offset_ns = real_ns - boot_ns
    step_ns = real_ns - (boot_ns + clock.offset_ns)
    if -CLOCK_STEP_NS_MAX <= step_ns <= CLOCK_STEP_NS_MAX:
        clock.offset_ns += step_ns
        clock.slewing = False
    else:
        clock.alarms += not clock.slewing
        clock.slewing = True
        slew_ns = (boot_ns - clock.boot_ns) // CLOCK_SLEW_SHARE
        clock.offset_ns += slew_ns if step_ns > 0 else -slew_ns
    clock.boot_ns = boot_ns
    if clock.kept != NULL:
        eo_store64(<uint64_t*>&clock.kept.offset_ns, <uint64_t>clock.offset_ns)
        eo_store64(&clock.kept.boot, clock.boot)
    return (boot_ns + clock.offset_ns) // 1000000


cdef inline int64_t clock_now_ms(LoggedClock* clock) noexcept nogil:
    return clock_read_ms(clock, <int64_t>journal_now_ns(CLOCK_REALTIME), <int64_t>journal_now_ns(CLOCK_BOOTTIME))
