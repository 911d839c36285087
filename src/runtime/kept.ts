/**
 * Files of this program's own making that save it work: compiled plans. What is kept runs as root; it is taken only from
 * files and directories that nobody else can write, and where its checksum is right.
 */
import { AT, AT_FDCWD, O, S } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { effectiveUid } from "../../ffi/user.ts";

const mostKept = 64;
const mostBytes = 4 << 20;
const sumBytes = 8;

/** A file as it is now: another one, or a changed one, has another. */
export function identityOf(path: string): string | undefined {
  const stat = alloc(256);
  if (attempt("statx", AT_FDCWD, path, 0, 0xfff, stat) < 0) return undefined;
  const fields = ["stx_dev_major", "stx_dev_minor", "stx_ino", "stx_size", "stx_mtime_sec", "stx_mtime_nsec"] as const;
  let text = "";
  for (const name of fields) text += `${readField("statx", stat, name)} `;
  return text;
}

/** The size in bytes of a file or directory that is ours, and only ours to write. */
function sizeOfOurs(fd: number, kind: number): number | undefined {
  const stat = alloc(256);
  if (attempt("statx", fd, "", AT.AT_EMPTY_PATH, 0xfff, stat) < 0) return undefined;
  const mode = readField("statx", stat, "stx_mode");
  if ((mode & S.S_IFMT) !== kind || (mode & 0o022) !== 0) return undefined;
  return readField("statx", stat, "stx_uid") === effectiveUid() ? readField("statx", stat, "stx_size") : undefined;
}

/**
 * Opens ROOT/FOLDER where it is ours. Whoever can put another in its place has none that is ours, with a file in it that
 * is ours, to put there: this program makes such files in such folders alone.
 */
function openKept(root: string, folder: string): OwnedFd | undefined {
  const flags = O.O_PATH | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;
  const fd = attempt("openat", AT_FDCWD, `${root}/${folder}`, flags, 0);
  if (fd < 0) return undefined;
  const plans = new OwnedFd(fd);
  if (sizeOfOurs(plans.fd, S.S_IFDIR) !== undefined) return plans;
  plans[Symbol.dispose]();
  return undefined;
}

function readOwn(directory: OwnedFd, name: string): Uint8Array<ArrayBuffer> | undefined {
  const fd = attempt("openat", directory.fd, name, O.O_RDONLY | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  using file = new OwnedFd(fd);
  const size = sizeOfOurs(file.fd, S.S_IFREG);
  if (size === undefined || size < sumBytes || size > mostBytes) return undefined;
  const bytes = new Uint8Array(new ArrayBuffer(size));
  return attempt("read", file.fd, bytes, size) === size ? bytes : undefined;
}

/** What is kept by this name, or undefined where there is nothing, or where a crash has left half of it. */
export function readKept(root: string, folder: string, name: string): Uint8Array<ArrayBuffer> | undefined {
  using directory = openKept(root, folder);
  if (directory === undefined) return undefined;
  const bytes = readOwn(directory, name);
  if (bytes === undefined) return undefined;
  const rest = bytes.subarray(sumBytes);
  return new DataView(bytes.buffer).getBigUint64(0, true) === BigInt(Bun.hash(rest)) ? rest : undefined;
}

/** Keeps it; that it cannot be kept is no error. @param unique a name that no other process makes a file by */
export function writeKept(root: string, folder: string, name: string, content: Uint8Array, unique: string): void {
  const bytes = new Uint8Array(new ArrayBuffer(sumBytes + content.byteLength));
  if (bytes.byteLength > mostBytes) return;
  bytes.set(content, sumBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(Bun.hash(content)), true);
  makeDirectories(`${root}/${folder}`);
  using directory = openKept(root, folder);
  if (directory === undefined) return;
  const names = namesIn(`${root}/${folder}`);
  if (names.length >= mostKept) for (const each of names) attempt("unlinkat", directory.fd, each, 0);
  const temporary = `.${unique}`;
  const fd = attempt("openat", directory.fd, temporary, O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_CLOEXEC, 0o600);
  if (fd < 0) return;
  using file = new OwnedFd(fd);
  const written = attempt("write", file.fd, bytes, bytes.byteLength);
  // No fsync: what a power cut leaves of it fails its checksum.
  if (written !== bytes.byteLength || attempt("renameat2", directory.fd, temporary, directory.fd, name, 0) < 0)
    attempt("unlinkat", directory.fd, temporary, 0);
}
