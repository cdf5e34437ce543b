# The clock that commands are logged by. Wall time, as long as it moves with the time since boot; a step of more than a
# second is not believed at once but slewed, and counted: a wrong hour must not expire every hold of the night.

cdef enum:
    CLOCK_STEP_NS_MAX = 1000000000             # beyond this a difference is a step
    CLOCK_SLEW_SHARE = 20                      # while slewing, one part in so many of the time that passes

cdef struct LoggedClock:
    int64_t offset_ns                          # of the clock in use to the time since boot
    int64_t boot_ns                            # at the last reading
    uint64_t alarms                            # steps seen
    bint slewing


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
    return (boot_ns + clock.offset_ns) // 1000000


cdef inline int64_t clock_now_ms(LoggedClock* clock) noexcept nogil:
    return clock_read_ms(clock, <int64_t>journal_now_ns(CLOCK_REALTIME), <int64_t>journal_now_ns(CLOCK_BOOTTIME))
