# What the front is made of. A stream is one HTTP/2 stream; its calls are the request messages on it, one unless it
# streams; a call's jobs are what its shards have to do, one unless a batch concerns several shards.
#
# Whoever is told of an event by epoll begins with a `kind`. Objects are freed at the end of a turn, so that an event of
# the same turn never meets one that is gone.

cdef extern from "<sys/un.h>" nogil:
    ctypedef struct UnixAddress "struct sockaddr_un":
        unsigned short sun_family
        char sun_path[108]

cdef struct Call
cdef struct Stream
cdef struct Connection
cdef struct Link
cdef struct Front
cdef struct Upstream                     # in _front_relay
cdef struct RelayStream
cdef struct Found                        # in _front_archive
cdef struct Credential                   # in _front_credential
cdef struct Answered                     # in _front_caller
cdef struct DenialRoom                   # in _front_denial

cdef enum WatchKind:
    WATCH_LISTENER = 1
    WATCH_CONNECTION
    WATCH_JOURNAL
    WATCH_LINK                           # a peer's ring has something, or room
    WATCH_LINK_ALIVE                     # readable only when the peer has died
    WATCH_UPSTREAM
    WATCH_MAILBOX

# What becomes of a stream, decided by its path.
cdef enum StreamKind:
    STREAM_UNKNOWN = 0                   # no path yet
    STREAM_UNARY = 1
    STREAM_BATCHES = 2                   # PlaceOrders: messages are batches, each answered by one
    STREAM_HEALTH_CHECK = 3
    STREAM_HEALTH_WATCH = 4
    STREAM_RELAYED = 5
    STREAM_REFUSED = 6                   # answered already; what still comes of the request is thrown away

cdef enum JobState:
    JOB_READY = 1                        # in its source's queue
    JOB_AWAY = 2                         # with another worker
    JOB_WAITING = 3                      # executed, until it is durable
    JOB_DONE = 4
    JOB_PARKED = 5                       # until the archive has said whether it has the order

cdef enum Encoding:
    ENCODING_IDENTITY = 1
    ENCODING_GZIP = 2
    ENCODING_OTHER = 3

cdef enum:
    FINISHED_MAX = 64                    # measured calls whose answers are being written
    LINK_CALLERS = 64
    GRPC_PREFIX_BYTES = 5                # compressed flag, then the size, big endian

cdef struct Job:
    Job* next
    Call* call                           # NULL: another worker asked, by `link` and `token`
    Link* link                           # who asked, or who was asked
    Link* asker                          # of a job that was asked for here and passed on: who asked, and its token
    uint64_t token, asker_token
    Span request
    Buffer answer                        # behind room for a gRPC prefix: an answer, or a google.rpc.Status
    size_t offset                        # of a batch: what comes next
    uint64_t sequence                    # that must be durable before the answer leaves
    uint64_t deadline_ns                 # CLOCK_MONOTONIC; 0: none
    uint32_t code                        # gRPC's; 0 is OK
    uint32_t items                       # of a batch, carried out so far
    uint8_t method, is_batch, state
    uint8_t denied                       # its shop is not the caller's
    uint8_t shard
    uint8_t outcome                      # of a measured job, as far as it is known here; else 0
    uint64_t* times                      # by StageTime, 0 what is not known; NULL: it is not measured
    uint8_t caller                       # a hash of whose it is, for fairness; of a job that another worker asked for

cdef struct Call:
    Call* next                           # on its stream, in order
    Stream* stream                       # NULL: it is gone, nobody waits
    Stream* home                         # the stream that it is a part of; NULL: it stands for itself
    Buffer request
    Job job                              # the only one, mostly
    Job* parts                           # one for each shard of a split batch; then `job` holds the merged answer
    uint32_t part_count, pending         # jobs that are not done
    uint8_t* shard_of_item
    uint32_t item_count
    size_t charged_bytes                 # counted as in flight
    uint32_t payer                       # also for this slot of the quotas, plus one; 0: none
    bint done                            # `job.code` and `job.answer` hold
    bint measured, traced                # for the histograms, for a span; if either, `job.times` is the next field
    uint64_t times[STAGE_TIMES]

# Jobs that wait to be served, of one connection or one link: what fairness is about.
cdef struct JobQueue:
    JobQueue* next
    Job* first
    Job* last
    bint listed

cdef struct TraceParent:                 # W3C Trace Context, as the caller sent it
    uint8_t trace_id[16]
    uint8_t span_id[8]
    uint8_t flags

cdef struct Finished:                    # a measured call whose answer is on its way into the socket
    SpanRecord span
    bint measured, traced

cdef struct Stream:
    Stream* next
    Stream* previous
    Connection* connection
    const FrontMethod* method            # NULL: not native
    int32_t id
    uint8_t kind
    uint8_t encoding
    bint is_post, has_grpc_content, bad_timeout
    bint begun                           # its headers were accepted
    bint broken                          # a batch was refused as a whole: none after it is carried out
    bint long_lived                      # counted in its connection's `native_streams`
    bint end_received, answering, deferred, closed
    bint answered                        # by HTTP's own means, and its request has not ended
    bint ending                          # it ends with `status_code` and `status` once the calls before are answered
    uint64_t deadline_ns
    TraceParent parent                   # if `has_parent`
    SpanRecord* span                     # of a relayed call that is traced
    bint parent_seen, has_parent         # one came; it is the only one, and well formed
    uint32_t header_bytes
    # The request message that is being received.
    uint8_t prefix[5]
    uint8_t prefix_size
    uint32_t message_size
    Call* filling
    uint64_t message_began_ns
    size_t unconsumed                    # of the stream's window
    Buffer backlog                       # what came while enough batches were in work
    # Calls in the order of their messages; the first is part of the stream, so that a unary call allocates nothing.
    Call* calls
    Call* calls_last
    uint32_t call_count
    size_t sent                          # of the first call's answer
    Call own
    uint32_t status_code
    bint worth_repeating                 # what was refused for load may be sent again
    int32_t pushback_ms                  # after that; 0: PUSHBACK_MS; less: never
    uint8_t scope                        # what its method asks of a caller
    uint8_t relayed_method               # its place in the table of those; no meaning for a native one
    Credential* credential               # NULL: none is needed, or the stream was refused
    Stream* next_asking                  # among those that wait for the same credential
    Stream** asking_from                 # what points to it there; NULL: it does not wait
    bint is_stranger, has_asked          # while it waits: it counts in the shares, and so does its question
    size_t held                          # of the connection's window, while it waits
    bint wide                            # its window is STREAM_WINDOW_BYTES
    Buffer status                        # google.rpc.Status, or empty for OK
    # Health: what a watcher was told. Relay: its other half.
    int watched, told
    RelayStream* relay
    Stream* next_watcher
    Stream** watched_from                # what points to it in the list of watchers; NULL: it is none

cdef struct Share:                       # of what strangers may have open
    uint64_t calls                       # that wait until it is known who makes them
    uint64_t questions                   # who shows a credential

cdef struct Peer:                        # one address, for the bounds on its connections and its strangers
    Peer* next
    uint8_t address[16]
    uint32_t connections
    Share share

cdef struct Connection:
    int kind                             # WATCH_CONNECTION
    int fd
    Connection* next
    Connection* previous
    Connection* next_dirty
    Front* front
    nghttp2_session* session
    JobQueue ready
    Stream* streams
    Stream* recent                       # the stream of the newest frame, mostly that of the next one too
    uint32_t stream_count                # open ones
    uint32_t native_streams              # of these, long-lived native ones
    uint32_t calls_in_flight
    uint32_t calls_at_work               # of these, with a shard
    size_t bytes_in_flight
    size_t unconsumed
    Buffer out                           # what the socket did not take
    size_t out_sent
    Buffer headers                       # of the request being received, until it is known to be native
    Buffer credential                    # of the request being received
    uint8_t credential_kind              # CredentialKind; 0: none came
    uint64_t* payers                     # bits, by slot of the quotas: where it counts; NULL: nowhere
    Share share
    bint small_windows                   # its streams begin with the window that HTTP/2 begins with
    bint window_opened                   # and its own is no longer that
    SSL* tls                             # NULL: in plaintext
    Connection* next_unread
    Buffer certificate                   # DER of the client's, which was verified; empty: it showed none
    uint32_t tls_records                 # that the call into OpenSSL which is going on has read
    bint handshaking                     # of TLS: nothing else is said or heard yet
    bint tls_broken, farewell_said
    bint tls_full                        # OpenSSL has something to send before it can read on
    bint tls_starved                     # and the other way round
    bint unread                          # OpenSSL has read more than it was asked for
    Peer* peer
    Guard guard
    bint shared                          # it came by the shared address
    bint dirty                           # it may have something to send
    bint paused                          # it is not read: too much of it is in flight
    bint writing                         # the socket is full
    bint preface_seen, notice_sent, goaway_sent
    bint closing                         # what is to be sent still goes out, then it is closed
    bint lingering                       # all is sent; only the peer's end is awaited
    bint dead                            # to be freed at the end of the turn
    uint64_t accepted_ns, received_ns, progress_ns, ping_sent_ns, drain_began_ns, age_ns
    uint64_t commands, commands_before   # for the balance between workers
    uint32_t streams_limit               # as told to the peer last

cdef struct Listener:
    int kind                             # WATCH_LISTENER
    int fd
    bint shared, armed, tls
    Listener* next

cdef struct Hosted:                      # a shard that lives here
    int kind                             # WATCH_JOURNAL
    Front* front
    State* state
    Journal* journal
    LoggedClock* clock
    Job* waiting_first                   # executed, by sequence
    Job* waiting_last
    uint64_t held                        # commands that the log's sync thread was not woken for yet
    uint64_t held_since_ns
    int64_t now_ms                       # logged time of this turn; 0: not read yet
    uint64_t tick_at_ns
    uint64_t jobs_in_flight
    MarkPage* marks
    uint64_t marked                      # the sequence of the last mark
    uint64_t evict_through               # the archive has what was closed up to there
    bint evicting                        # more of it may be due
    bint paced                           # orders wait for the archive once places_left is spent
    int64_t places_left
    uint64_t evicted_ns                  # when orders have left memory for the last time
    bint raise_wanted                    # of the level
    uint64_t expired_before              # orders, in what was read of the log

cdef struct Parked:                      # a call that waits for the archive; _front_archive
    Parked* next                         # among the free ones, or the answered ones
    Job* job                             # NULL: it is free
    uint64_t token
    uint8_t shop_size, order_size
    uint8_t ids[128]                     # shop_id, then order_id
    bint answered, failed
    bint changed                         # the order was restored since the archive was asked
    Buffer item                          # the archived order; empty: there is none

cdef struct Link:                        # to another worker
    int kind                             # WATCH_LINK
    int alive_kind                       # WATCH_LINK_ALIVE; epoll is given its address
    Front* front
    Link* next                           # among those that died, or those that were handed in
    Link* next_live
    int worker                           # the front's own number: its successor, or its predecessor
    int alive_fd, wake_in_fd, wake_out_fd
    bint dead
    bint replaced                        # a newer one is there: nothing more is asked over this one
    bint bye_sent, bye_received          # and what was asked is answered
    Ring incoming
    Ring outgoing
    JobQueue ready[LINK_CALLERS]           # requests of the peer, by a hash of its caller
    Job** away                           # asked and not answered, by slot
    uint32_t* free_slots
    uint32_t free_count, away_count
    uint32_t jobs                        # of the peer, in work here
    uint64_t serial
    Job* unsent_first                    # requests and answers, in their order into the ring
    Job* unsent_last
    size_t unsent_progress               # of the first

cdef struct Identity:                    # who calls; _front_identity
    bint required                        # anonymous calls are refused
    uint64_t epoch
    uint64_t seed
    Credential** buckets
    Credential* newest                   # by their use
    Credential* oldest
    uint64_t count_of
    Credential** asked                   # of which Python was asked, by slot
    uint32_t* free_slots
    uint32_t free_count
    uint64_t serial
    Share share                          # of all strangers
    Peer nowhere                         # stands for those without an address
    uint8_t relay_secret[64]             # base64, as it goes to the control server
    size_t relay_secret_size
    DenialRoom* room

cdef struct PendingIdentity:             # what other threads hand in, under the front's lock
    bint wanted, required
    uint64_t epoch
    Buffer questions                     # to Python
    Buffer urgent                        # before these
    Buffer taken                         # of those before; Python's thread alone tells them, up to here
    size_t told
    Answered* answers
    uint8_t relay_secret[64]
    size_t relay_secret_size

cdef struct FrontSettings:
    uint64_t calls_max, bytes_max, connection_bytes_max, connections_max, connections_per_peer_max
    uint64_t streams_per_connection_max, streams_per_connection_min, batches_per_stream_max, commands_per_turn_max
    uint64_t link_jobs_max, shard_jobs_max
    uint64_t header_list_bytes_max, control_frames_max, control_frames_per_s, resets_max, resets_per_s
    uint64_t continuations_max, ping_strikes_max, ping_interval_ms
    uint64_t handshake_ms, message_ms, keepalive_ms, keepalive_timeout_ms, connection_age_ms, age_grace_ms
    uint64_t relay_bytes_per_turn, relay_buffer_bytes, relay_bytes_max, relay_connect_ms, overloaded_turn_us
    uint64_t accept_lead_ppm, shed_lead_ppm, balance_ms, handover_ms, archive_calls_max, trace_ppm, measured_every
    uint64_t identity_calls_max, identity_calls_per_peer_max, identity_calls_per_connection_max
    uint64_t identity_questions_per_connection_max, bad_credentials_max, bad_credentials_per_s
    uint64_t archive_lag_ms, archive_wait_ms

cdef struct Front:
    int epoll_fd
    int mailbox_kind                     # WATCH_MAILBOX
    int mailbox_fd
    int worker, workers, shards
    pthread_mutex_t lock                 # of what other threads hand in: pending_*, and the flags below it
    Hosted* pending_hosts[64]
    Link* pending_links                  # the newest first
    UnixAddress pending_relay
    uint64_t pending_evicts[64]
    bint pending_raises[64]
    Buffer lookups                       # questions to the archive
    Found* found                         # and answers
    PendingIdentity pending_identity
    SSL_CTX* tls                         # for new connections
    bint stop_wanted, drain_wanted, hand_over_wanted, relay_wanted
    pthread_cond_t changed               # of the next two
    bint drained, handed_over
    # All below belongs to the loop's thread.
    bint stopping, draining
    bint handing_over                    # nothing more is decided here
    bint released                        # and the shards are hosted here no more
    uint64_t drain_began_ns
    uint64_t successor_until_ns          # so long a link to the successor is waited for
    Link* successor
    BoardSlot own_slot                   # for who has left its slot of the board
    Parked* parked                       # as many as there may be
    Parked* free_parked
    Parked* answered
    uint64_t parked_count, parked_serial
    int lookup_fd
    Identity identity
    Quotas quotas
    int credential_fd, quotas_fd         # the latter only while the front is made
    bint evicting
    bint links_unsent                    # since the links were published last, as when a written answer lets in a batch
    uint64_t now_ns, sweep_at_ns
    FrontSettings settings
    Listener* listeners
    Connection* connections
    Connection* dirty
    Connection* unread
    uint32_t handshakes_left             # in this turn
    Connection* graves                   # to be freed at the end of the turn
    Link* link_graves
    uint64_t connection_count, calls_in_flight, bytes_in_flight
    Hosted* hosted[64]                   # by shard; NULL: lives elsewhere, or is not open yet
    Link* links[64]                      # by worker: the newest, over which is asked
    Link* live_links                     # all of them
    bint stalled                         # what could be served waits for a log, or for the archive
    bint outrun                          # for the archive
    JobQueue* runnable
    JobQueue* runnable_last
    Stream* free_streams
    uint32_t free_stream_count
    Call* free_calls
    uint32_t free_call_count
    Stream* watchers
    int health                           # what health says now
    Peer* peers[256]
    Upstream* upstream                   # the newest; those before it follow
    Pieces pieces
    nghttp2_session_callbacks* callbacks
    nghttp2_option* options
    uint8_t* input                       # one read
    uint8_t* output                      # one write
    BoardMap board
    BoardSlot* slot
    StagePage* stages                    # NULL, as the next: the slot was left, or the board has no room
    SpanRing* spans
    uint64_t until_measured              # calls
    uint64_t random
    Finished finished[FINISHED_MAX]
    uint32_t finished_count
    uint64_t busy_ns, busy_since_ns, turn_ewma_ns
    uint32_t streams_limit
    uint64_t listener_rearm_ns
    uint64_t balance_at_ns
    Balance balance
    Buffer scratch


cdef inline void tally(Front* f, FrontCounter counter, uint64_t more) noexcept nogil:
    board_add(f.slot, counter, more)


cdef inline void note(Job* job, StageTime at) noexcept nogil:
    if UNLIKELY(job.times != NULL):
        job.times[<uint32_t>at] = journal_now_ns(CLOCK_MONOTONIC)


cdef inline void mark_dirty(Connection* c) noexcept nogil:
    if not c.dirty:
        c.dirty = True
        c.next_dirty = c.front.dirty
        c.front.dirty = c
