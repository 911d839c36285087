/** Reading a small file out of a container's tree, where every name may be hostile. */
import { O, RESOLVE, S } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { failedBy } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { type Struct, struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";

const STATX_TYPE_MODE_SIZE = 0x203;

function inside(flags: number): Struct<number> {
  const resolve = RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS;
  return struct<number>("open_how", { flags: flags | O.O_CLOEXEC, resolve });
}

/**
 * A place in a tree, whatever symlinks lead to it: they stay inside.
 * @returns undefined where there is none, or something else is on the way
 * @throws SyscallError
 */
export function openInRoot(root: number, path: string, flags: number): OwnedFd | undefined {
  const how = inside(flags);
  const fd = attempt("openat2", root, path.replace(/^\/+/, "") || ".", how, 24);
  if (failedBy(fd, "ENOENT") || failedBy(fd, "ENOTDIR")) return undefined;
  if (fd < 0) throw new SyscallError("openat2", [root, path, how, 24], -fd);
  return new OwnedFd(fd);
}

/**
 * The bytes of a regular file below `root`, symlinks kept inside it (openat2(2), RESOLVE_IN_ROOT); undefined where
 * there is none. A FIFO or a device is not opened for reading, and no more than `most` bytes are read.
 * @throws OciboxError INVALID for a file that is larger than `most` bytes or not a regular file
 */
export function readInRoot(root: number, path: string, most: number): Uint8Array | undefined {
  const fd = attempt("openat2", root, path, inside(O.O_RDONLY | O.O_NONBLOCK | O.O_NOCTTY), 24);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  const stat = alloc(256);
  direct.statx(file.fd, "", 0x1000, STATX_TYPE_MODE_SIZE, stat);
  const size = readField("statx", stat, "stx_size");
  if ((readField("statx", stat, "stx_mode") & S.S_IFMT) !== S.S_IFREG)
    throw new OciboxError("INVALID", `the image's /${path} is not a regular file`);
  if (size > most)
    throw new OciboxError("INVALID", `the image's /${path} has ${size} bytes, which is more than ${most}`);
  const bytes = alloc(size + 1);
  let at = 0;
  while (at < size) {
    const got = direct.read(file.fd, at === 0 ? bytes : bytes.subarray(at), size - at);
    if (got === 0) break;
    at += got;
  }
  return bytes.subarray(0, at);
}
