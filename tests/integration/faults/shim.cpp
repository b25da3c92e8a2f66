// Stands before the C library in the command under test (LD_PRELOAD) and makes faults where a test wants them. Files below
// SHIM_UNDER alone count.
//
//   SHIM_LOG=FILE   a line for each fsync: the name of what is synced, relative to SHIM_UNDER
//   SHIM_AT=N       what SHIM_SIGNAL says (KILL by default) happens before the N-th fsync, counted from 1
//   SHIM_DISK=N     a disk with room for N bytes: writes beyond them fail with ENOSPC, those across the end are cut short
//   SHIM_USED=FILE  the number of bytes written, at the end

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <string>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

std::atomic<long> syncs{0};
std::atomic<long long> used{0};

// The path of an open file below SHIM_UNDER, relative to it; false for any other.
bool below(int fd, std::string &name) {
    const char *under = getenv("SHIM_UNDER");
    if (under == nullptr) {
        return false;
    }
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    const size_t prefix = strlen(under);
    if (length < 0 || size_t(length) < prefix || memcmp(path, under, prefix) != 0) {
        return false;
    }
    name.assign(path + prefix, size_t(length) - prefix);
    return name.empty() || name[0] == '/';
}

template <typename F> F real(const char *name) {
    return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

// How many of `bytes` bytes find room; -1 for none.
ssize_t room(int fd, size_t bytes) {
    const char *disk = getenv("SHIM_DISK");
    std::string name;
    if (!below(fd, name)) {
        return ssize_t(bytes);
    }
    const long long before = used.fetch_add(ssize_t(bytes));
    if (disk == nullptr || before + (long long)bytes <= atoll(disk)) {
        return ssize_t(bytes);
    }
    const long long left = atoll(disk) - before;
    if (left <= 0) {
        errno = ENOSPC;
        return -1;
    }
    return ssize_t(left);
}

struct AtTheEnd {
    ~AtTheEnd() {
        if (const char *path = getenv("SHIM_USED")) {
            if (FILE *file = fopen(path, "w")) {
                fprintf(file, "%lld\n", used.load());
                fclose(file);
            }
        }
    }
} at_the_end;

} // namespace

extern "C" int fsync(int fd) {
    std::string name;
    if (below(fd, name)) {
        if (const char *path = getenv("SHIM_LOG")) {
            if (FILE *file = fopen(path, "a")) {
                fprintf(file, "%s\n", name.empty() ? "/" : name.c_str());
                fclose(file);
            }
        }
        const char *at = getenv("SHIM_AT");
        if (++syncs == (at ? atol(at) : -1)) {
            const char *name = getenv("SHIM_SIGNAL");
            kill(getpid(), name && strcmp(name, "STOP") == 0 ? SIGSTOP : SIGKILL);
        }
    }
    return real<int (*)(int)>("fsync")(fd);
}

extern "C" ssize_t write(int fd, const void *bytes, size_t length) {
    const ssize_t fits = room(fd, length);
    if (fits < 0) {
        return -1;
    }
    return real<ssize_t (*)(int, const void *, size_t)>("write")(fd, bytes, size_t(fits));
}

extern "C" ssize_t writev(int fd, const struct iovec *parts, int count) {
    // A short write is allowed to be that of the first part alone.
    return count > 0 ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}

// Callers fall back on read and write.
extern "C" ssize_t copy_file_range(int, off_t *, int, off_t *, size_t, unsigned) {
    errno = ENOSYS;
    return -1;
}

extern "C" ssize_t sendfile64(int, int, off_t *, size_t) {
    errno = EINVAL;
    return -1;
}
