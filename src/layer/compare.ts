/** Two trees compared, name by name, with all that a file system knows of them; neither is changed. */
import { AT, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { names } from "./remove-tree.ts";

const statMask = 0xfff;
const most = 65_536;
const directoryFlags = O.O_RDONLY | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;
const latin1 = new TextDecoder("latin1");

const compared = ["stx_mode", "stx_uid", "stx_gid", "stx_rdev_major", "stx_rdev_minor"];
const times = ["stx_mtime_sec", "stx_mtime_nsec"];

function plain(name: Uint8Array): string {
  return latin1.decode(name.subarray(0, -1));
}

function textOf(directory: number, name: Uint8Array): string {
  const target = alloc(4096);
  return latin1.decode(target.subarray(0, direct.readlinkat(directory, name, target, 4096)));
}

/** Attributes by their names, as text that is the same where they are. */
function attributesOf(directory: number, name: Uint8Array): string {
  const prefix = new TextEncoder().encode(`/proc/self/fd/${directory}/`);
  const path = alloc(prefix.byteLength + name.byteLength);
  path.set(prefix);
  path.set(name, prefix.byteLength);
  if (attempt("llistxattr", path, null, 0) <= 0) return "";
  const list = alloc(most);
  const length = Math.max(0, attempt("llistxattr", path, list, most));
  const value = alloc(most);
  return latin1
    .decode(list.subarray(0, length))
    .split("\0")
    .filter((each) => each !== "")
    .sort()
    .map(
      (each) =>
        `${each}=${latin1.decode(value.subarray(0, Math.max(0, attempt("lgetxattr", path, each, value, most))))}`,
    )
    .join(" ");
}

const pieceSize = 1 << 20;

function read(fd: number, into: Uint8Array): number {
  let at = 0;
  for (; at < into.byteLength; ) {
    const got = direct.read(fd, at === 0 ? into : into.subarray(at), into.byteLength - at);
    if (got === 0) break;
    at += got;
  }
  return at;
}

/** Whether the files of a name in two directories have the same bytes. One that is not there is no other's same. */
export function sameFile(
  a: number,
  b: number,
  name: string | Uint8Array,
  [one, two] = [alloc(pieceSize), alloc(pieceSize)],
): boolean {
  const flags = O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC;
  using first = new OwnedFd(direct.openat(a, name, flags, 0));
  const fd = attempt("openat", b, name, flags, 0);
  if (fd < 0) return false;
  using second = new OwnedFd(fd);
  for (;;) {
    const got = read(first.fd, one);
    if (read(second.fd, two) !== got) return false;
    if (got === 0) return true;
    if (Buffer.compare(one.subarray(0, got), two.subarray(0, got)) !== 0) return false;
  }
}

function isWhiteout(stat: Uint8Array<ArrayBuffer>): boolean {
  const device = readField("statx", stat, "stx_rdev_major") + readField("statx", stat, "stx_rdev_minor");
  return (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFCHR && device === 0;
}

class Comparison {
  readonly #pieces: [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>] = [alloc(pieceSize), alloc(pieceSize)];

  constructor(readonly signal: AbortSignal | undefined) {}

  #stat(directory: number, name: Uint8Array): Uint8Array<ArrayBuffer> {
    const stat = alloc(256);
    direct.statx(directory, name, AT.AT_SYMLINK_NOFOLLOW, statMask, stat);
    return stat;
  }

  #different(a: number, b: number, name: Uint8Array, path: string): string | undefined {
    const [first, second] = [this.#stat(a, name), this.#stat(b, name)];
    const kind = readField("statx", first, "stx_mode") & S.S_IFMT;
    if ((readField("statx", second, "stx_mode") & S.S_IFMT) !== kind) return `"${path}" is something else`;
    // What is in a directory says more than the time that it was changed at.
    const below = kind === S.S_IFDIR ? this.#below(a, b, name, path) : undefined;
    if (below !== undefined) return below;
    if (kind === S.S_IFREG && !sameFile(a, b, name, this.#pieces)) return `"${path}" has other contents`;
    if (kind === S.S_IFLNK && textOf(a, name) !== textOf(b, name)) return `"${path}" leads somewhere else`;
    // Nobody sees a whiteout's time, which is that of the unpacking.
    for (const field of isWhiteout(first) ? compared : [...compared, ...times])
      if (readField("statx", first, field) !== readField("statx", second, field))
        return `"${path}" has another ${field.slice(4)}`;
    return attributesOf(a, name) === attributesOf(b, name) ? undefined : `"${path}" has other extended attributes`;
  }

  #below(a: number, b: number, name: Uint8Array, path: string): string | undefined {
    using own = new OwnedFd(direct.openat(a, name, directoryFlags, 0));
    using other = new OwnedFd(direct.openat(b, name, directoryFlags, 0));
    return this.first(own.fd, other.fd, `${path}/`);
  }

  first(a: number, b: number, prefix: string): string | undefined {
    this.signal?.throwIfAborted();
    const there = new Map([...names(a)].map((name) => [plain(name), name]));
    const others = new Set([...names(b)].map(plain));
    for (const [text, name] of there) {
      if (!others.delete(text)) return `"${prefix}${text}" is missing`;
      const found = this.#different(a, b, name, `${prefix}${text}`);
      if (found !== undefined) return found;
    }
    const [more] = others;
    return more === undefined ? undefined : `"${prefix}${more}" is too many`;
  }
}

/**
 * @param expected, actual descriptors of directories that can be read
 * @returns the first difference in words, or undefined where there is none
 */
export function firstDifference(expected: number, actual: number, signal?: AbortSignal): string | undefined {
  return new Comparison(signal).first(expected, actual, "");
}
