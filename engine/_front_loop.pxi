# The loop of a worker. One turn is a list of its steps; docs/front.md says why in this order.

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/socket.h>

    /* Accepts a connection and says whose it is: 16 bytes, IPv4 as IPv6 maps it, zeros for a unix socket. */
    static int front_accept(int fd, uint8_t *address) {
        union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } from;
        socklen_t size = sizeof from;
        int one = 1, accepted = accept4(fd, &from.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        memset(address, 0, 16);
        if (accepted < 0) return accepted;
        if (size >= sizeof(struct sockaddr_in) && from.any.sa_family == AF_INET) {
            address[10] = address[11] = 0xff;
            memcpy(address + 12, &from.v4.sin_addr, 4);
        } else if (size >= sizeof(struct sockaddr_in6) && from.any.sa_family == AF_INET6) {
            memcpy(address, &from.v6.sin6_addr, 16);
        } else {
            return accepted;
        }
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return accepted;
    }
    """
    int front_accept(int fd, uint8_t* address) noexcept nogil

cdef extern from "<sys/eventfd.h>" nogil:
    ctypedef uint64_t eventfd_t
    int eventfd_read(int fd, eventfd_t* value) noexcept
    int eventfd_write(int fd, eventfd_t value) noexcept

cdef enum:
    EVENTS_MAX = 256                     # of one turn
    ACCEPTS_MAX = 16                     # of one listener in one turn
    SWEEP_NS = 100000000
    ACCEPT_PAUSE_NS = 2000000            # how long an accept is left to others
    EWMA_SHARE = 16
    OUTRUN_PAUSE_NS = 200000


cdef void front_loop(Front* f) noexcept nogil:
    f.now_ns = f.busy_since_ns = journal_now_ns(CLOCK_MONOTONIC)
    f.balance_at_ns = f.now_ns
    while not f.stopping:
        turn(f)


cdef void turn(Front* f) noexcept nogil:
    receive_events(f)
    links_turn(f)
    serve(f)
    archive_turn(f)
    retention_turn(f)
    mark_shards(f)
    kick_journals(f, False)
    let_all_go(f)
    handover_turn(f)
    relay_turn(f)
    links_publish(f)
    if f.listener_rearm_ns and f.now_ns >= f.listener_rearm_ns:
        arm_listeners(f, not (f.draining or f.handing_over))
    if f.now_ns >= f.sweep_at_ns:
        sweep(f)
    write_dirty(f)
    bury(f)
    tally(f, TURNS, 1)


cdef void receive_events(Front* f) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int ready, i
    cdef uint64_t slept_ns = journal_now_ns(CLOCK_MONOTONIC)
    cdef int wait_ms = wait_for(f, slept_ns)
    measure_turn(f, slept_ns)
    if wait_ms and not links_may_sleep(f):
        wait_ms = 0
    if UNLIKELY(f.outrun) and not f.evicting:
        # Sockets that are not read meanwhile would end each wait at once, and the archive needs the core.
        pause_ns(OUTRUN_PAUSE_NS)
    if not journals_are_held(f):
        ready = epoll_wait(f.epoll_fd, events, EVENTS_MAX, wait_ms)
    else:
        ready = epoll_wait(f.epoll_fd, events, EVENTS_MAX, 0)
        if ready <= 0:
            kick_journals(f, True)
            ready = epoll_wait(f.epoll_fd, events, EVENTS_MAX, wait_ms)
    f.now_ns = f.busy_since_ns = journal_now_ns(CLOCK_MONOTONIC)
    links_awake(f)
    f.handshakes_left = HANDSHAKES_PER_TURN
    for i in range(ready):
        receive(f, events[i].data.ptr, events[i].events)
    read_on(f)


# Milliseconds that may be slept: none while work is left.
cdef int wait_for(Front* f, uint64_t now_ns) noexcept nogil:
    cdef uint64_t until_ns = f.sweep_at_ns
    if f.stalled:
        return 0 if f.evicting else 1    # the log's eventfd mostly ends it sooner
    if f.runnable != NULL or f.answered != NULL or f.evicting or f.links_unsent or f.unread != NULL \
            or relay_wants_turn(f):
        return 0
    if f.listener_rearm_ns and f.listener_rearm_ns < until_ns:
        until_ns = f.listener_rearm_ns
    return <int>((until_ns - now_ns) // 1000000 + 1) if until_ns > now_ns else 0


# How long turns are shows whether the worker keeps up: what waits in sockets is not seen otherwise.
cdef void measure_turn(Front* f, uint64_t now_ns) noexcept nogil:
    cdef uint64_t busy_ns = now_ns - f.busy_since_ns
    f.busy_ns += busy_ns
    f.turn_ewma_ns += busy_ns // EWMA_SHARE
    f.turn_ewma_ns -= f.turn_ewma_ns // EWMA_SHARE


cdef void receive(Front* f, void* watch, uint32_t events) noexcept nogil:
    cdef int kind = (<int*>watch)[0]
    if kind == WATCH_CONNECTION:
        connection_event(<Connection*>watch, events)
    elif kind == WATCH_JOURNAL:
        clear_event(journal_event_fd(<Hosted*>watch))
    elif kind == WATCH_LISTENER:
        accept_all(f, <Listener*>watch)
    elif kind == WATCH_LINK:
        clear_event((<Link*>watch).wake_in_fd)
    elif kind == WATCH_LINK_ALIVE:
        link_ended(f, link_of_alive(<int*>watch))
    elif kind == WATCH_UPSTREAM:
        relay_event(<Upstream*>watch, events)
    else:
        clear_event(f.mailbox_fd)
        take_mail(f)


cdef inline int journal_event_fd(Hosted* h) noexcept nogil:
    return h.journal.event_fd


cdef inline void clear_event(int fd) noexcept nogil:
    cdef eventfd_t value
    eventfd_read(fd, &value)


cdef void connection_event(Connection* c, uint32_t events) noexcept nogil:
    if c.dead:
        return
    if c.handshaking and events & (EPOLLIN | EPOLLOUT):
        tls_handshake(c)
        return
    if events & EPOLLOUT:
        mark_dirty(c)
        if c.tls_full:
            mark_unread(c)
    if events & EPOLLIN:
        if may_read(c) and not c.unread:
            connection_read(c)
    elif events & (EPOLLERR | EPOLLHUP):
        connection_close(c)


# What it sent before is served first: what waits in the socket costs nothing and holds its sender back. Not while
# nothing can be served: then its other calls would wait with these.
cdef inline bint may_read(const Connection* c) noexcept nogil:
    return c.ready.first == NULL or c.front.handing_over


# Those of which OpenSSL has more than the last turn took. Who is paused comes back when it is not any more.
cdef void read_on(Front* f) noexcept nogil:
    cdef Connection* c = f.unread
    cdef Connection* following
    f.unread = NULL
    while c != NULL:
        following = c.next_unread
        c.unread = False
        if not (c.dead or c.paused):
            if may_read(c):
                connection_read(c)
            else:
                mark_unread(c)
        c = following


cdef void accept_all(Front* f, Listener* listener) noexcept nogil:
    cdef uint8_t address[16]
    cdef int fd, i
    # The event may be older than the drain, which is over only when every connection has heard of it.
    if f.draining or f.handing_over:
        return
    for i in range(ACCEPTS_MAX):
        if listener.shared and not may_accept(f):
            tally(f, ACCEPTS_LEFT_TO_OTHERS, 1)
            pause_listener(f, listener, ACCEPT_PAUSE_NS)
            return
        fd = front_accept(listener.fd, address)
        if fd < 0:
            # Out of descriptors or memory: a busy loop would not help.
            if errno != EAGAIN and errno != EINTR and errno != ECONNABORTED:
                pause_listener(f, listener, SWEEP_NS)
            return
        connection_begin(f, fd, address, listener)


cdef void connection_begin(Front* f, int fd, const uint8_t* address, const Listener* listener) noexcept nogil:
    cdef Connection* c
    if f.connection_count >= f.settings.connections_max:
        tally(f, CONNECTIONS_REFUSED_TOTAL, 1)
        posix_close(fd)
        return
    c = <Connection*>calloc(1, sizeof(Connection))
    INVARIANT(c != NULL, b"memory for a connection")
    c.kind = WATCH_CONNECTION
    c.fd = fd
    c.front = f
    c.shared = listener.shared
    c.accepted_ns = c.received_ns = c.progress_ns = f.now_ns
    if not guard_peer_enters(f, c, address):
        tally(f, CONNECTIONS_REFUSED_PER_PEER, 1)
        posix_close(fd)
        free(c)
        return
    guard_begin(c)
    c.next = f.connections
    if f.connections != NULL:
        f.connections.previous = c
    f.connections = c
    f.connection_count += 1
    tally(f, CONNECTIONS_ACCEPTED, 1)
    connection_watch(c, EPOLL_CTL_ADD)
    if (listener.tls and not tls_begin(c)) or not session_begin(c):
        connection_close(c)


cdef void listener_watch(Front* f, Listener* listener, bint armed) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN if armed else 0
    event.data.ptr = listener
    listener.armed = armed
    epoll_ctl(f.epoll_fd, EPOLL_CTL_MOD, listener.fd, &event)


cdef void pause_listener(Front* f, Listener* listener, uint64_t pause_ns) noexcept nogil:
    listener_watch(f, listener, False)
    f.listener_rearm_ns = f.now_ns + pause_ns


cdef void arm_listeners(Front* f, bint armed) noexcept nogil:
    cdef Listener* listener = f.listeners
    f.listener_rearm_ns = 0
    while listener != NULL:
        if listener.armed != armed:
            listener_watch(f, listener, armed)
        listener = listener.next


# What other threads handed in.
cdef void take_mail(Front* f) noexcept nogil:
    cdef int i
    cdef bint drain_wanted
    cdef Found* found
    cdef Answered* answers
    pthread_mutex_lock(&f.lock)
    # Before the links: one to the own number that comes from now on is the successor's.
    if f.hand_over_wanted and not f.handing_over:
        begin_handover(f)
    for i in range(SHARDS_MAX):
        if f.pending_hosts[i] != NULL:
            shard_begin(f, i, f.pending_hosts[i])
            f.pending_hosts[i] = NULL
    take_retention(f)
    found = f.found
    f.found = NULL
    answers = take_identity(f)
    links_begin(f, f.pending_links)
    f.pending_links = NULL
    if f.relay_wanted:
        relay_init(f, &f.pending_relay)
        f.relay_wanted = False
    f.stopping = f.stop_wanted
    drain_wanted = f.drain_wanted
    pthread_mutex_unlock(&f.lock)
    take_found(f, found)
    take_answers(f, answers)
    if drain_wanted and not f.draining:
        begin_drain(f)
    watch_health(f)


cdef void watch_fd(Front* f, int fd, void* watch) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.ptr = watch
    epoll_ctl(f.epoll_fd, EPOLL_CTL_ADD, fd, &event)


cdef void let_all_go(Front* f) noexcept nogil:
    cdef int shard
    for shard in range(f.shards):
        if f.hosted[shard] != NULL and f.hosted[shard].waiting_first != NULL:
            let_go(f, f.hosted[shard])


cdef void write_dirty(Front* f) noexcept nogil:
    cdef Connection* c
    while f.dirty != NULL:
        c = f.dirty
        f.dirty = c.next_dirty
        c.dirty = False
        connection_write(c)
        if UNLIKELY(f.finished_count > 0):
            flush_finished(f)


# What is done ten times a second.
cdef void sweep(Front* f) noexcept nogil:
    cdef Connection* c = f.connections
    cdef Connection* following
    cdef uint64_t tick_ns
    adapt_concurrency(f)
    while c != NULL:
        following = c.next
        sweep_connection(f, c)
        c = following
    expire_parked(f)
    retention_sweep(f)
    tick_ns = tick_shards(f)
    f.sweep_at_ns = f.now_ns + (SWEEP_NS if tick_ns > SWEEP_NS else tick_ns)
    publish(f)
    if f.handing_over and f.health != health_now(f):
        watch_health(f)                  # nobody came to succeed it
    if f.draining:
        check_drained(f)


cdef void sweep_connection(Front* f, Connection* c) noexcept nogil:
    cdef Stream* s = c.streams
    cdef Stream* following
    if c.lingering:
        if f.now_ns > c.drain_began_ns + LINGER_NS:
            connection_close(c)
        return
    if c.notice_sent and not c.goaway_sent and f.now_ns > c.drain_began_ns + DRAIN_NOTICE_NS:
        send_goaway(c)
    while s != NULL:
        following = s.next
        # Calls with a shard are answered by it; what waits for the caller, or for the control server, ends here.
        if s.deadline_ns and s.deadline_ns <= f.now_ns and not s.ending and (s.calls == NULL or s.calls.pending == 0):
            tally(f, CALLS_EXPIRED, 1)
            if s.kind == STREAM_RELAYED:
                relay_give_up(s, CODE_DEADLINE_EXCEEDED, b"DEADLINE_EXCEEDED", b"The deadline passed.")
            else:
                refuse_stream(s, CODE_DEADLINE_EXCEEDED, b"DEADLINE_EXCEEDED", b"The deadline passed.")
        elif f.draining and s.kind == STREAM_RELAYED and f.now_ns > f.drain_began_ns + DRAIN_RELAYED_NS:
            # A control server that goes on does not end its watches, and the drain waits for all.
            relay_give_up(s, CODE_UNAVAILABLE, b"DRAINING", b"The server is going down; watch elsewhere.")
        elif s.relay != NULL:
            recheck(s)
        s = following
    resume_if_room(c)
    guard_sweep(c)
    tell_limit(c)
    if c.closing or c.goaway_sent:
        mark_dirty(c)


# Overloaded, the worker tells its peers to have fewer calls in flight: what waits then waits with them, where it can
# still be given up. Twice as fast down as up.
cdef void adapt_concurrency(Front* f) noexcept nogil:
    cdef uint64_t limit = f.streams_limit
    if f.turn_ewma_ns > f.settings.overloaded_turn_us * 1000:
        limit //= 2
        limit = f.settings.streams_per_connection_min if limit < f.settings.streams_per_connection_min else limit
    elif f.turn_ewma_ns < f.settings.overloaded_turn_us * 250 and limit < f.settings.streams_per_connection_max:
        limit += limit // 4 + 1
        limit = f.settings.streams_per_connection_max if limit > f.settings.streams_per_connection_max else limit
    tally(f, CONCURRENCY_LOWERED, limit < f.streams_limit)
    f.streams_limit = <uint32_t>limit


# Also to a connection that was not ready to hear it when it changed.
cdef void tell_limit(Connection* c) noexcept nogil:
    cdef nghttp2_settings_entry entry
    if c.closing or not c.preface_seen or c.streams_limit == c.front.streams_limit:
        return
    c.streams_limit = c.front.streams_limit
    entry.settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
    entry.value = c.streams_limit
    nghttp2_submit_settings(c.session, 0, &entry, 1)
    mark_dirty(c)


cdef void publish(Front* f) noexcept nogil:
    publish_figures(f)
    board_set(f.slot, CREDENTIALS_KNOWN, f.identity.count_of)
    eo_store64(&f.slot.heartbeat_ns, last_beat_ns(f))
    eo_store64(&f.slot.state, BOARD_DRAINING if f.draining
               else BOARD_SERVING if f.health == HEALTH_SERVING else BOARD_STARTING)
    if f.now_ns >= f.balance_at_ns:
        f.balance_at_ns = f.now_ns + f.settings.balance_ms * 1000000
        balance_measure(f)
        if not f.draining:
            balance_shed(f)


# It stands still while a sync does not return: who watches it takes a stuck disk for a worker that is frozen.
cdef uint64_t last_beat_ns(Front* f) noexcept nogil:
    cdef uint64_t beat_ns = f.now_ns, began_ns
    cdef int shard
    for shard in range(f.shards):
        if f.hosted[shard] != NULL:
            began_ns = eo_load64(&f.hosted[shard].journal.sync_began_ns)
            if began_ns != 0 and began_ns < beat_ns:
                beat_ns = began_ns
    return beat_ns


cdef void begin_drain(Front* f) noexcept nogil:
    cdef Connection* c = f.connections
    cdef Stream* s
    f.draining = True
    f.drain_began_ns = f.now_ns
    arm_listeners(f, False)
    refuse_asking(f)
    while c != NULL:
        s = c.streams
        while s != NULL:
            if s.kind == STREAM_BATCHES:
                end_batches(s)
            s = s.next
        connection_drain(c)
        c = c.next
    f.sweep_at_ns = f.now_ns


# No stream is open, and every peer knows that it must go elsewhere.
cdef void check_drained(Front* f) noexcept nogil:
    cdef Connection* c = f.connections
    cdef bint over = f.calls_in_flight == 0 and links_are_drained(f)
    while c != NULL and over:
        over = c.lingering or (c.stream_count == 0 and c.goaway_sent and not c.dirty and not c.out.size)
        c = c.next
    if over and not f.drained:
        pthread_mutex_lock(&f.lock)
        f.drained = True
        pthread_cond_broadcast(&f.changed)
        pthread_mutex_unlock(&f.lock)


# At the end of a turn nothing names the dead any more, unless they were marked since the last write.
cdef void bury(Front* f) noexcept nogil:
    cdef Connection* c = f.graves
    cdef Connection* following
    f.graves = NULL
    while c != NULL:
        following = c.next
        if c.dirty or c.unread:
            c.next = f.graves
            f.graves = c
        else:
            connection_free(c)
        c = following
    links_bury(f)
