# Snapshots: one section per partition, string ids, a CRC and digests per section. The layout stands in
# docs/snapshot_format.md. Here are the header, the items in their order, and the ranks that keep lists in order.

cdef extern from *:
    """
    enum { SNAPSHOT_VERSION = 2 };             /* 1 as long as the level is 1 */
    static const uint64_t SNAPSHOT_MAGIC = 0x31504153594E5045;   /* "EPNYSAP1" */

    typedef struct __attribute__((packed)) {
        uint64_t magic;
        uint32_t format_version, level;
        uint8_t log_id[16];
        uint64_t sequence;
        int64_t time_ms, window_ms;
        uint32_t remembered_max, sections;
        uint64_t business[2], whole[2];   /* 128-bit sums, low word first; the shard's own part is not in them */
        uint32_t reserved, crc;           /* CRC32C of what precedes */
    } SnapshotHeader;

    /* From version 2 on it follows the header, which keeps its size. */
    typedef struct __attribute__((packed)) {
        uint64_t evicted[2], evicted_orders, evicted_through;
        uint32_t reserved, crc;           /* CRC32C of what precedes, seeded with that of the header */
    } SnapshotRetention;

    typedef struct __attribute__((packed)) {
        uint32_t partition, items;
        uint64_t size;                    /* bytes of payload that follow */
        uint64_t business[2], whole[2];
        uint32_t payload_crc, crc;        /* CRC32C of the payload; of what precedes */
    } SectionHeader;
    """
    const int SNAPSHOT_VERSION
    const uint64_t SNAPSHOT_MAGIC

    ctypedef struct SnapshotHeader:
        uint64_t magic
        uint32_t format_version, level
        uint8_t* log_id
        uint64_t sequence
        int64_t time_ms, window_ms
        uint32_t remembered_max, sections
        uint64_t* business
        uint64_t* whole
        uint32_t reserved, crc

    ctypedef struct SnapshotRetention:
        uint64_t* evicted
        uint64_t evicted_orders, evicted_through
        uint32_t reserved, crc

    ctypedef struct SectionHeader:
        uint32_t partition, items
        uint64_t size
        uint64_t* business
        uint64_t* whole
        uint32_t payload_crc, crc

# Items of a section: a shop, then what belongs to it, in this order.
cdef enum Item:
    ITEM_SHOP = 1
    ITEM_LOCATION = 2
    ITEM_SKU = 3
    ITEM_ORDER = 4
    ITEM_REMEMBERED = 5

# An object's place in a snapshot.
cdef struct Placed:
    uint32_t partition, shop, handle
    int item
    Span shop_id, id

# The place of an object in a list, from 1.
cdef struct Ranked:
    uint32_t handle, rank

cdef struct Ranks:
    Ranked* items
    size_t count, capacity


cdef int by_place(const void* left, const void* right) noexcept nogil:
    cdef const Placed* a = <const Placed*>left
    cdef const Placed* b = <const Placed*>right
    cdef int order
    if a.partition != b.partition:
        return -1 if a.partition < b.partition else 1
    order = compare_ids(a.shop_id, b.shop_id)
    if order == 0:
        order = a.item - b.item
    return order if order != 0 else compare_ids(a.id, b.id)


cdef int by_handle(const void* left, const void* right) noexcept nogil:
    cdef const Ranked* a = <const Ranked*>left
    cdef const Ranked* b = <const Ranked*>right
    return -1 if a.handle < b.handle else a.handle > b.handle


cdef void ranks_add(Ranks* ranks, uint32_t handle) noexcept nogil:
    if ranks.count == ranks.capacity:
        ranks.capacity = ranks.capacity * 2 + 64
        ranks.items = <Ranked*>grown(ranks.items, ranks.capacity * sizeof(Ranked))
    ranks.items[ranks.count].handle = handle
    ranks.items[ranks.count].rank = <uint32_t>(ranks.count + 1)
    ranks.count += 1


cdef void ranks_add_list(Ranks* ranks, State* s, uint32_t handle, size_t links) noexcept nogil:
    while handle:
        ranks_add(ranks, handle)
        handle = links_at(&s.arena, handle, links).next


# 0: in no list.
cdef uint32_t rank_of(const Ranks* ranks, uint32_t handle) noexcept nogil:
    cdef size_t low = 0, high = ranks.count, middle
    while low < high:
        middle = (low + high) >> 1
        if ranks.items[middle].handle < handle:
            low = middle + 1
        else:
            high = middle
    return ranks.items[low].rank if low < ranks.count and ranks.items[low].handle == handle else 0


cdef uint32_t partition_number(Span shop) noexcept nogil:
    return crc32c_of(shop.data, shop.size, 0) % <uint32_t>PARTITIONS
