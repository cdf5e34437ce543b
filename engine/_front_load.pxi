# Who takes a new connection, and which connection goes elsewhere: decisions over the figures that the workers publish,
# without a look at the world. Loads and shares are in millionths; that of a worker is what its thread is busy.

cdef enum:
    PPM = 1000000
    CONNECTIONS_WEIGHT_PPM_MIN = 200000
    HOT_MEASURES = 3                     # a worker must be too busy for so long before it sheds
    REST_MEASURES = 4                    # after it shed, until the figures show what that did
    NO_WORKER = -1
    TURN_MEASURES = 2                    # from one worker's turn to shed to the next one's

cdef struct WorkerLoad:
    uint64_t busy_ppm
    uint64_t connections
    bint live                            # it serves, and its heart beats

cdef struct ShedState:
    uint32_t hot_measures                # in a row
    uint32_t rest_measures

cdef struct Balance:                     # what was at the last measure
    uint64_t measured_ns
    uint64_t busy_before_ns
    uint64_t executed_before
    uint64_t executed                    # between the last two measures
    ShedState shed

# What is known of the connections while one of them is picked. A connection's address stands for itself.
cdef struct ShedChoice:
    uint64_t commands_max                # more must not go at one time
    uint64_t commands_movable            # of all that are within this
    uint32_t active
    void* resting                        # the busiest without long-lived streams
    uint64_t resting_commands
    void* streaming                      # the busiest with such
    uint64_t streaming_commands


cdef inline uint64_t min_of(uint64_t a, uint64_t b) noexcept nogil:
    return a if a < b else b


# Busyness is measured, and says nothing of a connection that came a moment ago; the number of connections does. It
# weighs as much as the busiest worker leaves: all when nobody works, little when somebody is busy, since then an idle
# connection must not count like a busy one.
cdef uint64_t load_of(const WorkerLoad* workers, int count, int worker) noexcept nogil:
    cdef uint64_t connections = 0, busiest_ppm = 0, weight_ppm = PPM
    cdef int i
    for i in range(count):
        if workers[i].live:
            connections += workers[i].connections
            if workers[i].busy_ppm > busiest_ppm:
                busiest_ppm = workers[i].busy_ppm
    weight_ppm -= min_of(busiest_ppm, weight_ppm)
    if weight_ppm < <uint64_t>CONNECTIONS_WEIGHT_PPM_MIN:
        weight_ppm = CONNECTIONS_WEIGHT_PPM_MIN
    if connections == 0:
        connections = 1
    return workers[worker].busy_ppm + weight_ppm * workers[worker].connections // connections


# The live worker with the least load; `but` is not looked at.
cdef int least_loaded(const WorkerLoad* workers, int count, int but) noexcept nogil:
    cdef int i, least = NO_WORKER
    cdef uint64_t load, least_load = 0
    for i in range(count):
        if i == but or not workers[i].live:
            continue
        load = load_of(workers, count, i)
        if least == NO_WORKER or load < least_load:
            least = i
            least_load = load
    return least


# Whether a worker takes a new connection. The least loaded one always does, so somebody does.
cdef bint takes_connection(const WorkerLoad* workers, int count, int worker, uint64_t lead_ppm) noexcept nogil:
    cdef int least = least_loaded(workers, count, worker)
    if least == NO_WORKER:
        return True
    return load_of(workers, count, worker) <= load_of(workers, count, least) + lead_ppm


# How busy the busiest of those is that would take a connection which `worker` sheds. With nobody there, nobody is busy.
cdef uint64_t taker_busy_of(const WorkerLoad* workers, int count, int worker, uint64_t accept_lead_ppm) noexcept nogil:
    cdef int i, least = least_loaded(workers, count, worker)
    cdef uint64_t busy_ppm, load_max
    if least == NO_WORKER:
        return 0
    busy_ppm = workers[least].busy_ppm
    load_max = load_of(workers, count, least) + accept_lead_ppm
    for i in range(count):
        if (i != worker and workers[i].live and workers[i].busy_ppm > busy_ppm
                and load_of(workers, count, i) <= load_max):
            busy_ppm = workers[i].busy_ppm
    return busy_ppm


# Whether a worker, if it were busy for `own_ppm`, is busier by `lead_ppm` than the others are on average, and than who
# would take what it sheds.
cdef bint is_hot(const WorkerLoad* workers, int count, int worker, uint64_t own_ppm, uint64_t taker_ppm,
                 uint64_t lead_ppm) noexcept nogil:
    cdef uint64_t others_ppm = 0, others = 0
    cdef int i
    for i in range(count):
        if i != worker and workers[i].live:
            others_ppm += workers[i].busy_ppm
            others += 1
    return others > 0 and own_ppm > others_ppm // others + lead_ppm and own_ppm > taker_ppm + lead_ppm


# How busy a connection may make a worker that leaves this one now; 0: none leaves. `leaving_ppm` is what connections
# make it busy that were asked to leave before. Half of the distance to the worker which takes it, so that this one
# stays the busier of the two. Where several are too busy, each sheds in its turn, lest all shed to the same; `turn` is
# the same number for all, and grows when the figures have had time to show what the turn before did.
cdef uint64_t shed_at_most(ShedState* state, const WorkerLoad* workers, int count, int worker, uint64_t leaving_ppm,
                           uint64_t accept_lead_ppm, uint64_t shed_lead_ppm, uint64_t turn) noexcept nogil:
    cdef uint64_t own_ppm = workers[worker].busy_ppm - min_of(workers[worker].busy_ppm, leaving_ppm)
    cdef uint64_t taker_ppm = taker_busy_of(workers, count, worker, accept_lead_ppm), hot = 1, before = 0
    cdef int i
    if not is_hot(workers, count, worker, own_ppm, taker_ppm, shed_lead_ppm):
        state.hot_measures = 0
    else:
        state.hot_measures += 1
    if state.rest_measures > 0:
        state.rest_measures -= 1
        return 0
    if state.hot_measures < <uint32_t>HOT_MEASURES:
        return 0
    for i in range(count):
        if i != worker and workers[i].live and is_hot(workers, count, i, workers[i].busy_ppm, taker_ppm, shed_lead_ppm):
            hot += 1
            before += i < worker
    return (own_ppm - taker_ppm) // 2 if turn % hot == before else 0


# One of the connections that may be shed, with its commands since the last measure.
cdef void shed_consider(ShedChoice* choice, void* connection, uint64_t commands, bint has_streams) noexcept nogil:
    if commands == 0:
        return
    choice.active += 1
    if commands > choice.commands_max:
        return
    choice.commands_movable += commands
    if has_streams and commands > choice.streaming_commands:
        choice.streaming = connection
        choice.streaming_commands = commands
    elif not has_streams and commands > choice.resting_commands:
        choice.resting = connection
        choice.resting_commands = commands


# The connection that goes, or NULL. One without long-lived streams moves at once; but a small one is no substitute for
# one that makes the difference. The last active one stays, since the load would only change its place; and so do all if
# together they would change little, as beside one that is too large to go.
cdef void* shed_chosen(ShedState* state, const ShedChoice* choice) noexcept nogil:
    cdef void* chosen = choice.resting
    if choice.active < 2 or 2 * choice.commands_movable < choice.commands_max:
        return NULL
    if choice.streaming_commands > 2 * choice.resting_commands:
        chosen = choice.streaming
    if chosen != NULL:
        state.rest_measures = REST_MEASURES
    return chosen
