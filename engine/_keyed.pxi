# Sorting by numbers, in time that grows with the count alone whatever the keys are: callers choose the ids. Who sorts
# millions of things beside a busy engine lets go of the core between small pieces of it. Since Linux 6.13 a thread that
# another core woke up gets a busy one only when the thread there enters the kernel, or at the next tick, after up to
# 4 ms (lazy preemption, Documentation/scheduler of the kernel).

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

cdef enum:
    PIECE_IN_CACHE = 4096
    PIECE_IN_MEMORY = 64                       # each thing of it costs some cache misses

cdef struct Keyed:
    uint64_t key
    uint32_t handle, number                    # whatever goes with the key

cdef struct KeyedList:
    Keyed* items
    size_t count, capacity


cdef inline void give_way_after(size_t i, size_t piece) noexcept nogil:
    if i % piece == piece - 1:
        sched_yield()


cdef void keyed_add(KeyedList* list, uint64_t key, uint32_t handle, uint32_t number) noexcept nogil:
    if list.count == list.capacity:
        list.capacity = list.capacity * 2 + 64
        list.items = <Keyed*>grown(list.items, list.capacity * sizeof(Keyed))
    list.items[list.count].key = key
    list.items[list.count].handle = handle
    list.items[list.count].number = number
    list.count += 1


# By the key; what is equal keeps its order. A byte at a time from the lowest, those left out in which all keys agree
# (LSD radix sort: Knuth, The Art of Computer Programming 3, 5.2.5). `spare` has as much room as `items`.
cdef void keyed_sort(Keyed* items, Keyed* spare, size_t count) noexcept nogil:
    cdef uint64_t differ = 0
    cdef size_t starts[256]
    cdef size_t i, begin, sum
    cdef int byte, shift
    cdef Keyed* into = spare
    cdef Keyed* now = items
    for i in range(1, count):
        differ |= items[i].key ^ items[0].key
    for shift in range(0, 64, 8):
        if (differ >> shift) & 255 == 0:
            continue
        memset(starts, 0, sizeof(starts))
        for i in range(count):
            starts[(now[i].key >> shift) & 255] += 1
        sum = 0
        for byte in range(256):
            begin = sum
            sum += starts[byte]
            starts[byte] = begin
        for i in range(count):
            byte = <int>((now[i].key >> shift) & 255)
            into[starts[byte]] = now[i]
            starts[byte] += 1
            give_way_after(i, PIECE_IN_CACHE)
        now, into = into, now
    if now != items:
        memcpy(items, now, count * sizeof(Keyed))


# 0: none has the key. The list is sorted.
cdef uint32_t keyed_find(const KeyedList* list, uint64_t key) noexcept nogil:
    cdef size_t low = 0, high = list.count, middle
    while low < high:
        middle = (low + high) >> 1
        if list.items[middle].key < key:
            low = middle + 1
        else:
            high = middle
    return list.items[low].number if low < list.count and list.items[low].key == key else 0
