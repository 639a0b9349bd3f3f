/*
 * Preloaded into the gateway to observe its disk and to make it slow or fail.
 *
 * Appends a line "call path size" to the file OTT_TEST_SYNC_LOG for each fsync(2) and
 * fdatasync(2). While the file OTT_TEST_SYNC_FAILS exists, both calls fail with EIO.
 * fdatasync(2) takes as many milliseconds as the file OTT_TEST_SYNC_DELAY contains.
 *
 * While the file OTT_TEST_WRITE_FAILS exists and contains "EVERY ERRNO", each EVERYth write(2) to
 * a file called audit.jsonl fails with that error, and the one before it writes half of its
 * bytes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
}

/* Reads up to two numbers from the file in this environment variable. Returns their count. */
static int read_numbers(const char *variable, unsigned *one, unsigned *other) {
    const char *name = getenv(variable);
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    char text[64];
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length < 0 ? 0 : length] = 0;
    int numbers = sscanf(text, "%u %u", one, other);
    return numbers < 0 ? 0 : numbers;
}

static int observe(const char *call, long number, int fd) {
    unsigned delay = 0, unused;
    if (number == SYS_fdatasync && read_numbers("OTT_TEST_SYNC_DELAY", &delay, &unused) >= 1)
        usleep(delay * 1000);
    const char *fails = getenv("OTT_TEST_SYNC_FAILS");
    if (fails && access(fails, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    char path[4096];
    path_of(fd, path, sizeof path);
    struct stat status;
    const char *name = getenv("OTT_TEST_SYNC_LOG");
    int log = name ? open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (log < 0 || fstat(fd, &status) < 0) abort();
    dprintf(log, "%s %s %lld\n", call, path, S_ISDIR(status.st_mode) ? 0LL : (long long)status.st_size);
    close(log);
    return syscall(number, fd);
}

int fsync(int fd) { return observe("fsync", SYS_fsync, fd); }
int fdatasync(int fd) { return observe("fdatasync", SYS_fdatasync, fd); }

ssize_t write(int fd, const void *bytes, size_t size) {
    static atomic_uint writes;
    unsigned every, error;
    if (getenv("OTT_TEST_WRITE_FAILS")) {
        char path[4096];
        path_of(fd, path, sizeof path);
        const char *name = strrchr(path, '/');
        if (name && strcmp(name, "/audit.jsonl") == 0
            && read_numbers("OTT_TEST_WRITE_FAILS", &every, &error) == 2) {
            unsigned number = atomic_fetch_add(&writes, 1) % every;
            if (number == every - 1) {
                errno = error;
                return -1;
            }
            if (number == every - 2 && size > 1) size /= 2;
        }
    }
    return syscall(SYS_write, fd, bytes, size);
}
