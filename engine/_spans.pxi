# The ring of spans of one worker, in shared memory: it writes a record for each sampled call that it answered, and one
# reader takes them. Positions only grow. A full ring loses what is new; the writer counts that. What a worker leaves
# when it dies is still read, and the next one writes on behind it.

cdef enum:
    STAGE_TIMES = 6
    STAGES = 6                           # the five between the times, and all of it
    SPANS = 4096

# When a call got where, CLOCK_MONOTONIC. Stage i is from time i to time i + 1.
cdef enum StageTime:
    TIME_BEGUN = 0                       # its message is whole
    TIME_QUEUED                          # it is a job
    TIME_EXECUTING
    TIME_EXECUTED
    TIME_DURABLE
    TIME_SENT

STAGE_NAMES = ("decode", "queue", "match", "sync", "send", "total")

cdef struct SpanRecord:
    uint8_t[16] trace_id
    uint8_t[8] parent_id                 # zeros: there is none
    uint8_t[8] span_id
    uint64_t begun_wall_ns               # CLOCK_REALTIME, of the first of the times
    uint64_t[STAGE_TIMES] times_ns       # of a relayed call only the first and the last; 0 between
    uint32_t code                        # gRPC's
    uint32_t items                       # of a batch
    uint32_t worker
    uint8_t method                       # its place in the front's tables of methods, from 1 on: native, then relayed
    uint8_t shard                        # SPAN_SHARDS: several
    uint8_t outcome                      # 0: not known here
    uint8_t[25] unused

cdef enum:
    SPAN_SHARDS = 255
    SPLITMIX_STEP = 0x9E3779B97F4A7C15

# What the writer stores shares no cache line with what the reader does.
cdef struct SpanRing:
    uint64_t written
    uint64_t[7] unused_by_writer
    uint64_t taken
    uint64_t[7] unused_by_reader
    SpanRecord[SPANS] records

INVARIANT(sizeof(SpanRecord) == 128, b"a span is two cache lines")
INVARIANT(<int>SPANS == SPANS_KEPT, b"the ring is its bound")


# Steele, Lea and Flood's splitmix64: of numbers that are SPLITMIX_STEP apart it makes numbers that look random.
cdef inline uint64_t mixed64(uint64_t mixed) noexcept nogil:
    mixed = (mixed ^ mixed >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ mixed >> 27) * <uint64_t>0x94D049BB133111EB
    return mixed ^ mixed >> 31


# False: the ring is full, or is none.
cdef bint span_put(SpanRing* ring, const SpanRecord* span) noexcept nogil:
    if ring == NULL or ring.written - eo_load64(&ring.taken) >= <uint64_t>SPANS_KEPT:
        return False
    ring.records[ring.written % <uint64_t>SPANS_KEPT] = span[0]
    eo_store64(&ring.written, ring.written + 1)
    return True


cdef inline bint span_take(SpanRing* ring, SpanRecord* span) noexcept nogil:
    if eo_load64(&ring.written) == ring.taken:
        return False
    span[0] = ring.records[ring.taken % <uint64_t>SPANS_KEPT]
    eo_store64(&ring.taken, ring.taken + 1)
    return True


cdef dict span_as_dict(const SpanRecord* span):
    cdef int i
    parent = span.parent_id[:8].hex()
    return {
        "trace_id": span.trace_id[:16].hex(), "parent_id": parent if int(parent, 16) else "",
        "span_id": span.span_id[:8].hex(), "begun_wall_ns": span.begun_wall_ns,
        "times_ns": tuple([span.times_ns[i] for i in range(STAGE_TIMES)]),
        "code": span.code, "items": span.items, "worker": span.worker, "method": span.method,
        "shard": span.shard if span.shard != SPAN_SHARDS else -1, "outcome": span.outcome,
    }
