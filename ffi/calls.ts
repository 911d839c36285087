/**
 * The system calls ocibox makes, as data: every argument's name (as in its man page) and kind. The types of both back
 * ends, the marshalling of arguments and the text of errors and of --explain all follow from this one table.
 */
import type { nr } from "./machine.ts";

/**
 * - `fd` a descriptor; `dirfd` the same or AT_FDCWD; `int`, `size` decimal; `mode` octal; `hex`; `dev`; `sig`
 * - `path`, `str` NUL-terminated text or null; `strv` an array of them, ended by a null pointer
 * - `struct` a structure or null; `in` bytes read by the kernel; `out` memory written by it; `any` whatever ioctl takes
 * - `O`, `MS`, … flags of the table of that name in constants.ts; `FSCONFIG`, `PR`, … one constant of it
 */
export type Kind =
  | "fd"
  | "dirfd"
  | "int"
  | "size"
  | "mode"
  | "hex"
  | "dev"
  | "sig"
  | "path"
  | "str"
  | "strv"
  | "struct"
  | "in"
  | "out"
  | "any"
  | FlagKind;

export type FlagKind =
  | "O"
  | "AT"
  | "MS"
  | "MNT"
  | "FSOPEN"
  | "FSMOUNT"
  | "MOUNT_ATTR"
  | "FSCONFIG"
  | "OPEN_TREE"
  | "MOVE_MOUNT"
  | "CLONE"
  | "MFD"
  | "CLOSE_RANGE"
  | "RENAME"
  | "PR"
  | "SECCOMP"
  | "SECCOMP_FILTER_FLAG"
  | "RLIMIT"
  | "AF"
  | "SOCK"
  | "IOCTL"
  | "F";

const table = () =>
  ({
    // descriptors and files
    read: [
      ["fd", "fd"],
      ["buf", "out"],
      ["count", "size"],
    ],
    write: [
      ["fd", "fd"],
      ["buf", "in"],
      ["count", "size"],
    ],
    pread64: [
      ["fd", "fd"],
      ["buf", "out"],
      ["count", "size"],
      ["offset", "int"],
    ],
    pwrite64: [
      ["fd", "fd"],
      ["buf", "in"],
      ["count", "size"],
      ["offset", "int"],
    ],
    close: [["fd", "fd"]],
    lseek: [
      ["fd", "fd"],
      ["offset", "int"],
      ["whence", "int"],
    ],
    pipe2: [
      ["pipefd", "out"],
      ["flags", "O"],
    ],
    dup: [["oldfd", "fd"]],
    dup3: [
      ["oldfd", "fd"],
      ["newfd", "fd"],
      ["flags", "O"],
    ],
    fcntl: [
      ["fd", "fd"],
      ["cmd", "F"],
      ["arg", "any"],
    ],
    ioctl: [
      ["fd", "fd"],
      ["request", "IOCTL"],
      ["argp", "any"],
    ],
    fsync: [["fd", "fd"]],
    fdatasync: [["fd", "fd"]],
    syncfs: [["fd", "fd"]],
    sync_file_range: [
      ["fd", "fd"],
      ["offset", "size"],
      ["nbytes", "size"],
      ["flags", "hex"],
    ],
    ftruncate: [
      ["fd", "fd"],
      ["length", "int"],
    ],
    fallocate: [
      ["fd", "fd"],
      ["mode", "hex"],
      ["offset", "int"],
      ["len", "int"],
    ],
    copy_file_range: [
      ["fd_in", "fd"],
      ["off_in", "any"],
      ["fd_out", "fd"],
      ["off_out", "any"],
      ["len", "size"],
      ["flags", "hex"],
    ],
    sendfile: [
      ["out_fd", "fd"],
      ["in_fd", "fd"],
      ["offset", "any"],
      ["count", "size"],
    ],
    openat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["flags", "O"],
      ["mode", "mode"],
    ],
    openat2: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["how", "struct"],
      ["size", "size"],
    ],
    getdents64: [
      ["fd", "fd"],
      ["dirp", "out"],
      ["count", "size"],
    ],
    statx: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["flags", "AT"],
      ["mask", "hex"],
      ["statxbuf", "out"],
    ],
    statfs: [
      ["path", "path"],
      ["buf", "out"],
    ],
    fstatfs: [
      ["fd", "fd"],
      ["buf", "out"],
    ],
    faccessat2: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["mode", "int"],
      ["flags", "AT"],
    ],
    readlinkat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["buf", "out"],
      ["bufsiz", "size"],
    ],
    mkdirat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["mode", "mode"],
    ],
    mknodat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["mode", "mode"],
      ["dev", "dev"],
    ],
    unlinkat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["flags", "AT"],
    ],
    symlinkat: [
      ["target", "str"],
      ["newdirfd", "dirfd"],
      ["linkpath", "path"],
    ],
    linkat: [
      ["olddirfd", "dirfd"],
      ["oldpath", "path"],
      ["newdirfd", "dirfd"],
      ["newpath", "path"],
      ["flags", "AT"],
    ],
    renameat2: [
      ["olddirfd", "dirfd"],
      ["oldpath", "path"],
      ["newdirfd", "dirfd"],
      ["newpath", "path"],
      ["flags", "RENAME"],
    ],
    fchmod: [
      ["fd", "fd"],
      ["mode", "mode"],
    ],
    fchmodat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["mode", "mode"],
    ],
    fchown: [
      ["fd", "fd"],
      ["owner", "int"],
      ["group", "int"],
    ],
    fchownat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["owner", "int"],
      ["group", "int"],
      ["flags", "AT"],
    ],
    utimensat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["times", "any"],
      ["flags", "AT"],
    ],
    lsetxattr: [
      ["path", "path"],
      ["name", "str"],
      ["value", "in"],
      ["size", "size"],
      ["flags", "hex"],
    ],
    fsetxattr: [
      ["fd", "fd"],
      ["name", "str"],
      ["value", "in"],
      ["size", "size"],
      ["flags", "hex"],
    ],
    fgetxattr: [
      ["fd", "fd"],
      ["name", "str"],
      ["value", "out"],
      ["size", "size"],
    ],
    lgetxattr: [
      ["path", "path"],
      ["name", "str"],
      ["value", "out"],
      ["size", "size"],
    ],
    lremovexattr: [
      ["path", "path"],
      ["name", "str"],
    ],
    flistxattr: [
      ["fd", "fd"],
      ["list", "out"],
      ["size", "size"],
    ],
    llistxattr: [
      ["path", "path"],
      ["list", "out"],
      ["size", "size"],
    ],
    memfd_create: [
      ["name", "str"],
      ["flags", "MFD"],
    ],
    close_range: [
      ["first", "fd"],
      ["last", "int"],
      ["flags", "CLOSE_RANGE"],
    ],
    chdir: [["path", "path"]],
    fchdir: [["fd", "fd"]],
    umask: [["mask", "mode"]],
    // mounts
    mount: [
      ["source", "path"],
      ["target", "path"],
      ["filesystemtype", "str"],
      ["mountflags", "MS"],
      ["data", "str"],
    ],
    umount2: [
      ["target", "path"],
      ["flags", "MNT"],
    ],
    pivot_root: [
      ["new_root", "path"],
      ["put_old", "path"],
    ],
    chroot: [["path", "path"]],
    open_tree: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["flags", "OPEN_TREE"],
    ],
    move_mount: [
      ["from_dirfd", "dirfd"],
      ["from_pathname", "path"],
      ["to_dirfd", "dirfd"],
      ["to_pathname", "path"],
      ["flags", "MOVE_MOUNT"],
    ],
    fsopen: [
      ["fsname", "str"],
      ["flags", "FSOPEN"],
    ],
    fsconfig: [
      ["fd", "fd"],
      ["cmd", "FSCONFIG"],
      ["key", "str"],
      ["value", "str"],
      ["aux", "int"],
    ],
    fsmount: [
      ["fd", "fd"],
      ["flags", "FSMOUNT"],
      ["attr_flags", "MOUNT_ATTR"],
    ],
    mount_setattr: [
      ["dirfd", "dirfd"],
      ["path", "path"],
      ["flags", "AT"],
      ["attr", "struct"],
      ["size", "size"],
    ],
    // processes, identity, limits
    clone: [
      ["flags", "hex"],
      ["stack", "hex"],
      ["parent_tid", "out"],
      ["child_tid", "hex"],
      ["tls", "hex"],
    ],
    clone3: [
      ["cl_args", "struct"],
      ["size", "size"],
    ],
    unshare: [["flags", "CLONE"]],
    setns: [
      ["fd", "fd"],
      ["nstype", "CLONE"],
    ],
    execve: [
      ["pathname", "path"],
      ["argv", "strv"],
      ["envp", "strv"],
    ],
    execveat: [
      ["dirfd", "dirfd"],
      ["pathname", "path"],
      ["argv", "strv"],
      ["envp", "strv"],
      ["flags", "AT"],
    ],
    waitid: [
      ["idtype", "int"],
      ["id", "fd"],
      ["infop", "any"],
      ["options", "hex"],
      ["rusage", "any"],
    ],
    kill: [
      ["pid", "int"],
      ["sig", "sig"],
    ],
    pidfd_open: [
      ["pid", "int"],
      ["flags", "hex"],
    ],
    pidfd_send_signal: [
      ["pidfd", "fd"],
      ["sig", "sig"],
      ["info", "any"],
      ["flags", "hex"],
    ],
    pidfd_getfd: [
      ["pidfd", "fd"],
      ["targetfd", "fd"],
      ["flags", "hex"],
    ],
    getpid: [],
    getppid: [],
    getuid: [],
    geteuid: [],
    getgid: [],
    getegid: [],
    setsid: [],
    setpgid: [
      ["pid", "int"],
      ["pgid", "int"],
    ],
    prctl: [
      ["option", "PR"],
      ["arg2", "any"],
      ["arg3", "int"],
      ["arg4", "int"],
      ["arg5", "int"],
    ],
    seccomp: [
      ["operation", "SECCOMP"],
      ["flags", "SECCOMP_FILTER_FLAG"],
      ["args", "struct"],
    ],
    bpf: [
      ["cmd", "int"],
      ["attr", "any"],
      ["size", "size"],
    ],
    capget: [
      ["hdrp", "in"],
      ["datap", "out"],
    ],
    capset: [
      ["hdrp", "struct"],
      ["datap", "struct"],
    ],
    personality: [["persona", "hex"]],
    keyctl: [
      ["operation", "int"],
      ["arg2", "any"],
      ["arg3", "any"],
      ["arg4", "int"],
      ["arg5", "int"],
    ],
    ioprio_set: [
      ["which", "int"],
      ["who", "int"],
      ["ioprio", "hex"],
    ],
    sched_setattr: [
      ["pid", "int"],
      ["attr", "struct"],
      ["flags", "hex"],
    ],
    sched_setaffinity: [
      ["pid", "int"],
      ["cpusetsize", "size"],
      ["mask", "in"],
    ],
    set_mempolicy: [
      ["mode", "hex"],
      ["nodemask", "in"],
      ["maxnode", "size"],
    ],
    setgroups: [
      ["size", "size"],
      ["list", "in"],
    ],
    setresuid: [
      ["ruid", "int"],
      ["euid", "int"],
      ["suid", "int"],
    ],
    setresgid: [
      ["rgid", "int"],
      ["egid", "int"],
      ["sgid", "int"],
    ],
    prlimit64: [
      ["pid", "int"],
      ["resource", "RLIMIT"],
      ["new_limit", "any"],
      ["old_limit", "any"],
    ],
    sethostname: [
      ["name", "str"],
      ["len", "size"],
    ],
    setdomainname: [
      ["name", "str"],
      ["len", "size"],
    ],
    ppoll: [
      ["fds", "struct"],
      ["nfds", "size"],
      ["tmo_p", "any"],
      ["sigmask", "any"],
      ["sigsetsize", "size"],
    ],
    uname: [["buf", "out"]],
    clock_gettime: [
      ["clockid", "int"],
      ["tp", "out"],
    ],
    // sockets
    socket: [
      ["domain", "AF"],
      ["type", "SOCK"],
      ["protocol", "int"],
    ],
    connect: [
      ["sockfd", "fd"],
      ["addr", "in"],
      ["addrlen", "size"],
    ],
    bind: [
      ["sockfd", "fd"],
      ["addr", "in"],
      ["addrlen", "size"],
    ],
    setsockopt: [
      ["sockfd", "fd"],
      ["level", "int"],
      ["optname", "int"],
      ["optval", "in"],
      ["optlen", "size"],
    ],
    listen: [
      ["sockfd", "fd"],
      ["backlog", "int"],
    ],
    getsockname: [
      ["sockfd", "fd"],
      ["addr", "out"],
      ["addrlen", "out"],
    ],
    sendto: [
      ["sockfd", "fd"],
      ["buf", "in"],
      ["len", "size"],
      ["flags", "hex"],
      ["dest_addr", "any"],
      ["addrlen", "size"],
    ],
    recvfrom: [
      ["sockfd", "fd"],
      ["buf", "out"],
      ["len", "size"],
      ["flags", "hex"],
      ["src_addr", "any"],
      ["addrlen", "any"],
    ],
    socketpair: [
      ["domain", "AF"],
      ["type", "SOCK"],
      ["protocol", "int"],
      ["sv", "out"],
    ],
    sendmsg: [
      ["sockfd", "fd"],
      ["msg", "any"],
      ["flags", "hex"],
    ],
    recvmsg: [
      ["sockfd", "fd"],
      ["msg", "any"],
      ["flags", "hex"],
    ],
  }) as const satisfies Partial<Record<keyof typeof nr, readonly (readonly [name: string, kind: Kind])[]>>;

export type Calls = ReturnType<typeof table>;

export type CallName = keyof Calls;

let made: Calls | undefined;

/** A call's arguments. The table is made when something is recorded or shown: most starts do neither. */
export function argumentsOf<N extends CallName>(name: N): Calls[N] {
  made ??= table();
  return made[name];
}
