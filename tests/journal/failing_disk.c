/* Preloaded into a process: a disk that fails on command. failing_disk(call, error, after) lets `after` more calls of
 * that kind pass and fails all that follow with `error`; 0 heals it, -1 makes one write short, -2 makes calls hang
 * until it is healed, -3 makes syncs do nothing and succeed. With EVEROPEN_FAILING_DISK the command lies in the file
 * of that name, which all processes share: then it can be given from outside, and counts what it met. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { SHORT = -1, HANG = -2, LIE = -3 };

/* tests/faults/shim.py packs the same. */
struct plan {
    volatile int error, passing, hits;
    /* How many calls it concerns; 0: all. */
    volatile int times;
    volatile char call[32];
    /* Only files whose path has it. */
    volatile char path[220];
};

static struct plan own;
static struct plan *plan = &own;

__attribute__((constructor)) static void share(void) {
    const char *name = getenv("EVEROPEN_FAILING_DISK");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    void *shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(own), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (shared != MAP_FAILED) plan = shared;
}

void failing_disk(const char *call, int error, int after) {
    plan->error = 0;
    plan->passing = after;
    plan->hits = plan->times = 0;
    strncpy((char *)plan->call, call, sizeof(plan->call) - 1);
    plan->error = error;
}

static int concerns(int fd) {
    char link[64], path[4096];
    ssize_t size;
    if (!plan->path[0]) return 1;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof(path) - 1);
    path[size < 0 ? 0 : size] = 0;
    return strstr(path, (const char *)plan->path) != NULL;
}

/* 0, or what the call shall do. */
static int failure(const char *call, int fd) {
    int error = plan->error;
    if (!error || strncmp((const char *)plan->call, call, strlen((const char *)plan->call)) || !concerns(fd)) return 0;
    if (__atomic_fetch_sub(&plan->passing, 1, __ATOMIC_SEQ_CST) > 0) return 0;
    if (__atomic_fetch_add(&plan->hits, 1, __ATOMIC_SEQ_CST) >= plan->times && plan->times) return 0;
    if (error == SHORT) plan->error = 0;
    if (error != HANG) return error;
    while (plan->error == HANG) usleep(1000);
    return 0;
}

typedef ssize_t write_call(int, const void *, size_t, off_t);

static ssize_t write_at(const char *name, int fd, const void *data, size_t size, off_t at) {
    write_call *real = (write_call *)dlsym(RTLD_NEXT, name);
    int error = failure(name, fd);
    if (error > 0) { errno = error; return -1; }
    return real(fd, data, error == SHORT && size > 4096 ? 4096 : size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return write_at("pwrite", fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return write_at("pwrite64", fd, data, size, at); }

static int sync_of(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int error = failure(name, fd);
    if (error > 0) { errno = error; return -1; }
    return error == LIE ? 0 : real(fd);
}
int fdatasync(int fd) { return sync_of("fdatasync", fd); }
int fsync(int fd) { return sync_of("fsync", fd); }

static int allocate(const char *name, int fd, off_t at, off_t size) {
    int (*real)(int, off_t, off_t) = (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, name);
    int error = failure(name, fd);
    return error > 0 ? error : real(fd, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) { return allocate("posix_fallocate", fd, at, size); }
int posix_fallocate64(int fd, off_t at, off_t size) { return allocate("posix_fallocate64", fd, at, size); }
