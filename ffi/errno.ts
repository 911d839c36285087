/** Error numbers of Linux, by name; the same on x64 and arm64 (include/uapi/asm-generic/errno*.h), with their words. */

const make = () =>
  ({
    EPERM: [1, "operation not permitted"],
    ENOENT: [2, "no such file or directory"],
    ESRCH: [3, "no such process"],
    EINTR: [4, "interrupted system call"],
    EIO: [5, "input/output error"],
    ENXIO: [6, "no such device or address"],
    E2BIG: [7, "argument list too long"],
    ENOEXEC: [8, "exec format error"],
    EBADF: [9, "bad file descriptor"],
    ECHILD: [10, "no child processes"],
    EAGAIN: [11, "resource temporarily unavailable"],
    ENOMEM: [12, "cannot allocate memory"],
    EACCES: [13, "permission denied"],
    EFAULT: [14, "bad address"],
    ENOTBLK: [15, "block device required"],
    EBUSY: [16, "device or resource busy"],
    EEXIST: [17, "file exists"],
    EXDEV: [18, "invalid cross-device link"],
    ENODEV: [19, "no such device"],
    ENOTDIR: [20, "not a directory"],
    EISDIR: [21, "is a directory"],
    EINVAL: [22, "invalid argument"],
    ENFILE: [23, "too many open files in system"],
    EMFILE: [24, "too many open files"],
    ENOTTY: [25, "inappropriate ioctl for device"],
    ETXTBSY: [26, "text file busy"],
    EFBIG: [27, "file too large"],
    ENOSPC: [28, "no space left on device"],
    ESPIPE: [29, "illegal seek"],
    EROFS: [30, "read-only file system"],
    EMLINK: [31, "too many links"],
    EPIPE: [32, "broken pipe"],
    EDOM: [33, "numerical argument out of domain"],
    ERANGE: [34, "numerical result out of range"],
    EDEADLK: [35, "resource deadlock avoided"],
    ENAMETOOLONG: [36, "file name too long"],
    ENOLCK: [37, "no locks available"],
    ENOSYS: [38, "function not implemented"],
    ENOTEMPTY: [39, "directory not empty"],
    ELOOP: [40, "too many levels of symbolic links"],
    ENODATA: [61, "no data available"],
    EPROTO: [71, "protocol error"],
    EBADMSG: [74, "bad message"],
    EOVERFLOW: [75, "value too large for defined data type"],
    EUSERS: [87, "too many users"],
    ENOTSOCK: [88, "socket operation on non-socket"],
    EOPNOTSUPP: [95, "operation not supported"],
    EAFNOSUPPORT: [97, "address family not supported by protocol"],
    EADDRINUSE: [98, "address already in use"],
    EADDRNOTAVAIL: [99, "cannot assign requested address"],
    ENETDOWN: [100, "network is down"],
    ENETUNREACH: [101, "network is unreachable"],
    ECONNRESET: [104, "connection reset by peer"],
    ENOBUFS: [105, "no buffer space available"],
    ETIMEDOUT: [110, "connection timed out"],
    ECONNREFUSED: [111, "connection refused"],
    EALREADY: [114, "operation already in progress"],
    ESTALE: [116, "stale file handle"],
    EDQUOT: [122, "disk quota exceeded"],
  }) as const;

export type ErrnoName = keyof ReturnType<typeof make>;

let made: Readonly<Record<ErrnoName, readonly [number, string]>> | undefined;

/** Every errno with its number and its words, in the order of the numbers. Made when it is first asked for. */
export function errnoTable(): Readonly<Record<ErrnoName, readonly [number, string]>> {
  made ??= make();
  return made;
}

/** The number of an errno given by name. */
export function errnoOf(name: ErrnoName): number {
  return errnoTable()[name][0];
}

/** Whether a call that gives -errno has failed so. What has not failed asks for no table. */
export function failedBy(result: number, name: ErrnoName): boolean {
  return result < 0 && result === -errnoOf(name);
}

/** The name of an errno number ("EPERM"), or undefined where it is not in the table. */
export function errnoName(errno: number): ErrnoName | undefined {
  const table = errnoTable();
  for (const name in table) {
    if (table[name as ErrnoName][0] === errno) return name as ErrnoName;
  }
  return undefined;
}

/** An errno in words ("operation not permitted"). */
export function errnoWords(errno: number): string {
  const name = errnoName(errno);
  return name === undefined ? `error ${errno}` : errnoTable()[name][1];
}
