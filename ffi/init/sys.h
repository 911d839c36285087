/* System calls without libc, and the few constants that are needed. Sources: the kernel's uapi headers. */
#include <stddef.h>

/* As in arch/x64.ts and arch/arm64.ts: no kernel headers are needed to build. */
#ifdef __aarch64__
#define __NR_write 64
#define __NR_read 63
#define __NR_ppoll 73
#define __NR_exit_group 94
#define __NR_lseek 62
#define __NR_mmap 222
#define __NR_close 57
#define __NR_nanosleep 101
#define __NR_rt_sigaction 134
#define __NR_rt_sigprocmask 135
#define __NR_openat 56
#define __NR_pidfd_send_signal 424
#define __NR_kill 129
#define __NR_wait4 260
#define __NR_ioctl 29
#define __NR_getpid 172
#define __NR_signalfd4 74
#define __NR_fcntl 25
#define __NR_rt_sigtimedwait 137
#define __NR_openat2 437
#define __NR_renameat2 276
#define __NR_unlinkat 35
#define __NR_getdents64 61
#else
#define __NR_write 1
#define __NR_read 0
#define __NR_ppoll 271
#define __NR_exit_group 231
#define __NR_lseek 8
#define __NR_mmap 9
#define __NR_close 3
#define __NR_nanosleep 35
#define __NR_rt_sigaction 13
#define __NR_rt_sigprocmask 14
#define __NR_openat 257
#define __NR_pidfd_send_signal 424
#define __NR_kill 62
#define __NR_wait4 61
#define __NR_ioctl 16
#define __NR_getpid 39
#define __NR_signalfd4 289
#define __NR_fcntl 72
#define __NR_rt_sigtimedwait 128
#define __NR_openat2 437
#define __NR_renameat2 316
#define __NR_unlinkat 263
#define __NR_getdents64 217
#endif

#ifdef FUZZ
long fuzz_syscall(long nr, long a, long b, long c, long d, long e, long f);
#define sys6 fuzz_syscall
#elif defined(__x86_64__)
static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
#endif
#define SYS(nr, a, b, c, d) sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

#define EPERM 1
#define ENOENT 2
#define ESRCH 3
#define EINTR 4
#define EIO 5
#define EAGAIN 11
#define EACCES 13
#define EBUSY 16
#define EEXIST 17
#define EISDIR 21
#define ENOTEMPTY 39

#define SIGHUP 1
#define SIGKILL 9
#define SIGCHLD 17
#define SIGCONT 18
#define SIGSTOP 19
#define SIGTSTP 20
#define SIGTTIN 21
#define SIGTTOU 22
#define SIGURG 23
#define SIGWINCH 28

#define AT_FDCWD (-100)
#define AT_REMOVEDIR 0x200
#define O_CLOEXEC 02000000
#define O_NONBLOCK 04000
#ifdef __aarch64__
#define O_DIRECTORY 040000
#define O_NOFOLLOW 0100000
#else
#define O_DIRECTORY 0200000
#define O_NOFOLLOW 0400000
#endif
#define F_GETFL 3
#define F_SETFL 4
#define RESOLVE_NO_XDEV 1
#define RESOLVE_NO_SYMLINKS 4
#define RENAME_NOREPLACE 1
#define WNOHANG 1
#define P_ALL 0
#define TCGETS 0x5401
#define TCSETS 0x5402
#define TIOCGWINSZ 0x5413
#define TIOCSWINSZ 0x5414
#define POLLIN 1
#define POLLOUT 4
#define POLLERR 8
#define POLLHUP 16

struct pollfd { int fd; short events, revents; };
struct timespec { long tv_sec, tv_nsec; };
struct winsize { uint16_t row, col, x, y; };
struct termios { uint32_t iflag, oflag, cflag, lflag; uint8_t line, cc[19]; }; /* asm-generic/termbits.h */
struct open_how { uint64_t flags, mode, resolve; };
struct sigaction { uint64_t handler, flags, restorer, mask; }; /* the kernel's; arm64 has no restorer, and zeros do */
