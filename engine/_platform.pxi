# What the native core takes from the C side: fixed-width integers, memory, and the abort behind INVARIANT.
# Nothing here knows about orders.

from libc.stdint cimport (
    int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, INT64_MAX, UINT32_MAX, UINT64_MAX,
)
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdlib.h>

    /* A failed assert in a noexcept function would print and return 0, and `python -O` would drop it: abort instead. */
    #define INVARIANT(ok, text) do { \\
        if (__builtin_expect(!(ok), 0)) { \\
            fprintf(stderr, "everopen: invariant broken: %s (%s:%d)\\n", (text), __FILE__, __LINE__); \\
            abort(); \\
        } } while (0)
    #define LIKELY(x) __builtin_expect(!!(x), 1)
    #define UNLIKELY(x) __builtin_expect(!!(x), 0)

    /* What keeps an order safe, one by one. The simulation takes one away, to see that it misses it; else all hold. */
    enum {
        SAFETY_SYNC = 1, SAFETY_ACK_AFTER_SYNC, SAFETY_SYNC_ONCE, SAFETY_EPOCH, SAFETY_CRC, SAFETY_CHAIN,
        SAFETY_DEDUPE_IN_SNAPSHOT, SAFETY_LOGGED_TIME, SAFETY_NAMES_SYNC, SAFETIES,
    };
    static int eo_safety_off __attribute__((unused));
    #define SAFE(safety) __builtin_expect(eo_safety_off != (safety), 1)
    """
    const int SAFETY_SYNC, SAFETY_ACK_AFTER_SYNC, SAFETY_SYNC_ONCE, SAFETY_EPOCH, SAFETY_CRC, SAFETY_CHAIN
    const int SAFETY_DEDUPE_IN_SNAPSHOT, SAFETY_LOGGED_TIME, SAFETY_NAMES_SYNC, SAFETIES
    int eo_safety_off
    bint SAFE(int safety) noexcept nogil
    void INVARIANT(bint ok, const char* text) noexcept nogil
    bint LIKELY(bint x) noexcept nogil
    bint UNLIKELY(bint x) noexcept nogil

cdef extern from "<stdlib.h>" nogil:
    void qsort(void* base, size_t count, size_t size, int (*compare)(const void*, const void*) noexcept nogil)

# An empty list has no memory, and qsort does not take NULL.
cdef inline void sort(
    void* base, size_t count, size_t size, int (*compare)(const void*, const void*) noexcept nogil
) noexcept nogil:
    if count:
        qsort(base, count, size, compare)
