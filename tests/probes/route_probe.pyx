"""Routing, leaf by leaf: bytes in, shards and bytes out."""

include "_platform.pxi"
include "_limits.pxi"
include "_types.pxi"
include "_wire_read.pxi"
include "_wire_write.pxi"
include "_wire_request.pxi"
include "_wire_decode.pxi"
include "_wire_status.pxi"
include "_crc32c.pxi"
include "_route.pxi"


# The bytes in memory of exactly their size, so that the sanitizers see a read beyond it.
cdef class Exact:
    cdef uint8_t* data
    cdef size_t size

    def __cinit__(self, bytes data):
        self.size = len(data)
        self.data = <uint8_t*>malloc(self.size)
        memcpy(self.data, <const uint8_t*>data, self.size)

    def __dealloc__(self):
        free(self.data)


cdef bytes taken(Buffer* buffer):
    cdef bytes result = (<char*>buffer.data)[:buffer.size]
    buffer_free(buffer)
    return result


def shop_of(int method, bytes request not None):
    """The shop's bytes, None where there is none to be read."""
    cdef Exact exact = Exact(request)
    cdef Span shop
    if not route_shop(method, exact.data, exact.size, &shop):
        return None
    return (<const char*>shop.data)[:shop.size]


def partition_of_bytes(bytes shop not None):
    return partition_of_shop(span_of(shop, len(shop)))


def shard_of(uint32_t partition, uint32_t shards):
    return shard_of_partition(partition, shards)


def route(int method, bytes batch not None, uint32_t shards):
    """The shard of each item, or the path and the description of what refuses the batch."""
    cdef Exact exact = Exact(batch)
    cdef uint8_t* shard_of_item = <uint8_t*>malloc(BATCH_ITEMS_MAX)
    cdef uint32_t count = 0
    cdef Fault fault
    try:
        if route_batch(method, exact.data, exact.size, shards, shard_of_item, &count, &fault) < 0:
            return "" if fault.field == NULL else (<bytes>fault.field).decode()
        return list(shard_of_item[:count])
    finally:
        free(shard_of_item)


def split(bytes batch not None, bytes shard_of_item not None, int shard, bytes before=b""):
    """The batch of one shard, behind what the buffer held before."""
    cdef Exact exact = Exact(batch)
    cdef Exact shards = Exact(shard_of_item)
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    memcpy(buffer_reserve(&out, len(before) + 1), <const uint8_t*>before, len(before))
    out.size = len(before)
    split_batch(exact.data, exact.size, shards.data, shard, &out)
    return taken(&out)


def merge(bytes shard_of_item not None, list answers, bytes before=b""):
    """Whether the answers are those of the items, and the buffer."""
    cdef Exact shards = Exact(shard_of_item)
    cdef list kept = [Exact(answer) for answer in answers]
    cdef Span[64] spans
    cdef Buffer out
    cdef Exact exact
    cdef int i, whole
    for i in range(len(kept)):
        exact = kept[i]
        spans[i] = span_of(exact.data, exact.size)
    memset(&out, 0, sizeof(out))
    memcpy(buffer_reserve(&out, len(before) + 1), <const uint8_t*>before, len(before))
    out.size = len(before)
    whole = merge_answers(shards.data, len(shard_of_item), spans, len(kept), &out)
    return bool(whole), taken(&out)


def head_of_status(bytes status not None):
    """Code and message, None if it is no status of a failure."""
    cdef Exact exact = Exact(status)
    cdef uint32_t code = 0
    cdef Span message
    if not status_head(exact.data, exact.size, &code, &message):
        return None
    return code, (<const char*>message.data)[:message.size].decode()
