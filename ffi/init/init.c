/* init: runs a plan. It is started by ocibox in its own place, as `ocibox-init FD`, FD being the plan (init.h). It knows
 * system calls, slots for their results and little else: what is done, and why, is decided in TypeScript. */
#include "init.h"
#include "tables.gen.h"
#include "sys.h"

enum { EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, ECHILD = 10, EAGAIN = 11, EACCES = 13, EBUSY = 16, EEXIST = 17,
       ENOTDIR = 20, EISDIR = 21, EINVAL = 22, EPIPE = 32, ENAMETOOLONG = 36, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40 };
enum { SIGKILL = 9, SIGPIPE = 13, SIGCHLD = 17, SIGCONT = 18, SIGSTOP = 19, SIGTTOU = 22, SIGURG = 23, SIGWINCH = 28 };
enum { AT_FDCWD = -100, AT_REMOVEDIR = 0x200 };
enum { O_RDONLY = 0, O_NONBLOCK = 04000, O_CLOEXEC = 02000000, O_PATH = 010000000 };
#define FAILED_HERE 125

static const u8 *image;
static const struct header *head;
static u32 fault_step;
static const struct step *steps;
static u8 *data;
static u64 slots[PLAN_MOST_SLOTS];
/* Where this program's own environment is, for hooks that have none. */
static u64 own_environment;

/* Where failures go: to a step of this plan (the parent), or over a socket (the child). */
static u32 failure_target, failure_code;
static i64 report_socket;

/* ---- text ---- */

static char line[8192];
static u32 line_used;

void *memset(void *to, int value, unsigned long size) {
  for (u8 *at = to; size > 0; size--) *at++ = (u8)value;
  return to;
}

void *memcpy(void *to, const void *from, unsigned long size) {
  u8 *at = to;
  for (const u8 *source = from; size > 0; size--) *at++ = *source++;
  return to;
}

static u32 length_of(const char *text) {
  u32 length = 0;
  while (text[length] != 0) length++;
  return length;
}

static void put_char(char c) {
  if (line_used < sizeof line - 2) line[line_used++] = c;
}

static void put(const char *text) {
  while (*text != 0) put_char(*text++);
}

static u32 number_text(char *to, u64 value, u32 base, u32 least) {
  char digits[24];
  u32 count = 0, length = 0;
  do {
    digits[count++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value != 0 || count < least);
  while (count > 0) to[length++] = digits[--count];
  to[length] = 0;
  return length;
}

static void put_number(u64 value, u32 base) {
  char text[32];
  number_text(text, value, base, 1);
  put(text);
}

static void put_int(i64 value) {
  if (value < 0) put_char('-');
  put_number(value < 0 ? 0 - (u64)value : (u64)value, 10);
}

/* Text in C's quotes, cut after 200 bytes, and never read past `end`. */
static void put_quoted(const u8 *text, const u8 *end) {
  put_char('"');
  u32 length = 0;
  for (; text < end && *text != 0 && length < 200; text++, length++) {
    u8 c = *text;
    if (c == '"' || c == '\\') {
      put_char('\\');
      put_char((char)c);
    } else if (c == '\n' || c == '\t' || c == '\r') {
      put_char('\\');
      put_char(c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
    } else if (c < 32 || c == 127) {
      char hex[8];
      number_text(hex, c, 16, 4);
      put("\\u");
      put(hex);
    } else {
      put_char((char)c);
    }
  }
  put_char('"');
  if (text < end && *text != 0) put("...");
}

static void write_all(int fd, const char *bytes, u32 size) {
  for (u32 done = 0; done < size;) {
    i64 wrote = sys_3(__NR_write, fd, A(bytes + done), size - done);
    if (wrote == -EINTR || wrote == -EAGAIN) continue;
    if (wrote <= 0) return;
    done += (u32)wrote;
  }
}

static void put_errno(i64 errno) {
  for (u32 i = 0; i < sizeof errors / sizeof *errors; i++) {
    if (errors[i].number == errno) {
      put(errors[i].words);
      return;
    }
  }
  put("error ");
  put_int(errno);
}

#ifndef INIT_FUZZ
__attribute__((noreturn)) static void leave(int code) {
  for (;;) sys_1(__NR_exit_group, code);
}
#endif

__attribute__((noreturn)) static void malformed(const char *what) {
  line_used = 0;
  put("ocibox: cannot start the container: the plan is malformed: ");
  put(what);
  put_char('\n');
  write_all(2, line, line_used);
  leave(FAILED_HERE);
}

/* ---- arguments ---- */

static u64 value_of(const struct arg *arg) {
  switch (arg->kind) {
    case ARG_SLOT: return slots[arg->value];
    case ARG_LOW: return (u64)(i64)(i32)slots[arg->value];
    case ARG_HIGH: return (u64)(i64)(i32)(slots[arg->value] >> 32);
    case ARG_ADDRESS: return (u64)(data + arg->value);
    case ARG_SLOT_ADDRESS: return (u64)&slots[arg->value];
    case ARG_ENVIRONMENT: return own_environment;
    default: return arg->value;
  }
}

static void put_flags(u32 kind, u64 value) {
  if (kind >= sizeof flag_tables / sizeof *flag_tables) {
    put("0x");
    put_number(value, 16);
    return;
  }
  const struct flag_table *table = &flag_tables[kind];
  u64 rest = value;
  int first = 1;
  if (table->open_mode && (value & 3) == 0 && (value & O_PATH) == 0) {
    put("O_RDONLY");
    first = 0;
  }
  for (u32 i = 0; i < table->count; i++) {
    u64 bit = table->flags[i].value;
    if (table->single ? bit != value : bit == 0 || (rest & bit) != bit) continue;
    if (!first) put_char('|');
    put(table->flags[i].name);
    if (table->single) return;
    first = 0;
    rest &= ~bit;
  }
  if (rest != 0) {
    if (!first) put_char('|');
    put("0x");
    put_number(rest, 16);
  } else if (first) {
    put_char('0');
  }
}

static void put_value(u32 show, u64 value) {
  switch (show) {
    case SHOW_DIRFD:
      if ((i32)value == AT_FDCWD) put("AT_FDCWD");
      else put_int((i64)value);
      return;
    case SHOW_MODE:
      put_char('0');
      put_number(value, 8);
      return;
    case SHOW_HEX:
      put("0x");
      put_number(value, 16);
      return;
    case SHOW_DEV:
      put("makedev(");
      put_int((i64)((value >> 8) & 0xfff));
      put(", ");
      put_int((i64)((value & 0xff) | ((value >> 12) & 0xfff00)));
      put_char(')');
      return;
    case SHOW_SIG:
      put_flags(SIGNAL_TABLE, value);
      return;
    default:
      if (show >= SHOW_FLAGS) put_flags(show - SHOW_FLAGS, value);
      else put_int((i64)value);
  }
}

static void put_struct(const struct arg *arg) {
  if (arg->layout >= sizeof layouts / sizeof *layouts || arg->value + layouts[arg->layout].size > head->data_size) {
    put("[?]");
    return;
  }
  const struct layout *layout = &layouts[arg->layout];
  const char *separator = "";
  put_char('{');
  for (u32 i = 0; i < layout->count; i++) {
    const struct member *member = &layout->members[i];
    u64 value = 0;
    memcpy(&value, data + arg->value + member->offset, member->size > 8 ? 8 : member->size);
    if (value == 0) continue;
    put(separator);
    put(member->name);
    put_char('=');
    if (member->show == SHOW_BYTES) put("[...]");
    else put_value(member->show, member->size == 4 && member->is_signed ? (u64)(i64)(i32)value : value);
    separator = ", ";
  }
  put_char('}');
}

static void put_arg(const struct arg *arg) {
  u64 value = value_of(arg);
  int pointer = arg->show >= SHOW_TEXT && arg->show <= SHOW_STRUCT;
  const u8 *end = data + head->data_size;
  if (pointer && arg->kind != ARG_ADDRESS) {
    if (value == 0) put("NULL");
    else put("[out]");
    return;
  }
  switch (arg->show) {
    case SHOW_TEXT:
      put_quoted((const u8 *)value, end);
      return;
    case SHOW_BYTES:
      put_char('[');
      put_int(arg->length);
      put(" bytes]");
      return;
    case SHOW_OUT:
      put("[out]");
      return;
    case SHOW_STRUCT:
      put_struct(arg);
      return;
    case SHOW_STRV: {
      put_char('[');
      u64 at = arg->value, text;
      for (u32 i = 0; i < 16 && at + 8 <= head->data_size; i++, at += 8) {
        memcpy(&text, data + at, 8);
        if (text < (u64)data || text >= (u64)end) break;
        if (i > 0) put(", ");
        put_quoted((const u8 *)text, end);
      }
      put_char(']');
      return;
    }
    default:
      put_value(arg->show, value);
  }
}

/* ---- failures ---- */

static int exit_code(const struct step *step, i64 errno) {
  if ((step->flags & STEP_COMMAND) == 0) return FAILED_HERE;
  return errno == ENOENT ? 127 : 126;
}

/* The call that OP_ENSURE was at when it failed. */
static const char *made_by = "openat2";

static const char *text_at(u32 offset) { return (const char *)(data + offset); }

/* What a step that cannot be described by a call is called. */
static const char *what_step(const struct step *step) {
  switch (step->op) {
    case OP_AWAIT: return "waiting for the container's process";
    case OP_SUPERVISE: return "watching over the container's process";
    case OP_TAKE_SIGNALS: case OP_GIVE_SIGNALS: return "setting the signal mask";
    case OP_FORMAT: return "making up a name";
    default: return "a step";
  }
}

static void put_failure(const struct step *step, i64 errno) {
  int is_call = step->op == OP_CALL;
  line_used = 0;
  put("ocibox: ");
  if (step->says != NONE) {
    put(text_at(step->says));
    while (line_used > 0 && line[line_used - 1] == '\n') line_used--; /* of what a hook has printed */
    if (step->op != OP_FAIL || step->argc > 0) {
      put(": ");
      put_errno(errno);
    }
    put_char('\n');
    return;
  }
  put(step->flags & STEP_CARRY_ON ? "warning: " : "cannot start the container: ");
  put(is_call ? text_at(step->at) : step->op == OP_ENSURE ? made_by : what_step(step));
  if (step->op == OP_ENSURE) {
    put_char('(');
    put_arg(&step->args[0]);
    put(", ");
    put_quoted((const u8 *)text_at(step->at), data + head->data_size);
    put_char(')');
  }
  if (is_call) {
    put_char('(');
    for (u32 i = 0; i < step->argc; i++) {
      if (i > 0) put(", ");
      put_arg(&step->args[i]);
    }
    put_char(')');
  }
  put(" failed: ");
  put_errno(errno);
  const char *field = text_at(step->field);
  if (*field != 0) {
    put(" (asked for by ");
    put(field);
    if (*field != '-') put(" in config.json");
    put_char(')');
  }
  put_char('\n');
}

/* Goes where failures go. Returns the step to go on at, or does not return. */
static u32 go_to_failure(int code) {
  if (failure_target == NONE) leave(code);
  slots[failure_code] = (u64)code;
  return failure_target;
}

/* Where failures are written; a plain line on stderr where there is no sink. */
static struct sink { i64 fd; const char *prefix, *suffix, *warning; } sinks[2];
static u32 sink_count;

static void put_escaped(const char *text, u32 size) {
  for (u32 i = 0; i < size; i++) {
    u8 c = (u8)text[i];
    if (c == '"' || c == '\\') put_char('\\');
    if (c >= 32) {
      put_char((char)c);
    } else {
      char hex[8];
      number_text(hex, c, 16, 4);
      put("\\u");
      put(hex);
    }
  }
}

/* "ocibox: message\n" as it is, or the message alone between a log's own words. */
static void write_failure(const char *text, u32 size, int is_warning) {
  static char plain[sizeof line];
  if (sink_count == 0) write_all(2, text, size);
  if (sink_count == 0 || size > sizeof plain) return;
  memcpy(plain, text, size);
  u32 from = size > 8 && plain[6] == ':' && plain[0] == 'o' ? 8 : 0, to = size > 0 && plain[size - 1] == '\n' ? size - 1 : size;
  for (u32 i = 0; i < sink_count; i++) {
    line_used = 0;
    put(is_warning ? sinks[i].warning : sinks[i].prefix);
    put_escaped(plain + from, to - from);
    put(sinks[i].suffix);
    write_all((int)sinks[i].fd, line, line_used);
  }
}

struct report {
  u32 step;
  i32 errno;
};

static u32 fail(u32 index, i64 errno) {
  const struct step *step = &steps[index];
  put_failure(step, errno);
  if (step->flags & STEP_CARRY_ON) {
    write_failure(line, line_used, 1);
    return index + 1;
  }
  if (report_socket < 0) {
    write_failure(line, line_used, 0);
    return go_to_failure(exit_code(step, errno));
  }
  static char message[sizeof line + sizeof(struct report)];
  struct report report = {index, (i32)errno};
  memcpy(message, &report, sizeof report);
  memcpy(message + sizeof report, line, line_used);
  i64 sent = sys_3(__NR_write, report_socket, A(message), (i64)sizeof report + line_used);
  if (sent < 0) write_failure(line, line_used, 0);
  leave(exit_code(step, errno));
}

/* The child's word: nothing (its end was closed by execve), or what it failed at. */
static u32 await(u32 index) {
  static char message[sizeof line + sizeof(struct report)];
  i64 got;
  do got = sys_3(__NR_read, A(value_of(&steps[index].args[0])), A(message), sizeof message);
  while (got == -EINTR);
  if (got == 1 || (got == 0 && (steps[index].flags & STEP_MORE) == 0)) return index + 1;
  if (got <= 0) return fail(index, got == 0 ? ECHILD : -got);
  struct report report;
  if (got <= (i64)sizeof report) return fail(index, EINVAL);
  memcpy(&report, message, sizeof report);
  if (report.step >= head->step_count || message[got - 1] != '\n') return fail(index, EINVAL);
  write_failure(message + sizeof report, (u32)got - (u32)sizeof report, 0);
  return go_to_failure(exit_code(&steps[report.step], report.errno));
}

/* ---- calls ---- */

static void sleep_ms(u32 ms) {
  i64 time[2] = {0, (i64)ms * 1000000};
  sys_2(__NR_nanosleep, A(time), 0);
}

static i64 make_call(const struct step *step, i64 fault) {
  u64 args[MOST_ARGS] = {0};
  for (u32 i = 0; i < step->argc; i++) args[i] = value_of(&step->args[i]);
  for (u32 retries = step->retries;;) {
    i64 result = fault != 0 ? -fault : sys6(step->nr, A(args[0]), A(args[1]), A(args[2]), A(args[3]), A(args[4]),
                                            A(args[5]));
    if (result == -EINTR && step->nr != __NR_close && fault == 0) continue;
    if (retries == 0 || (result != -EBUSY && result != -EAGAIN && result != -ENOTEMPTY)) return result;
    retries--;
    sleep_ms(1);
  }
}

/* Results of -1 to -4095 are errnos; all others are values (of lseek, mmap, ...). */
static u32 call(u32 index, i64 fault) {
  const struct step *step = &steps[index];
  i64 result = make_call(step, fault);
  if (step->result != NONE) slots[step->result] = (u64)result;
  if (result >= 0 || result < -4095) return index + 1;
  for (u32 i = 0; i < step->errno_count; i++) {
    if (step->errnos[i] == -result) return step->target != NONE ? step->target : index + 1;
  }
  return fail(index, -result);
}

static int compare(const struct step *step) {
  i64 value = (i64)value_of(&step->args[0]);
  switch (step->nr) {
    case EQUAL: return value == step->value;
    case NOT_EQUAL: return value != step->value;
    case LESS: return value < step->value;
    default: return value > step->value;
  }
}

/* Text with slots in it. The buffer's size was reckoned by the encoder; here it is held to. */
static i64 format(const struct step *step) {
  char *buffer = (char *)data + step->at;
  u32 used = 0;
  if (step->flags & STEP_MORE) {
    while (used < step->nr && buffer[used] != 0) used++;
  }
  for (u32 i = 0; i < step->argc; i++) {
    char digits[32];
    const char *part = digits, *end = (const char *)data + head->data_size;
    if (step->args[i].kind == ARG_ADDRESS) {
      part = text_at((u32)step->args[i].value);
    } else {
      i64 value = (i64)value_of(&step->args[i]);
      digits[0] = '-';
      number_text(digits + (value < 0), value < 0 ? 0 - (u64)value : (u64)value, 10, 1);
      end = digits + sizeof digits;
    }
    for (; part < end && *part != 0; part++) {
      if (used + 1 >= step->nr) return ENOTEMPTY;
      buffer[used++] = *part;
    }
  }
  if (used >= step->nr) return ENOTEMPTY;
  buffer[used] = 0;
  return 0;
}

/* ---- places in the container's root ---- */

enum { S_IFREG = 0100000, LONGEST_PATH = 4096, MOST_LINKS = 40 };
enum { RESOLVE_NO_MAGICLINKS = 2, RESOLVE_IN_ROOT = 16 };

/* The path that a symlink leads to, in place of its own: what stands before it, its target, what comes after it. */
static i64 follow(char *path, u32 before, u32 after, const char *target, u32 size) {
  static char rest[LONGEST_PATH];
  u32 kept = target[0] == '/' ? 0 : before, tail = length_of(path + after);
  if (kept + size + tail + 2 > LONGEST_PATH) return -ENAMETOOLONG;
  memcpy(rest, path + after, tail + 1);
  memcpy(path + kept, target, size);
  memcpy(path + kept + size, rest, tail + 1);
  return 0;
}

/* openat2(2) under the root; what is missing on the way is made, a symlink to where nothing is yet followed first. */
static i64 open_or_make(i64 root, const char *wanted, int is_file) {
  static char path[LONGEST_PATH], target[LONGEST_PATH];
  u64 how[3] = {(u64)O_PATH | O_CLOEXEC | (is_file ? 0 : O_DIRECTORY), 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  made_by = "openat2";
  i64 fd = sys_4(__NR_openat2, root, A(wanted), A(how), sizeof how);
  if (fd != -ENOENT) return fd;
  u32 size = length_of(wanted);
  if (size >= LONGEST_PATH) return -ENAMETOOLONG;
  memcpy(path, wanted, size + 1);
  i64 above = sys_3(__NR_fcntl, root, 1030 /* F_DUPFD_CLOEXEC */, 0);
  for (u32 links = 0, at = 0; above >= 0;) {
    while (path[at] == '/') at++;
    if (path[at] == 0) return above;
    u32 end = at;
    while (path[end] != 0 && path[end] != '/') end++;
    u32 next = end;
    while (path[next] == '/') next++;
    int last = path[next] == 0;
    char cut = path[end];
    path[end] = 0;
    how[0] = (u64)O_PATH | O_CLOEXEC | (last && is_file ? 0 : O_DIRECTORY);
    made_by = "openat2";
    fd = sys_4(__NR_openat2, root, A(path), A(how), sizeof how);
    if (fd == -ENOENT) {
      i64 link = sys_4(__NR_readlinkat, above, A(path + at), A(target), sizeof target);
      if (link >= 0) {
        path[end] = cut;
        sys_1(__NR_close, above);
        i64 error = ++links > MOST_LINKS ? -ELOOP : follow(path, at, end, target, (u32)link);
        if (error < 0) return error;
        at = 0;
        above = sys_3(__NR_fcntl, root, 1030, 0);
        continue;
      }
      made_by = last && is_file ? "mknodat" : "mkdirat";
      i64 made = last && is_file ? sys_4(__NR_mknodat, above, A(path + at), S_IFREG | 0644, 0)
                                 : sys_3(__NR_mkdirat, above, A(path + at), 0755);
      fd = made < 0 && made != -EEXIST ? made : sys_4(__NR_openat2, root, A(path), A(how), sizeof how);
    }
    path[end] = cut;
    sys_1(__NR_close, above);
    above = fd;
    at = end;
  }
  return above;
}

static u32 ensure(u32 index, i64 fault) {
  const struct step *step = &steps[index];
  i64 fd = fault != 0 ? -fault
                      : open_or_make((i32)value_of(&step->args[0]), text_at(step->at), (step->flags & STEP_MORE) != 0);
  slots[step->result] = (u64)fd;
  return fd < 0 ? fail(index, -fd) : index + 1;
}

/* ---- signals ---- */

static const u64 all_signals = ~0ul;

static void set_mask(u64 mask) {
  sys_4(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, A(&mask), 0, 8);
}

static void take_signals(void) {
  set_mask(all_signals);
  u64 action[4] = {0, 0, 0, 0}; /* struct kernel_sigaction: SIG_DFL */
  for (int sig = 1; sig <= 64; sig++) sys_4(__NR_rt_sigaction, sig, A(action), 0, 8);
}

static u64 hex_after(const char *text, const char *key) {
  u32 length = length_of(key);
  for (const char *at = text; *at != 0; at++) {
    u32 same = 0;
    while (same < length && at[same] == key[same]) same++;
    if (same < length || (at != text && at[-1] != '\n')) continue;
    u64 value = 0;
    for (at += length; *at == ' ' || *at == '\t'; at++) continue;
    for (;; at++) {
      if (*at >= '0' && *at <= '9') value = value * 16 + (u64)(*at - '0');
      else if (*at >= 'a' && *at <= 'f') value = value * 16 + (u64)(*at - 'a' + 10);
      else return value;
    }
  }
  return 0;
}

/* Whether the last number of "NSpid:\t4711\t1" is 1, and not the only one: PID 1 of a namespace of its own. */
static int is_first_process(const char *status) {
  for (const char *at = status; *at != 0; at++) {
    if (at[0] != '\n' || at[1] != 'N' || at[2] != 'S' || at[3] != 'p' || at[4] != 'i' || at[5] != 'd') continue;
    u32 numbers = 0;
    u64 number = 0;
    for (at += 7; *at == '\t' || (*at >= '0' && *at <= '9'); at++) {
      if (*at == '\t') {
        numbers++;
        number = 0;
      } else {
        number = number * 10 + (u64)(*at - '0');
      }
    }
    return numbers > 1 && number == 1;
  }
  return 0;
}

/* pid_namespaces(7): the first process of a PID namespace gets only the signals it has a handler for, even from
 * outside; SIGKILL alone always ends it. Whether `sig` would be dropped although it would end any other process. */
static int would_be_dropped(i64 pid, int sig) {
  if (sig == SIGCHLD || sig == SIGURG || sig == SIGWINCH || (sig >= SIGCONT && sig <= SIGTTOU)) return 0;
  static char status[4096];
  char path[48] = "/proc/";
  u32 length = 6 + number_text(path + 6, (u64)pid, 10, 1);
  memcpy(path + length, "/status", 8);
  i64 fd = sys_4(__NR_openat, AT_FDCWD, A(path), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return 0;
  i64 size = sys_3(__NR_read, fd, A(status), sizeof status - 1);
  sys_1(__NR_close, fd);
  if (size <= 0) return 0;
  status[size] = 0;
  u64 heeded = hex_after(status, "SigBlk:") | hex_after(status, "SigIgn:") | hex_after(status, "SigCgt:");
  return is_first_process(status) && (heeded >> (sig - 1) & 1) == 0;
}

/* ---- supervision ---- */

struct termios { /* include/uapi/asm-generic/termbits.h */
  u32 iflag, oflag, cflag, lflag;
  u8 discipline, cc[19];
};
enum { ICANON = 2, VEOF = 4, VTIME = 5, VMIN = 6 };
enum { TCGETS = 0x5401, TCSETS = 0x5402, TIOCGWINSZ = 0x5413, TIOCSWINSZ = 0x5414 };
enum { OPOST = 1, ONLCR = 4 };
enum { POLLIN = 1, POLLOUT = 4, POLLERR = 8, POLLHUP = 16, POLLNVAL = 32 };

struct pollfd {
  i32 fd;
  u16 events, revents;
};

struct buffer {
  u32 from, to;
  char bytes[4096];
};

/* What the container writes, where it is kept: its terminal, or its standard output and error; -1 when they have ended. */
struct stream {
  i64 fd;
  const char *name;
};

static struct watch {
  i64 pid, pidfd, master, signals, log;
  struct stream streams[2];
  int ended, status, killed_for;
  int stdin_open, stdin_paused, stdout_gone, master_gone, raw, is_tty, last_char;
  struct termios cooked;
} watch;
static struct buffer typed, shown;

static void send_signal(int sig) {
  if (watch.pidfd >= 0) sys_4(__NR_pidfd_send_signal, watch.pidfd, sig, 0, 0);
  else sys_2(__NR_kill, watch.pid, sig);
}

static void copy_window_size(void) {
  u16 size[4];
  if (watch.master < 0) return;
  for (int fd = 0; fd <= 2; fd++) {
    if (sys_3(__NR_ioctl, fd, TIOCGWINSZ, A(size)) != 0) continue;
    sys_3(__NR_ioctl, watch.master, TIOCSWINSZ, A(size));
    return;
  }
}

static void plain_lines(i32 terminal) {
  struct termios mode;
  if (sys_3(__NR_ioctl, terminal, TCGETS, A(&mode)) != 0) return;
  mode.oflag &= ~(u32)ONLCR;
  sys_3(__NR_ioctl, terminal, TCSETS, A(&mode));
}

static void make_raw(void) { /* as cfmakeraw(3) does it */
  if (!watch.raw) return;
  struct termios raw = watch.cooked, inner;
  raw.iflag &= ~02753u;
  /* Where the container's terminal leaves line ends alone they are this one's. */
  if (sys_3(__NR_ioctl, watch.master, TCGETS, A(&inner)) != 0 || (inner.oflag & ONLCR)) raw.oflag &= ~(u32)OPOST;
  raw.lflag &= ~0100113u;
  raw.cflag = (raw.cflag & ~0460u) | 060u;
  raw.cc[VMIN] = 1;
  raw.cc[VTIME] = 0;
  sys_3(__NR_ioctl, 0, TCSETS, A(&raw));
}

static void restore_terminal(void) {
  if (watch.raw) sys_3(__NR_ioctl, 0, TCSETS, A(&watch.cooked));
  watch.raw = 0;
}

static void take_signal(int sig) {
  if (sig <= 0 || sig > 64 || sig == SIGCHLD || sig == SIGPIPE || sig == SIGURG) return;
  if (sig == SIGWINCH && watch.master >= 0) {
    copy_window_size();
    return;
  }
  if (sig == SIGCONT) {
    make_raw();
    watch.stdin_paused = 0;
  }
  int dropped = would_be_dropped(watch.pid, sig);
  send_signal(sig);
  if (!dropped) return;
  watch.killed_for = sig;
  send_signal(SIGKILL);
}

/* Reaps all that has ended. Returns an errno where there is nothing left to wait for. */
static i64 reap(void) {
  for (;;) {
    i32 status = 0;
    i64 pid = sys_4(__NR_wait4, -1, A(&status), 1 /* WNOHANG */, 0);
    if (pid == -EINTR) continue;
    if (pid == watch.pid) {
      watch.ended = 1;
      watch.status = status;
    } else if (pid <= 0) {
      return pid < 0 && !watch.ended ? -pid : 0;
    }
  }
}

static void read_stdin(void) {
  i64 got = sys_3(__NR_read, 0, A(typed.bytes), sizeof typed.bytes);
  if (got > 0) {
    typed.from = 0;
    typed.to = (u32)got;
    watch.last_char = typed.bytes[got - 1];
  } else if (got == -EIO && watch.is_tty) {
    watch.stdin_paused = 1; /* in the background: again after SIGCONT */
  } else if (got != -EINTR && got != -EAGAIN) {
    struct termios mode;
    watch.stdin_open = 0;
    if (watch.is_tty || sys_3(__NR_ioctl, watch.master, TCGETS, A(&mode)) != 0) return;
    if ((mode.lflag & ICANON) == 0 || mode.cc[VEOF] == 0) return;
    typed.from = typed.to = 0; /* the first of two ends an unfinished line, the second the file */
    if (watch.last_char != '\n') typed.bytes[typed.to++] = (char)mode.cc[VEOF];
    typed.bytes[typed.to++] = (char)mode.cc[VEOF];
  }
}

static void write_master(void) {
  i64 wrote = sys_3(__NR_write, watch.master, A(typed.bytes + typed.from), typed.to - typed.from);
  if (wrote > 0) typed.from += (u32)wrote;
  else if (wrote != -EAGAIN && wrote != -EINTR) typed.from = typed.to;
}

static void read_master(void) {
  i64 got = sys_3(__NR_read, watch.master, A(shown.bytes), sizeof shown.bytes);
  if (got > 0) {
    shown.from = 0;
    shown.to = (u32)got;
  } else if (got != -EAGAIN && got != -EINTR) {
    watch.master_gone = 1;
  }
}

static void write_stdout(void) {
  i64 wrote = watch.stdout_gone ? -EPIPE : sys_3(__NR_write, 1, A(shown.bytes + shown.from), shown.to - shown.from);
  if (wrote > 0) {
    shown.from += (u32)wrote;
  } else if (wrote != -EAGAIN && wrote != -EINTR) {
    watch.stdout_gone = 1; /* nobody reads: the container's output is drained all the same */
    shown.from = shown.to;
  }
}

static i64 poll(struct pollfd *fds, u32 count, i64 ms) {
  i64 time[2] = {ms / 1000, ms % 1000 * 1000000};
  return sys_5(__NR_ppoll, A(fds), count, ms < 0 ? 0 : A(time), 0, 8);
}

static void want(struct pollfd *slot, i64 fd, u32 events) { /* what nothing is wanted of is not polled: POLLHUP */
  slot->fd = events != 0 ? (i32)fd : -1;
  slot->events = (u16)events;
  slot->revents = 0;
}

static void take_pending_signals(void) {
  u32 info[32]; /* struct signalfd_siginfo: 128 bytes, the signal first */
  while (sys_3(__NR_read, watch.signals, A(info), sizeof info) == sizeof info) take_signal((int)info[0]);
}

static void copy_terminal(void) {
  struct pollfd fds[4];
  int to_type = typed.from < typed.to, to_show = shown.from < shown.to;
  u32 of_master = watch.master_gone ? 0 : (to_type ? POLLOUT : 0u) | (to_show ? 0u : POLLIN);
  want(&fds[0], watch.signals, POLLIN);
  want(&fds[1], 0, watch.stdin_open && !watch.stdin_paused && !watch.master_gone && !to_type ? POLLIN : 0);
  want(&fds[2], watch.master, of_master);
  want(&fds[3], 1, to_show ? POLLOUT : 0);
  if (poll(fds, 4, -1) <= 0) return;
  if (fds[1].revents) read_stdin();
  if (fds[2].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL) && !to_show) read_master();
  else if (fds[2].revents & (POLLHUP | POLLERR | POLLNVAL)) typed.from = typed.to;
  if (fds[2].revents & POLLOUT && typed.from < typed.to) write_master();
  if (fds[3].revents) write_stdout();
  if (fds[0].revents & POLLIN) take_pending_signals();
}

/* What is left of the container's output. A process that still has the terminal open must not hold us up. */
static void drain_terminal(void) {
  for (u32 rounds = 0; rounds < 256; rounds++) {
    while (shown.from < shown.to) write_stdout();
    if (watch.master_gone) return;
    struct pollfd fd;
    want(&fd, watch.master, POLLIN);
    if (poll(&fd, 1, 50) == 0) return;
    read_master();
  }
}

/* ---- the log: a line "TIME STREAM F|P TEXT" for each, P for a part of one (Kubernetes' container runtime interface) ---- */

static struct {
  char stamp[48];
  u32 stamp_size, used;
  int torn;
  char text[32768];
} logged;

/* A disk that is full must not hold up the container: what does not go in is lost, and what comes next has its own line. */
static void flush_log(void) {
  for (u32 done = 0; done < logged.used;) {
    i64 wrote = sys_3(__NR_write, watch.log, A(logged.text + done), logged.used - done);
    if (wrote == -EINTR) continue;
    if (wrote <= 0) {
      logged.torn |= done > 0;
      break;
    }
    done += (u32)wrote;
  }
  logged.used = 0;
}

/* "2006-01-02T15:04:05.123456789Z stdout ". The calendar: days from March 0000 on, in eras of 400 years. */
static void stamp(const char *name) {
  i64 time[2] = {0, 0};
  sys_2(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, A(time));
  u64 seconds = (u64)time[0], days = seconds / 86400 + 719468, era = days / 146097, of_era = days % 146097;
  u64 year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  u64 of_year = of_era - (365 * year + year / 4 - year / 100), month = (5 * of_year + 2) / 153;
  u64 parts[7] = {year + era * 400 + (month > 9), month < 10 ? month + 3 : month - 9, of_year - (153 * month + 2) / 5 + 1,
                  seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, (u64)time[1]};
  static const u8 digits[7] = {4, 2, 2, 2, 2, 2, 9};
  u32 at = 0;
  for (u32 i = 0; i < 7; i++) {
    at += number_text(logged.stamp + at, parts[i], 10, digits[i]);
    logged.stamp[at++] = "--T::.Z"[i];
  }
  logged.stamp[at++] = ' ';
  memcpy(logged.stamp + at, name, 6);
  at += 6;
  logged.stamp[at++] = ' ';
  logged.stamp_size = at;
}

static void put_logged(const char *bytes, u32 size) {
  memcpy(logged.text + logged.used, bytes, size);
  logged.used += size;
}

static void log_bytes(const char *name, const char *bytes, u32 size) {
  stamp(name);
  for (u32 from = 0; from < size;) {
    u32 end = from;
    while (end < size && bytes[end] != '\n') end++;
    if (logged.used + logged.stamp_size + end - from + 4 > sizeof logged.text) flush_log();
    if (logged.torn) put_logged("\n", 1);
    logged.torn = 0;
    put_logged(logged.stamp, logged.stamp_size);
    put_logged(end < size ? "F " : "P ", 2);
    put_logged(bytes + from, end - from);
    put_logged("\n", 1);
    from = end + (end < size);
  }
  flush_log();
}

/* Returns whether there was something. */
static int read_stream(struct stream *stream) {
  static char bytes[16384];
  if (stream->fd < 0) return 0;
  i64 got = sys_3(__NR_read, stream->fd, A(bytes), sizeof bytes);
  if (got > 0) {
    log_bytes(stream->name, bytes, (u32)got);
    return 1;
  }
  if (got == -EINTR) return 1;
  if (got != -EAGAIN) {
    sys_1(__NR_close, stream->fd);
    stream->fd = -1;
  }
  return 0;
}

static void copy_to_log(void) {
  struct pollfd fds[3];
  want(&fds[2], watch.signals, POLLIN);
  for (u32 i = 0; i < 2; i++) want(&fds[i], watch.streams[i].fd, watch.streams[i].fd < 0 ? 0 : POLLIN);
  if (poll(fds, 3, -1) <= 0) return;
  for (u32 i = 0; i < 2; i++) {
    if (fds[i].revents) read_stream(&watch.streams[i]);
  }
  if (fds[2].revents) take_pending_signals();
}

/* What is left of it. Of a terminal the kernel may still be carrying some over. */
static void drain_to_log(void) {
  for (u32 i = 0; i < 2; i++) {
    struct stream *stream = &watch.streams[i];
    for (u32 rounds = 0; rounds < 4096 && stream->fd >= 0; rounds++) {
      struct pollfd fd;
      want(&fd, stream->fd, POLLIN);
      if (poll(&fd, 1, watch.master >= 0 ? 50 : 0) == 0 || !read_stream(stream)) break;
    }
  }
}

static void begin_log(i64 out, i64 err) {
  watch.streams[0] = (struct stream){watch.master >= 0 ? watch.master : out, "stdout"};
  watch.streams[1] = (struct stream){err, "stderr"};
  for (u32 i = 0; i < 2; i++) {
    i64 fd = watch.streams[i].fd, flags = fd < 0 ? -1 : sys_3(__NR_fcntl, fd, 3 /* F_GETFL */, 0);
    if (flags >= 0) sys_3(__NR_fcntl, fd, 4 /* F_SETFL */, flags | O_NONBLOCK);
  }
}

static i64 watch_over(void) {
  for (;;) {
    i64 errno = reap();
    if (watch.ended || errno != 0) return errno;
    if (watch.log >= 0) {
      copy_to_log();
    } else if (watch.master >= 0) {
      copy_terminal();
    } else {
      i64 sig = sys_4(__NR_rt_sigtimedwait, A(&all_signals), 0, 0, 8);
      if (sig > 0) take_signal((int)sig);
    }
  }
}

static u32 supervise(u32 index) {
  const struct step *step = &steps[index];
  memset(&watch, 0, sizeof watch);
  watch.signals = -1;
  typed.from = typed.to = shown.from = shown.to = 0;
  watch.pid = (i32)value_of(&step->args[0]);
  watch.pidfd = (i32)value_of(&step->args[1]);
  watch.master = (i32)value_of(&step->args[2]);
  watch.log = (i32)value_of(&step->args[3]);
  set_mask(all_signals);
  if (watch.master >= 0 || watch.log >= 0) {
    watch.signals = sys_4(__NR_signalfd4, -1, A(&all_signals), 8, O_CLOEXEC | O_NONBLOCK);
    if (watch.signals < 0) return fail(index, -watch.signals);
  }
  if (watch.log >= 0) {
    begin_log((i32)value_of(&step->args[4]), (i32)value_of(&step->args[5]));
  } else if (watch.master >= 0) {
    i64 flags = sys_3(__NR_fcntl, watch.master, 3 /* F_GETFL */, 0);
    if (flags >= 0) sys_3(__NR_fcntl, watch.master, 4 /* F_SETFL */, flags | O_NONBLOCK);
    watch.last_char = '\n';
    watch.stdin_open = (step->flags & STEP_MORE) != 0;
    watch.is_tty = sys_3(__NR_ioctl, 0, TCGETS, A(&watch.cooked)) == 0;
    watch.raw = watch.stdin_open && watch.is_tty;
    copy_window_size();
    make_raw();
  }
  i64 errno = watch_over();
  if (watch.log >= 0) {
    drain_to_log();
  } else if (watch.master >= 0) {
    if (errno == 0) drain_terminal();
    restore_terminal();
  }
  if (watch.signals >= 0) sys_1(__NR_close, watch.signals);
  if (errno != 0) return fail(index, errno);
  int sig = watch.status & 127;
  if (sig == SIGKILL && watch.killed_for != 0) sig = watch.killed_for;
  slots[step->result] = (u64)(sig != 0 ? 128 + sig : watch.status >> 8 & 255);
  return index + 1;
}

/* ---- removal of a tree ---- */

struct dirent {
  u64 ino, off;
  u16 length;
  u8 type;
  char name[];
};
struct open_how {
  u64 flags, mode, resolve;
};
enum { DT_DIR = 4 };

static i64 removal_error;
static char removal_name[256];
static u32 moved;

static void note_error(const char *name, i64 result) {
  if (removal_error != 0) return;
  removal_error = -result;
  u32 length = length_of(name);
  if (length > sizeof removal_name - 1) length = sizeof removal_name - 1;
  memcpy(removal_name, name, length);
  removal_name[length] = 0;
}

/* Opens a directory by its name alone: no symlink is followed, no mount is crossed. */
static i64 open_inside(i64 dirfd, const char *name) {
  struct open_how how = {O_RDONLY | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW, 0, 1 | 4 | 8};
  i64 fd = sys_4(__NR_openat2, dirfd, A(name), A(&how), sizeof how);
  if (fd != -EACCES) return fd;
  how.flags |= O_PATH; /* it is unreadable even for its owner: mode 0 */
  i64 handle = sys_4(__NR_openat2, dirfd, A(name), A(&how), sizeof how);
  if (handle < 0) return fd;
  char path[48] = "/proc/self/fd/";
  number_text(path + 14, (u64)handle, 10, 1);
  sys_3(__NR_fchmodat, AT_FDCWD, A(path), 0700);
  sys_1(__NR_close, handle);
  how.flags &= ~(u64)O_PATH;
  return sys_4(__NR_openat2, dirfd, A(name), A(&how), sizeof how);
}

/* Moves a directory up beside the others that are to be emptied. What is there may be replaced: it goes too. */
static i64 move_up(i64 from, const char *name, i64 top) {
  for (u32 tries = 0; tries < 100000; tries++) {
    char to[32] = ".ocibox-";
    number_text(to + 8, moved++, 10, 1);
    i64 result = sys_5(__NR_renameat2, from, A(name), top, A(to), 0);
    if (result != -EEXIST && result != -ENOTEMPTY && result != -ENOTDIR) return result;
  }
  return -EEXIST;
}

typedef int each_entry(i64 fd, i64 top, const struct dirent *entry);

/* Calls `each` for every entry, over and over while it gets something done. */
static void empty(i64 fd, i64 top, char *buffer, u32 size, each_entry *each) {
  for (int progress = 1; progress;) {
    progress = 0;
    sys_3(__NR_lseek, fd, 0, 0);
    for (;;) {
      i64 got = sys_3(__NR_getdents64, fd, A(buffer), size);
      if (got <= 0 || got > size) break;
      for (i64 at = 0; at + 19 < got;) {
        const struct dirent *entry = (const struct dirent *)(buffer + at);
        if (entry->length < 20 || at + entry->length > got) break;
        const char *name = entry->name;
        at += entry->length;
        if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) continue;
        progress |= each(fd, top, entry);
      }
    }
  }
}

/* Unlinks what is no directory, or is an empty one. Returns 0, or the (negative) errno of a directory that is not. */
static i64 unlink_entry(i64 fd, const struct dirent *entry) {
  i64 result = -EISDIR;
  if (entry->type != DT_DIR) result = sys_3(__NR_unlinkat, fd, A(entry->name), 0);
  if (result == 0 || result == -ENOENT) return 0;
  i64 as_directory = sys_3(__NR_unlinkat, fd, A(entry->name), AT_REMOVEDIR);
  if (as_directory == 0) return 0;
  return as_directory == -ENOTDIR ? result : as_directory;
}

static int entry_below(i64 fd, i64 top, const struct dirent *entry) {
  i64 result = unlink_entry(fd, entry);
  if (result == -ENOTEMPTY || result == -EEXIST) result = move_up(fd, entry->name, top);
  if (result < 0) note_error(entry->name, result);
  return result >= 0;
}

static int entry_of_top(i64 top, i64 unused, const struct dirent *entry) {
  (void)unused;
  static char buffer[16384] __attribute__((aligned(8)));
  i64 result = unlink_entry(top, entry);
  if (result == -ENOTEMPTY || result == -EEXIST || result == -EACCES) {
    i64 fd = open_inside(top, entry->name);
    if (fd >= 0) {
      empty(fd, top, buffer, sizeof buffer, entry_below);
      sys_1(__NR_close, fd);
      result = sys_3(__NR_unlinkat, top, A(entry->name), AT_REMOVEDIR);
    } else {
      result = fd;
    }
  }
  if (result < 0) note_error(entry->name, result);
  return result >= 0;
}

/* A cgroup and those below it: their files come and go with them. cgroups(7), "Removing a cgroup" */
static i64 remove_cgroup(i64 parent, const char *name, int depth) {
  char buffer[1024] __attribute__((aligned(8)));
  i64 result = -EBUSY;
  for (int tries = 0; tries < 200; tries++) { /* it is busy for a moment after its last process has ended */
    result = sys_3(__NR_unlinkat, parent, A(name), AT_REMOVEDIR);
    if (result != -EBUSY || depth == 0) return result;
    i64 fd = open_inside(parent, name), got;
    if (fd < 0) return fd;
    while ((got = sys_3(__NR_getdents64, fd, A(buffer), sizeof buffer)) > 0 && got <= (i64)sizeof buffer) {
      for (i64 at = 0; at + 19 < got;) {
        const struct dirent *entry = (const struct dirent *)(buffer + at);
        if (entry->length < 20 || at + entry->length > got) break;
        at += entry->length;
        if (entry->type == DT_DIR && entry->name[0] != '.') remove_cgroup(fd, entry->name, depth - 1);
      }
    }
    sys_1(__NR_close, fd);
    sleep_ms(1);
  }
  return result;
}

static int is_cgroup(i64 dirfd) {
  i64 stat[15]; /* struct statfs: f_type first */
  if (sys_2(__NR_fstatfs, dirfd, A(stat)) < 0) return 0;
  return stat[0] == 0x27e0eb || stat[0] == 0x63677270;
}

static i64 remove_in(i64 parent, const char *name) {
  static char buffer[16384] __attribute__((aligned(8)));
  if (is_cgroup(parent)) return remove_cgroup(parent, name, 32);
  i64 result = sys_3(__NR_unlinkat, parent, A(name), 0);
  if (result == 0 || result == -ENOENT) return 0;
  result = sys_3(__NR_unlinkat, parent, A(name), AT_REMOVEDIR);
  if (result == 0 || (result != -ENOTEMPTY && result != -EEXIST && result != -EACCES)) return result;
  i64 top = open_inside(parent, name);
  if (top < 0) return top;
  empty(top, top, buffer, sizeof buffer, entry_of_top);
  sys_1(__NR_close, top);
  result = sys_3(__NR_unlinkat, parent, A(name), AT_REMOVEDIR);
  return result == -ENOENT ? 0 : result;
}

/* Three descriptors are open at most, however deep the tree is: every directory found below the first level is moved
 * up to it, and emptied there in its turn. */
static void remove_tree(const struct step *step, i64 fault) {
  static char path[4096];
  const char *given = text_at(step->at);
  u32 length = length_of(given), slash = NONE;
  i64 parent = (i32)value_of(&step->args[0]), opened = -1, result = -36 /* ENAMETOOLONG */;
  removal_error = 0;
  if (length > 0 && length < sizeof path) {
    memcpy(path, given, length + 1);
    while (length > 1 && path[length - 1] == '/') path[--length] = 0;
    for (u32 i = 0; i < length; i++) {
      if (path[i] == '/') slash = i;
    }
    const char *name = path;
    if (slash != NONE) {
      path[slash] = 0;
      name = path + slash + 1;
      opened = parent = sys_4(__NR_openat, parent, A(slash == 0 ? "/" : path), O_PATH | O_CLOEXEC | O_DIRECTORY, 0);
    }
    result = fault != 0 ? -fault : slash != NONE && parent < 0 ? parent : remove_in(parent, name);
    if (opened >= 0) sys_1(__NR_close, opened);
  }
  if (result >= 0 || result == -ENOENT) return;
  line_used = 0;
  put("ocibox: warning: cannot remove ");
  put_quoted((const u8 *)given, data + head->data_size);
  put(": ");
  if (removal_error != 0) {
    put_quoted((const u8 *)removal_name, (const u8 *)removal_name + sizeof removal_name);
    put(" in it: ");
  }
  put_errno(removal_error != 0 ? removal_error : -result);
  put_char('\n');
  write_all(2, line, line_used);
}

/* What /proc/PID/environ shows is this memory. */
static void forget_environment(void) {
  if (own_environment == 0) return;
  char **variables = (char **)own_environment;
  for (u32 i = 0; variables[i] != 0; i++) memset(variables[i], 0, length_of(variables[i]));
  variables[0] = 0;
}

/* ---- the plan ---- */

static u32 run_step(u32 index) {
  const struct step *step = &steps[index];
  i64 fault = 0;
  if (index >= fault_step && index <= head->fault_last) {
    /* Once: what is tried again may go well. */
    fault = (i64)head->fault_errno;
    fault_step = NONE;
  }
  if (fault != 0 && step->op >= OP_AWAIT && step->op <= OP_SUPERVISE) return fail(index, fault);
  switch (step->op) {
    case OP_CALL: return call(index, fault);
    case OP_JUMP: return step->target;
    case OP_BRANCH: return compare(step) ? step->target : index + 1;
    case OP_SET: slots[step->result] = (u64)step->value; break;
    case OP_STORE: {
      u64 value = value_of(&step->args[0]);
      memcpy(data + step->at, &value, step->nr);
      break;
    }
    case OP_LOAD: {
      i32 value;
      memcpy(&value, data + step->at, 4);
      slots[step->result] = (u64)(i64)value;
      break;
    }
    case OP_FORMAT: {
      i64 errno = format(step);
      if (errno != 0) return fail(index, errno);
      break;
    }
    case OP_ON_FAILURE:
      failure_target = step->target;
      failure_code = step->result;
      report_socket = -1;
      break;
    case OP_REPORT_TO:
      report_socket = (i32)value_of(&step->args[0]);
      sink_count = 0; /* they are the other end's */
      break;
    case OP_AWAIT: return await(index);
    case OP_FAIL: return fail(index, step->argc > 0 ? -(i64)value_of(&step->args[0]) : step->value);
    case OP_TAKE_SIGNALS: take_signals(); break;
    case OP_GIVE_SIGNALS: set_mask(0); break;
    case OP_SUPERVISE: return supervise(index);
    case OP_REMOVE: remove_tree(step, fault); break;
    case OP_ENSURE: return ensure(index, fault);
    case OP_FORGET_ENVIRONMENT: forget_environment(); break;
    case OP_PLAIN_LINES: plain_lines((i32)value_of(&step->args[0])); break;
    case OP_LOG_TO:
      if (sink_count < 2)
        sinks[sink_count++] = (struct sink){(i32)value_of(&step->args[0]), text_at(step->says), text_at(step->at),
                                            (const char *)value_of(&step->args[1])};
      break;
    default: leave((int)(value_of(&step->args[0]) & 255));
  }
  return index + 1;
}

static int inside(u64 offset, u64 size) { return offset <= head->data_size && size <= head->data_size - offset; }

static void check_arg(const struct arg *arg) {
  if (arg->kind >= ARG_KINDS) malformed("an argument of no known kind");
  if (arg->kind == ARG_ADDRESS && arg->value >= head->data_size) malformed("an address outside it");
  int names_slot = arg->kind != ARG_NUMBER && arg->kind != ARG_ADDRESS && arg->kind != ARG_ENVIRONMENT;
  if (names_slot && arg->value >= head->slot_count)
    malformed("a slot that does not exist");
}

static const struct { u8 argc, needs_target, needs_result; } shapes[OPS] = {
  [OP_JUMP] = {0, 1, 0}, [OP_BRANCH] = {1, 1, 0}, [OP_SET] = {0, 0, 1}, [OP_STORE] = {1, 0, 0}, [OP_LOAD] = {0, 0, 1},
  [OP_ON_FAILURE] = {0, 1, 1}, [OP_REPORT_TO] = {1, 0, 0}, [OP_AWAIT] = {1, 0, 0}, [OP_SUPERVISE] = {6, 0, 1},
  [OP_REMOVE] = {1, 0, 0}, [OP_EXIT] = {1, 0, 0}, [OP_LOG_TO] = {2, 0, 0}, [OP_PLAIN_LINES] = {1, 0, 0},
  [OP_ENSURE] = {1, 0, 1},
};

static void check_step(const struct step *step) {
  if (step->op >= OPS) malformed("a step of no known kind");
  if (step->argc > MOST_ARGS || step->errno_count > MOST_ERRNOS) malformed("too many arguments");
  int varies = step->op == OP_CALL || step->op == OP_FORMAT || (step->op == OP_FAIL && step->argc == 1);
  if (!varies && step->argc != shapes[step->op].argc)
    malformed("a step with the wrong number of arguments");
  for (u32 i = 0; i < step->argc; i++) check_arg(&step->args[i]);
  if (step->target != NONE ? step->target >= head->step_count : shapes[step->op].needs_target)
    malformed("a jump out of it");
  if (step->result != NONE ? step->result >= head->slot_count : shapes[step->op].needs_result)
    malformed("a result without a slot");
  if (!inside(step->field, 1) || (step->says != NONE && !inside(step->says, 1))) malformed("text outside it");
  u64 reach = step->op == OP_STORE || step->op == OP_FORMAT ? step->nr : step->op == OP_LOAD ? 4 : 1;
  if (!inside(step->at, reach)) malformed("a place outside it");
  if (step->op == OP_STORE && reach != 1 && reach != 2 && reach != 4 && reach != 8) malformed("a store of no width");
  if ((step->op == OP_FAIL || step->op == OP_LOG_TO) && step->says == NONE) malformed("a failure without words");
  if (step->op == OP_LOG_TO && step->args[1].kind != ARG_ADDRESS) malformed("a warning without words");
  if (step->op == OP_BRANCH && step->nr >= COMPARES) malformed("a comparison of no known kind");
}

static void check_head(u64 size) {
  if (size > PLAN_MOST_BYTES) malformed("its size");
  if (head->magic != PLAN_MAGIC || head->version != PLAN_VERSION || head->size != size) malformed("its header");
  if (head->step_count == 0 || head->step_count > PLAN_MOST_STEPS || head->slot_count > PLAN_MOST_SLOTS)
    malformed("its counts");
  u64 steps_end = sizeof *head + (u64)head->step_count * sizeof(struct step);
  u64 data_end = (u64)head->data_off + head->data_size;
  if (head->data_off != steps_end || head->data_size < 8 || head->data_size % 8 != 0 || data_end != head->reloc_off ||
      head->reloc_off + (u64)head->reloc_count * 4 != size)
    malformed("its areas");
  if (data[head->data_size - 1] != 0) malformed("text without an end");
}

static void relocate(void) {
  const u32 *relocations = (const u32 *)(image + head->reloc_off);
  for (u32 i = 0; i < head->reloc_count; i++) {
    u64 target;
    if (relocations[i] % 8 != 0 || !inside(relocations[i], 8)) malformed("a pointer outside it");
    if (i > 0 && relocations[i] <= relocations[i - 1]) malformed("pointers out of order");
    memcpy(&target, data + relocations[i], 8);
    if (target >= head->data_size) malformed("a pointer that leads out of it");
    target += (u64)data;
    memcpy(data + relocations[i], &target, 8);
  }
}

#ifdef INIT_FUZZ
void run_plan(u8 *bytes, u64 size);
void run_plan(u8 *bytes, u64 size) {
#else
__attribute__((noreturn)) static void run_plan(u8 *bytes, u64 size) {
#endif
  failure_target = NONE;
  report_socket = -1;
  sink_count = 0;
  image = bytes;
  head = (const struct header *)bytes;
  if (size < sizeof *head) malformed("its size");
  fault_step = head->fault_step;
  steps = (const struct step *)(bytes + sizeof *head);
  data = bytes + (head->data_off < size ? head->data_off : 0);
  check_head(size);
  for (u32 i = 0; i < head->step_count; i++) check_step(&steps[i]);
  if (steps[head->step_count - 1].op != OP_EXIT) malformed("no end");
  relocate();
  for (u32 index = 0;;) index = run_step(index);
}

#ifndef INIT_FUZZ
__attribute__((noreturn, used)) static void start(u64 *stack) {
  const char *text = stack[0] == 2 ? (const char *)stack[2] : "";
  i64 fd = *text == 0 ? -1 : 0;
  for (; *text != 0 && fd >= 0; text++) fd = *text < '0' || *text > '9' || fd > 99999 ? -1 : fd * 10 + (*text - '0');
  i64 size = fd < 0 ? -1 : sys_3(__NR_lseek, fd, 0, 2 /* SEEK_END */);
  if (size <= 0) malformed("it is not there");
  own_environment = (u64)(stack + stack[0] + 2);
  sys_5(__NR_prctl, 15 /* PR_SET_NAME */, A("ocibox"), 0, 0, 0);
  i64 address = sys6(__NR_mmap, 0, size, 3 /* read, write */, 2 /* MAP_PRIVATE */, fd, 0);
  if (address < 0 && address > -4096) malformed("it cannot be mapped");
  sys_1(__NR_close, fd);
  run_plan((u8 *)address, (u64)size);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call start\n  hlt\n");
#else
__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x30, #0\n  mov x0, sp\n  and sp, x0, #-16\n  bl start\n  brk #0\n");
#endif
#endif
