/* Runs init on plans that chance has damaged, under the compiler's sanitizers. The kernel is a stub that answers with
 * chance, too; what it writes stays inside the memory it was given. usage: init SEED SECONDS PLAN... */
#define INIT_FUZZ
#include <setjmp.h>
#include <stddef.h>
#include "../../ffi/init/init.c"

extern int printf(const char *, ...);
extern int fflush(void *);
extern int open(const char *, int, ...);
extern long read(int, void *, unsigned long);
extern int close(int);
extern void *malloc(unsigned long);
extern void free(void *);
extern long strtol(const char *, char **, int);
extern void exit(int);
struct limit { long seconds, micros; };
extern int setitimer(int, const struct { struct limit interval, value; } *, void *);
extern long time(long *);
extern void *signal(int, void (*)(int));
extern char __data_start, _end;

static sigjmp_buf ended;
static u64 state;
static u32 calls;
static u64 of_calls, of_ends, refused, looped;

static u64 chance(void) { /* xorshift64* */
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545f4914f6cdd1dul;
}

static u32 below(u64 bound) { return bound == 0 ? 0 : (u32)(chance() % bound); }

__attribute__((noreturn)) void leave(int code) {
  (void)code;
  siglongjmp(ended, 1);
}

static void out_of_time(int sig) {
  (void)sig;
  siglongjmp(ended, 2);
}

/* Whether memory is init's own: its variables, its stack, or the plan's data but for the NUL at the end. */
static int is_ours(u64 at, u64 size) {
  u64 here = (u64)&at;
  if (size == 0 || size > 65536 || at + size < at) return 0;
  if (at >= (u64)data && at + size < (u64)data + head->data_size) return 1;
  if (at >= (u64)line && at + size <= (u64)line + sizeof line) return 1;
  if (at > here && at + size <= here + 4096) return 2;
  return 0;
}

static void fill(u64 at, u64 size) {
  for (u64 i = 0; i < size; i++) ((u8 *)at)[i] = (u8)chance();
}

/* What getdents64(2) fills: entries, mostly well-formed. */
static i64 entries(u64 at, u64 size) {
  u64 used = 0;
  while (used + 64 < size && below(6) != 0) {
    u8 *entry = (u8 *)at + used;
    u16 length = (u16)(24 + 8 * below(4));
    fill((u64)entry, length);
    entry[length - 1] = 0;
    memcpy(entry + 16, &length, 2);
    if (below(20) == 0) entry[16] = (u8)chance();
    used += length;
  }
  return (i64)used;
}

/* The buffers of init that are not the plan's. */
static int is_buffer(u64 at, u64 size) {
  return (at >= (u64)&__data_start && at + size <= (u64)&_end) || is_ours(at, size) == 2;
}

i64 sys6(i64 nr, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f) {
  (void)a, (void)d, (void)e, (void)f;
  of_calls++;
  if (++calls > 3000) leave(0);
  if (nr == __NR_write) {
    if (is_buffer((u64)b, (u64)c)) { /* what is to be written must be there to be read */
      volatile u8 sum = 0;
      for (i64 i = 0; i < c; i++) sum ^= ((u8 *)b)[i];
    }
    return below(8) == 0 ? -(i64)below(40) : c;
  }
  if (below(4) == 0) return -(i64)(1 + below(60));
  if (nr == __NR_read && c > 0 && (is_buffer((u64)b, (u64)c) || is_ours((u64)b, (u64)c))) {
    u64 size = 1 + below((u64)c);
    fill((u64)b, size);
    if (below(2) == 0) ((u8 *)b)[size - 1] = '\n';
    if (below(2) == 0 && size > 8) memset((void *)b, 0, 4);
    return (i64)size;
  }
  if (nr == __NR_getdents64 && is_buffer((u64)b, (u64)c)) return entries((u64)b, (u64)c);
  if (nr == __NR_wait4) {
    if (is_ours((u64)b, 4)) fill((u64)b, 4);
    return below(3) == 0 ? watch.pid : (i64)below(3) - 1;
  }
  if (nr == __NR_rt_sigtimedwait) return (i64)below(65);
  return below(10) == 0 ? (i64)chance() : (i64)below(70);
}

static u8 *read_file(const char *path, u64 *size) {
  u8 *bytes = malloc(4 << 20);
  int fd = open(path, 0);
  long got;
  *size = 0;
  if (fd < 0) return NULL;
  while ((got = read(fd, bytes + *size, (4 << 20) - *size)) > 0) *size += (u64)got;
  close(fd);
  return bytes;
}

static const u32 interesting[] = {0, 1, 2, 7, 8, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff};

static void damage(u8 *bytes, u64 size) {
  for (u32 times = 1 + below(6); times > 0; times--) {
    u32 word = interesting[below(sizeof interesting / sizeof *interesting)];
    /* Mostly where the steps are: the data is only text. */
    u64 at = below(3) == 0 ? below(size) : below(size < 4096 ? size : 48 + 152 * 24);
    if (at >= size) continue;
    switch (below(5)) {
      case 0: bytes[at] ^= (u8)(1 << below(8)); break;
      case 1: bytes[at] = (u8)chance(); break;
      case 2: at &= ~3ul; if (at + 4 <= size) memcpy(bytes + at, &word, 4); break;
      case 3: {
        u64 from = below(size), length = below(160);
        if (from + length <= size && at + length <= size) __builtin_memmove(bytes + at, bytes + from, length);
        break;
      }
      default: at &= ~3ul; word = below(size); if (at + 4 <= size) memcpy(bytes + at, &word, 4);
    }
  }
}

static void once(const u8 *plan, u64 size) {
  u64 cut = below(50) == 0 ? below(size) : size;
  u8 *bytes = malloc(cut + (cut == 0)); /* just as large: what is read behind it is found */
  memcpy(bytes, plan, cut);
  if (below(30) != 0 && cut > 0) damage(bytes, cut);
  calls = 0;
  memset(slots, 0, sizeof slots);
  int how = sigsetjmp(ended, 1);
  if (how == 0) run_plan(bytes, cut);
  of_ends++;
  if (how == 2) looped++;
  if (how == 1 && calls <= 1) refused++;
  free(bytes);
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  state = (u64)strtol(argv[1], NULL, 10) * 2 + 1;
  long until = time(NULL) + strtol(argv[2], NULL, 10);
  signal(26 /* SIGVTALRM */, out_of_time);
  while (time(NULL) < until) {
    for (int i = 3; i < argc; i++) {
      u64 size;
      u8 *plan = read_file(argv[i], &size);
      if (plan == NULL || size == 0) return 2;
      for (u32 rounds = 0; rounds < 400; rounds++) {
        struct { struct limit interval, value; } timer = {{0, 0}, {0, 200000}};
        setitimer(1 /* ITIMER_VIRTUAL */, (void *)&timer, NULL);
        once(plan, size);
      }
      free(plan);
    }
  }
  printf("%lu plans, %lu refused at once, %lu that did not end, %lu calls\n", of_ends, refused, looped, of_calls);
  fflush(NULL);
  return 0;
}
