/*
 * Observes fsync(2) and fdatasync(2) of a gateway that is started with LD_PRELOAD: appends a
 * line "call path size" to the file OTT_TEST_SYNC_LOG for each. While the file
 * OTT_TEST_SYNC_FAILS exists, both calls fail as those of a broken disk do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int observe(const char *call, long number, int fd) {
    const char *fails = getenv("OTT_TEST_SYNC_FAILS");
    if (fails && access(fails, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
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
