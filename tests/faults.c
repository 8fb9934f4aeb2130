/* Preloaded before libc: makes the k-th change to files below one folder fail, or kills the process at it.
 *
 * A change is a call that writes, syncs, truncates, renames, links or removes. `fault_arm` is called from Python
 * through ctypes; until then everything passes. Modes: 1 kill before the call; 2 do half of a write, then kill;
 * 3 the disk is full from then on; 4 the disk fails from then on (EIO).
 *
 * With `fault_journal` each change that was made is also written to a file, with its bytes, so that a loss of power can
 * be imagined afterwards: five numbers (kind, lengths of two paths, offset, length), then paths and bytes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static volatile long at, count;
static volatile int mode;
static char folder[PATH_MAX];

void fault_arm(long k, int how, const char *below) {
    snprintf(folder, sizeof folder, "%s", below);
    count = 0;
    mode = how;
    at = k;
}

static int journal = -1;

int fault_journal(const char *file) { return journal = open(file, O_WRONLY | O_CREAT | O_APPEND, 0600); }

long fault_count(void) { return count; }

/* The folder itself, and what lies in it; `folder` ends with a slash. */
static int below(const char *path) {
    size_t n = strlen(folder);
    return at && path && (!strncmp(path, folder, n) || (strlen(path) + 1 == n && !strncmp(path, folder, n - 1)));
}

static int path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return 1;
}

static int ours(int fd) {
    char path[PATH_MAX];
    return at && path_of(fd, path) && below(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { WRITE = 1, SYNC, TRUNCATE, RENAME, LINK, UNLINK, MKDIR };

static void put(const void *bytes, size_t n) {
    __typeof__(&write) real = REAL(write);
    if (n && real(journal, bytes, n) != (ssize_t)n) kill(getpid(), SIGABRT); /* a gap would pass for a lost write */
}

static void note(int kind, const char *a, const char *b, int64_t offset, const void *bytes, int64_t n) {
    if (journal < 0) return;
    int64_t head[5] = {kind, (int64_t)strlen(a), (int64_t)strlen(b), offset, n};
    put(head, sizeof head);
    put(a, strlen(a));
    put(b, strlen(b));
    if (kind == WRITE) put(bytes, (size_t)n);
}

/* What a call wrote, read back from the file: the bytes of some calls are nowhere in memory. */
static void note_written(int fd, int64_t end, ssize_t n) {
    char path[PATH_MAX], bytes[1 << 16];
    if (journal < 0 || n <= 0 || !path_of(fd, path)) return;
    int again = open(path, O_RDONLY);
    for (int64_t from = end - n; again >= 0 && from < end;) {
        size_t most = end - from < (int64_t)sizeof bytes ? (size_t)(end - from) : sizeof bytes;
        ssize_t got = pread(again, bytes, most, from);
        if (got <= 0) break;
        note(WRITE, path, "", from, bytes, got);
        from += got;
    }
    if (again >= 0) close(again);
}

/* 0: let it pass. 1: do half of it, then kill. -1: it fails, errno is set. */
static int fate(int syncs) {
    long now = ++count;
    if (mode <= 2 ? now != at : now < at) return 0;
    if (mode == 3 && syncs) return 0; /* a full disk still syncs and removes */
    if (mode == 1) kill(getpid(), SIGKILL);
    if (mode == 2) return 1;
    errno = mode == 3 ? ENOSPC : EIO;
    return -1;
}

#define WRITES(name, parameters, call, half, end)                                 \
    ssize_t name parameters {                                                \
        __typeof__(&name) real = REAL(name);                                 \
        if (!ours(fd)) return real call;                                     \
        int f = fate(0);                                                     \
        if (f < 0) return -1;                                                \
        if (f) { size_t h = n / 2; if (h) (void)!real half; kill(getpid(), SIGKILL); } \
        ssize_t done = real call;                                            \
        note_written(fd, (int64_t)(end), done);                              \
        return done;                                                         \
    }
#define HERE lseek(fd, 0, SEEK_CUR)
WRITES(write, (int fd, const void *b, size_t n), (fd, b, n), (fd, b, h), HERE)
WRITES(pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), (fd, b, h, o), o + done)
WRITES(pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), (fd, b, h, o), o + done)

#include <sys/sendfile.h>
WRITES(sendfile, (int fd, int in, off_t *o, size_t n), (fd, in, o, n), (fd, in, o, h), HERE)
WRITES(sendfile64, (int fd, int in, off64_t *o, size_t n), (fd, in, o, n), (fd, in, o, h), HERE)

#define CHANGES(name, parameters, condition, call, syncs, noting)            \
    int name parameters {                                                    \
        __typeof__(&name) real = REAL(name);                                 \
        if (!(condition)) return real call;                                  \
        int f = fate(syncs);                                                 \
        if (f < 0) return -1;                                                \
        if (f) kill(getpid(), SIGKILL);                                      \
        int done = real call;                                                \
        char path[PATH_MAX];                                                 \
        (void)path;                                                          \
        if (!done) { noting; }                                               \
        return done;                                                         \
    }
#define OF_FILE(kind, size) if (path_of(fd, path)) note(kind, path, "", (int64_t)(size), "", 0)
CHANGES(fsync, (int fd), ours(fd), (fd), 1, OF_FILE(SYNC, 0))
CHANGES(fdatasync, (int fd), ours(fd), (fd), 1, OF_FILE(SYNC, 0))
CHANGES(ftruncate, (int fd, off_t n), ours(fd), (fd, n), 0, OF_FILE(TRUNCATE, n))
CHANGES(ftruncate64, (int fd, off64_t n), ours(fd), (fd, n), 0, OF_FILE(TRUNCATE, n))
CHANGES(rename, (const char *a, const char *b), below(b), (a, b), 0, note(RENAME, a, b, 0, "", 0))
CHANGES(link, (const char *a, const char *b), below(b), (a, b), 0, note(LINK, a, b, 0, "", 0))
CHANGES(unlink, (const char *a), below(a), (a), 1, note(UNLINK, a, "", 0, "", 0))
CHANGES(mkdir, (const char *a, mode_t m), below(a), (a, m), 0, note(MKDIR, a, "", 0, "", 0))
