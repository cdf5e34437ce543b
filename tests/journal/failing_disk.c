/* Preloaded into a child: a disk that fails on command. failing_disk(call, error, after) lets `after` more calls of
 * that kind pass and fails all that follow with `error`; error 0 heals it, error -1 makes one write short. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const char *volatile failing = "";
static volatile int failing_error;
static volatile int passing;

void failing_disk(const char *call, int error, int after) {
    failing_error = error;
    passing = after;
    failing = strdup(call);
}

static int fails(const char *call) {
    return strcmp(failing, call) == 0 && failing_error && __atomic_fetch_sub(&passing, 1, __ATOMIC_SEQ_CST) <= 0;
}

typedef ssize_t write_call(int, const void *, size_t, off_t);

static ssize_t write_at(const char *name, int fd, const void *data, size_t size, off_t at) {
    write_call *real = (write_call *)dlsym(RTLD_NEXT, name);
    if (fails("pwrite")) {
        if (failing_error != -1) { errno = failing_error; return -1; }
        failing_error = 0;
        size = size > 4096 ? 4096 : size;
    }
    return real(fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return write_at("pwrite", fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return write_at("pwrite64", fd, data, size, at); }

static int sync_of(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (fails(name)) { errno = failing_error; return -1; }
    return real(fd);
}
int fdatasync(int fd) { return sync_of("fdatasync", fd); }
int fsync(int fd) { return sync_of("fsync", fd); }

static int allocate(const char *name, int fd, off_t at, off_t size) {
    int (*real)(int, off_t, off_t) = (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, name);
    return fails("posix_fallocate") ? failing_error : real(fd, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) { return allocate("posix_fallocate", fd, at, size); }
int posix_fallocate64(int fd, off_t at, off_t size) { return allocate("posix_fallocate64", fd, at, size); }
