# What is asked of the operating system.

from posix.types cimport off_t

cdef extern from "<fcntl.h>" nogil:
    int O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_DIRECT

cdef extern from "<unistd.h>" nogil:
    int posix_close "close"(int fd) noexcept
    ssize_t write_fd "write"(int fd, const void* data, size_t size) noexcept

cdef extern from "<string.h>" nogil:
    size_t strlen(const char* text) noexcept
    int strcmp(const char* left, const char* right) noexcept

cdef extern from *:
    """
    #include <errno.h>
    static void errno_is(int error) { errno = error; }
    """
    void errno_is(int error) noexcept nogil

cdef extern from "<errno.h>" nogil:
    int errno
    int EINTR, ENOSPC, EDQUOT, EFBIG, ENOENT, ENOMEM, EIO, ECANCELED

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept
    int munmap(void* at, size_t size) noexcept
    int madvise(void* at, size_t size, int advice) noexcept
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    int MADV_DONTNEED, MADV_HUGEPAGE, MADV_POPULATE_WRITE
    void* MAP_FAILED

cdef extern from "<stdio.h>" nogil:
    int snprintf(char* into, size_t size, const char* form, ...) noexcept

cdef extern from *:
    """
    #define eo_load64(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
    #define eo_store64(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
    #define eo_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    uint64_t eo_load64(const uint64_t* at) noexcept nogil
    void eo_store64(uint64_t* at, uint64_t value) noexcept nogil
    void eo_fence() noexcept nogil
    int __builtin_clzll(unsigned long long x) noexcept nogil

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attributes) noexcept
    int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept
    int pthread_mutex_destroy(pthread_mutex_t* mutex) noexcept
    int pthread_condattr_init(pthread_condattr_t* attributes) noexcept
    int pthread_condattr_setclock(pthread_condattr_t* attributes, int clock) noexcept
    int pthread_cond_init(pthread_cond_t* condition, const pthread_condattr_t* attributes) noexcept
    int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) noexcept
    int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* until) noexcept
    int pthread_cond_signal(pthread_cond_t* condition) noexcept
    int pthread_cond_broadcast(pthread_cond_t* condition) noexcept
    int pthread_cond_destroy(pthread_cond_t* condition) noexcept

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* into) noexcept
    int nanosleep(const timespec* wanted, timespec* left) noexcept
    int CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME

# Less than a second.
cdef inline void pause_ns(long nanoseconds) noexcept nogil:
    cdef timespec pause
    pause.tv_sec = 0
    pause.tv_nsec = nanoseconds
    nanosleep(&pause, NULL)

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int first, int flags) noexcept
    int EFD_NONBLOCK, EFD_CLOEXEC

cdef extern from *:
    """
    #include <sys/resource.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* sched_setattr(2); a runtime of an ordinary thread is its slice, from Linux 6.12 on, and ignored before. */
    static int eo_give_way(int nice_value, uint64_t slice_ns) {
        struct {
            uint32_t size, policy;
            uint64_t flags;
            int32_t nice;
            uint32_t priority;
            uint64_t runtime, deadline, period;
        } wanted = { sizeof wanted, 0, 0, nice_value, 0, slice_ns, 0, 0 };
        if (syscall(SYS_sched_setattr, 0, &wanted, 0) == 0) return 0;
        return setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), nice_value);
    }
    """
    int eo_give_way(int nice_value, uint64_t slice_ns) noexcept nogil

cdef enum:
    SHORT_SLICE_NS = 100000


def give_way(int nice):
    """Lets the calling thread, and those it starts, stand behind others: by its weight, and by slices of 0.1 ms.

    The slice is what matters to who wakes up for an order: a thread of low weight still runs its slice to the end.
    """
    if eo_give_way(nice, SHORT_SLICE_NS) != 0:
        raise OSError(errno, "sched_setattr")
