"""Who accepts and what is shed, over figures that a test makes up."""

include "_platform.pxi"
include "_front_load.pxi"


cdef int fill(WorkerLoad* into, list workers) except -1:
    cdef int i
    if len(workers) > 64:
        raise ValueError("at most 64 workers")
    for i, (busy_ppm, connections, live) in enumerate(workers):
        into[i].busy_ppm = busy_ppm
        into[i].connections = connections
        into[i].live = live
    return <int>len(workers)


def load(list workers, int worker):
    """The load of one of `workers`, each (busy_ppm, connections, live)."""
    cdef WorkerLoad loads[64]
    return load_of(loads, fill(loads, workers), worker)


def takes(list workers, int worker, uint64_t lead_ppm):
    cdef WorkerLoad loads[64]
    return bool(takes_connection(loads, fill(loads, workers), worker, lead_ppm))


cdef class Shedder:
    """What one worker remembers of its shedding."""

    cdef ShedState state

    def at_most(self, list workers, int worker, uint64_t leaving_ppm, uint64_t accept_lead_ppm,
                uint64_t shed_lead_ppm, uint64_t turn):
        cdef WorkerLoad loads[64]
        cdef int count = fill(loads, workers)
        return shed_at_most(&self.state, loads, count, worker, leaving_ppm, accept_lead_ppm, shed_lead_ppm, turn)

    def choose(self, uint64_t commands_max, list connections):
        """The index of the one of `connections`, each (commands, has_streams), that goes, or None."""
        cdef ShedChoice choice
        cdef size_t i
        memset(&choice, 0, sizeof(choice))
        choice.commands_max = commands_max
        for i, (commands, has_streams) in enumerate(connections):
            shed_consider(&choice, <void*>(i + 1), commands, has_streams)
        i = <size_t>shed_chosen(&self.state, &choice)
        return i - 1 if i else None
