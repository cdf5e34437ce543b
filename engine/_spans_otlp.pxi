# Records of the rings as what a collector takes: ExportTraceServiceRequest of OTLP, whose fields and numbers are those
# of opentelemetry/proto/trace/v1/trace.proto and its neighbours (github.com/open-telemetry/opentelemetry-proto, 1.x).
#
# A call is one span, and each of its stages that took time another. What all spans of a method or of an outcome have in
# common was written when the encoder was made, and is copied.

cdef enum:
    # ExportTraceServiceRequest, ResourceSpans, Resource, ScopeSpans
    OTLP_RESOURCE_SPANS = 1
    OTLP_RESOURCE = 1
    OTLP_SCOPE_SPANS = 2
    OTLP_RESOURCE_ATTRIBUTES = 1
    OTLP_SPANS = 2
    # Span
    OTLP_TRACE_ID = 1
    OTLP_SPAN_ID = 2
    OTLP_PARENT_SPAN_ID = 4
    OTLP_NAME = 5
    OTLP_KIND = 6
    OTLP_START_TIME = 7
    OTLP_END_TIME = 8
    OTLP_ATTRIBUTES = 9
    OTLP_STATUS = 15
    OTLP_FLAGS = 16
    # Status, KeyValue, AnyValue
    OTLP_STATUS_CODE = 3
    OTLP_KEY = 1
    OTLP_VALUE = 2
    OTLP_STRING_VALUE = 1
    OTLP_INT_VALUE = 3

    KIND_INTERNAL = 1
    KIND_SERVER = 2
    STATUS_ERROR = 2
    FLAGS_HAS_IS_REMOTE = 0x100          # it is known whether the parent is elsewhere,
    FLAGS_IS_REMOTE = 0x200              # and it is
    # What the conventions of OpenTelemetry call an error of the server, and not of its caller: UNKNOWN,
    # DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, as bits.
    CODES_OF_FAULTS = 1 << 2 | 1 << 4 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15

    SPAN_BLOCK_BYTES_MAX = 1024          # of what is copied
    SPAN_CALL_BYTES_MAX = 4096           # of a call with its stages: two blocks, and half as much for the rest

_stage_names = tuple([name.encode() for name in STAGE_NAMES])


cdef inline uint8_t* put_fixed64(uint8_t* at, uint32_t number, uint64_t value) noexcept nogil:
    at[0] = <uint8_t>(number << 3 | 1)
    memcpy(at + 1, &value, 8)
    return at + 9


# The only field here whose tag takes two bytes.
cdef inline uint8_t* put_flags(uint8_t* at, uint32_t flags) noexcept nogil:
    at[0] = (OTLP_FLAGS << 3 | 5) & 0x7F | 0x80
    at[1] = OTLP_FLAGS << 3 >> 7
    memcpy(at + 2, &flags, 4)
    return at + 6


cdef uint8_t* put_text_attribute(uint8_t* at, uint32_t number, Span key, Span text) noexcept nogil:
    cdef uint8_t* attribute = begin_message(at, number)
    cdef uint8_t* value = begin_message(put_body(attribute, OTLP_KEY, key), OTLP_VALUE)
    return end_message(attribute, end_message(value, put_body(value, OTLP_STRING_VALUE, text)))


cdef uint8_t* put_number_attribute(uint8_t* at, const char* key, uint64_t number) noexcept nogil:
    cdef Span name = span_of(<const uint8_t*>key, <uint32_t>strlen(key))
    cdef uint8_t* attribute = begin_message(at, OTLP_ATTRIBUTES)
    cdef uint8_t* value = begin_message(put_body(attribute, OTLP_KEY, name), OTLP_VALUE)
    return end_message(attribute, end_message(value, put_number_always(value, OTLP_INT_VALUE, number)))


cdef uint8_t* put_span_ids(uint8_t* at, const SpanRecord* span, const uint8_t* id,
                           const uint8_t* parent) noexcept nogil:
    at = put_body(at, OTLP_TRACE_ID, span_of(span.trace_id, 16))
    at = put_body(at, OTLP_SPAN_ID, span_of(id, 8))
    return put_body(at, OTLP_PARENT_SPAN_ID, span_of(parent, 8)) if load_u64(parent) != 0 else at


# The same whenever it is asked, so that a batch that is sent again says the same.
cdef inline uint64_t stage_id(const SpanRecord* span, int stage) noexcept nogil:
    cdef uint64_t id = mixed64(load_u64(span.span_id) + (<uint64_t>stage + 1) * <uint64_t>SPLITMIX_STEP)
    return id if id != 0 else 1


cdef uint8_t* put_call(uint8_t* at, const SpanRecord* span, Span method, Span outcome) noexcept nogil:
    cdef uint8_t* body = begin_message(at, OTLP_SPANS)
    cdef uint64_t took_ns = span.times_ns[<int>TIME_SENT] - span.times_ns[<int>TIME_BEGUN]
    cdef uint32_t flags = FLAGS_HAS_IS_REMOTE
    if load_u64(span.parent_id) != 0:
        flags |= FLAGS_IS_REMOTE
    at = put_flags(put_span_ids(body, span, span.span_id, span.parent_id), flags)
    at = put_number_always(at, OTLP_KIND, KIND_SERVER)
    at = put_fixed64(at, OTLP_START_TIME, span.begun_wall_ns)
    at = put_fixed64(at, OTLP_END_TIME, span.begun_wall_ns + took_ns)
    at = put_bytes(at, method.data, method.size)
    at = put_number_attribute(at, b"rpc.grpc.status_code", span.code)
    at = put_number_attribute(at, b"everopen.worker", span.worker)
    if span.shard != SPAN_SHARDS:
        at = put_number_attribute(at, b"everopen.shard", span.shard)
    at = put_bytes(at, outcome.data, outcome.size)
    if span.items:
        at = put_number_attribute(at, b"everopen.items", span.items)
    if span.code < 32 and CODES_OF_FAULTS >> span.code & 1:
        at = put_sized_head(at, OTLP_STATUS, 2)
        at = put_number_always(at, OTLP_STATUS_CODE, STATUS_ERROR)
    return end_message(body, at)


cdef uint8_t* put_stage(uint8_t* at, const SpanRecord* span, int stage, Span name) noexcept nogil:
    cdef uint8_t* body = begin_message(at, OTLP_SPANS)
    cdef uint64_t id = stage_id(span, stage)
    cdef uint64_t began_ns = span.begun_wall_ns + span.times_ns[stage] - span.times_ns[<int>TIME_BEGUN]
    at = put_flags(put_span_ids(body, span, <const uint8_t*>&id, span.span_id), FLAGS_HAS_IS_REMOTE)
    at = put_text(at, OTLP_NAME, name)
    at = put_number_always(at, OTLP_KIND, KIND_INTERNAL)
    at = put_fixed64(at, OTLP_START_TIME, began_ns)
    at = put_fixed64(at, OTLP_END_TIME, began_ns + span.times_ns[stage + 1] - span.times_ns[stage])
    return end_message(body, at)


cdef class SpanEncoder:
    """Makes the requests of OTLP of what is in the rings of a board."""

    cdef Buffer out
    cdef Buffer scratch
    cdef list kept                       # what the spans below point to
    cdef Span resource
    cdef Span[256] methods               # of every number that a record may have
    cdef Span[256] outcomes
    cdef Span[STAGES] stages
    cdef uint32_t first                  # the ring to begin with
    cdef uint64_t calls, spans

    def __cinit__(self, dict resource not None, methods, dict outcomes not None):
        cdef int i
        self.kept = []
        self.resource = self._block(OTLP_RESOURCE_ATTRIBUTES, resource, None)
        for i, name in enumerate(methods, 1):
            if i > 255:
                raise ValueError("a method has a number up to 255")
            service, _, method = name.rpartition("/")
            attributes = {"rpc.system": "grpc"} | ({"rpc.service": service} if service else {}) | {"rpc.method": method}
            self.methods[i] = self._block(OTLP_ATTRIBUTES, attributes, name)
        for number, name in outcomes.items():
            if not 0 < number < 256:
                raise ValueError("an outcome has a number from 1 to 255")
            i = number
            self.outcomes[i] = self._block(OTLP_ATTRIBUTES, {"everopen.outcome": name}, None)
        for i in range(STAGES):
            self.stages[i] = self._text(_stage_names[i])

    def __dealloc__(self):
        buffer_free(&self.out)
        buffer_free(&self.scratch)

    cdef Span _text(self, bytes text):
        self.kept.append(text)
        return span_of(<const uint8_t*><const char*>text, <uint32_t>len(text))

    # Attributes one after the other, behind a name if there is one.
    cdef Span _block(self, uint32_t number, dict attributes, str name):
        cdef uint8_t* at
        texts = [*attributes.items(), (name or "", "")]
        if sum(len(key.encode()) + len(text.encode()) + 16 for key, text in texts) > SPAN_BLOCK_BYTES_MAX:
            raise ValueError(f"attributes of spans are too long: {attributes}")
        at = buffer_reserve(&self.scratch, SPAN_BLOCK_BYTES_MAX)
        if name:
            at = put_text(at, OTLP_NAME, self._text(name.encode()))
        for key, text in attributes.items():
            at = put_text_attribute(at, number, self._text(key.encode()), self._text(text.encode()))
        return self._text(self.scratch.data[:at - self.scratch.data])

    def encode_spans(self, Board board not None, size_t limit):
        """At most so many calls, as Board.take_spans(): the request, how many they are, and how many spans."""
        cdef uint32_t i, workers = board.board.workers if board.board.has_figures else 0
        self.out.size = 0
        self.calls = self.spans = 0
        with nogil:
            # Each time from another worker on, so that one that has always more keeps nobody waiting.
            for i in range(workers):
                self._take(board_spans(&board.board, (self.first + i) % workers), limit)
        self.first += 1
        return self._request() if self.calls else b"", self.calls, self.spans

    # Takes what a ring has, up to a number of calls of all rings.
    cdef void _take(self, SpanRing* ring, uint64_t limit) noexcept nogil:
        cdef SpanRecord span
        cdef uint8_t* at
        cdef int i
        while self.calls < limit and span_take(ring, &span):
            at = put_call(buffer_reserve(&self.out, SPAN_CALL_BYTES_MAX), &span, self.methods[span.method],
                          self.outcomes[span.outcome])
            self.calls += 1
            self.spans += 1
            # A relayed call has no stages.
            for i in range(STAGE_TIMES - 1 if span.times_ns[<int>TIME_QUEUED] != 0 else 0):
                if span.times_ns[i + 1] > span.times_ns[i]:
                    at = put_stage(at, &span, i, self.stages[i])
                    self.spans += 1
            buffer_end(&self.out, at)

    # The messages around the spans, once their sizes are known.
    cdef bytes _request(self):
        cdef size_t inner = 1 + varint_size(self.out.size) + self.out.size
        cdef size_t outer = 1 + varint_size(self.resource.size) + self.resource.size + inner
        cdef uint8_t* at = buffer_reserve(&self.scratch, SPAN_BLOCK_BYTES_MAX + 32)
        at = put_sized_head(at, OTLP_RESOURCE_SPANS, outer)
        at = put_body(at, OTLP_RESOURCE, self.resource)
        at = put_sized_head(at, OTLP_SCOPE_SPANS, self.out.size)
        return self.scratch.data[:at - self.scratch.data] + self.out.data[:self.out.size]
