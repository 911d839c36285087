/*
 * The least that pulling an image costs, a part at a time, in C and one thread: what to measure a puller's parts by.
 * usage: bench-floor zlib|isal FILE.gz...    inflates them, and throws away what comes out
 *        bench-floor sha256 FILE...          hashes them
 *        bench-floor copy DIRECTORY FILE...  writes them to a directory, as a store keeps blobs
 *        bench-floor files DIRECTORY FILE.tar...  makes DIRECTORY/N with the files of each: open, write, fchown, fchmod,
 *                                            utimensat, close, nothing checked; overlay's whiteouts
 *        bench-floor syncfs DIRECTORY        as a store does before it names what it has
 *        bench-floor warm MEGABYTES          no part: uses memory once, and gives it back
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <isa-l/igzip_lib.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <zlib.h>

enum { PIECE = 1 << 20 };

static unsigned char piece[PIECE];

static void fail(const char *what, const char *name) {
  fprintf(stderr, "bench-floor: %s \"%s\": %s\n", what, name, strerror(errno));
  exit(1);
}

struct input {
  const char *name;
  unsigned char *bytes;
  size_t size;
};

static struct input map(const char *name) {
  struct stat stat;
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &stat) != 0) fail("open", name);
  struct input input = {name, mmap(NULL, stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0), stat.st_size};
  if (input.bytes == MAP_FAILED) fail("mmap", name);
  close(fd);
  return input;
}

static void inflate_zlib(struct input input) {
  z_stream stream = {.next_in = input.bytes, .avail_in = input.size};
  inflateInit2(&stream, 15 + 16);
  for (int state = Z_OK; state != Z_STREAM_END;) {
    stream.next_out = piece;
    stream.avail_out = PIECE;
    state = inflate(&stream, Z_NO_FLUSH);
    if (state != Z_OK && state != Z_STREAM_END) fail("inflate", input.name);
  }
  inflateEnd(&stream);
}

static void inflate_isal(struct input input) {
  struct inflate_state state;
  isal_inflate_init(&state);
  state.crc_flag = ISAL_GZIP;
  state.next_in = input.bytes;
  state.avail_in = input.size;
  do {
    state.next_out = piece;
    state.avail_out = PIECE;
    if (isal_inflate(&state) != ISAL_DECOMP_OK) fail("isal_inflate", input.name);
  } while (state.block_state != ISAL_BLOCK_FINISH);
}

static void hash(struct input input) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  if (EVP_Digest(input.bytes, input.size, digest, NULL, EVP_sha256(), NULL) != 1) fail("sha256", input.name);
}

static void put(int fd, const unsigned char *bytes, size_t size, const char *name) {
  while (size > 0) {
    ssize_t done = write(fd, bytes, size < PIECE ? size : PIECE);
    if (done < 0) fail("write", name);
    bytes += done;
    size -= done;
  }
}

static void copy(int root, struct input input) {
  const char *base = strrchr(input.name, '/');
  int fd = openat(root, base == NULL ? input.name : base + 1, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail("open", input.name);
  put(fd, input.bytes, input.size, input.name);
  close(fd);
}

/* The fields of a header of ustar, and what a pax header before it says of them. */
struct entry {
  char name[4096], link[4096];
  size_t size, capability_size;
  unsigned char capability[64];
  mode_t mode;
  uid_t uid;
  gid_t gid;
  time_t time;
  char type;
};

static unsigned long octal(const unsigned char *field, int size) {
  unsigned long value = 0;
  for (int at = 0; at < size && field[at] != 0 && field[at] != ' '; at++) value = value * 8 + (field[at] - '0');
  return value;
}

static void pax(struct entry *entry, const char *at, const char *end) {
  while (at < end) {
    char *space, *key, *value;
    size_t length = strtoul(at, &space, 10);
    const char *next = at + length;
    key = space + 1;
    value = memchr(key, '=', next - key);
    if (value == NULL) return;
    size_t key_size = value++ - key, size = next - 1 - value;
    if (key_size == 4 && memcmp(key, "path", 4) == 0) {
      memcpy(entry->name, value, size);
      entry->name[size] = 0;
    } else if (key_size == 8 && memcmp(key, "linkpath", 8) == 0) {
      memcpy(entry->link, value, size);
      entry->link[size] = 0;
    } else if (key_size == 32 && memcmp(key, "SCHILY.xattr.security.capability", 32) == 0) {
      memcpy(entry->capability, value, size);
      entry->capability_size = size;
    }
    at = next;
  }
}

static void header(struct entry *entry, const unsigned char *block) {
  if (entry->name[0] == 0) {
    if (block[345] != 0) snprintf(entry->name, sizeof entry->name, "%.155s/%.100s", block + 345, block);
    else snprintf(entry->name, sizeof entry->name, "%.100s", block);
  }
  if (entry->link[0] == 0) snprintf(entry->link, sizeof entry->link, "%.100s", block + 157);
  entry->mode = octal(block + 100, 8);
  entry->uid = octal(block + 108, 8);
  entry->gid = octal(block + 116, 8);
  entry->size = octal(block + 124, 12);
  entry->time = octal(block + 136, 12);
  entry->type = block[156];
}

/* @returns whether the entry is a whiteout, which is made */
static int whiteout(int root, char *name) {
  char *base = strrchr(name, '/');
  base = base == NULL ? name : base + 1;
  if (strncmp(base, ".wh.", 4) != 0) return 0;
  if (strcmp(base, ".wh..wh..opq") == 0) {
    *base = 0;
    int fd = openat(root, name[0] == 0 ? "." : name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) != 0) fail("opaque", name);
    close(fd);
    return 1;
  }
  memmove(base, base + 4, strlen(base + 4) + 1);
  if (mknodat(root, name, S_IFCHR, makedev(0, 0)) != 0) fail("mknod", name);
  return 1;
}

static void regular(int root, struct entry *entry, const unsigned char *bytes, const struct timespec times[2]) {
  int fd = openat(root, entry->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) fail("open", entry->name);
  put(fd, bytes, entry->size, entry->name);
  if (fchown(fd, entry->uid, entry->gid) != 0 || fchmod(fd, entry->mode) != 0) fail("fchown", entry->name);
  if (entry->capability_size > 0 &&
      fsetxattr(fd, "security.capability", entry->capability, entry->capability_size, 0) != 0)
    fail("fsetxattr", entry->name);
  if (futimens(fd, times) != 0) fail("utimensat", entry->name);
  close(fd);
}

static void make(int root, struct entry *entry, const unsigned char *bytes) {
  struct timespec times[2] = {{.tv_sec = entry->time}, {.tv_sec = entry->time}};
  int made = 0;
  size_t length = strlen(entry->name);
  if (entry->name[length - 1] == '/') entry->name[length - 1] = 0;
  switch (entry->type) {
    case '0': if (!whiteout(root, entry->name)) regular(root, entry, bytes, times); return;
    case '1': made = linkat(root, entry->link, root, entry->name, 0); break;
    case '2': made = symlinkat(entry->link, root, entry->name); break;
    case '5': made = mkdirat(root, entry->name, 0700); break;
    case '6': made = mkfifoat(root, entry->name, 0600); break;
    default: errno = EINVAL; fail("an entry of an unknown kind", entry->name);
  }
  if (made != 0) fail("make", entry->name);
  if (entry->type == '1') return;
  if (fchownat(root, entry->name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) != 0) fail("chown", entry->name);
  if (entry->type != '2' && fchmodat(root, entry->name, entry->mode, 0) != 0) fail("chmod", entry->name);
  utimensat(root, entry->name, times, AT_SYMLINK_NOFOLLOW);
}

static void unpack(int root, struct input input) {
  static struct entry entry;
  memset(&entry, 0, sizeof entry);
  for (size_t at = 0; at + 512 <= input.size && input.bytes[at] != 0;) {
    const unsigned char *block = input.bytes + at;
    size_t size = octal(block + 124, 12);
    at += 512;
    if (block[156] == 'x') pax(&entry, (const char *)input.bytes + at, (const char *)input.bytes + at + size);
    else {
      header(&entry, block);
      make(root, &entry, input.bytes + at);
      memset(&entry, 0, sizeof entry);
    }
    at += (size + 511) / 512 * 512;
  }
}

/* A virtual machine's host may have taken memory back that was free for a while: its first use then costs a second a GB. */
static int warm(size_t megabytes) {
  return mmap(NULL, megabytes << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED;
}

static int directory(const char *name) {
  int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("open", name);
  return fd;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  const char *part = argv[1];
  umask(0);
  if (strcmp(part, "warm") == 0) return warm(strtoul(argv[2], NULL, 10));
  if (strcmp(part, "syncfs") == 0) return syncfs(directory(argv[2])) == 0 ? 0 : 1;
  int at = 2, root = -1, files = strcmp(part, "files") == 0;
  if (files || strcmp(part, "copy") == 0) root = directory(argv[at++]);
  for (; at < argc; at++) {
    struct input input = map(argv[at]);
    if (strcmp(part, "zlib") == 0) inflate_zlib(input);
    else if (strcmp(part, "isal") == 0) inflate_isal(input);
    else if (strcmp(part, "sha256") == 0) hash(input);
    else if (files) {
      char name[16];
      snprintf(name, sizeof name, "%d", at);
      if (mkdirat(root, name, 0755) != 0) fail("mkdir", name);
      unpack(openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), input);
    } else if (root >= 0) copy(root, input);
    else return 2;
    munmap(input.bytes, input.size);
  }
  return 0;
}
