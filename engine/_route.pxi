# Which shard a request is for, read from its bytes without decoding it; and a batch, cut by shard and put together
# again. What is malformed is not refused here: any shard refuses it in the words of the decoder.

cdef extern from *:
    """
    static const Shape SHAPE_STATUS = {.type = {[1] = F_UINT32, [2] = F_STRING}};   /* google.rpc.Status, its head */
    enum { SHARDS_MAX_AND_DENIED = SHARDS_MAX + 1 };   /* one more for what the caller may not touch */
    typedef struct { size_t at[SHARDS_MAX_AND_DENIED]; } ShardOffsets;
    """
    const Shape SHAPE_STATUS
    const int SHARDS_MAX_AND_DENIED

    ctypedef struct ShardOffsets:
        size_t* at


cdef inline uint32_t shop_field(int method) noexcept nogil:
    return 2 if method == PLACE_ORDER or method == ADJUST_STOCK or method == TRANSFER_STOCK else 1


# The shop of a request. 0: it names none, or is malformed. The fields around it are only stepped over; of several
# shop_ids the last one counts, as it does for the decoder.
cdef int route_shop(int method, const uint8_t* data, size_t size, Span* shop) noexcept nogil:
    cdef Reader reader = reader_of(data, size, GROUP_DEPTH_MAX)
    cdef uint32_t tag, wanted = tag_sized(shop_field(method))
    shop[0] = span_empty()
    while reader.at < reader.end:
        if not read_tag(&reader, &tag):
            return 0
        if not (read_sized(&reader, shop) if tag == wanted else skip_field(&reader, tag)):
            return 0
    return shop.size != 0


cdef inline uint32_t partition_of_shop(Span shop) noexcept nogil:
    return crc32c_of(shop.data, shop.size, 0) % <uint32_t>PARTITIONS


# Each shard has a range of partitions that lie side by side, and no two ranges differ by more than one in size.
cdef inline int shard_of_partition(uint32_t partition, uint32_t shards) noexcept nogil:
    return <int>(partition * shards // <uint32_t>PARTITIONS)


# The shard of each item of a batch; shard 0 for an item without a shop, which any shard refuses. 1: routed; -1: the
# batch as a whole is refused, the fault says why. shard_of_item has room for BATCH_ITEMS_MAX.
cdef int route_batch(
    int method, const uint8_t* data, size_t size, uint32_t shards, uint8_t* shard_of_item, uint32_t* count,
    Fault* fault
) noexcept nogil:
    cdef size_t offset = 0
    cdef uint32_t i
    cdef Span item, shop
    cdef int items = batch_count(method, data, size, fault)
    INVARIANT(0 < shards <= <uint32_t>SHARDS_MAX, b"shards are within their bound")
    count[0] = 0
    if items < 0:
        return -1
    for i in range(<uint32_t>items):
        batch_next(data, size, &offset, &item, fault)
        shard_of_item[i] = 0
        if route_shop(method, item.data, item.size, &shop):
            shard_of_item[i] = <uint8_t>shard_of_partition(partition_of_shop(shop), shards)
    count[0] = <uint32_t>items
    return 1


# Appends one item of a batch, or of a batch's answer.
cdef inline void put_batch_item(Buffer* out, Span item) noexcept nogil:
    buffer_end(out, put_body(buffer_reserve(out, 6 + <size_t>item.size), 1, item))


# Appends the batch of one shard's items, in their order, of a batch that route_batch has let pass.
cdef void split_batch(
    const uint8_t* data, size_t size, const uint8_t* shard_of_item, int shard, Buffer* out
) noexcept nogil:
    cdef size_t offset = 0
    cdef uint32_t i = 0
    cdef Span item
    cdef Fault fault
    while batch_next(data, size, &offset, &item, &fault) > 0:
        if shard_of_item[i] == shard:
            put_batch_item(out, item)
        i += 1


# Appends the answer of the whole batch, made of the answers of its shards: the results, back in the order of the items.
# 0: a shard answered fewer or more items than it was asked, or not with an answer; then nothing is appended.
cdef int merge_answers(
    const uint8_t* shard_of_item, uint32_t count, const Span* answers_of_shards, uint32_t shards, Buffer* out
) noexcept nogil:
    cdef ShardOffsets offsets
    cdef size_t before = out.size
    cdef uint32_t i, shard
    cdef const Span* answer
    cdef Span item
    cdef Fault fault
    cdef bint whole = True
    memset(&offsets, 0, sizeof(offsets))
    for i in range(count):
        shard = shard_of_item[i]
        INVARIANT(shard < shards, b"the shard of an item is one of those that answer")
        answer = &answers_of_shards[shard]
        whole = whole and batch_next(answer.data, answer.size, &offsets.at[shard], &item, &fault) > 0
        if whole:
            put_batch_item(out, item)
    for shard in range(shards):
        answer = &answers_of_shards[shard]
        whole = whole and batch_next(answer.data, answer.size, &offsets.at[shard], &item, &fault) == 0
    if not whole:
        out.size = before
    return whole


# Code and message of a google.rpc.Status. 0: it is malformed, or its code is OK.
cdef int status_head(const uint8_t* status, size_t size, uint32_t* code, Span* message) noexcept nogil:
    cdef Reader reader = reader_of(status, size, GROUP_DEPTH_MAX)
    cdef Fields fields
    fields.present = 0
    while reader.at < reader.end:
        if next_field(&reader, &SHAPE_STATUS, &fields) < 0:
            return 0
    code[0] = <uint32_t>number_in(&fields, 1)
    message[0] = text_in(&fields, 2)
    return code[0] != CODE_OK
