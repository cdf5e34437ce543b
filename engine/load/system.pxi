# What the generator asks of the operating system and of libnghttp2's HPACK.

from libc.math cimport log

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EINPROGRESS, ENOTCONN, ECONNRESET

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* into) noexcept
    int CLOCK_MONOTONIC

cdef extern from "<unistd.h>" nogil:
    int posix_close "close"(int fd) noexcept

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void* into, size_t size, int flags) noexcept
    ssize_t send(int fd, const void* data, size_t size, int flags) noexcept
    int MSG_NOSIGNAL, MSG_DONTWAIT

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long value) noexcept
    int PR_SET_TIMERSLACK

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint32_t u32
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) noexcept
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept
    int epoll_pwait2(int epoll, epoll_event* events, int count, const timespec* timeout, const void* mask) noexcept
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<nghttp2/nghttp2.h>" nogil:
    ctypedef struct nghttp2_hd_inflater:
        pass
    int nghttp2_hd_inflate_new(nghttp2_hd_inflater** into) noexcept
    void nghttp2_hd_inflate_del(nghttp2_hd_inflater* inflater) noexcept
    ssize_t nghttp2_hd_inflate_hd2(nghttp2_hd_inflater* inflater, nghttp2_nv* field, int* flags, const uint8_t* data,
                                   size_t size, int is_last) noexcept
    int nghttp2_hd_inflate_end_headers(nghttp2_hd_inflater* inflater) noexcept
    int NGHTTP2_HD_INFLATE_FINAL, NGHTTP2_HD_INFLATE_EMIT
    int NGHTTP2_FLAG_END_HEADERS, NGHTTP2_FLAG_PADDED, NGHTTP2_FLAG_PRIORITY, NGHTTP2_SETTINGS_HEADER_TABLE_SIZE


cdef extern from *:
    int __builtin_clzll(unsigned long long x) noexcept nogil
    uint32_t __atomic_load_n(uint32_t* at, int order) noexcept nogil
    void __atomic_store_n(uint32_t* at, uint32_t value, int order) noexcept nogil
    int __ATOMIC_ACQUIRE, __ATOMIC_RELEASE


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
