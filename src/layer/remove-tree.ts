/**
 * Removing a tree by descriptors: no symlink is followed, no mount crossed, and neither stack nor descriptors grow with
 * its depth. A directory inside a directory is moved up beside it, so that there are only ever two levels to look at.
 * init's C does the same at a container's end.
 */
import { AT, O, RENAME, RESOLVE, S } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError, tolerate } from "../../ffi/direct.ts";
import { failedBy } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { struct } from "../../ffi/sys.ts";

type Name = string | Uint8Array;

let moved = 0;

/** Every name in a directory, as bytes with a NUL: they need not be text. */
export function* names(fd: number): Generator<Uint8Array> {
  const entries = alloc(32_768);
  const view = new DataView(entries.buffer);
  direct.lseek(fd, 0, 0);
  for (;;) {
    // A directory that somebody else has removed meanwhile has nothing in it any more.
    const got = tolerate(["ENOENT"], "getdents64", fd, entries, entries.byteLength);
    if (got <= 0) return;
    for (let at = 0; at < got; at += view.getUint16(at + 16, true)) {
      const start = at + 19;
      let end = start;
      while (entries[end] !== 0) end++;
      const isDot =
        entries[start] === 0x2e && (end - start === 1 || (end - start === 2 && entries[start + 1] === 0x2e));
      if (isDot) continue;
      const name = alloc(end - start + 1);
      name.set(entries.subarray(start, end));
      yield name;
    }
  }
}

function unlink(directory: number, name: Name): number {
  const result = attempt("unlinkat", directory, name, 0);
  return failedBy(result, "EISDIR") ? attempt("unlinkat", directory, name, AT.AT_REMOVEDIR) : result;
}

function openDirectory(directory: number, name: Name): number {
  const how = struct<number>("open_how", {
    flags: O.O_RDONLY | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC,
    resolve: RESOLVE.RESOLVE_NO_XDEV | RESOLVE.RESOLVE_NO_SYMLINKS,
  });
  return attempt("openat2", directory, name, how, 24);
}

function moveUp(from: number, name: Name, top: number): number {
  for (;;) {
    const result = attempt("renameat2", from, name, top, `.ocibox-${moved++}`, RENAME.RENAME_NOREPLACE);
    if (!failedBy(result, "EEXIST")) return result;
  }
}

/** One look at a directory. @returns how many names went, or the last -errno where none could */
function sweep(directory: number, onFull: (name: Name) => number): number {
  let gone = 0;
  let last = 0;
  for (const name of names(directory)) {
    let result = unlink(directory, name);
    if (failedBy(result, "ENOTEMPTY")) result = onFull(name);
    if (result >= 0) gone++;
    else last = result;
  }
  return gone > 0 ? gone : last;
}

function emptyOne(top: number, name: Name): number {
  const fd = openDirectory(top, name);
  if (fd < 0) return fd;
  using inner = new OwnedFd(fd);
  const result = sweep(inner.fd, (below) => moveUp(inner.fd, below, top));
  const removed = attempt("unlinkat", top, name, AT.AT_REMOVEDIR);
  return removed >= 0 ? 0 : result;
}

/**
 * Removes what has a name in a directory, whatever it is; nothing there is no error.
 * @throws SyscallError for what could not be removed
 */
export function removeTree(directory: number, name: Name): void {
  const result = attempt("unlinkat", directory, name, 0);
  if (result >= 0 || failedBy(result, "ENOENT")) return;
  if (!failedBy(result, "EISDIR")) throw new SyscallError("unlinkat", [directory, name, 0], -result);
  const fd = openDirectory(directory, name);
  if (failedBy(fd, "ENOENT")) return;
  if (fd < 0) throw new SyscallError("openat2", [directory, name, null, 24], -fd);
  {
    using top = new OwnedFd(fd);
    while (sweep(top.fd, (inner) => emptyOne(top.fd, inner)) > 0);
  }
  const removed = attempt("unlinkat", directory, name, AT.AT_REMOVEDIR);
  if (removed < 0 && !failedBy(removed, "ENOENT"))
    throw new SyscallError("unlinkat", [directory, name, AT.AT_REMOVEDIR], -removed);
}

/** Bytes that a tree takes on the disk; a file with several names counts once. @param fd of a directory */
export function sizeOfTree(fd: number): number {
  const seen = new Set<number>();
  const stat = alloc(256);
  const walk = (directory: number): number => {
    let total = 0;
    for (const name of names(directory)) {
      if (attempt("statx", directory, name, AT.AT_SYMLINK_NOFOLLOW, 0x7ff, stat) < 0) continue;
      const inode = readField("statx", stat, "stx_ino");
      const several = readField("statx", stat, "stx_nlink") > 1;
      const isDirectory = (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR;
      if (several && !isDirectory) {
        if (seen.has(inode)) continue;
        seen.add(inode);
      }
      total += readField("statx", stat, "stx_blocks") * 512;
      if (!isDirectory) continue;
      const below = openDirectory(directory, name);
      if (below < 0) continue;
      using opened = new OwnedFd(below);
      total += walk(opened.fd);
    }
    return total;
  };
  return walk(fd);
}
