/* Waiting for the container: forwarding signals, copying the terminal, reaping. */

static int to_code(int status)
{
	return (status & 0x7f) == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f);
}

/* Signals whose default is to end the process, signal(7), as bits from 0 (SIGHUP). SIGKILL is not ours to see. */
#define ENDING (1ull << 0 | 1ull << 1 | 1ull << 2 | 1ull << 9 | 1ull << 11 | 1ull << 13 | 1ull << 14 | 1ull << 15 \
		| 1ull << 23 | 1ull << 24 | 1ull << 25 | 1ull << 26 | 1ull << 28 | 1ull << 29)

static uint64_t mask_after(const char *text, const char *name)
{
	for (; *text; text++) {
		size_t n = 0;
		while (name[n] && text[n] == name[n]) n++;
		if (name[n]) continue;
		uint64_t value = 0;
		for (text += n; *text == '\t' || *text == ' '; text++) ;
		for (;; text++) {
			unsigned digit = *text >= '0' && *text <= '9' ? (unsigned)(*text - '0')
				       : *text >= 'a' && *text <= 'f' ? (unsigned)(*text - 'a' + 10) : 16;
			if (digit == 16) return value;
			value = value << 4 | digit;
		}
	}
	return ~0ull;
}

/*
 * Process 1 of a PID namespace does not die of a signal it has no handler for: the kernel drops it. A user who sends
 * SIGTERM or presses ctrl-c means the default all the same, so that is found out from /proc and done by SIGKILL.
 */
static int would_be_dropped(int pid, int signal)
{
	static char text[4096];
	if (!(ENDING >> (signal - 1) & 1)) return 0;
	report.length = 0;
	put_text("/proc/");
	put_signed(pid);
	put_text("/status");
	report.text[report.length] = 0;
	long fd = SYS(__NR_openat, AT_FDCWD, report.text, O_CLOEXEC, 0);
	if (fd < 0) return 0;
	long got = SYS(__NR_read, fd, text, sizeof text - 1, 0);
	SYS(__NR_close, fd, 0, 0, 0);
	if (got <= 0) return 0;
	text[got] = 0;
	uint64_t cared_for = mask_after(text, "\nSigBlk:") | mask_after(text, "\nSigIgn:") | mask_after(text, "\nSigCgt:");
	return !(cared_for >> (signal - 1) & 1);
}

static void send_signal(int pid, int pidfd, int signal)
{
	if (pidfd >= 0) SYS(__NR_pidfd_send_signal, pidfd, signal, 0, 0);
	else if (pid > 1) SYS(__NR_kill, pid, signal, 0, 0);
}

struct watch { int pid, pidfd, terminal, ended, code, taken; };

static void reap(struct watch *watch)
{
	for (;;) {
		int status = 0;
		long pid = SYS(__NR_wait4, -1, &status, WNOHANG, 0);
		if (pid <= 0) return;
		if (pid != watch->pid) continue;
		watch->ended = 1;
		watch->code = to_code(status);
		if (watch->taken && watch->code == 128 + SIGKILL) watch->code = 128 + watch->taken;
	}
}

static void copy_size(int terminal)
{
	struct winsize size;
	if (SYS(__NR_ioctl, 0, TIOCGWINSZ, &size, 0) >= 0) SYS(__NR_ioctl, terminal, TIOCSWINSZ, &size, 0);
}

static void on_signal(struct watch *watch, int signal)
{
	switch (signal) {
	case SIGCHLD: reap(watch); return;
	case SIGURG: case SIGTTIN: case SIGTTOU: return;
	case SIGWINCH: if (watch->terminal >= 0) { copy_size(watch->terminal); return; } break;
	case SIGTSTP: /* the shell's job control stops us; the container goes on */
		SYS(__NR_kill, SYS(__NR_getpid, 0, 0, 0, 0), SIGSTOP, 0, 0);
		return;
	}
	if (watch->ended) return;
	int dropped = watch->pidfd >= 0 && would_be_dropped(watch->pid, signal);
	send_signal(watch->pid, watch->pidfd, signal);
	if (dropped) {
		watch->taken = signal;
		send_signal(watch->pid, watch->pidfd, SIGKILL);
	}
}

static int make_raw(struct termios *before)
{
	if (SYS(__NR_ioctl, 0, TCGETS, before, 0) < 0) return 0;
	struct termios raw = *before; /* cfmakeraw(3) */
	raw.iflag &= ~(uint32_t)(01 | 02 | 010 | 040 | 0100 | 0200 | 0400 | 02000);
	raw.oflag &= ~(uint32_t)01;
	raw.lflag &= ~(uint32_t)(010 | 0100 | 02 | 01 | 0100000);
	raw.cflag = (raw.cflag & ~(uint32_t)(060 | 0400)) | 060;
	raw.cc[6] = 1; /* VMIN */
	raw.cc[5] = 0; /* VTIME */
	return SYS(__NR_ioctl, 0, TCSETS, &raw, 0) >= 0;
}

static char from_terminal[16384], to_terminal[4096];

/* What the container has written; 0 when there will be no more. A reader of ours that is gone changes nothing. */
static int copy_out(int terminal)
{
	long got = SYS(__NR_read, terminal, from_terminal, sizeof from_terminal, 0);
	if (got == -EAGAIN || got == -EINTR) return 1;
	if (got <= 0) return 0;
	write_all(1, from_terminal, (size_t)got);
	return 1;
}

static void watch_terminal(struct watch *watch, int interactive)
{
	uint64_t all = ~0ull;
	struct { uint32_t number; uint8_t rest[124]; } info; /* signalfd_siginfo */
	int signals = (int)SYS(__NR_signalfd4, -1, &all, 8, O_CLOEXEC | O_NONBLOCK);
	int reading = interactive, hung_up = 0;
	long begin = 0, end = 0;
	SYS(__NR_fcntl, watch->terminal, F_SETFL, SYS(__NR_fcntl, watch->terminal, F_GETFL, 0, 0) | O_NONBLOCK, 0);
	copy_size(watch->terminal);
	reap(watch); /* it may have ended before signals were looked at */
	while (!watch->ended) {
		struct pollfd fds[3] = {
			{ signals, POLLIN, 0 },
			{ reading && begin == end ? 0 : -1, POLLIN, 0 },
			{ hung_up ? -1 : watch->terminal, (short)(POLLIN | (begin < end ? POLLOUT : 0)), 0 },
		};
		if (sys6(__NR_ppoll, (long)fds, 3, 0, 0, 8, 0) < 0) continue;
		while (fds[0].revents && SYS(__NR_read, signals, &info, sizeof info, 0) == sizeof info)
			on_signal(watch, (int)info.number);
		if (fds[2].revents & (POLLIN | POLLHUP | POLLERR) && !copy_out(watch->terminal)) hung_up = 1;
		if (fds[1].revents) {
			long got = SYS(__NR_read, 0, to_terminal, sizeof to_terminal, 0);
			if (got > 0) { begin = 0; end = got; }
			else if (got != -EAGAIN && got != -EINTR) reading = 0;
		}
		if (begin < end) {
			long wrote = SYS(__NR_write, watch->terminal, to_terminal + begin, end - begin, 0);
			if (wrote > 0) begin += wrote;
			else if (wrote != -EAGAIN && wrote != -EINTR) begin = end = 0;
		}
	}
	for (;;) { /* what is left in the terminal; another process that still writes gets no more than its moment */
		struct pollfd one = { watch->terminal, POLLIN, 0 };
		struct timespec moment = { 0, 100000000 };
		if (hung_up || sys6(__NR_ppoll, (long)&one, 1, (long)&moment, 0, 8, 0) <= 0 || !(one.revents & POLLIN)
		    || !copy_out(watch->terminal)) break;
	}
	SYS(__NR_close, signals, 0, 0, 0);
}

static int supervise(int pid, int pidfd, int terminal, int interactive)
{
	struct watch watch = { pid, pidfd, terminal, 0, 0, 0 };
	if (terminal >= 0) {
		struct termios before;
		int raw = interactive && make_raw(&before);
		watch_terminal(&watch, interactive);
		if (raw) SYS(__NR_ioctl, 0, TCSETS, &before, 0);
		return watch.code;
	}
	uint64_t all = ~0ull;
	reap(&watch);
	while (!watch.ended) {
		long signal = SYS(__NR_rt_sigtimedwait, &all, 0, 0, 8);
		if (signal > 0) on_signal(&watch, (int)signal);
	}
	return watch.code;
}
