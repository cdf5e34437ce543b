# Counts of durations and of sizes by buckets, in plain words that one thread stores and others load whole. A reader may
# see a sum a moment older than its counts, never a torn number. A value belongs to the first bucket whose bound is not
# below it, as Prometheus has it.

cdef enum:
    HISTOGRAM_FIRST_POWER = 10           # what is below 2^10 ns is in the first bucket
    HISTOGRAM_BUCKETS = 96               # four for each power of two of nanoseconds up to 2^34
    HISTOGRAM_COUNTS = 97                # the last one is what is beyond
    SIZE_BUCKETS = 31                    # one for each power of two, from 2^0 to 2^30
    SIZE_COUNTS = 32

cdef struct Histogram:
    uint64_t[HISTOGRAM_COUNTS] counts
    uint64_t sum

cdef struct SizeHistogram:
    uint64_t[SIZE_COUNTS] counts
    uint64_t sum

HISTOGRAM_BOUNDS_NS = tuple(
    (5 + i % 4) << (HISTOGRAM_FIRST_POWER - 2 + i // 4) for i in range(HISTOGRAM_BUCKETS)
)
SIZE_BOUNDS = tuple(1 << i for i in range(SIZE_BUCKETS))


cdef inline uint32_t histogram_index(uint64_t ns) noexcept nogil:
    cdef uint64_t below = ns - 1 if ns else 0
    cdef int power = 63 - __builtin_clzll(below | 1)
    if power < HISTOGRAM_FIRST_POWER:
        return 0
    if power >= HISTOGRAM_FIRST_POWER + HISTOGRAM_BUCKETS // 4:
        return HISTOGRAM_BUCKETS
    return <uint32_t>(4 * (power - HISTOGRAM_FIRST_POWER)) + <uint32_t>(below >> (power - 2) & 3)


cdef inline uint32_t size_index(uint64_t size) noexcept nogil:
    cdef int power = 64 - __builtin_clzll(size - 1) if size > 1 else 0
    return <uint32_t>power if power < SIZE_BUCKETS else <uint32_t>SIZE_BUCKETS


cdef inline void histogram_add(uint64_t* counts, uint64_t* total, uint32_t index, uint64_t value) noexcept nogil:
    eo_store64(&counts[index], counts[index] + 1)
    eo_store64(total, total[0] + value)


cdef inline void histogram_observe(Histogram* histogram, uint64_t ns) noexcept nogil:
    histogram_add(histogram.counts, &histogram.sum, histogram_index(ns), ns)


cdef inline void size_observe(SizeHistogram* histogram, uint64_t size) noexcept nogil:
    histogram_add(histogram.counts, &histogram.sum, size_index(size), size)


cdef inline void words_store(uint64_t* into, const uint64_t* words, size_t count) noexcept nogil:
    cdef size_t i
    for i in range(count):
        eo_store64(&into[i], words[i])


# Its counts and its sum.
cdef tuple histogram_as_tuple(const uint64_t* counts, uint32_t size, const uint64_t* total):
    cdef uint32_t i
    return [eo_load64(&counts[i]) for i in range(size)], eo_load64(total)
