/**
 * The default seccomp profile, as data: which system calls a container may make, and which more with a capability.
 * The rules are those that docker's users know; beyond them AF_ALG and AF_VSOCK sockets are denied (CVE-2026-31431),
 * and so is io_uring. Denied calls that are known fail with EPERM, unknown ones with ENOSYS, which lets programs fall
 * back. runtime-spec, config-linux.md#seccomp.
 */
import type { LinuxSeccomp, LinuxSyscall } from "../../spec/runtime.ts";
import { syscallNumbers } from "./numbers.ts";

const always = `
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_adjtime
clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod
fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_getattr file_setattr flistxattr flock fork
fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage
getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get
ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat
listen listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd
msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64
process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat
renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg
sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid
setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat
shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat
sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
utimensat utimes vfork wait4 waitid vmsplice write writev
`;

const withCapability: Readonly<Record<string, string>> = {
  CAP_SYS_ADMIN:
    "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr listmount mount mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns statmount syslog umount umount2 unshare",
  CAP_SYS_BOOT: "reboot",
  CAP_SYS_CHROOT: "chroot",
  CAP_SYS_MODULE: "delete_module finit_module init_module",
  CAP_SYS_PACCT: "acct",
  CAP_SYS_PTRACE: "kcmp pidfd_getfd process_madvise",
  CAP_SYS_RAWIO: "iopl ioperm",
  CAP_SYS_TIME: "clock_settime settimeofday stime",
  CAP_SYS_TTY_CONFIG: "vhangup",
  CAP_SYS_NICE: "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
  CAP_SYSLOG: "syslog",
  CAP_BPF: "bpf",
  CAP_PERFMON: "perf_event_open",
  CAP_DAC_READ_SEARCH: "open_by_handle_at",
};

const EPERM = 1;
const EINVAL = 22;
const ENOSYS = 38;

/** personality(2): what a program may ask for: PER_LINUX, PER_LINUX32, UNAME26 with either, and to be told. */
const personalities = [0, 8, 0x20000, 0x20008, 0xffffffff];

/** CLONE_NEW* of clone(2), which only CAP_SYS_ADMIN may use. */
const cloneNamespaces = 0x7e020000;

/** Address families below, between and above AF_ALG (38) and AF_VSOCK (40). */
const families: readonly (readonly [op: string, value: number])[] = [
  ["SCMP_CMP_LT", 38],
  ["SCMP_CMP_EQ", 39],
  ["SCMP_CMP_GT", 40],
];

function allow(names: string[], args?: LinuxSyscall["args"]): LinuxSyscall {
  return args === undefined ? { names, action: "SCMP_ACT_ALLOW" } : { names, action: "SCMP_ACT_ALLOW", args };
}

/** The profile for a bounding set. @param capabilities the container's bounding set: "CAP_CHOWN", … */
export function makeProfile(machine: "x64" | "arm64", capabilities: readonly string[]): LinuxSeccomp {
  const allowed = always.trim().split(/\s+/);
  const held = new Set(capabilities);
  for (const capability in withCapability) {
    if (held.has(capability)) allowed.push(...(withCapability[capability] ?? "").split(" "));
  }
  const admin = held.has("CAP_SYS_ADMIN");
  const conditional = ["personality", "socket", ...(admin ? [] : ["clone", "clone3"])];
  const open = new Set([...allowed, ...conditional]);
  const denied = [...syscallNumbers(machine).keys()].filter((name) => !open.has(name));
  const syscalls: LinuxSyscall[] = [allow([...new Set(allowed)])];
  for (const value of personalities) syscalls.push(allow(["personality"], [{ index: 0, value, op: "SCMP_CMP_EQ" }]));
  for (const [op, value] of families) syscalls.push(allow(["socket"], [{ index: 0, value, op }]));
  if (!admin) {
    syscalls.push(allow(["clone"], [{ index: 0, value: cloneNamespaces, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }]));
    syscalls.push({ names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS });
    syscalls.push({ names: ["clone"], action: "SCMP_ACT_ERRNO", errnoRet: EPERM });
  }
  syscalls.push({ names: ["personality"], action: "SCMP_ACT_ERRNO", errnoRet: EPERM });
  syscalls.push({ names: ["socket"], action: "SCMP_ACT_ERRNO", errnoRet: EINVAL });
  syscalls.push({ names: denied, action: "SCMP_ACT_ERRNO", errnoRet: EPERM });
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: ENOSYS,
    architectures: [machine === "x64" ? "SCMP_ARCH_X86_64" : "SCMP_ARCH_AARCH64"],
    syscalls,
  };
}
