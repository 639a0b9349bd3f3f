/*
 * Preloaded into the gateway to limit its threads, like a limit of processes: while the file
 * OTT_TEST_THREADS_LIMITED exists, pthread_create(3) succeeds OTT_TEST_THREADS_ALLOWED times and
 * then fails with EAGAIN.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    static atomic_int created;
    const char *limited = getenv("OTT_TEST_THREADS_LIMITED"), *allowed = getenv("OTT_TEST_THREADS_ALLOWED");
    if (limited && allowed && access(limited, F_OK) == 0 && atomic_fetch_add(&created, 1) >= atoi(allowed))
        return EAGAIN;
    create *next = (create *)dlsym(RTLD_NEXT, "pthread_create");
    return next(thread, attributes, start, argument);
}
