/*
 * init: runs a plan. A freestanding program without libc, run from a sealed memfd in place of ocibox; argv[1] is the
 * descriptor of the plan's image. It knows system calls, slots for their results, and how to wait; what is to be done,
 * and why, is all in the plan.
 */
#include "init.h"
#include "sys.h"

static const struct { int number; const char *words; } errnos[] = {
#include "errno.gen.h"
};

#define REPORT_SIZE 4096

struct report { int32_t code; uint32_t length; char text[REPORT_SIZE - 8]; };

static struct {
	uint8_t *base;
	const struct header *head;
	const struct step *steps;
	int64_t *slots;
	uint32_t failure_jump, failure_code; /* where a failure leads in the parent, or NONE */
	int report_to; /* the child's socket, or -1 */
} plan;

static struct report report;

/* gcc may call these for copies and initialisers. */
void *memset(void *to, int byte, size_t n)
{
	char *p = to;
	while (n--) *p++ = (char)byte;
	return to;
}
void *memcpy(void *to, const void *from, size_t n)
{
	char *p = to;
	const char *q = from;
	while (n--) *p++ = *q++;
	return to;
}

/* ---- text: one bounded buffer, the report ---- */

static void put(char c)
{
	if (report.length < sizeof report.text - 1) report.text[report.length++] = c;
}
static void put_text(const char *text)
{
	while (*text) put(*text++);
}
static void put_number(uint64_t value, unsigned base)
{
	char digits[24];
	int n = 0;
	do digits[n++] = "0123456789abcdef"[value % base]; while ((value /= base) != 0);
	while (n > 0) put(digits[--n]);
}
static void put_signed(int64_t value)
{
	if (value < 0) put('-');
	put_number(value < 0 ? -(uint64_t)value : (uint64_t)value, 10);
}
/* As JSON writes it: nothing a terminal would obey gets out. */
static void put_quoted(const char *text)
{
	int shown = 0;
	put('"');
	for (; *text && shown < 200; text++, shown++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\') { put('\\'); put((char)c); }
		else if (c == '\n') put_text("\\n");
		else if (c == '\t') put_text("\\t");
		else if (c == '\r') put_text("\\r");
		else if (c < 32 || c == 127) { put_text("\\u00"); put("0123456789abcdef"[c >> 4]); put("0123456789abcdef"[c & 15]); }
		else put((char)c);
	}
	put('"');
	if (*text) put_text("...");
}

static void write_all(int fd, const char *bytes, size_t n)
{
	while (n > 0) {
		long wrote = SYS(__NR_write, fd, bytes, n, 0);
		if (wrote == -EAGAIN) {
			struct pollfd one = { fd, POLLOUT, 0 };
			sys6(__NR_ppoll, (long)&one, 1, 0, 0, 8, 0);
			continue;
		}
		if (wrote == -EINTR) continue;
		if (wrote <= 0) return;
		bytes += wrote;
		n -= (size_t)wrote;
	}
}

static const char *at(uint32_t offset) { return (const char *)plan.base + offset; }

__attribute__((noreturn)) static void leave(int code)
{
	for (;;) SYS(__NR_exit_group, code, 0, 0, 0);
}

__attribute__((noreturn)) static void die(const char *why)
{
	report.length = 0;
	put_text("ocibox: init was given a plan it cannot run: ");
	put_text(why);
	put('\n');
	write_all(2, report.text, report.length);
	leave(125);
}

/* ---- what went wrong, in words ---- */

static int64_t value_of(const struct step *step, unsigned i)
{
	uint64_t arg = step->arg[i];
	switch (step->kind[i]) {
	case K_SLOT: return plan.slots[arg];
	case K_SLOT_LOW: return (int32_t)plan.slots[arg];
	case K_SLOT_HIGH: return (int32_t)(plan.slots[arg] >> 32);
	case K_ADDRESS: return (int64_t)(uintptr_t)(plan.base + arg);
	case K_SLOT_ADDRESS: return (int64_t)(uintptr_t)&plan.slots[arg];
	default: return (int64_t)arg;
	}
}

static void put_argument(const struct step *step, unsigned i)
{
	int64_t value = value_of(step, i);
	switch (step->show[i]) {
	case S_OCTAL: put('0'); put_number((uint64_t)value, 8); break;
	case S_HEX: put_text("0x"); put_number((uint64_t)value, 16); break;
	case S_STRING: if (step->kind[i] == K_ADDRESS) put_quoted(at((uint32_t)step->arg[i])); else put_text("NULL"); break;
	case S_WORDS: put_text(at(step->text[i])); break;
	case S_DIRFD: if (value == AT_FDCWD) put_text("AT_FDCWD"); else put_signed(value); break;
	case S_OUT: put_text("[out]"); break;
	default: put_signed(value);
	}
}

static void put_errno(int number)
{
	for (unsigned i = 0; i < sizeof errnos / sizeof *errnos; i++)
		if (errnos[i].number == number) { put_text(errnos[i].words); return; }
	put_text("error ");
	put_number((unsigned)number, 10);
}

static void describe(const struct step *step, int number)
{
	report.length = 0;
	if (step->says != NONE) {
		put_text("ocibox: ");
		put_text(at(step->says));
		if (number != 0 && step->op != OP_FAIL) { put_text(": "); put_errno(number); }
	} else {
		put_text(at(plan.head->prefix));
		put_text(at(step->name));
		if (step->op == OP_CALL) {
			put('(');
			for (unsigned i = 0; i < step->nargs; i++) {
				if (i) put_text(", ");
				put_argument(step, i);
			}
			put(')');
		}
		put_text(": ");
		put_errno(number);
	}
	if (step->field != NONE && *at(step->field)) {
		put_text(" (asked for by ");
		put_text(at(step->field));
		put(')');
	}
	put('\n');
	report.code = step->blame == BLAME_COMMAND ? (number == ENOENT ? 127 : 126) : 125;
}

/* A failed step: the child tells the parent and ends; the parent says it and goes on at its failure label. */
static uint32_t fail(const struct step *step, uint32_t next, int number)
{
	describe(step, number);
	if (plan.report_to >= 0) {
		SYS(__NR_write, plan.report_to, &report, 8 + report.length, 0);
		leave(report.code);
	}
	write_all(2, report.text, report.length);
	if (step->flags & FLAG_CARRY_ON) return next;
	if (plan.failure_jump == NONE) leave(report.code);
	uint32_t to = plan.failure_jump;
	plan.slots[plan.failure_code] = report.code;
	plan.failure_jump = NONE;
	return to;
}

#include "supervise.h"
#include "remove.h"

/* ---- the plan is checked once, whole, before anything of it is done ---- */

static void check_range(uint64_t offset, uint64_t n, uint32_t size, const char *what)
{
	if (offset > size || n > size - offset) die(what);
}

static void check_text(uint32_t offset, uint32_t size, int required)
{
	if (offset == NONE && !required) return;
	if (offset >= size) die("text outside of it");
}

static void check_step(const struct step *step, const struct header *head)
{
	if (step->op < OP_CALL || step->op > OP_LAST) die("an unknown step");
	if (step->nargs > 6 || step->ntolerated > MAX_TOLERATED) die("too many arguments");
	check_text(step->name, head->size, 1);
	check_text(step->field, head->size, 0);
	check_text(step->says, head->size, 0);
	if (step->result != NONE && step->result >= head->nslots) die("a slot it does not have");
	if (step->jump != NONE && step->jump >= head->nsteps) die("a jump out of it");
	for (unsigned i = 0; i < 6; i++) {
		if (step->kind[i] > K_LAST || step->show[i] > S_LAST) die("an unknown kind of argument");
		if (step->show[i] == S_WORDS) check_text(step->text[i], head->size, 1);
		if (step->kind[i] == K_ADDRESS && step->arg[i] >= head->size) die("an address outside of it");
		if (step->kind[i] != K_IMMEDIATE && step->kind[i] != K_ADDRESS && step->arg[i] >= head->nslots)
			die("a slot it does not have");
	}
	switch (step->op) {
	case OP_JUMP: if (step->jump == NONE) die("a jump to nowhere"); break;
	case OP_BRANCH: if (step->jump == NONE || step->nr > C_LAST) die("a bad branch"); break;
	case OP_SET: case OP_SUPERVISE: if (step->result == NONE) die("no slot for a result"); break;
	case OP_LOAD:
		if (step->result == NONE) die("no slot for a result");
		/* fall through */
	case OP_STORE:
		if (step->kind[0] != K_ADDRESS || step->nr > 8) die("a bad place in memory");
		check_range(step->arg[0], step->op == OP_LOAD ? 4 : step->nr, head->size, "a place outside of it");
		break;
	case OP_FORMAT:
		if (step->kind[0] != K_ADDRESS || step->kind[2] != K_ADDRESS || step->kind[1] || step->kind[3]) die("a bad format");
		check_range(step->arg[0], step->arg[1], head->size, "a format outside of it");
		if (step->arg[3] > 64 || step->arg[2] % 4) die("a bad format");
		check_range(step->arg[2], step->arg[3] * sizeof(struct part), head->size, "a format outside of it");
		break;
	case OP_ON_FAILURE: if (step->jump == NONE || step->result == NONE) die("a failure that leads nowhere"); break;
	case OP_REMOVE: if (step->kind[1] != K_ADDRESS) die("a tree without a name"); break;
	}
}

static void check_plan(uint8_t *base, uint32_t size)
{
	const struct header *head = (const void *)base;
	if (size < sizeof *head || head->magic != PLAN_MAGIC || head->version != PLAN_VERSION) die("it is none");
	if (head->size != size || base[size - 1] != 0) die("it is cut off");
	if (head->nsteps > 65536 || head->nslots > 65536 || head->nrelocs > 262144) die("too much in it");
	if ((head->steps | head->slots) % 8 || head->relocs % 4) die("it is out of line");
	check_range(head->steps, (uint64_t)head->nsteps * sizeof(struct step), size, "steps outside of it");
	check_range(head->slots, (uint64_t)head->nslots * 8, size, "slots outside of it");
	check_range(head->relocs, (uint64_t)head->nrelocs * sizeof(struct reloc), size, "relocations outside of it");
	check_text(head->prefix, size, 1);
	const struct step *steps = (const void *)(base + head->steps);
	for (uint32_t i = 0; i < head->nsteps; i++) check_step(&steps[i], head);
	/* What is written to later lies between the tables that were just checked. */
	uint64_t slots_end = head->slots + (uint64_t)head->nslots * 8;
	if (head->steps < sizeof *head || head->slots < head->steps + (uint64_t)head->nsteps * sizeof(struct step)
	    || head->relocs < slots_end) die("its tables are out of order");
	uint64_t data = slots_end, limit = head->relocs;
	const struct reloc *relocs = (const void *)(base + head->relocs);
	for (uint32_t i = 0; i < head->nrelocs; i++) {
		if (relocs[i].at < data || relocs[i].at + 8ull > limit || relocs[i].target >= size) die("a pointer out of it");
		uint64_t address = (uint64_t)(uintptr_t)(base + relocs[i].target);
		memcpy(base + relocs[i].at, &address, 8);
	}
	for (uint32_t i = 0; i < head->nsteps; i++) {
		const struct step *step = &steps[i];
		if ((step->op == OP_STORE || step->op == OP_LOAD || step->op == OP_FORMAT) && step->arg[0] < data)
			die("memory inside its tables");
		if (step->op == OP_STORE && step->arg[0] + step->nr > limit) die("memory inside its tables");
		if (step->op == OP_FORMAT) {
			if (step->arg[0] + step->arg[1] > limit) die("memory inside its tables");
			const struct part *parts = (const void *)(base + step->arg[2]);
			for (uint64_t n = 0; n < step->arg[3]; n++) {
				if (parts[n].kind == PART_TEXT) check_text(parts[n].value, size, 1);
				else if (parts[n].kind < K_SLOT || parts[n].kind > K_SLOT_HIGH || parts[n].value >= head->nslots)
					die("a bad part of a format");
			}
		}
	}
	plan.base = base;
	plan.head = head;
	plan.steps = steps;
	plan.slots = (int64_t *)(void *)(base + head->slots);
}

/* ---- running it ---- */

static int tolerated(const struct step *step, long result)
{
	for (unsigned i = 0; i < step->ntolerated; i++)
		if (result == -(long)step->tolerated[i]) return 1;
	return 0;
}

static void wait_a_millisecond(void)
{
	struct timespec time = { 0, 1000000 };
	SYS(__NR_nanosleep, &time, 0, 0, 0);
}

static uint32_t run_call(const struct step *step, uint32_t index)
{
	long result;
	unsigned left = step->retries;
	if (plan.head->fault_step == (int32_t)index) {
		if (step->result != NONE) plan.slots[step->result] = -plan.head->fault_errno;
		return fail(step, index + 1, plan.head->fault_errno);
	}
	for (;;) {
		result = sys6(step->nr, value_of(step, 0), value_of(step, 1), value_of(step, 2), value_of(step, 3),
			      value_of(step, 4), value_of(step, 5));
		if (result == -EINTR && step->nr != __NR_close) continue;
		if ((result != -EBUSY && result != -EAGAIN && result != -ENOTEMPTY) || left == 0) break;
		left--;
		wait_a_millisecond();
	}
	if (step->result != NONE) plan.slots[step->result] = result;
	if (result >= 0 || result < -4095) return index + 1;
	if (tolerated(step, result)) return step->jump != NONE ? step->jump : index + 1;
	return fail(step, index + 1, (int)-result);
}

static int holds(uint32_t compare, int64_t a, int64_t b)
{
	switch (compare) {
	case C_EQUAL: return a == b;
	case C_UNEQUAL: return a != b;
	case C_LESS: return a < b;
	default: return a > b;
	}
}

/* "/proc/" PID "/ns": the capacity was reckoned by the encoder, and is held to here. */
static void run_format(const struct step *step)
{
	char *to = (char *)plan.base + step->arg[0];
	uint64_t left = step->arg[1];
	const struct part *parts = (const void *)(plan.base + step->arg[2]);
	struct step one = { .arg = { 0 } };
	for (uint64_t n = 0; n < step->arg[3]; n++) {
		report.length = 0;
		if (parts[n].kind == PART_TEXT) put_text(at(parts[n].value));
		else {
			one.kind[0] = (uint8_t)parts[n].kind;
			one.arg[0] = parts[n].value;
			put_signed(value_of(&one, 0));
		}
		for (uint32_t i = 0; i < report.length && left > 1; i++, left--) *to++ = report.text[i];
	}
	if (left > 0) *to = 0;
}

/* The child's word: the socket closed by execve is a good start; else a report, which is passed on. */
static uint32_t run_await(const struct step *step, uint32_t index)
{
	long got;
	do got = SYS(__NR_read, value_of(step, 0), &report, sizeof report, 0); while (got == -EINTR);
	if (got == 0) return index + 1;
	if (got < 8) return fail(step, index + 1, got < 0 ? (int)-got : EIO);
	if (report.length > (uint64_t)got - 8) report.length = (uint32_t)got - 8;
	write_all(2, report.text, report.length);
	if (plan.failure_jump == NONE) leave(report.code);
	uint32_t to = plan.failure_jump;
	plan.slots[plan.failure_code] = report.code;
	plan.failure_jump = NONE;
	return to;
}

static void take_signals(void)
{
	uint64_t all = ~0ull;
	struct sigaction standard = { 0, 0, 0, 0 };
	for (int signal = 1; signal <= 64; signal++) SYS(__NR_rt_sigaction, signal, &standard, 0, 8);
	SYS(__NR_rt_sigprocmask, 2, &all, 0, 8);
}

static void give_signals(void)
{
	uint64_t none = 0;
	SYS(__NR_rt_sigprocmask, 2, &none, 0, 8);
}

static uint32_t run_step(const struct step *step, uint32_t index)
{
	switch (step->op) {
	case OP_CALL: return run_call(step, index);
	case OP_JUMP: return step->jump;
	case OP_BRANCH: return holds(step->nr, value_of(step, 0), value_of(step, 1)) ? step->jump : index + 1;
	case OP_SET: plan.slots[step->result] = value_of(step, 0); break;
	case OP_STORE: { int64_t value = value_of(step, 1); memcpy(plan.base + step->arg[0], &value, step->nr); break; }
	case OP_LOAD: { int32_t value; memcpy(&value, plan.base + step->arg[0], 4); plan.slots[step->result] = value; break; }
	case OP_FORMAT: run_format(step); break;
	case OP_ON_FAILURE: plan.failure_jump = step->jump; plan.failure_code = step->result; break;
	case OP_REPORT_TO: plan.report_to = (int)value_of(step, 0); break;
	case OP_AWAIT: return run_await(step, index);
	case OP_FAIL: return fail(step, index + 1, (int)value_of(step, 0));
	case OP_TAKE_SIGNALS: take_signals(); break;
	case OP_GIVE_SIGNALS: give_signals(); break;
	case OP_SUPERVISE:
		plan.slots[step->result] = supervise((int)value_of(step, 0), (int)value_of(step, 1),
						     (int)value_of(step, 2), (int)value_of(step, 3));
		break;
	case OP_REMOVE: {
		int number = remove_tree((int)value_of(step, 0), at((uint32_t)step->arg[1]));
		if (number) return fail(step, index + 1, number);
		break;
	}
	case OP_EXIT: leave((int)value_of(step, 0));
	}
	return index + 1;
}

static void run_plan(void)
{
	plan.failure_jump = NONE;
	plan.report_to = -1;
	for (uint32_t index = 0; index < plan.head->nsteps;) index = run_step(&plan.steps[index], index);
	die("it has no end");
}

#ifndef FUZZ
static int number_in(const char *text)
{
	int value = 0;
	for (; *text >= '0' && *text <= '9' && value < 100000; text++) value = value * 10 + *text - '0';
	return value;
}

__attribute__((noreturn, used)) void start(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	if (argc < 2) die("no descriptor was named");
	int fd = number_in(argv[1]);
	long size = SYS(__NR_lseek, fd, 0, 2, 0);
	if (size < (long)sizeof(struct header) || size > 64 << 20) die("its size");
	long base = sys6(__NR_mmap, 0, size, 3, 2, fd, 0); /* PROT_READ|PROT_WRITE, MAP_PRIVATE */
	if (base < 0 && base > -4096) die("it cannot be mapped");
	SYS(__NR_close, fd, 0, 0, 0);
	check_plan((uint8_t *)base, (uint32_t)size);
	run_plan();
	leave(125);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp, %ebp\nmov %rsp, %rdi\nand $-16, %rsp\ncall start\n");
#else
__asm__(".globl _start\n_start: mov x29, #0\nmov x0, sp\nb start\n");
#endif
#endif
