# The front as Python sees it. See the stub for what its methods promise.

SETTING_NAMES = (
    "calls_max", "bytes_max", "connection_bytes_max", "connections_max", "connections_per_peer_max",
    "streams_per_connection_max", "streams_per_connection_min", "batches_per_stream_max", "commands_per_turn_max",
    "link_jobs_max", "shard_jobs_max",
    "header_list_bytes_max", "control_frames_max", "control_frames_per_s", "resets_max", "resets_per_s",
    "continuations_max", "ping_strikes_max", "ping_interval_ms",
    "handshake_ms", "message_ms", "keepalive_ms", "keepalive_timeout_ms", "connection_age_ms", "age_grace_ms",
    "relay_bytes_per_turn", "relay_buffer_bytes", "relay_bytes_max", "relay_connect_ms", "overloaded_turn_us",
    "accept_lead_ppm", "shed_lead_ppm", "balance_ms", "handover_ms",
    "archive_calls_max", "trace_ppm", "measured_every",
    "identity_calls_max", "identity_calls_per_peer_max", "identity_calls_per_connection_max",
    "identity_questions_per_connection_max", "bad_credentials_max", "bad_credentials_per_s",
    "archive_lag_ms", "archive_wait_ms",
)
INVARIANT(len(SETTING_NAMES) * sizeof(uint64_t) == sizeof(FrontSettings), b"each setting has its name")


cdef class NativeFront:
    cdef Front* f
    cdef dict engines
    cdef bint running

    def __cinit__(self):
        self.f = <Front*>calloc(1, sizeof(Front))
        if self.f == NULL:
            raise MemoryError("no memory for a front")
        self.f.epoll_fd = self.f.mailbox_fd = self.f.lookup_fd = self.f.credential_fd = -1

    def __init__(self, *, int worker, int workers, int shards, int board_fd, dict settings):
        cdef Front* f = self.f
        if not (0 <= worker < workers <= WORKERS_MAX and 0 < shards <= SHARDS_MAX):
            raise ValueError("worker, workers, shards: out of bounds")
        if sorted(settings) != sorted(SETTING_NAMES):
            raise ValueError(f"settings: must be those of SETTING_NAMES: {sorted(set(settings) ^ set(SETTING_NAMES))}")
        for index, name in enumerate(SETTING_NAMES):
            (<uint64_t*>&f.settings)[index] = settings[name]
        if not 0 < f.settings.link_jobs_max <= 1 << LINK_SLOT_BITS:
            raise ValueError("link_jobs_max: 1 to 65,536")
        if not 0 < f.settings.archive_calls_max <= 1 << PARKED_SLOT_BITS:
            raise ValueError("archive_calls_max: 1 to 65,536")
        if not 0 < f.settings.identity_calls_max <= (1 << CREDENTIAL_SLOT_BITS) - CREDENTIALS_MAX:
            raise ValueError("identity_calls_max: 1 to 61,440")
        f.worker, f.workers, f.shards = worker, workers, shards
        f.streams_limit = <uint32_t>f.settings.streams_per_connection_max
        f.health = HEALTH_NOT_SERVING
        self.engines = {}
        pthread_mutex_init(&f.lock, NULL)
        pthread_cond_init(&f.changed, NULL)
        if not board_map(&f.board, board_fd, workers):
            raise ValueError("board_fd: not a board of so many workers")
        f.slot = board_slot(&f.board, worker)
        board_begin(f.slot, worker, _os.getpid(), journal_now_ns(CLOCK_MONOTONIC))
        f.stages = board_stages(&f.board, worker)
        stages_clear(f.stages)
        f.spans = board_spans(&f.board, worker)
        f.until_measured = f.settings.measured_every
        f.random = int.from_bytes(_os.urandom(8), "little")
        f.input = <uint8_t*>malloc(INPUT_BYTES)
        f.output = <uint8_t*>malloc(OUTPUT_BYTES + FRAME_BYTES_MAX)
        f.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        f.mailbox_kind = WATCH_MAILBOX
        f.mailbox_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        f.lookup_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        f.credential_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        f.quotas_fd = board_fd
        if f.input == NULL or f.output == NULL or f.epoll_fd < 0 or f.mailbox_fd < 0 or f.lookup_fd < 0 \
                or f.credential_fd < 0 or not session_init(f) or not archive_init(f) \
                or not identity_init(f, int.from_bytes(_os.urandom(8), "little")):
            raise MemoryError("no memory or descriptors for a front")
        watch_fd(f, f.mailbox_fd, &f.mailbox_kind)

    cdef int _still_open(self) except -1:
        if self.f == NULL:
            raise ValueError("the front is closed")
        return 0

    def listen(self, int fd, bint shared, bint tls=False):
        cdef Listener* listener
        self._still_open()
        if tls and self.f.tls == NULL:
            raise ValueError("tls() comes before a listener for it")
        listener = <Listener*>calloc(1, sizeof(Listener))
        if listener == NULL:
            raise MemoryError("no memory for a listener")
        listener.kind = WATCH_LISTENER
        listener.fd = fd
        listener.shared = shared
        listener.armed = True
        listener.tls = tls
        listener.next = self.f.listeners
        self.f.listeners = listener
        watch_fd(self.f, fd, listener)

    def tls(self, bytes certificate not None, bytes key not None, bytes client_ca, bint client_required):
        cdef SSL_CTX* context
        cdef SSL_CTX* before
        self._still_open()
        context = tls_context(certificate, key, client_ca, client_required)
        pthread_mutex_lock(&self.f.lock)
        before = self.f.tls
        self.f.tls = context
        pthread_mutex_unlock(&self.f.lock)
        SSL_CTX_free(before)
        # Counted here alone, so that nobody else stores it.
        tally(self.f, TLS_RELOADS, before != NULL)

    def tls_kept(self):
        self._still_open()
        tally(self.f, TLS_RELOADS_FAILED, 1)

    def relay_to(self, path):
        cdef UnixAddress address
        self._still_open()
        if not relay_address(&address, _os.fsencode(path)):
            raise ValueError(f"{path!r} is too long for the address of a unix socket")
        pthread_mutex_lock(&self.f.lock)
        self.f.pending_relay = address
        self.f.relay_wanted = True
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def host(self, int shard, Engine engine not None):
        cdef Hosted* hosted
        self._still_open()
        if not 0 <= shard < self.f.shards or shard in self.engines:
            raise ValueError(f"shard {shard} is out of bounds, or hosted already")
        hosted = <Hosted*>calloc(1, sizeof(Hosted))
        if hosted == NULL:
            raise MemoryError("no memory for a shard")
        hosted.kind = WATCH_JOURNAL
        hosted.front = self.f
        hosted.state = engine.shard.state
        hosted.journal = engine.journal
        hosted.clock = &engine.clock
        self.engines[shard] = engine     # kept for as long as the loop may use it
        pthread_mutex_lock(&self.f.lock)
        self.f.pending_hosts[shard] = hosted
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def link(self, int worker, int alive_fd, int ring_in, int ring_out, int wake_in, int wake_out):
        cdef Link* link
        self._still_open()
        link = <Link*>calloc(1, sizeof(Link))
        if link == NULL:
            raise MemoryError("no memory for a link")
        if not 0 <= worker < self.f.workers \
                or not ring_map(&link.incoming, ring_in, wake_out, False) \
                or not ring_map(&link.outgoing, ring_out, wake_out, True):
            ring_unmap(&link.incoming)
            free(link)
            raise ValueError(f"worker {worker}: no peer, or what it gave are no rings")
        link.kind = WATCH_LINK
        link.alive_kind = WATCH_LINK_ALIVE
        link.worker = worker
        link.alive_fd, link.wake_in_fd, link.wake_out_fd = alive_fd, wake_in, wake_out
        _os.close(ring_in)
        _os.close(ring_out)
        pthread_mutex_lock(&self.f.lock)
        link.next = self.f.pending_links
        self.f.pending_links = link
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def run(self):
        self._still_open()
        with nogil:
            front_loop(self.f)

    @property
    def lookup_fd(self):
        self._still_open()
        return self.f.lookup_fd

    def take_lookups(self):
        cdef Buffer taken
        cdef const Lookup* lookup
        self._still_open()
        clear_event(self.f.lookup_fd)
        pthread_mutex_lock(&self.f.lock)
        taken = self.f.lookups
        memset(&self.f.lookups, 0, sizeof(Buffer))
        pthread_mutex_unlock(&self.f.lock)
        lookups = []
        lookup = <const Lookup*>taken.data
        while <const uint8_t*>lookup < taken.data + taken.size:
            ids = lookup.ids[:lookup.shop_size + lookup.order_size]
            lookups.append((lookup.token, lookup.shard, ids[:lookup.shop_size].decode(),
                            ids[lookup.shop_size:].decode()))
            lookup += 1
        buffer_free(&taken)
        return lookups

    def answer_lookup(self, uint64_t token, bytes item, bint failed=False):
        cdef size_t size = len(item) if item is not None else 0
        cdef Found* found
        self._still_open()
        found = <Found*>malloc(sizeof(Found) + size)
        if found == NULL:
            raise MemoryError("no memory for an archived order")
        found.token = token
        found.size = size
        found.failed = failed
        if size:
            memcpy(found + 1, <const char*>item, size)
        pthread_mutex_lock(&self.f.lock)
        found.next = self.f.found
        self.f.found = found
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def authenticate(self, bint required, uint64_t epoch):
        self._still_open()
        pthread_mutex_lock(&self.f.lock)
        self.f.pending_identity.required = required
        self.f.pending_identity.epoch = epoch
        self.f.pending_identity.wanted = True
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def relay_secret(self, bytes secret not None):
        cdef bytes text = _base64.b64encode(secret).rstrip(b"=")
        self._still_open()
        if not 16 <= len(secret) <= 32:
            raise ValueError("the relay's secret has 16 to 32 bytes")
        pthread_mutex_lock(&self.f.lock)
        self.f.pending_identity.relay_secret_size = len(text)
        memcpy(self.f.pending_identity.relay_secret, <const char*>text, len(text))
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    @property
    def credential_fd(self):
        self._still_open()
        return self.f.credential_fd

    def take_credentials(self):
        cdef PendingIdentity* pending = &self.f.pending_identity
        cdef Buffer urgent
        cdef size_t told = 0
        cdef bint more
        self._still_open()
        clear_event(self.f.credential_fd)
        pthread_mutex_lock(&self.f.lock)
        urgent = pending.urgent
        memset(&pending.urgent, 0, sizeof(Buffer))
        if pending.told == pending.taken.size:
            buffer_free(&pending.taken)
            pending.taken = pending.questions
            pending.told = 0
            memset(&pending.questions, 0, sizeof(Buffer))
        more = pending.questions.size > 0
        pthread_mutex_unlock(&self.f.lock)
        questions = tell_questions(&urgent, &told, urgent.size)
        buffer_free(&urgent)
        if not questions:
            questions = tell_questions(&pending.taken, &pending.told, QUESTIONS_AT_ONCE)
        if more or pending.told < pending.taken.size:
            eventfd_write(self.f.credential_fd, 1)
        return questions

    def answer_credential(self, uint64_t token, caller):
        cdef Answered* answer
        self._still_open()
        answer = answered_of(token, self.f.identity.seed, caller)
        pthread_mutex_lock(&self.f.lock)
        answer.next = self.f.pending_identity.answers
        self.f.pending_identity.answers = answer
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def evict(self, int shard, uint64_t closed_sequence):
        self._still_open()
        if not 0 <= shard < self.f.shards:
            raise ValueError(f"shard {shard} is out of bounds")
        pthread_mutex_lock(&self.f.lock)
        if closed_sequence > self.f.pending_evicts[shard]:
            self.f.pending_evicts[shard] = closed_sequence
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def raise_level(self, int shard):
        self._still_open()
        if not 0 <= shard < self.f.shards:
            raise ValueError(f"shard {shard} is out of bounds")
        self._ask(&self.f.pending_raises[shard])

    def drain(self):
        self._still_open()
        self._ask(&self.f.drain_wanted)

    def hand_over(self):
        self._still_open()
        self._ask(&self.f.hand_over_wanted)

    def stop(self):
        self._still_open()
        self._ask(&self.f.stop_wanted)

    cdef void _ask(self, bint* wanted):
        pthread_mutex_lock(&self.f.lock)
        wanted[0] = True
        pthread_mutex_unlock(&self.f.lock)
        eventfd_write(self.f.mailbox_fd, 1)

    def drained(self, double timeout_s):
        self._still_open()
        return self._wait(&self.f.drained, timeout_s)

    def handed_over(self, double timeout_s):
        self._still_open()
        handed_over = self._wait(&self.f.handed_over, timeout_s)
        if handed_over:
            self.engines = {}            # the loop uses none any more; what they hold is to be given back
        return handed_over

    cdef bint _wait(self, const bint* reached, double timeout_s):
        cdef uint64_t until_ns = journal_now_ns(CLOCK_REALTIME) + <uint64_t>(timeout_s * 1e9)
        cdef bint is_reached
        with nogil:
            pthread_mutex_lock(&self.f.lock)
            while not reached[0] and journal_now_ns(CLOCK_REALTIME) < until_ns:
                journal_wait_until(&self.f.changed, &self.f.lock, until_ns)
            is_reached = reached[0]
            pthread_mutex_unlock(&self.f.lock)
        return is_reached

    def counters(self):
        self._still_open()
        return {name: board_count(self.f.slot, number) for number, name in enumerate(COUNTER_NAMES, 1)}

    def close(self):
        """After run() has returned, and before the engines are closed: gives back connections, links and memory."""
        cdef Front* f = self.f
        if f != NULL:
            front_free(f)
            self.f = NULL
        self.engines = {}

    def __dealloc__(self):
        if self.f != NULL:
            front_free(self.f)


cdef void front_free(Front* f) noexcept nogil:
    cdef Connection* c
    cdef Listener* listener
    cdef Link* link
    cdef Hosted* h
    cdef Job* job
    cdef int i
    f.dirty = f.unread = NULL
    while f.connections != NULL:
        c = f.connections
        connection_close(c)
    while f.graves != NULL:
        c = f.graves
        f.graves = c.next
        connection_free(c)
    while f.live_links != NULL:
        link_died(f, f.live_links)
    while f.pending_links != NULL:
        link = f.pending_links
        f.pending_links = link.next
        link_free(link)
    for i in range(SHARDS_MAX):
        h = f.hosted[i]
        while h != NULL and h.waiting_first != NULL:
            job = h.waiting_first
            h.waiting_first = job.next
            job_done(f, job)
        free(h)
        free(f.pending_hosts[i])
    archive_destroy(f)
    identity_destroy(f)
    links_bury(f)
    relay_destroy(f)
    while f.listeners != NULL:
        listener = f.listeners
        f.listeners = listener.next
        free(listener)
    SSL_CTX_free(f.tls)
    pools_free(f)
    pieces_free(&f.pieces)
    nghttp2_session_callbacks_del(f.callbacks)
    nghttp2_option_del(f.options)
    board_unmap(&f.board)
    if f.epoll_fd >= 0:
        posix_close(f.epoll_fd)
    if f.mailbox_fd >= 0:
        posix_close(f.mailbox_fd)
    if f.lookup_fd >= 0:
        posix_close(f.lookup_fd)
    if f.credential_fd >= 0:
        posix_close(f.credential_fd)
    buffer_free(&f.scratch)
    free(f.input)
    free(f.output)
    free(f)


cdef void pools_free(Front* f) noexcept nogil:
    cdef Stream* s = f.free_streams
    cdef Call* call = f.free_calls
    while s != NULL:
        f.free_streams = s.next
        buffer_free(&s.own.request)
        buffer_free(&s.own.job.answer)
        free(s)
        s = f.free_streams
    while call != NULL:
        f.free_calls = call.next
        buffer_free(&call.request)
        buffer_free(&call.job.answer)
        free(call)
        call = f.free_calls
