/** Open-file-description locks, fcntl(2): held by a descriptor, inherited with it, freed by the kernel with its last copy. */
import { AT_FDCWD, F, F_RDLCK, F_WRLCK, O } from "./constants.ts";
import { attempt, SyscallError } from "./direct.ts";
import { errnoOf } from "./errno.ts";
import { OwnedFd } from "./fd.ts";
import { alloc, readField } from "./structs.ts";
import { struct } from "./sys.ts";

const AT_EMPTY_PATH = 0x1000;
const STATX_NLINK = 4;

/**
 * Takes a lock if nobody stands in the way.
 * @throws SyscallError for anything but somebody else's lock
 */
export function tryLock(fd: number, mode: "shared" | "exclusive"): boolean {
  const lock = struct<number>("flock", { l_type: mode === "shared" ? F_RDLCK : F_WRLCK });
  const result = attempt("fcntl", fd, F.F_OFD_SETLK, lock);
  if (result >= 0) return true;
  if (result === -errnoOf("EAGAIN") || result === -errnoOf("EACCES")) return false;
  throw new SyscallError("fcntl", [fd, F.F_OFD_SETLK, lock], -result);
}

/** Waits until nobody has an exclusive lock, and takes a shared one. @throws SyscallError */
export function waitForLock(fd: number): void {
  const lock = struct<number>("flock", { l_type: F_RDLCK });
  for (;;) {
    const result = attempt("fcntl", fd, F.F_OFD_SETLKW, lock);
    if (result >= 0) return;
    if (result !== -errnoOf("EINTR")) throw new SyscallError("fcntl", [fd, F.F_OFD_SETLKW, lock], -result);
  }
}

/** Whether an open file still has a name: somebody who had the lock before may have removed it. */
export function hasName(fd: number): boolean {
  const stat = alloc(256);
  if (attempt("statx", fd, "", AT_EMPTY_PATH, STATX_NLINK, stat) < 0) return false;
  return readField("statx", stat, "stx_nlink") > 0;
}

/**
 * Opens a file, made where it is not there, and locks it; undefined while somebody else has the lock. A file that was
 * removed meanwhile is not taken for the one that has the name now.
 */
export function lockFile(path: string, mode: "shared" | "exclusive"): OwnedFd | undefined {
  for (;;) {
    const flags = O.O_RDWR | O.O_CREAT | O.O_NOFOLLOW | O.O_CLOEXEC;
    const fd = attempt("openat", AT_FDCWD, path, flags, 0o600);
    if (fd < 0) throw new SyscallError("openat", [AT_FDCWD, path, flags, 0o600], -fd);
    const file = new OwnedFd(fd);
    if (!tryLock(fd, mode)) {
      file[Symbol.dispose]();
      return undefined;
    }
    if (hasName(fd)) return file;
    file[Symbol.dispose]();
  }
}
