/* Records what a process does to the files below one directory, and what it sends to its clients, in one order.
 *
 * Loaded with LD_PRELOAD. CRASH_RECORD_PREFIX names the directory, CRASH_RECORD_LOG the log that is appended to. Each
 * record is a header and a payload; tests/crash/recording.py reads them.
 *
 * What the order means. A write and its record are made under one mutex, the record first: data may be on the disk
 * from its record on, and never before it. A sync takes the sequence number at which it begins and writes its record
 * when it has returned: it covers the writes that had returned when it began, and counts from its record on, never
 * before it. What goes to a client is recorded before it is sent. So at any cut of the log a reply counts as
 * sent no later, and data as durable no earlier, than in the process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    OPENED = 1,     /* payload: path; flag NEW: the file was made by this call, or TRUNCATED by it */
    WRITTEN,        /* offset, size, payload (none for flag ZEROS); flag SYNCED_WRITE: an O_DSYNC descriptor */
    RESIZED,        /* offset: the new size */
    SYNCED,         /* begun: the sequence number at which the sync began */
    WRITE_SYNCED,   /* begun: the sequence number of the one write that is durable now */
    RENAMED,        /* payload: old path, zero byte, new path */
    UNLINKED,       /* payload: path */
    MADE_DIRECTORY, /* payload: path */
    REMOVED_DIRECTORY, /* payload: path */
    SENT,           /* size; payload: its first bytes */
    UNSUPPORTED     /* payload: what the process did that cannot be recorded */
};

enum { NEW = 1, TRUNCATED = 2, ZEROS = 4, SYNCED_WRITE = 8 };
enum { MAGIC = 0x53594E43, DESCRIPTORS = 1 << 16, SENT_BYTES = 1 << 16 };

struct header {
    uint32_t magic;
    uint16_t kind;
    uint16_t flags;
    uint64_t sequence;
    uint64_t file;
    uint64_t offset;
    uint64_t size;
    uint64_t begun;
    uint64_t payload_size;
};

struct descriptor {
    uint64_t file; /* inode number; 0: not ours */
    int synced;    /* opened with O_SYNC or O_DSYNC */
};

static struct descriptor descriptors[DESCRIPTORS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int log_descriptor = -1;
static uint64_t sequence;
static char prefix[PATH_MAX];
static size_t prefix_size;

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void fatal(const char *what) {
    /* A gap in the recording would make the test pass for nothing. */
    dprintf(2, "shim: %s: %s\n", what, strerror(errno));
    _exit(86);
}

static void begin(void) {
    const char *directory = getenv("CRASH_RECORD_PREFIX");
    const char *log = getenv("CRASH_RECORD_LOG");
    if (!directory || !log || !realpath(directory, prefix)) return;
    prefix_size = strlen(prefix);
    log_descriptor = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_descriptor < 0) fatal(log);
}

static int recording(void) {
    pthread_once(&once, begin);
    return log_descriptor >= 0;
}

static void put(const void *data, size_t size) {
    while (size) {
        ssize_t done = syscall(SYS_write, log_descriptor, data, size);
        if (done < 0) {
            if (errno == EINTR) continue;
            fatal("log");
        }
        data = (const char *)data + done;
        size -= (size_t)done;
    }
}

/* Append one record; the mutex is held. */
static uint64_t record(struct header header, const void *payload, size_t size) {
    int saved = errno;
    header.magic = MAGIC;
    header.sequence = ++sequence;
    header.payload_size = size;
    put(&header, sizeof header);
    put(payload, size);
    errno = saved;
    return header.sequence;
}

static int all_zeros(const uint8_t *data, size_t size) {
    return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

/* The absolute path of a name, when it is inside the directory that is recorded. */
static int inside(int directory, const char *name, char *path) {
    if (!recording() || !name) return 0;
    if (name[0] == '/') {
        if (snprintf(path, PATH_MAX, "%s", name) >= PATH_MAX) return 0;
    } else {
        char base[PATH_MAX];
        if (directory == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
            ssize_t size = readlink(link, base, sizeof base - 1);
            if (size < 0) return 0;
            base[size] = 0;
        }
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return strncmp(path, prefix, prefix_size) == 0 && (path[prefix_size] == '/' || !path[prefix_size]);
}

static struct descriptor *tracked(int descriptor) {
    if (descriptor < 0 || descriptor >= DESCRIPTORS || !descriptors[descriptor].file) return NULL;
    return &descriptors[descriptor];
}

/* ---- opening and closing ---- */

static int open_inside(int directory, const char *name, int flags, mode_t mode, const char *path) {
    pthread_mutex_lock(&mutex);
    int existed = syscall(SYS_faccessat, directory, name, F_OK) == 0;
    int descriptor = (int)syscall(SYS_openat, directory, name, flags, mode);
    int saved = errno;
    struct stat status;
    if (descriptor >= DESCRIPTORS) fatal("too many descriptors");
    if (descriptor >= 0 && fstat(descriptor, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) {
        descriptors[descriptor].synced = (flags & O_DSYNC) != 0;
        descriptors[descriptor].file = status.st_ino;
        struct header header = {.kind = OPENED, .file = status.st_ino, .size = (uint64_t)status.st_size};
        if (!existed) header.flags |= NEW;
        if (existed && S_ISREG(status.st_mode) && (flags & O_TRUNC)) header.flags |= TRUNCATED;
        record(header, path, strlen(path));
    }
    pthread_mutex_unlock(&mutex);
    errno = saved;
    return descriptor;
}

#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, last); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }

#define OPEN(name) \
    int name(const char *file, int flags, ...) { \
        MODE(flags, flags) \
        char path[PATH_MAX]; \
        if (inside(AT_FDCWD, file, path)) return open_inside(AT_FDCWD, file, flags, mode, path); \
        NEXT(name); \
        return next(file, flags, mode); \
    }
#define OPENAT(name) \
    int name(int directory, const char *file, int flags, ...) { \
        MODE(flags, flags) \
        char path[PATH_MAX]; \
        if (inside(directory, file, path)) return open_inside(directory, file, flags, mode, path); \
        NEXT(name); \
        return next(directory, file, flags, mode); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int __open_2(const char *file, int flags) { return open(file, flags); }
int __open64_2(const char *file, int flags) { return open(file, flags); }
int __openat_2(int directory, const char *file, int flags) { return openat(directory, file, flags); }
int __openat64_2(int directory, const char *file, int flags) { return openat(directory, file, flags); }
int creat(const char *file, mode_t mode) { return open(file, O_WRONLY | O_CREAT | O_TRUNC, mode); }

int close(int descriptor) {
    NEXT(close);
    if (tracked(descriptor)) {
        pthread_mutex_lock(&mutex);
        memset(&descriptors[descriptor], 0, sizeof descriptors[descriptor]);
        int result = next(descriptor);
        pthread_mutex_unlock(&mutex);
        return result;
    }
    return next(descriptor);
}

/* ---- writing ---- */

static uint8_t *gathered(const struct iovec *parts, int count, size_t *size) {
    *size = 0;
    for (int i = 0; i < count; i++) *size += parts[i].iov_len;
    uint8_t *data = malloc(*size ? *size : 1), *end = data;
    if (!data) fatal("memory");
    for (int i = 0; i < count; i++) {
        memcpy(end, parts[i].iov_base, parts[i].iov_len);
        end += parts[i].iov_len;
    }
    return data;
}

/* Record and make a write; offset -1 is the descriptor's own. */
static ssize_t write_inside(int descriptor, const uint8_t *data, size_t size, off_t offset) {
    struct descriptor *ours = tracked(descriptor);
    pthread_mutex_lock(&mutex);
    off_t at = offset;
    if (offset < 0) {
        struct stat status;
        int flags = (int)syscall(SYS_fcntl, descriptor, F_GETFL);
        if (flags & O_APPEND) {
            if (fstat(descriptor, &status)) fatal("fstat");
            at = status.st_size;
        } else {
            at = syscall(SYS_lseek, descriptor, 0, SEEK_CUR);
        }
    }
    struct header header = {.kind = WRITTEN, .file = ours->file, .offset = (uint64_t)at, .size = size};
    int zeros = all_zeros(data, size);
    if (zeros) header.flags |= ZEROS;
    if (ours->synced) header.flags |= SYNCED_WRITE;
    uint64_t written = record(header, data, zeros ? 0 : size);
    ssize_t done = offset < 0 ? syscall(SYS_write, descriptor, data, size)
                              : syscall(SYS_pwrite64, descriptor, data, size, offset);
    int saved = errno;
    if (done != (ssize_t)size) {
        static const char what[] = "a write that was cut short";
        record((struct header){.kind = UNSUPPORTED}, what, sizeof what - 1);
    } else if (ours->synced) {
        record((struct header){.kind = WRITE_SYNCED, .file = ours->file, .begun = written}, "", 0);
    }
    pthread_mutex_unlock(&mutex);
    errno = saved;
    return done;
}

static int is_connection(int descriptor) {
    int saved = errno, domain = 0;
    socklen_t size = sizeof domain;
    int result = getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &size);
    errno = saved;
    return result == 0 && (domain == AF_INET || domain == AF_INET6);
}

static void record_sent(const struct iovec *parts, size_t count) {
    uint8_t first[SENT_BYTES];
    size_t kept = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        size_t part = parts[i].iov_len < SENT_BYTES - kept ? parts[i].iov_len : SENT_BYTES - kept;
        memcpy(first + kept, parts[i].iov_base, part);
        kept += part;
        size += parts[i].iov_len;
    }
    pthread_mutex_lock(&mutex);
    record((struct header){.kind = SENT, .size = size}, first, kept);
    pthread_mutex_unlock(&mutex);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    NEXT(pwrite);
    return tracked(descriptor) ? write_inside(descriptor, data, size, offset) : next(descriptor, data, size, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite(descriptor, data, size, offset);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    NEXT(write);
    if (tracked(descriptor)) return write_inside(descriptor, data, size, -1);
    if (recording() && is_connection(descriptor)) record_sent(&(struct iovec){(void *)data, size}, 1);
    return next(descriptor, data, size);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    NEXT(writev);
    if (tracked(descriptor)) {
        size_t size;
        uint8_t *data = gathered(parts, count, &size);
        ssize_t done = write_inside(descriptor, data, size, -1);
        free(data);
        return done;
    }
    if (recording() && is_connection(descriptor)) record_sent(parts, (size_t)count);
    return next(descriptor, parts, count);
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    NEXT(pwritev);
    if (tracked(descriptor)) {
        size_t size;
        uint8_t *data = gathered(parts, count, &size);
        ssize_t done = write_inside(descriptor, data, size, offset);
        free(data);
        return done;
    }
    return next(descriptor, parts, count, offset);
}

ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off_t offset) {
    return pwritev(descriptor, parts, count, offset);
}

ssize_t send(int descriptor, const void *data, size_t size, int flags) {
    NEXT(send);
    if (recording() && is_connection(descriptor)) record_sent(&(struct iovec){(void *)data, size}, 1);
    return next(descriptor, data, size, flags);
}

ssize_t sendto(int descriptor, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    NEXT(sendto);
    if (recording() && is_connection(descriptor)) record_sent(&(struct iovec){(void *)data, size}, 1);
    return next(descriptor, data, size, flags, to, length);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
    NEXT(sendmsg);
    if (recording() && is_connection(descriptor)) record_sent(message->msg_iov, message->msg_iovlen);
    return next(descriptor, message, flags);
}

/* ---- sizes ---- */

static int resize_inside(int descriptor, off_t size) {
    pthread_mutex_lock(&mutex);
    record((struct header){.kind = RESIZED, .file = tracked(descriptor)->file, .offset = (uint64_t)size}, "", 0);
    int result = (int)syscall(SYS_ftruncate, descriptor, size);
    pthread_mutex_unlock(&mutex);
    return result;
}

int ftruncate(int descriptor, off_t size) {
    NEXT(ftruncate);
    return tracked(descriptor) ? resize_inside(descriptor, size) : next(descriptor, size);
}

int ftruncate64(int descriptor, off_t size) { return ftruncate(descriptor, size); }

/* What the test cannot replay fails it, instead of going unseen. */
static void unsupported(const char *what) {
    pthread_mutex_lock(&mutex);
    record((struct header){.kind = UNSUPPORTED}, what, strlen(what));
    pthread_mutex_unlock(&mutex);
}

int fallocate(int descriptor, int mode, off_t offset, off_t size) {
    NEXT(fallocate);
    if (tracked(descriptor)) unsupported("fallocate");
    return next(descriptor, mode, offset, size);
}

int fallocate64(int descriptor, int mode, off_t offset, off_t size) { return fallocate(descriptor, mode, offset, size); }

int posix_fallocate(int descriptor, off_t offset, off_t size) {
    NEXT(posix_fallocate);
    if (tracked(descriptor)) unsupported("posix_fallocate");
    return next(descriptor, offset, size);
}

int posix_fallocate64(int descriptor, off_t offset, off_t size) { return posix_fallocate(descriptor, offset, size); }

int truncate(const char *file, off_t size) {
    NEXT(truncate);
    char path[PATH_MAX];
    if (inside(AT_FDCWD, file, path)) unsupported("truncate");
    return next(file, size);
}

int truncate64(const char *file, off_t size) { return truncate(file, size); }

int msync(void *address, size_t size, int flags) {
    NEXT(msync);
    if (recording()) unsupported("msync");
    return next(address, size, flags);
}

/* ---- syncs ---- */

static int sync_inside(int descriptor, int (*next)(int)) {
    uint64_t file = tracked(descriptor)->file;
    pthread_mutex_lock(&mutex);
    uint64_t begun = sequence;
    pthread_mutex_unlock(&mutex);
    int result = next(descriptor);
    int saved = errno;
    if (result == 0) {
        pthread_mutex_lock(&mutex);
        record((struct header){.kind = SYNCED, .file = file, .begun = begun}, "", 0);
        pthread_mutex_unlock(&mutex);
    }
    errno = saved;
    return result;
}

int fsync(int descriptor) {
    NEXT(fsync);
    return tracked(descriptor) ? sync_inside(descriptor, next) : next(descriptor);
}

int fdatasync(int descriptor) {
    NEXT(fdatasync);
    return tracked(descriptor) ? sync_inside(descriptor, next) : next(descriptor);
}

/* ---- names ---- */

static void record_name(enum kind kind, const char *path) {
    record((struct header){.kind = kind}, path, strlen(path));
}

static int rename_inside(int old_directory, const char *old, int new_directory, const char *new) {
    char both[2 * PATH_MAX], path[PATH_MAX];
    int from_inside = inside(old_directory, old, path);
    size_t size = (size_t)snprintf(both, PATH_MAX, "%s", from_inside ? path : old);
    int to_inside = inside(new_directory, new, path);
    memcpy(both + size + 1, path, strlen(path) + 1);
    pthread_mutex_lock(&mutex);
    if (from_inside != to_inside) {
        static const char what[] = "a rename into or out of the directory";
        record((struct header){.kind = UNSUPPORTED}, what, sizeof what - 1);
    }
    int result = (int)syscall(SYS_renameat2, old_directory, old, new_directory, new, 0);
    if (result == 0 && from_inside && to_inside)
        record((struct header){.kind = RENAMED}, both, size + 1 + strlen(path));
    pthread_mutex_unlock(&mutex);
    return result;
}

int renameat(int old_directory, const char *old, int new_directory, const char *new) {
    NEXT(renameat);
    char path[PATH_MAX];
    if (inside(old_directory, old, path) || inside(new_directory, new, path))
        return rename_inside(old_directory, old, new_directory, new);
    return next(old_directory, old, new_directory, new);
}

int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

static int unlink_inside(int directory, const char *file, int flags, const char *path) {
    pthread_mutex_lock(&mutex);
    int result = (int)syscall(SYS_unlinkat, directory, file, flags);
    if (result == 0) record_name(flags & AT_REMOVEDIR ? REMOVED_DIRECTORY : UNLINKED, path);
    pthread_mutex_unlock(&mutex);
    return result;
}

int unlinkat(int directory, const char *file, int flags) {
    NEXT(unlinkat);
    char path[PATH_MAX];
    if (inside(directory, file, path)) return unlink_inside(directory, file, flags, path);
    return next(directory, file, flags);
}

int unlink(const char *file) { return unlinkat(AT_FDCWD, file, 0); }
int rmdir(const char *file) { return unlinkat(AT_FDCWD, file, AT_REMOVEDIR); }

int mkdirat(int directory, const char *file, mode_t mode) {
    NEXT(mkdirat);
    char path[PATH_MAX];
    if (!inside(directory, file, path)) return next(directory, file, mode);
    pthread_mutex_lock(&mutex);
    int result = (int)syscall(SYS_mkdirat, directory, file, mode);
    if (result == 0) record_name(MADE_DIRECTORY, path);
    pthread_mutex_unlock(&mutex);
    return result;
}

int mkdir(const char *file, mode_t mode) { return mkdirat(AT_FDCWD, file, mode); }
