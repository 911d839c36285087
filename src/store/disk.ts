/** Files of the store: whole or not there at all. Temporary file, fsync, rename, fsync of the directory. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError, tolerate } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { hasName, tryLock } from "../../ffi/lock.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { OciboxError } from "../errors.ts";

/** Makes the names in a directory last: fsync(2) on it. */
export function syncDirectory(path: string): void {
  using directory = new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  direct.fsync(directory.fd);
}

/** Renames, replacing what is there, and makes it last. */
export function renameDurably(from: string, to: string): void {
  direct.renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
  syncDirectory(to.slice(0, to.lastIndexOf("/")));
}

/**
 * A new file, locked while it is open: a temporary whose lock is free was left by a process that was killed.
 * @param path a name that nobody else makes a file by
 */
export function openForWriting(path: string): OwnedFd {
  for (;;) {
    const flags = O.O_WRONLY | O.O_CREAT | O.O_NOFOLLOW | O.O_CLOEXEC;
    const file = new OwnedFd(direct.openat(AT_FDCWD, path, flags, 0o600));
    if (tryLock(file.fd, "exclusive") && hasName(file.fd)) return file;
    // Somebody who was clearing up has just taken it for such a one, and removes it: not we, who might remove it when it
    // is made again.
    file[Symbol.dispose]();
    Bun.sleepSync(1);
  }
}

const stagingSize = 1 << 20;
let staging: Uint8Array<ArrayBuffer> | undefined;

/** Smaller arrays may lie in memory that moves: fact 17 of bun:ffi. */
const largeEnough = 1 << 16;

/** Writes bytes, wherever they lie. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  if (bytes.byteLength >= largeEnough) {
    for (let at = 0; at < bytes.byteLength; )
      at += direct.write(fd, at === 0 ? bytes : bytes.subarray(at), bytes.byteLength - at);
    return;
  }
  // Taken when it is first needed: a megabyte of zeros is 256 page faults, and `run` writes nothing by this.
  staging ??= alloc(stagingSize);
  for (let from = 0; from < bytes.byteLength; ) {
    const count = Math.min(stagingSize, bytes.byteLength - from);
    staging.set(bytes.subarray(from, from + count));
    for (let at = 0; at < count; ) at += direct.write(fd, at === 0 ? staging : staging.subarray(at), count - at);
    from += count;
  }
}

const flushEvery = 8 << 20;
/** sync_file_range(2): begins to write, and does not wait. */
const SYNC_FILE_RANGE_WRITE = 2;

/** A large file that is written from its beginning to its end: the disk begins long before the fsync that waits for it. */
export class Flusher {
  #begun: number;

  constructor(
    readonly fd: number,
    from = 0,
  ) {
    this.#begun = from;
  }

  /** @param size bytes that have been written */
  written(size: number): void {
    if (size - this.#begun < flushEvery) return;
    // It is only a hint: a file system that does not know it will write at the end.
    attempt("sync_file_range", this.fd, this.#begun, size - this.#begun, SYNC_FILE_RANGE_WRITE);
    this.#begun = size;
  }
}

/** Replaces a file by new contents, old or new at every moment. @param temporary a name in the same file system */
export function replaceFile(path: string, temporary: string, bytes: Uint8Array): void {
  // Locked until it has its name: else somebody who clears up takes it for one that was left.
  using file = openForWriting(temporary);
  writeAll(file.fd, bytes);
  direct.fsync(file.fd);
  renameDurably(temporary, path);
}

/** A hidden name in the same directory, for what is not finished. */
export function beside(path: string): { readonly parent: string; readonly temporary: string } {
  const parent = path.slice(0, path.lastIndexOf("/")) || "/";
  const name = path.slice(path.lastIndexOf("/") + 1);
  return { parent, temporary: `.${name}.ocibox-${crypto.getRandomValues(new Uint8Array(6)).toHex()}` };
}

/** A file of a user's, which is there when it is whole; one that was there stays as it is until then. */
export async function intoFile(output: string, write: (fd: number) => Promise<void> | void): Promise<void> {
  const { parent, temporary } = beside(output);
  const path = `${parent}/${temporary}`;
  const refuse = (why: string): never => {
    throw new OciboxError("STORE", `cannot write "${output}": ${why}`);
  };
  if (!exists(parent)) refuse(`there is no directory "${parent}"`);
  if (exists(`${output}/.`)) refuse("it is a directory");
  using undo = new DisposableStack();
  const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
  {
    using file = new OwnedFd(direct.openat(AT_FDCWD, path, flags, 0o666));
    undo.defer(() => attempt("unlinkat", AT_FDCWD, path, 0));
    await write(file.fd);
    direct.fsync(file.fd);
  }
  direct.renameat2(AT_FDCWD, path, AT_FDCWD, output, 0);
  syncDirectory(parent);
}

/** A regular file's bytes, or undefined where there is none. @throws OciboxError STORE for one of more than `most` bytes */
export function readFile(path: string, most: number): Uint8Array<ArrayBuffer> | undefined {
  const fd = tolerate(["ENOENT"], "openat", AT_FDCWD, path, O.O_RDONLY | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  const size = sizeOf(file.fd, path);
  if (size > most) throw new OciboxError("STORE", `"${path}" has ${size} bytes, which is more than ${most}`);
  const bytes = alloc(size);
  for (let at = 0; at < size; ) {
    const got = direct.read(file.fd, at === 0 ? bytes : bytes.subarray(at), size - at);
    if (got === 0) throw new OciboxError("STORE", `"${path}" became shorter while it was read`);
    at += got;
  }
  return bytes;
}

function sizeOf(fd: number, path: string): number {
  const stat = alloc(256);
  direct.statx(fd, "", 0x1000, 0x201, stat);
  if ((readField("statx", stat, "stx_mode") & 0o170000) !== 0o100000)
    throw new OciboxError("STORE", `"${path}" is not a regular file`);
  return readField("statx", stat, "stx_size");
}

/** A file in pieces of 1 MiB. */
export async function* streamFile(path: string): AsyncGenerator<Uint8Array> {
  using file = new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC, 0));
  for (;;) {
    const piece = alloc(1 << 20);
    const got = direct.read(file.fd, piece, piece.byteLength);
    if (got === 0) return;
    yield piece.subarray(0, got);
  }
}

/** Whether there is a regular file of this size. */
export function hasFile(path: string, size: number): boolean {
  const stat = alloc(256);
  if (attempt("statx", AT_FDCWD, path, 0x100, 0x201, stat) < 0) return false;
  return (
    (readField("statx", stat, "stx_mode") & 0o170000) === 0o100000 && readField("statx", stat, "stx_size") === size
  );
}

export function exists(path: string): boolean {
  return attempt("faccessat2", AT_FDCWD, path, 0, 0x100) >= 0;
}

/** The store's words for what the disk refuses. */
export function storeError(error: unknown, doing: string): unknown {
  if (!(error instanceof SyscallError)) return error;
  const hints: Readonly<Record<string, string>> = {
    ENOSPC: "the disk is full: free some space, remove images with ocibox rmi, or choose another place with --root",
    EDQUOT: "the disk quota is used up",
    EROFS: "the file system is read-only: choose another place with --root",
    EIO: "the disk reports an error: see dmesg",
  };
  const hint = hints[error.code ?? ""];
  return new OciboxError(
    "STORE",
    `${doing}: ${error.message}`,
    hint === undefined ? { cause: error } : { hint, cause: error },
  );
}
