# Snapshots: one section per partition, string ids, a CRC and digests per section. The layout stands in
# docs/snapshot_format.md. Here are the header, and the items in their order.

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
