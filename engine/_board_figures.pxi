# A shard's page of the board: what its leader knows of it, stored ten times a second, and how far its follower is.

cdef enum:
    FIGURES_FORMAT_VERSION = 1
    FIGURES_ROOM = 64
    FAULTS_ROOM = 17                     # by gRPC's code

# By its name in small letters, without `shard_`, a figure is called everywhere else. New ones go to the end. Counters
# are those of the process that leads.
cpdef enum ShardFigure:
    SHARD_SEQUENCE = 1                   # gauge, as the next six
    SHARD_DURABLE_SEQUENCE
    SHARD_JOBS_IN_FLIGHT
    SHARD_OPEN_ORDERS                    # all that are in memory, before the shard's level has closed ones
    SHARD_OPEN_HOLDS
    SHARD_OPEN_BACKORDERS
    SHARD_EVICTED_ORDERS
    SHARD_EXPIRIES
    SHARD_DUPLICATES
    SHARD_READS
    SHARD_COMMITS
    SHARD_COMMITTED_RECORDS
    SHARD_COMMITTED_BYTES
    SHARD_DISK_BYTES
    SHARD_SYNC_NS
    SHARD_REFUSED_FULL
    SHARD_REFUSED_NO_SPACE
    SHARD_CLOCK_ALARMS
    SHARD_OUTCOME_PLACED                 # in the order of the outcomes' numbers
    SHARD_OUTCOME_BACKORDERED
    SHARD_OUTCOME_APPLIED
    SHARD_OUTCOME_RETRY_TOO_OLD
    SHARD_OUTCOME_NOT_FOR_SALE
    SHARD_OUTCOME_PRICE_CHANGED
    SHARD_OUTCOME_BUYER_LIMIT
    SHARD_OUTCOME_INSUFFICIENT_STOCK
    SHARD_OUTCOME_ILLEGAL_STATE
    SHARD_FIGURES_END

INVARIANT(<int>SHARD_FIGURES_END <= <int>FIGURES_ROOM, b"a page has room for every figure")
SHARD_FIGURE_NAMES = tuple(
    name.lower().removeprefix("shard_") for name in globals()["ShardFigure"].__members__
    if name != "SHARD_FIGURES_END"
)

cdef struct ShardPage:
    uint64_t format_version              # 0: nobody has led the shard yet
    uint64_t worker
    uint64_t[6] unused
    uint64_t follower_sequence           # the follower's to write; 0: there is none
    uint64_t[7] unused_by_follower
    uint64_t[FIGURES_ROOM] figures       # by ShardFigure
    uint64_t[FAULTS_ROOM] faults
    SizeHistogram commit_records
    SizeHistogram commit_bytes

INVARIANT(sizeof(ShardPage) <= <size_t>SHARD_PAGE_BYTES, b"a page has room for a shard's figures")

# Of a worker.
cdef struct StagePage:
    Histogram[STAGES] stages

INVARIANT(sizeof(StagePage) <= <size_t>STAGES_BYTES, b"a worker's histograms have room")


cdef inline void figure_set(ShardPage* page, ShardFigure figure, uint64_t value) noexcept nogil:
    eo_store64(&page.figures[<uint32_t>figure], value)


cdef dict figures_as_dict(const ShardPage* page):
    cdef int code
    named = {name: eo_load64(&page.figures[number]) for number, name in enumerate(SHARD_FIGURE_NAMES, 1)}
    for code in range(1, FAULTS_ROOM):
        named[f"fault_{code}"] = eo_load64(&page.faults[code])
    return {
        "worker": eo_load64(&page.worker), "follower_sequence": eo_load64(&page.follower_sequence),
    } | named
