# A process that a test makes up: its turns end where it would end, and its disk is a Python object. Nothing here is
# part of a running engine.

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from engine.errors import ProcessDied

cdef extern from *:
    """
    #include <setjmp.h>

    typedef void SimulatedTurn(void *of);

    typedef struct { jmp_buf end; int runs; } Lifeline;

    /* 0: the process ended itself in the middle of its turn, and nothing of it ran after that. */
    static int lifeline_run(Lifeline *line, SimulatedTurn *job, void *of) {
        if (setjmp(line->end) != 0) { line->runs = 0; return 0; }
        line->runs = 1;
        job(of);
        line->runs = 0;
        return 1;
    }
    static void lifeline_cut(Lifeline *line) { if (line->runs) longjmp(line->end, 1); }
    """
    ctypedef void SimulatedTurn(void* of) noexcept nogil
    ctypedef struct Lifeline:
        int runs
    int lifeline_run(Lifeline* line, SimulatedTurn* job, void* of) noexcept nogil
    void lifeline_cut(Lifeline* line) noexcept nogil

cdef enum:
    # What an ended process asks of its disk, all in vain, before it is taken not to unwind by itself.
    ASKED_IN_VAIN_MAX = 1000

cdef struct Simulated:
    Disk disk
    Lifeline line
    int error                            # of the last call; 0: it did not fail
    int asked_in_vain
    void* process

SAFETY_BY_NAME = {
    "sync": SAFETY_SYNC, "ack-after-sync": SAFETY_ACK_AFTER_SYNC, "sync-once": SAFETY_SYNC_ONCE,
    "epoch": SAFETY_EPOCH, "crc": SAFETY_CRC, "chain": SAFETY_CHAIN,
    "dedupe-in-snapshot": SAFETY_DEDUPE_IN_SNAPSHOT, "logged-time": SAFETY_LOGGED_TIME, "names-sync": SAFETY_NAMES_SYNC,
}


def simulate_without(str safety not None):
    """Takes one of SAFETY_BY_NAME away from all engines of this process; empty: all hold again."""
    global eo_safety_off
    eo_safety_off = SAFETY_BY_NAME[safety] if safety else 0


@cython.no_gc_clear
cdef class SimulatedProcess:
    """A process and its way to the disk, which is a Python object: see tests/faults/disk.py for its methods.

    An exception of the disk that is no OSError ends the process: from then on it gets nothing but errors, until it has
    unwound, or ends itself.
    """
    cdef Simulated own
    cdef object disk, failure
    cdef bint ended
    cdef dict mapped
    cdef list words

    def __cinit__(self, disk):
        cdef Disk* table = &self.own.disk
        self.disk = disk
        self.mapped = {}
        self.words = []
        self.own.process = <void*>self
        table.owner = &self.own
        table.open = simulated_open
        table.close = simulated_close
        table.size = simulated_size
        table.read = simulated_read
        table.write = simulated_write
        table.sync = simulated_sync
        table.allocate = simulated_allocate
        table.forget = simulated_forget
        table.rename = simulated_rename
        table.remove = simulated_remove
        table.sync_names = simulated_sync_names
        table.list = simulated_list
        table.map = simulated_map
        table.unmap = simulated_unmap
        table.say = simulated_say
        table.die = simulated_die

    cdef object ask(self, call, arguments):
        """What the disk answers; None if it fails, and `error` says why."""
        self.own.error = EIO
        if self.ended:
            self.own.asked_in_vain += 1
            return None
        try:
            answer = call(*arguments)
            self.own.error = 0
            return answer
        except OSError as failed:
            self.own.error = failed.errno
        except BaseException as failed:
            self.failure = failed
            self.ended = True
        return None

    cdef int run(self, SimulatedTurn* job, void* of) except -1:
        """Raises what ended the process, if the turn did."""
        cdef int whole
        if self.ended:
            raise ValueError("the process has ended")
        with nogil:
            whole = lifeline_run(&self.own.line, job, of)
        if self.failure is not None:
            raise self.failure
        if not whole:
            self.ended = True
            raise ProcessDied("".join(self.words))
        return 0


cdef inline SimulatedProcess process_of(Disk* disk):
    return <SimulatedProcess>(<Simulated*>disk.owner).process


cdef int64_t ask_number(Disk* disk, call, arguments) noexcept:
    answer = process_of(disk).ask(call, arguments)
    return 0 if answer is None else answer


# -1 and errno if the last call failed. Without the GIL, as the process may end here.
cdef int64_t simulated_answer(Disk* disk, int64_t number) noexcept nogil:
    cdef Simulated* own = <Simulated*>disk.owner
    if own.asked_in_vain > ASKED_IN_VAIN_MAX:
        lifeline_cut(&own.line)
    if own.error:
        errno_is(own.error)
        return -1
    return number


cdef int simulated_open(Disk* disk, const char* name, int flags) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.open, (name.decode(), flags))
    return <int>simulated_answer(disk, number)


cdef void simulated_close(Disk* disk, int fd) noexcept nogil:
    with gil:
        ask_number(disk, process_of(disk).disk.close, (fd,))


cdef int64_t simulated_size(Disk* disk, int fd) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.size, (fd,))
    return simulated_answer(disk, number)


cdef ssize_t simulated_read(Disk* disk, int fd, void* into, size_t size, uint64_t at) noexcept nogil:
    cdef int64_t number = 0
    with gil:
        answer = process_of(disk).ask(process_of(disk).disk.read, (fd, size, at))
        if answer is not None:
            number = PyBytes_GET_SIZE(answer)
            memcpy(into, PyBytes_AS_STRING(answer), number)
    return simulated_answer(disk, number)


cdef ssize_t simulated_write(Disk* disk, int fd, const void* data, size_t size, uint64_t at) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.write, (fd, (<const char*>data)[:size], at))
    return simulated_answer(disk, number)


cdef int simulated_sync(Disk* disk, int fd) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.sync, (fd,))
    return <int>simulated_answer(disk, number)


cdef int simulated_allocate(Disk* disk, int fd, uint64_t size) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.allocate, (fd, size))
    return (<Simulated*>disk.owner).error if simulated_answer(disk, number) != 0 else 0


cdef void simulated_forget(Disk* disk, int fd) noexcept nogil:
    with gil:
        ask_number(disk, process_of(disk).disk.forget, (fd,))


cdef int simulated_rename(Disk* disk, const char* source, const char* target, int replace) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.rename, (source.decode(), target.decode(), replace != 0))
    return <int>simulated_answer(disk, number)


cdef int simulated_remove(Disk* disk, const char* name) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.remove, (name.decode(),))
    return <int>simulated_answer(disk, number)


cdef int simulated_sync_names(Disk* disk) noexcept nogil:
    cdef int64_t number
    with gil:
        number = ask_number(disk, process_of(disk).disk.sync_names, ())
    return <int>simulated_answer(disk, number)


cdef void tell_names(Disk* disk, DiskName* each, void* into) noexcept:
    for name in process_of(disk).ask(process_of(disk).disk.list, ()) or ():
        each(into, PyBytes_AS_STRING(name.encode()))


cdef int simulated_list(Disk* disk, DiskName* each, void* into) noexcept nogil:
    with gil:
        tell_names(disk, each, into)
    return <int>simulated_answer(disk, 0)


cdef void* simulated_map(Disk* disk, const char* name, size_t size) noexcept nogil:
    cdef void* at = NULL
    with gil:
        memory = process_of(disk).ask(process_of(disk).disk.map, (name.decode(), size))
        if memory is not None:
            at = PyByteArray_AS_STRING(memory)
            process_of(disk).mapped[<size_t>at] = memory
    simulated_answer(disk, 0)
    return at


cdef void simulated_unmap(Disk* disk, void* at, size_t size) noexcept nogil:
    with gil:
        process_of(disk).mapped.pop(<size_t>at)


cdef void simulated_say(Disk* disk, const char* text) noexcept nogil:
    with gil:
        process_of(disk).words.append(text.decode())


cdef void simulated_die(Disk* disk) noexcept nogil:
    lifeline_cut(&(<Simulated*>disk.owner).line)
