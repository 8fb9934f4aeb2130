/* Preloaded before libc: makes the k-th change to files below one folder fail, or kills the process at it.
 *
 * A change is a call that writes, syncs, truncates, renames, links or removes. `fault_arm` is called from Python
 * through ctypes; until then everything passes. Modes: 1 kill before the call; 2 do half of a write, then kill;
 * 3 the disk is full from then on; 4 the disk fails from then on (EIO).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
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

long fault_count(void) { return count; }

static int below(const char *path) { return at && path && !strncmp(path, folder, strlen(folder)); }

static int ours(int fd) {
    char link[64], path[PATH_MAX];
    if (!at) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
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

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITES(name, parameters, call, half)                                 \
    ssize_t name parameters {                                                \
        __typeof__(&name) real = REAL(name);                                 \
        if (!ours(fd)) return real call;                                     \
        int f = fate(0);                                                     \
        if (f < 0) return -1;                                                \
        if (f) { size_t h = n / 2; if (h) (void)!real half; kill(getpid(), SIGKILL); } \
        return real call;                                                    \
    }
WRITES(write, (int fd, const void *b, size_t n), (fd, b, n), (fd, b, h))
WRITES(pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), (fd, b, h, o))
WRITES(pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), (fd, b, h, o))

#include <sys/sendfile.h>
WRITES(sendfile, (int fd, int in, off_t *o, size_t n), (fd, in, o, n), (fd, in, o, h))
WRITES(sendfile64, (int fd, int in, off64_t *o, size_t n), (fd, in, o, n), (fd, in, o, h))

#define CHANGES(name, parameters, condition, call, syncs)                    \
    int name parameters {                                                    \
        __typeof__(&name) real = REAL(name);                                 \
        if (condition) {                                                     \
            int f = fate(syncs);                                             \
            if (f < 0) return -1;                                            \
            if (f) kill(getpid(), SIGKILL);                                  \
        }                                                                    \
        return real call;                                                    \
    }
CHANGES(fsync, (int fd), ours(fd), (fd), 1)
CHANGES(fdatasync, (int fd), ours(fd), (fd), 1)
CHANGES(ftruncate, (int fd, off_t n), ours(fd), (fd, n), 0)
CHANGES(ftruncate64, (int fd, off64_t n), ours(fd), (fd, n), 0)
CHANGES(rename, (const char *a, const char *b), below(b), (a, b), 0)
CHANGES(link, (const char *a, const char *b), below(b), (a, b), 0)
CHANGES(unlink, (const char *a), below(a), (a), 1)
CHANGES(mkdir, (const char *a, mode_t m), below(a), (a, m), 0)
