/* LD_PRELOAD: below $SHIM_MOUNT is a network mount that lacks what local disks have.

   No flock (EOPNOTSUPP), no hard links (EPERM), no fsync of directories (EINVAL), mtimes of 2 seconds.
   While the file $SHIM_DOWN exists the mount is away: opening, reading, writing and renaming there fail with EIO, and
   what is looked up with ESTALE. What was opened before is away too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
  const char *mount = getenv("SHIM_MOUNT");
  return mount && path && strncmp(path, mount, strlen(mount)) == 0;
}

static int below_at(int folder, const char *path) {
  char place[PATH_MAX], link[64];
  if (!path || path[0] == '/') return below(path);
  if (folder == AT_FDCWD) return getcwd(place, sizeof place) && below(place);
  snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t length = readlink(link, place, sizeof place - 1);
  if (length < 0) return 0;
  place[length] = 0;
  return below(place);
}

static int below_fd(int fd) { return fd > 2 && below_at(fd, ""); }

static int down(void) {
  const char *flag = getenv("SHIM_DOWN");
  return flag && syscall(SYS_access, flag, F_OK) == 0;
}

#define AWAY(there, error) do { if (down() && (there)) { errno = error; return -1; } } while (0)

int flock(int fd, int how) {
  if (below_fd(fd)) { errno = down() ? EIO : EOPNOTSUPP; return -1; }
  return NEXT(flock)(fd, how);
}

int link(const char *from, const char *to) {
  if (below(to)) { errno = EPERM; return -1; }
  return NEXT(link)(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
  if (below_at(b, to)) { errno = EPERM; return -1; }
  return NEXT(linkat)(a, from, b, to, flags);
}

int fsync(int fd) {
  struct stat info;
  if (below_fd(fd)) {
    if (down()) { errno = EIO; return -1; }
    if (fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) { errno = EINVAL; return -1; }
  }
  return NEXT(fsync)(fd);
}

static int coarse(int result, struct stat *info, int there) {
  if (result == 0 && there) {
    info->st_mtim.tv_sec &= ~1L;
    info->st_mtim.tv_nsec = 0;
  }
  return result;
}

int stat(const char *path, struct stat *info) {
  AWAY(below_at(AT_FDCWD, path), ESTALE);
  return coarse(NEXT(stat)(path, info), info, below_at(AT_FDCWD, path));
}

int lstat(const char *path, struct stat *info) {
  AWAY(below_at(AT_FDCWD, path), ESTALE);
  return coarse(NEXT(lstat)(path, info), info, below_at(AT_FDCWD, path));
}

int fstat(int fd, struct stat *info) {
  AWAY(below_fd(fd), ESTALE);
  return coarse(NEXT(fstat)(fd, info), info, below_fd(fd));
}

int fstatat(int folder, const char *path, struct stat *info, int flags) {
  AWAY(below_at(folder, path), ESTALE);
  return coarse(NEXT(fstatat)(folder, path, info, flags), info, below_at(folder, path));
}

#define OPENING(name, folder, ...)                                  \
  mode_t mode = 0;                                                  \
  if (flags & (O_CREAT | O_TMPFILE)) {                              \
    va_list more;                                                   \
    va_start(more, flags);                                          \
    mode = va_arg(more, mode_t);                                    \
    va_end(more);                                                   \
  }                                                                 \
  AWAY(below_at(folder, path), EIO);                                \
  return NEXT(name)(__VA_ARGS__, flags, mode);

int open(const char *path, int flags, ...) { OPENING(open, AT_FDCWD, path) }
int open64(const char *path, int flags, ...) { OPENING(open64, AT_FDCWD, path) }
int openat(int folder, const char *path, int flags, ...) { OPENING(openat, folder, folder, path) }
int openat64(int folder, const char *path, int flags, ...) { OPENING(openat64, folder, folder, path) }

ssize_t read(int fd, void *data, size_t size) {
  AWAY(below_fd(fd), EIO);
  return NEXT(read)(fd, data, size);
}

ssize_t pread(int fd, void *data, size_t size, off_t at) {
  AWAY(below_fd(fd), EIO);
  return NEXT(pread)(fd, data, size, at);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
  AWAY(below_fd(fd), EIO);
  return NEXT(pread64)(fd, data, size, at);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t at) {
  AWAY(below_fd(fd), EIO);
  return NEXT(preadv64)(fd, parts, count, at);
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
  AWAY(below_fd(fd), EIO);
  return NEXT(preadv64v2)(fd, parts, count, at, flags);
}

ssize_t write(int fd, const void *data, size_t size) {
  AWAY(below_fd(fd), EIO);
  return NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  AWAY(below_fd(fd), EIO);
  return NEXT(writev)(fd, parts, count);
}

int rename(const char *from, const char *to) {
  AWAY(below(from) || below(to), EIO);
  return NEXT(rename)(from, to);
}

int unlink(const char *path) {
  AWAY(below_at(AT_FDCWD, path), EIO);
  return NEXT(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
  AWAY(below_at(AT_FDCWD, path), EIO);
  return NEXT(mkdir)(path, mode);
}

int rmdir(const char *path) {
  AWAY(below_at(AT_FDCWD, path), EIO);
  return NEXT(rmdir)(path);
}
