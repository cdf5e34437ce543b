"""The board from the side of a worker."""

include "_platform.pxi"
include "_system.pxi"
include "_limits.pxi"
include "_histogram.pxi"
include "_spans.pxi"
include "_board_figures.pxi"
include "_board.pxi"
include "_quota.pxi"
include "_marks.pxi"


def index_of_ns(uint64_t ns):
    return histogram_index(ns)


def index_of_size(uint64_t size):
    return size_index(size)


cdef class Owner:
    """What one worker writes."""

    cdef BoardMap board
    cdef BoardSlot* slot

    def __cinit__(self, int fd, int workers, uint32_t worker, uint64_t pid, uint64_t now_ns):
        if not board_map(&self.board, fd, workers):
            raise ValueError("not a board")
        self.slot = board_slot(&self.board, worker)
        board_begin(self.slot, worker, pid, now_ns)

    def __dealloc__(self):
        board_unmap(&self.board)

    def serve(self, uint64_t now_ns, uint64_t connections, uint64_t busy_ppm, uint64_t commands_per_s):
        eo_store64(&self.slot.state, BOARD_SERVING)
        eo_store64(&self.slot.heartbeat_ns, now_ns)
        eo_store64(&self.slot.connections, connections)
        eo_store64(&self.slot.busy_ppm, busy_ppm)
        eo_store64(&self.slot.commands_per_s, commands_per_s)

    def add(self, int counter, uint64_t more):
        board_add(self.slot, <FrontCounter>counter, more)

    def set(self, int gauge, uint64_t value):
        board_set(self.slot, <FrontCounter>gauge, value)

    def count(self, int counter):
        return board_count(self.slot, <FrontCounter>counter)

    def observe(self, uint32_t worker, uint32_t stage, uint64_t ns):
        histogram_observe(&board_stages(&self.board, worker).stages[stage], ns)

    def put_span(self, uint32_t worker, uint8_t method):
        """False: there is no room."""
        cdef SpanRecord span
        memset(&span, 0, sizeof(SpanRecord))
        span.method = method
        span.worker = worker
        span.span_id[0] = span.trace_id[0] = 1
        return span_put(board_spans(&self.board, worker), &span)

    def set_figure(self, uint32_t shard, int figure, uint64_t value):
        figure_set(board_shard(&self.board, shard), <ShardFigure>figure, value)
        eo_store64(&board_shard(&self.board, shard).format_version, FIGURES_FORMAT_VERSION)

    def mark(self, uint32_t shard, uint64_t sequence, uint64_t low, uint64_t high):
        mark_put(board_marks(&self.board, shard), sequence, low, high)

    def clear_marks(self, uint32_t shard):
        marks_clear(board_marks(&self.board, shard))
