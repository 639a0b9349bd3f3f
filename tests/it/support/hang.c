/* Preloaded into the gateway: opening a file hangs forever while a file with the suffix ".hangs"
 * exists next to it, as on a mount whose server does not respond. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

int open64(const char *path, int flags, ...)
{
    char name[4096];
    int mode = 0;
    va_list arguments;
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");

    va_start(arguments, flags);
    if (flags & O_CREAT)
        mode = va_arg(arguments, int);
    va_end(arguments);
    if (snprintf(name, sizeof name, "%s.hangs", path) < (int)sizeof name && access(name, F_OK) == 0)
        for (;;)
            pause();
    return next(path, flags, mode);
}
