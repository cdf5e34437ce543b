# What a shard's log and snapshots ask of the disk: a table of functions over the names of one directory. Beside the
# real one there is the simulation's, which loses, tears and breaks on command. Each returns as its system call does.

cdef extern from *:
    """
    #include <dirent.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #include <errno.h>

    typedef void DiskName(void *into, const char *name);

    typedef struct Disk {
        int (*open)(struct Disk *disk, const char *name, int flags);
        void (*close)(struct Disk *disk, int fd);
        int64_t (*size)(struct Disk *disk, int fd);
        ssize_t (*read)(struct Disk *disk, int fd, void *into, size_t size, uint64_t at);
        ssize_t (*write)(struct Disk *disk, int fd, const void *data, size_t size, uint64_t at);
        int (*sync)(struct Disk *disk, int fd);
        int (*allocate)(struct Disk *disk, int fd, uint64_t size);             /* 0 or the error itself */
        void (*forget)(struct Disk *disk, int fd);                             /* no page cache for it; no promise */
        int (*rename)(struct Disk *disk, const char *from, const char *to, int replace);
        int (*remove)(struct Disk *disk, const char *name);
        int (*sync_names)(struct Disk *disk);
        int (*list)(struct Disk *disk, DiskName *each, void *into);
        void *(*map)(struct Disk *disk, const char *name, size_t size);        /* shared; NULL and errno */
        void (*unmap)(struct Disk *disk, void *at, size_t size);
        void (*say)(struct Disk *disk, const char *text);                      /* to who looks after it */
        void (*die)(struct Disk *disk);                                        /* ends the process, if it is one */
        void *owner;                                                           /* the simulation's */
        int dir_fd;                                                            /* the real one's */
        void (*expect)(struct Disk *disk, int fd, uint64_t at, size_t size);   /* it is read soon; NULL: so what */
    } Disk;

    static int disk_open(Disk *d, const char *name, int flags) {
        int fd = openat(d->dir_fd, name, flags | O_CLOEXEC, 0640);
        if (fd < 0 && errno == EINVAL && flags & O_DIRECT)     /* this file system goes through the page cache only */
            fd = openat(d->dir_fd, name, (flags & ~(O_DIRECT | O_EXCL)) | O_CLOEXEC, 0640);
        return fd;
    }
    static void disk_close(Disk *d, int fd) { (void)d; close(fd); }
    static int64_t disk_size(Disk *d, int fd) {
        struct stat found;
        (void)d;
        return fstat(fd, &found) == 0 ? (int64_t)found.st_size : -1;
    }
    static ssize_t disk_read(Disk *d, int fd, void *into, size_t size, uint64_t at) {
        (void)d;
        return pread(fd, into, size, (off_t)at);
    }
    static ssize_t disk_write(Disk *d, int fd, const void *data, size_t size, uint64_t at) {
        (void)d;
        return pwrite(fd, data, size, (off_t)at);
    }
    static int disk_sync(Disk *d, int fd) { (void)d; return fdatasync(fd); }
    static int disk_allocate(Disk *d, int fd, uint64_t size) { (void)d; return posix_fallocate(fd, 0, (off_t)size); }
    static void disk_forget(Disk *d, int fd) {
        (void)d;
        /* Written out, but not flushed: the device's cache is emptied by whoever syncs next, a little at a time. */
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    static void disk_expect(Disk *d, int fd, uint64_t at, size_t size) {
        (void)d;
        posix_fadvise(fd, (off_t)at, (off_t)size, POSIX_FADV_WILLNEED);
    }
    static int disk_rename(Disk *d, const char *from, const char *to, int replace) {
        if (replace) return renameat(d->dir_fd, from, d->dir_fd, to);
        if (renameat2(d->dir_fd, from, d->dir_fd, to, RENAME_NOREPLACE) == 0) return 0;
        if (errno != EINVAL && errno != ENOSYS) return -1;
        if (faccessat(d->dir_fd, to, F_OK, 0) == 0) { errno = EEXIST; return -1; }
        return renameat(d->dir_fd, from, d->dir_fd, to);
    }
    static int disk_remove(Disk *d, const char *name) { return unlinkat(d->dir_fd, name, 0); }
    static int disk_sync_names(Disk *d) { return fsync(d->dir_fd); }
    static int disk_list(Disk *d, DiskName *each, void *into) {
        struct dirent *entry;
        int fd = openat(d->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *names = fd < 0 ? NULL : fdopendir(fd);
        if (names == NULL) { if (fd >= 0) close(fd); return -1; }
        while ((entry = readdir(names)) != NULL) each(into, entry->d_name);
        closedir(names);
        return 0;
    }
    static void *disk_map(Disk *d, const char *name, size_t size) {
        int error, fd = openat(d->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
        void *at = MAP_FAILED;
        if (fd < 0) return NULL;
        error = posix_fallocate(fd, 0, (off_t)size);
        if (error == 0) at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        else errno = error;
        close(fd);
        return at == MAP_FAILED ? NULL : at;
    }
    static void disk_unmap(Disk *d, void *at, size_t size) { (void)d; munmap(at, size); }
    static void disk_say(Disk *d, const char *text) { (void)d; if (write(2, text, strlen(text))) {} }
    /* Not a signal and no unwinding: nothing may run that could still answer somebody. */
    static void disk_die(Disk *d) { (void)d; _exit(70); }

    static const Disk REAL_DISK = {
        disk_open, disk_close, disk_size, disk_read, disk_write, disk_sync, disk_allocate, disk_forget, disk_rename,
        disk_remove, disk_sync_names, disk_list, disk_map, disk_unmap, disk_say, disk_die, NULL, -1, disk_expect,
    };
    """
    ctypedef void DiskName(void* into, const char* name) noexcept nogil

    ctypedef struct Disk:
        int (*open)(Disk* disk, const char* name, int flags) noexcept nogil
        void (*close)(Disk* disk, int fd) noexcept nogil
        int64_t (*size)(Disk* disk, int fd) noexcept nogil
        ssize_t (*read)(Disk* disk, int fd, void* into, size_t size, uint64_t at) noexcept nogil
        ssize_t (*write)(Disk* disk, int fd, const void* data, size_t size, uint64_t at) noexcept nogil
        int (*sync)(Disk* disk, int fd) noexcept nogil
        int (*allocate)(Disk* disk, int fd, uint64_t size) noexcept nogil
        void (*forget)(Disk* disk, int fd) noexcept nogil
        int (*rename)(Disk* disk, const char* source, const char* target, int replace) noexcept nogil
        int (*remove)(Disk* disk, const char* name) noexcept nogil
        int (*sync_names)(Disk* disk) noexcept nogil
        int (*list)(Disk* disk, DiskName* each, void* into) noexcept nogil
        void* (*map)(Disk* disk, const char* name, size_t size) noexcept nogil
        void (*unmap)(Disk* disk, void* at, size_t size) noexcept nogil
        void (*say)(Disk* disk, const char* text) noexcept nogil
        void (*die)(Disk* disk) noexcept nogil
        void* owner
        int dir_fd
        void (*expect)(Disk* disk, int fd, uint64_t at, size_t size) noexcept nogil

    const Disk REAL_DISK
