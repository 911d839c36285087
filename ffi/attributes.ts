/** Owner, mode, times and extended attributes of one directory given to another. */
import { AT, AT_FDCWD } from "./constants.ts";
import { attempt, direct, SyscallError } from "./direct.ts";
import { errnoOf } from "./errno.ts";
import { alloc, readField } from "./structs.ts";

const statMask = 0xfff;
const mostNames = 65_536;
const mostValue = 65_536;
const text = new TextDecoder("latin1");

/** struct timespec twice: the access time is the modification time. utimensat(2) */
export function timesOf(mtime: { readonly seconds: number; readonly nanoseconds: number }): Uint8Array {
  const bytes = alloc(32);
  const view = new DataView(bytes.buffer);
  for (const at of [0, 16]) {
    view.setBigInt64(at, BigInt(mtime.seconds), true);
    view.setBigInt64(at + 8, BigInt(mtime.nanoseconds), true);
  }
  return bytes;
}

/** Extended attributes, but for overlay's own. @param from a path that is no symlink's target: they are not followed */
export function copyXattrs(from: string | Uint8Array, to: string | Uint8Array): void {
  if (attempt("llistxattr", from, null, 0) <= 0) return;
  const names = alloc(mostNames);
  const length = attempt("llistxattr", from, names, mostNames);
  if (length <= 0) return;
  const value = alloc(mostValue);
  for (const name of text.decode(names.subarray(0, length)).split("\0")) {
    // Overlay's own say how a layer is to be merged, and belong to that layer.
    if (name === "" || name.startsWith("trusted.overlay.") || name.startsWith("user.overlay.")) continue;
    const size = attempt("lgetxattr", from, name, value, mostValue);
    const set = size < 0 ? 0 : attempt("lsetxattr", to, name, value, size, 0);
    if (set < 0 && set !== -errnoOf("EOPNOTSUPP"))
      throw new SyscallError("lsetxattr", [to, name, value, size, 0], -set);
  }
}

/**
 * Makes a directory like another one, but for what is in it.
 * @param from a path that ends in no symlink: `/proc/self/fd/N/.` for a descriptor
 * @throws SyscallError
 */
export function copyAttributes(from: string, to: string): void {
  const stat = alloc(256);
  direct.statx(AT_FDCWD, from, AT.AT_SYMLINK_NOFOLLOW, statMask, stat);
  const get = (field: "stx_uid" | "stx_gid" | "stx_mode" | "stx_mtime_sec" | "stx_mtime_nsec"): number =>
    readField("statx", stat, field);
  direct.fchownat(AT_FDCWD, to, get("stx_uid"), get("stx_gid"), AT.AT_SYMLINK_NOFOLLOW);
  direct.fchmodat(AT_FDCWD, to, get("stx_mode") & 0o7777);
  copyXattrs(from, to);
  const times = timesOf({ seconds: get("stx_mtime_sec"), nanoseconds: get("stx_mtime_nsec") });
  direct.utimensat(AT_FDCWD, to, times, AT.AT_SYMLINK_NOFOLLOW);
}
