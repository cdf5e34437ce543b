# The state machine as Python sees it.

import os as _os

from engine.errors import ReplayMismatch, SnapshotDamaged

LIMITS = {
    "ID_BYTES_MAX": ID_BYTES_MAX, "REGION_BYTES_MAX": REGION_BYTES_MAX, "REASON_BYTES_MAX": REASON_BYTES_MAX,
    "LINES_MAX": LINES_MAX, "ALLOCATIONS_MAX": ALLOCATIONS_MAX, "ORDER_COMMANDS_MAX": ORDER_COMMANDS_MAX,
    "ORDER_PAYMENTS_KEPT": ORDER_PAYMENTS_KEPT,
    "ATTRIBUTES_MAX": ATTRIBUTES_MAX, "ATTRIBUTES_BYTES_MAX": ATTRIBUTES_BYTES_MAX,
    "PRIORITY_CLASS_MAX": PRIORITY_CLASS_MAX, "BATCH_ITEMS_MAX": BATCH_ITEMS_MAX,
    "MESSAGE_BYTES_MAX": MESSAGE_BYTES_MAX, "RECORD_COMMAND_BYTES_MAX": RECORD_COMMAND_BYTES_MAX,
    "RECORD_BYTES_MAX": RECORD_BYTES_MAX, "PARTITIONS": PARTITIONS,
    "LOCATIONS_PER_SHOP_MAX": LOCATIONS_PER_SHOP_MAX, "REGIONS_PER_SHOP_MAX": REGIONS_PER_SHOP_MAX,
    "REGION_COSTS_MAX": REGION_COSTS_MAX, "REGION_COST_DEFAULT": REGION_COST_DEFAULT,
    "SAFETY_OVERRIDES_MAX": SAFETY_OVERRIDES_MAX, "SHOPS_MAX": SHOPS_MAX, "SKUS_MAX": SKUS_MAX,
    "ORDERS_MAX": ORDERS_MAX, "DURATIONS_MAX": DURATIONS_MAX,
    "BACKORDER_LOOKAHEAD_MAX": BACKORDER_LOOKAHEAD_MAX, "BACKORDER_PASSES_MAX": BACKORDER_PASSES_MAX,
    "STEPS_MAX": STEPS_MAX, "EVICT_STEPS_MAX": EVICT_STEPS_MAX, "ARCHIVED_ORDER_BYTES_MAX": ARCHIVED_ORDER_BYTES_MAX,
    "IDEMPOTENCY_ENTRIES_DEFAULT": IDEMPOTENCY_ENTRIES_DEFAULT, "LEVEL_MAX": LEVEL_MAX,
    "QUANTITY_MAX": QUANTITY_MAX, "STOCK_MAX": STOCK_MAX, "PRICE_MINOR_MAX": PRICE_MINOR_MAX,
    "AMOUNT_MINOR_MAX": AMOUNT_MINOR_MAX, "TIME_MS_MAX": TIME_MS_MAX,
    "RESERVE_TTL_MS_DEFAULT": RESERVE_TTL_MS_DEFAULT, "RESERVE_TTL_MS_MAX": RESERVE_TTL_MS_MAX,
    "BUYER_WINDOW_MS_DEFAULT": BUYER_WINDOW_MS_DEFAULT, "BUYER_WINDOW_MS_MAX": BUYER_WINDOW_MS_MAX,
    "IDEMPOTENCY_WINDOW_MS_DEFAULT": IDEMPOTENCY_WINDOW_MS_DEFAULT,
    "WORKERS_MAX": WORKERS_MAX, "SHARDS_MAX": SHARDS_MAX, "BOARD_SLOT_BYTES": BOARD_SLOT_BYTES,
    "MARK_PAGE_BYTES": MARK_PAGE_BYTES, "MARK_EVERY": MARK_EVERY,
    "SHARD_PAGE_BYTES": SHARD_PAGE_BYTES, "STAGES_BYTES": STAGES_BYTES,
    "SPANS_KEPT": SPANS_KEPT,
    "RING_BYTES": RING_BYTES, "RING_MESSAGE_BYTES_MAX": RING_MESSAGE_BYTES_MAX,
}
INVARIANT(<int>DURATIONS == DURATIONS_MAX and <int>PRIORITY_CLASSES == PRIORITY_CLASS_MAX + 1,
          "an array is not its bound")

OUTCOME_NAMES = {
    OUTCOME_PLACED: "placed", OUTCOME_BACKORDERED: "backordered", OUTCOME_APPLIED: "applied",
    OUTCOME_RETRY_TOO_OLD: "retry_too_old", OUTCOME_NOT_FOR_SALE: "not_for_sale",
    OUTCOME_PRICE_CHANGED: "price_changed", OUTCOME_BUYER_LIMIT: "buyer_limit",
    OUTCOME_INSUFFICIENT_STOCK: "insufficient_stock", OUTCOME_ILLEGAL_STATE: "illegal_state",
}


def _export_methods(into):
    """The numbers of the methods under their names; a cdef constant is not visible by itself."""
    for name, number in (
        ("PLACE_ORDER", PLACE_ORDER), ("PAY_ORDER", PAY_ORDER), ("CANCEL_ORDER", CANCEL_ORDER),
        ("SHIP_ORDER", SHIP_ORDER), ("DELIVER_ORDER", DELIVER_ORDER), ("RETURN_ORDER", RETURN_ORDER),
        ("SETTLE_REFUND", SETTLE_REFUND), ("PUT_SHOP", PUT_SHOP), ("PUT_LOCATION", PUT_LOCATION),
        ("PUT_SKU", PUT_SKU), ("ADJUST_STOCK", ADJUST_STOCK), ("TRANSFER_STOCK", TRANSFER_STOCK),
        ("TICK", TICK), ("ACTIVATE", ACTIVATE), ("EVICT", EVICT), ("RESTORE", RESTORE),
        ("GET_ORDER", GET_ORDER), ("GET_STOCK", GET_STOCK),
    ):
        into[name] = number


_export_methods(globals())


def partition_of(str shop_id not None):
    """The partition, 0 to 1,023, of a shop: CRC32C of its id mod 1,024."""
    return crc32c(shop_id.encode()) % PARTITIONS


cdef bytes _bytes(const Buffer* buffer):
    return buffer.data[:buffer.size]


cdef str _hex(Hash128 digest):
    return f"{digest.high:016x}{digest.low:016x}"


cdef bytes _activation(uint32_t level, int64_t window_ms, uint32_t entries_max):
    """The Activate message, whose fields are never at their defaults."""
    def varint(number):
        parts = []
        while number >= 0x80:
            parts.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*parts, number])
    return b"\x08" + varint(level) + b"\x10" + varint(window_ms) + b"\x18" + varint(entries_max)


# Nothing is applied on this thread: it reads and decodes for the other one.
def _read_ahead(size_t of):
    with nogil:
        read_ahead(<ReadAhead*>of)


cdef class Shard:
    """The state machine without log or clock. See the stub for what its methods promise."""
    cdef State* state
    cdef public dict passed_over

    def __cinit__(self, bytes log_id=bytes(16), *unused, **more):
        cdef uint64_t seed = int.from_bytes(_os.urandom(8), "little")
        self.passed_over = {}
        if len(log_id) != LOG_ID_BYTES:
            raise ValueError("log_id: must have 16 bytes")
        self.state = <State*>calloc(1, sizeof(State))
        if self.state == NULL or not state_init(self.state, log_id, seed):
            raise MemoryError("no memory for a shard")

    def __init__(self, bytes log_id=bytes(16), int64_t idempotency_window_ms=IDEMPOTENCY_WINDOW_MS_DEFAULT,
                 uint32_t idempotency_entries_max=IDEMPOTENCY_ENTRIES_DEFAULT, uint32_t level=LEVEL_NOW):
        self._activate(idempotency_window_ms, idempotency_entries_max, level)

    def _activate(self, window_ms, entries_max, uint32_t level=LEVEL_NOW):
        cdef bytes request = _activation(level, window_ms, entries_max)
        if execute(self.state, ACTIVATE, request, len(request), 0) != DECIDED:
            raise ValueError(self.state.fault.description.decode())

    @staticmethod
    def empty(bytes log_id not None):
        """Without the Activate record: for replay from sequence 1."""
        return Shard.__new__(Shard, log_id)

    def __dealloc__(self):
        if self.state != NULL:
            state_destroy(self.state)
            free(self.state)

    def execute(self, int method, bytes request not None, int64_t now_ms):
        cdef const uint8_t* data = request
        cdef size_t size = len(request)
        cdef int verdict
        if not 0 <= now_ms <= TIME_MS_MAX:
            raise ValueError("now_ms: must be 0 to 253,402,300,799,999")
        with nogil:
            verdict = execute(self.state, method, data, size, now_ms)
            if verdict == FAULT:
                encode_status(&self.state.response, &self.state.fault)
        if verdict == FAULT:
            return self.state.fault.code, _bytes(&self.state.response), 0
        return 0, _bytes(&self.state.response), self.state.sequence if verdict == DECIDED else 0

    def execute_batch(self, int method, bytes request not None, int64_t now_ms):
        cdef Buffer out
        cdef int code
        cdef const uint8_t* data = request
        cdef size_t size = len(request)
        memset(&out, 0, sizeof(Buffer))
        with nogil:
            code = execute_batch(self.state, method, data, size, now_ms, &out, NULL)
        try:
            return code, _bytes(&out), self.state.sequence
        finally:
            buffer_free(&out)

    @property
    def record(self):
        return _bytes(&self.state.record)

    def apply(self, bytes record not None):
        cdef const uint8_t* data = record
        cdef size_t size = len(record)
        cdef const char* reason = NULL
        cdef int done
        cdef uint64_t sequence = self.state.sequence + 1
        with nogil:
            done = replay(self.state, data, size, NULL, &reason)
        if not done:
            raise ReplayMismatch(sequence, reason.decode())

    def replay_from(self, JournalReader reader, uint64_t records_max=0xFFFFFFFFFFFFFFFF):
        """Applies records of a reader until its end, at most `records_max`. Returns how many.

        Raises ReplayMismatch, and what the reader raises.
        """
        cdef ReadAhead* a = read_ahead_new(&reader.reader, self.state.sequence + 1, records_max)
        cdef const char* reason = NULL
        cdef uint64_t count = 0
        cdef uint64_t before = self.state.sequence
        cdef int code
        if a == NULL:
            raise MemoryError("no memory for a replay")
        thread = threading.Thread(target=_read_ahead, args=(<size_t>a,), name="everopen-replay", daemon=True)
        interrupted = False
        try:
            thread.start()
            with nogil:
                code = replay_ahead(self.state, a, &count, &reason)
            while thread.is_alive():
                try:
                    thread.join()
                except KeyboardInterrupt:
                    # The thread still reads into what is freed next.
                    interrupted = True
        finally:
            read_ahead_free(a)
        if interrupted:
            raise KeyboardInterrupt
        if reason != NULL:
            raise ReplayMismatch(before + count + 1, reason.decode())
        if code != LOG_RECORD and code != LOG_END:
            _raise_log_fault(&reader.reader, reader.path)
        return count

    @property
    def sequence(self):
        return self.state.sequence

    @property
    def time_ms(self):
        return self.state.time_ms

    @property
    def log_id(self):
        return self.state.log_id[:LOG_ID_BYTES]

    def next_due_ms(self):
        return next_due_ms(self.state)

    def state_digest(self):
        return _hex(state_digest(self.state))

    def business_digest(self):
        cdef Hash128 digest
        digest.low, digest.high = self.state.business[0], self.state.business[1]
        return _hex(digest)

    def check(self):
        cdef char text[512]
        cdef int holds
        with nogil:
            holds = check_state(self.state, text, sizeof(text))
        return "" if holds else text.decode()

    def counts(self):
        cdef State* s = self.state
        return {
            "shops": s.shops.count, "locations": s.locations.count, "skus": s.skus.count, "orders": s.orders.count,
            "remembered_ids": s.remembered.count, "buyers_with_limits": s.usages.count,
            "skus_to_match": s.to_match.head != 0, "arena_bytes": s.arena.used_bytes,
            "address_bytes": s.arena.bump << 3,
            "closed_orders": s.closed_orders, "evicted_orders": s.evicted_orders,
            "evicted_through": s.evicted_through,
        }

    @property
    def level(self):
        return self.state.level

    def raise_level(self, int64_t now_ms):
        return self.state.sequence if raise_level(self.state, NULL, now_ms) else 0

    def evict(self, uint64_t closed_sequence, int64_t now_ms):
        return evict_some(self.state, closed_sequence, now_ms, NULL) != 0

    def closed(self, uint64_t after_sequence, size_t orders_max):
        cdef State* s = self.state
        cdef uint32_t handle = next_closed(s, after_sequence)
        cdef Span shop, order
        cdef uint64_t closed_sequence, last = 0
        cdef Buffer out
        memset(&out, 0, sizeof(Buffer))
        found = []
        try:
            while handle and window_is_over(s, handle, s.time_ms):
                closed_sequence = more_at(s, order_at(s, handle).more).closed_sequence
                if <size_t>len(found) >= orders_max and closed_sequence != last:
                    break
                last = closed_sequence
                shop = id_of_shop(shop_at(s, order_at(s, handle).shop))
                order = id_of_order(order_at(s, handle))
                out.size = 0
                write_item(s, handle, &out)
                found.append((closed_sequence, order_at(s, handle).sequence, shop.data[:shop.size].decode(),
                              order.data[:order.size].decode(), _bytes(&out)))
                handle = order_at(s, handle).hold.next
        finally:
            buffer_free(&out)
        return found

    def business_digest_of(self, bytes item not None):
        cdef uint32_t handle = 0
        cdef State* aside = unpack_aside(self.state, span_of(item, len(item)), &handle)
        if aside == NULL:
            raise ValueError(self.state.fault.description.decode())
        return _hex(forget_order(aside, handle))

    def order_response(self, str shop_id not None, bytes item not None):
        cdef bytes shop = shop_id.encode()
        cdef Buffer out
        memset(&out, 0, sizeof(Buffer))
        try:
            if not answer_archived(self.state, span_of(shop, len(shop)), span_of(item, len(item)), &out):
                raise ValueError(self.state.fault.description.decode())
            return _bytes(&out)
        finally:
            buffer_free(&out)

    def evicted_digest(self):
        cdef Hash128 digest
        digest.low, digest.high = self.state.evicted[0], self.state.evicted[1]
        return _hex(digest)

    def order_sequence(self, str shop_id not None, str order_id not None):
        cdef bytes shop = shop_id.encode(), order = order_id.encode()
        cdef State* s = self.state
        cdef uint32_t handle = find_shop(s, span_of(shop, len(shop)))
        handle = find_order(s, handle, span_of(order, len(order))) if handle else 0
        return order_at(s, handle).sequence if handle else 0

    def shop_ids(self):
        cdef State* s = self.state
        cdef uint64_t cursor = 0
        cdef uint32_t handle = index_each(&s.shops, &s.arena, &cursor)
        cdef Span id
        ids = []
        while handle:
            id = id_of_shop(shop_at(s, handle))
            ids.append(id.data[:id.size].decode())
            handle = index_each(&s.shops, &s.arena, &cursor)
        return ids

    def expect(self, uint64_t orders):
        with nogil:
            expect_orders(self.state, orders)

    def save(self, path):
        save_snapshot(self.state, _os.fspath(path))

    def save_in_child(self, path, uint64_t bytes_per_s=0):
        return save_in_child(self.state, _os.fspath(path), bytes_per_s)

    def check_in_child(self):
        return check_in_child(self.state)

    @staticmethod
    def load(path, bytes log_id=None):
        return load_snapshot(_os.fspath(path), log_id)


# Item by item; `journal`, if there is one, takes the records. CODE_OK, or why the batch as a whole was refused, in
# `out`.
cdef int execute_batch(
    State* s, int method, const uint8_t* data, size_t size, int64_t now_ms, Buffer* out, Journal* journal
) noexcept nogil:
    cdef size_t offset = 0
    if batch_count(method, data, size, &s.fault) < 0:
        encode_status(out, &s.fault)
        return s.fault.code
    while execute_some(s, method, data, size, &offset, GROUP, now_ms, out, journal) == GROUP:
        pass
    return CODE_OK


# Of a batch that batch_count has let pass, the items from `offset` on, at most `most` of them, in groups. Returns how
# many there were; fewer than `most`: it was the end.
cdef int execute_some(
    State* s, int method, const uint8_t* data, size_t size, size_t* offset, int most, int64_t now_ms, Buffer* out,
    Journal* journal
) noexcept nogil:
    cdef Span items[GROUP]
    cdef PlaceOrder* orders[GROUP]
    cdef int verdict, done = 0, count = 1, i
    while count and done < most:
        count = 0
        while count < GROUP and done + count < most and batch_next(data, size, offset, &items[count], &s.fault) > 0:
            orders[count] = NULL
            count += 1
        if method == PLACE_ORDER:
            make_ready(s, items, count, orders)
        for i in range(count):
            verdict = execute_logged(s, method, items[i].data, items[i].size, orders[i], now_ms, journal)
            encode_batch_item(out, verdict != FAULT, span_of(s.response.data, s.response.size))
        done += count
    return done


# As execute, the fault encoded as a Status, the record appended. A log without room refuses before anything changes.
cdef int execute_logged(
    State* s, int method, const uint8_t* data, size_t size, PlaceOrder* order, int64_t now_ms, Journal* journal
) noexcept nogil:
    cdef Reply reply
    cdef int verdict
    s.scratch.size = 0
    if journal != NULL and method < COMMAND_KINDS and not journal_has_room(journal):
        s.response.size = 0
        verdict = exhausted(s, b"LOG_FULL", b"The log has no room now; retry later.")
    elif journal != NULL and (method < TICK or method == RESTORE) and not arena_has_room(&s.arena):
        # A matter of this machine's memory, not of the log: replay takes what was taken before.
        s.response.size = 0
        verdict = exhausted(s, b"MEMORY_FULL", b"The shard's memory is full.")
    else:
        verdict = carry_out(s, method, data, size, order, now_ms, &reply)
    if verdict == FAULT:
        encode_status(&s.response, &s.fault)
    else:
        answer(s, method, verdict, &reply)
    if verdict == DECIDED and journal != NULL:
        INVARIANT(journal_append(journal, s.record.data, s.record.size) == JOURNAL_OK, "the log had room and refused")
    count_verdict(s, method, verdict)
    return verdict


cdef inline void count_verdict(State* s, int method, int verdict) noexcept nogil:
    if verdict == FAULT:
        s.faults[s.fault.code] += 1
    elif verdict == DECIDED:
        s.outcomes[s.record.data[5]] += 1
    elif method < COMMAND_KINDS:
        s.duplicates += 1
    else:
        s.reads += 1


# Logs the rise to the newest level, with the window and the table as they are. 0: there is nothing to raise, or the log
# has no room.
cdef int raise_level(State* s, Journal* journal, int64_t now_ms) noexcept nogil:
    cdef uint8_t request[32]
    cdef uint8_t* at = request
    if s.level >= LEVEL_NOW:
        return 0
    at = put_number(at, 1, LEVEL_NOW)
    at = put_number(at, 2, <uint64_t>s.window_ms)
    at = put_number(at, 3, s.remembered_max)
    return execute_logged(s, ACTIVATE, request, <size_t>(at - request), NULL, now_ms, journal) == DECIDED


# Logs one Evict, if one is due. 1: another one is due now.
cdef int evict_some(State* s, uint64_t closed_sequence, int64_t now_ms, Journal* journal) noexcept nogil:
    cdef uint8_t request[16]
    cdef uint8_t* at = request
    if s.level < 2 or not evict_due(s, closed_sequence, now_ms):
        return 0
    at = put_number(at, 1, closed_sequence)
    execute_logged(s, EVICT, request, <size_t>(at - request), NULL, now_ms, journal)
    return evict_due(s, closed_sequence, now_ms)
