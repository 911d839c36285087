/** Owner, mode, times and extended attributes of one directory given to another. */
import { AT, AT_FDCWD } from "./constants.ts";
import { attempt, direct, SyscallError } from "./direct.ts";
import { errnoOf } from "./errno.ts";
import { alloc, readField } from "./structs.ts";
import { inUserNamespace } from "./user.ts";

/**
 * By which overlay is told that a directory hides what layers below have there. What begins with "trusted." is the host's
 * root's alone: in a user namespace overlay is mounted with `userxattr`. Documentation/filesystems/overlayfs.rst
 */
export function opaqueAttribute(): string {
  return inUserNamespace() ? "user.overlay.opaque" : "trusted.overlay.opaque";
}

const statMask = 0xfff;
const mostNames = 65_536;
const mostValue = 65_536;
const text = new TextDecoder("latin1");

const twoTimes = alloc(32);
const timesView = new DataView(twoTimes.buffer);

/** struct timespec twice: the access time is the modification time. utimensat(2). Valid until it is called again. */
export function timesOf({
  seconds,
  nanoseconds,
}: {
  readonly seconds: number;
  readonly nanoseconds: number;
}): Uint8Array {
  for (let at = 0; at < 32; at += 16) {
    timesView.setUint32(at, seconds >>> 0, true);
    timesView.setInt32(at + 4, Math.floor(seconds / 2 ** 32), true);
    timesView.setUint32(at + 8, nanoseconds, true);
  }
  return twoTimes;
}

/** "/proc/self/fd/N/" with a name behind it, for calls that take paths alone. @param name with a NUL */
export function pathAt(fd: number, name: Uint8Array): Uint8Array {
  const prefix = new TextEncoder().encode(`/proc/self/fd/${fd}/`);
  const path = alloc(prefix.byteLength + name.byteLength);
  path.set(prefix);
  path.set(name, prefix.byteLength);
  return path;
}

type Where = string | Uint8Array | number;

/** Names of extended attributes, each with a NUL. @returns their bytes, or -errno */
function listXattrs(where: Where, names: Uint8Array | null, size: number): number {
  return typeof where === "number"
    ? attempt("flistxattr", where, names, size)
    : attempt("llistxattr", where, names, size);
}

/** Extended attributes, but for overlay's own. The value is valid until the next. */
export function* xattrsOf(where: Where): Generator<readonly [name: string, value: Uint8Array, size: number]> {
  if (listXattrs(where, null, 0) <= 0) return;
  const names = alloc(mostNames);
  const length = listXattrs(where, names, mostNames);
  if (length <= 0) return;
  const value = alloc(mostValue);
  for (const name of text.decode(names.subarray(0, length)).split("\0")) {
    // Overlay's own say how a layer is to be merged, and belong to that layer.
    if (name === "" || name.startsWith("trusted.overlay.") || name.startsWith("user.overlay.")) continue;
    const size =
      typeof where === "number"
        ? attempt("fgetxattr", where, name, value, mostValue)
        : attempt("lgetxattr", where, name, value, mostValue);
    if (size >= 0) yield [name, value, size];
  }
}

/**
 * Extended attributes, but for overlay's own.
 * @param from a descriptor, or a path that is no symlink's target: they are not followed; `to` is of the same kind
 */
export function copyXattrs<W extends Where>(from: W, to: W): void {
  if (listXattrs(from, null, 0) <= 0) return;
  for (const [name, value, size] of xattrsOf(from)) {
    const set =
      typeof to === "number"
        ? attempt("fsetxattr", to, name, value, size, 0)
        : attempt("lsetxattr", to, name, value, size, 0);
    if (set < 0 && set !== -errnoOf("EOPNOTSUPP"))
      throw new SyscallError("lsetxattr", [to, name, value, size, 0], -set);
  }
}

/** Takes away all extended attributes, but for overlay's own. */
export function clearXattrs(path: string): void {
  for (const [name] of xattrsOf(path)) attempt("lremovexattr", path, name);
}

export interface Attributes {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** When it was modified. */
  readonly seconds: number;
  readonly nanoseconds: number;
  /** Name, a byte a character → value. */
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
}

/** @param where a descriptor that can be read, or a path that ends in no symlink. @throws SyscallError */
export function readAttributes(where: string | number): Attributes {
  const xattrs = new Map(Array.from(xattrsOf(where), ([name, value, size]) => [name, value.slice(0, size)]));
  return { ...readPlain(where), xattrs };
}

/** All but extended attributes. */
function readPlain(where: string | number): Omit<Attributes, "xattrs"> {
  const stat = alloc(256);
  if (typeof where === "number") direct.statx(where, "", AT.AT_EMPTY_PATH, statMask, stat);
  else direct.statx(AT_FDCWD, where, AT.AT_SYMLINK_NOFOLLOW, statMask, stat);
  const get = (field: "stx_uid" | "stx_gid" | "stx_mode" | "stx_mtime_sec" | "stx_mtime_nsec"): number =>
    readField("statx", stat, field);
  return {
    mode: get("stx_mode") & 0o7777,
    uid: get("stx_uid"),
    gid: get("stx_gid"),
    seconds: get("stx_mtime_sec"),
    nanoseconds: get("stx_mtime_nsec"),
  };
}

/**
 * Makes a directory like another one, but for what is in it.
 * @param from a path that ends in no symlink: `/proc/self/fd/N/.` for a descriptor
 * @throws SyscallError
 */
export function copyAttributes(from: string, to: string): void {
  const { uid, gid, mode, seconds, nanoseconds } = readPlain(from);
  direct.fchownat(AT_FDCWD, to, uid, gid, AT.AT_SYMLINK_NOFOLLOW);
  direct.fchmodat(AT_FDCWD, to, mode);
  copyXattrs(from, to);
  direct.utimensat(AT_FDCWD, to, timesOf({ seconds, nanoseconds }), AT.AT_SYMLINK_NOFOLLOW);
}
