/** Small files of ocibox's own, through system calls alone: node:fs costs a millisecond at start. */
import { AT, AT_FDCWD, O } from "./constants.ts";
import { attempt, direct, tolerate } from "./direct.ts";
import { failedBy } from "./errno.ts";
import { OwnedFd } from "./fd.ts";
import { alloc } from "./structs.ts";

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Makes a directory and those above it, 0700 where they are new. */
export function makeDirectories(path: string): void {
  const made = tolerate(["EEXIST", "ENOENT"], "mkdirat", AT_FDCWD, path, 0o700);
  if (!failedBy(made, "ENOENT")) return;
  makeDirectories(path.slice(0, path.lastIndexOf("/")) || "/");
  tolerate(["EEXIST"], "mkdirat", AT_FDCWD, path, 0o700);
}

/** Writes all bytes. */
export function writeFully(fd: number, text: string): void {
  const encoded = encoder.encode(text);
  const bytes = alloc(encoded.byteLength);
  bytes.set(encoded);
  for (let at = 0; at < bytes.byteLength; ) at += direct.write(fd, bytes.subarray(at), bytes.byteLength - at);
}

/** Makes a new file; one that is there already is an error. No fsync: what it says is of no use after a crash. */
export function writeNew(path: string, text: string, mode: number): void {
  using file = new OwnedFd(
    direct.openat(AT_FDCWD, path, O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC, mode),
  );
  writeFully(file.fd, text);
}

/** Most files are shorter; a start reads several, and each page of memory takes it a microsecond. Bytes. */
const firstPiece = 4096;
const nextPieces = 1 << 16;

/**
 * What is still to be read of a file, a piece after the other until they are `most` bytes or more; undefined where a
 * cgroup or a process that a kernel's file tells of went away meanwhile.
 */
export function readRest(fd: number, most: number): Uint8Array | undefined {
  let bytes = alloc(firstPiece);
  let size = 0;
  while (size < most) {
    if (size === bytes.byteLength) {
      const longer = alloc(size < nextPieces ? nextPieces : size * 2);
      longer.set(bytes);
      bytes = longer;
    }
    const got = tolerate(["ENODEV", "ESRCH"], "read", fd, bytes.subarray(size), bytes.byteLength - size);
    if (got < 0) return undefined;
    if (got === 0) break;
    size += got;
  }
  return bytes.subarray(0, size);
}

/**
 * The text of a file, or undefined where there is none; so too where what it tells of went away while it was read.
 * @param most bytes that are read at the most, but for the rest of the last piece
 */
export function readText(path: string, most = 1 << 20): string | undefined {
  const fd = tolerate(["ENOENT", "ENOTDIR"], "openat", AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  const bytes = readRest(file.fd, most);
  return bytes && decoder.decode(bytes);
}

/** Whether there is something by this path that this process can see. */
export function isThere(path: string): boolean {
  return attempt("faccessat2", AT_FDCWD, path, 0, 0) >= 0;
}

const W_OK = 2;

/** Whether this process may write to it, by its real ids; faccessat2(2). A link is not followed. */
export function isWritable(path: string): boolean {
  return attempt("faccessat2", AT_FDCWD, path, W_OK, AT.AT_SYMLINK_NOFOLLOW) >= 0;
}

/** The names in a directory, none where it is not there. */
export function namesIn(path: string): string[] {
  const fd = attempt("openat", AT_FDCWD, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (fd < 0) return [];
  using directory = new OwnedFd(fd);
  const names: string[] = [];
  const entries = alloc(32_768);
  const view = new DataView(entries.buffer);
  for (;;) {
    const got = direct.getdents64(directory.fd, entries, entries.byteLength);
    if (got === 0) return names;
    // struct linux_dirent64: d_ino 8, d_off 8, d_reclen 2, d_type 1, d_name; getdents64(2)
    for (let at = 0; at < got; at += view.getUint16(at + 16, true)) {
      let end = at + 19;
      while (entries[end] !== 0) end++;
      const name = decoder.decode(entries.subarray(at + 19, end));
      if (name !== "." && name !== "..") names.push(name);
    }
  }
}
