/** A tree as a tar: every name with owner, mode, times, links, devices and extended attributes. No symlink is followed. */
import { pathAt, xattrsOf } from "../../ffi/attributes.ts";
import { AT, O, S } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { names } from "./remove-tree.ts";
import type { TarEntry } from "./tar.ts";
import { tarEnd, tarHeader, tarPadding } from "./tar-write.ts";

const statMask = 0xfff;
const sourceFlags = O.O_RDONLY | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC;
const directoryFlags = O.O_RDONLY | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;
const pieceSize = 1 << 20;

const types: Readonly<Record<number, TarEntry["type"]>> = {
  [S.S_IFREG]: "file",
  [S.S_IFDIR]: "directory",
  [S.S_IFLNK]: "symlink",
  [S.S_IFCHR]: "char",
  [S.S_IFBLK]: "block",
  [S.S_IFIFO]: "fifo",
};

/** A name's bytes, a byte a character, without the NUL. */
function latin1(name: Uint8Array): string {
  return Buffer.from(name.buffer, name.byteOffset, name.byteLength - 1).toString("latin1");
}

/** The names in a directory in the order of their bytes: equal trees make equal archives. */
export function sortedNames(fd: number): Uint8Array[] {
  return [...names(fd)].sort((a, b) => Buffer.compare(a, b));
}

class Writer {
  readonly #stat = alloc(256);
  /** The first name of each file that has several. */
  readonly #links = new Map<string, string>();

  #get(field: string): number {
    return readField("statx", this.#stat, field);
  }

  *directory(fd: number, path: string): Generator<Uint8Array> {
    for (const name of sortedNames(fd)) yield* this.#entry(fd, name, `${path}${latin1(name)}`);
  }

  *#entry(parent: number, name: Uint8Array, path: string): Generator<Uint8Array> {
    direct.statx(parent, name, AT.AT_SYMLINK_NOFOLLOW, statMask, this.#stat);
    const mode = this.#get("stx_mode");
    const type = types[mode & S.S_IFMT];
    // Sockets are of the processes that made them: tar has no room for them.
    if (type === undefined) return;
    const entry = this.#describe(type, type === "directory" ? `${path}/` : path, mode & 0o7777);
    const first = type === "directory" ? undefined : this.#firstOf(path);
    if (first !== undefined) {
      yield tarHeader({ ...entry, type: "link", linkname: first, size: 0 });
      return;
    }
    const xattrs = new Map<string, Uint8Array>();
    for (const [key, value, size] of xattrsOf(pathAt(parent, name))) xattrs.set(key, value.slice(0, size));
    if (type === "file") yield* this.#file(parent, name, { ...entry, xattrs });
    else if (type === "symlink") yield tarHeader({ ...entry, xattrs, linkname: target(parent, name) });
    else yield tarHeader({ ...entry, xattrs });
    if (type !== "directory") return;
    using below = new OwnedFd(direct.openat(parent, name, directoryFlags, 0));
    yield* this.directory(below.fd, `${path}/`);
  }

  #describe(type: TarEntry["type"], name: string, mode: number): TarEntry {
    return {
      type,
      name,
      linkname: "",
      mode,
      uid: this.#get("stx_uid"),
      gid: this.#get("stx_gid"),
      size: type === "file" ? this.#get("stx_size") : 0,
      mtime: { seconds: this.#get("stx_mtime_sec"), nanoseconds: this.#get("stx_mtime_nsec") },
      major: this.#get("stx_rdev_major"),
      minor: this.#get("stx_rdev_minor"),
      xattrs: new Map(),
    };
  }

  /** The name that a file was written by before, where it was. */
  #firstOf(path: string): string | undefined {
    if (this.#get("stx_nlink") < 2) return undefined;
    const key = `${this.#get("stx_dev_major")}:${this.#get("stx_dev_minor")}:${this.#get("stx_ino")}`;
    const first = this.#links.get(key);
    if (first === undefined) this.#links.set(key, path);
    return first;
  }

  /** As many bytes as the header promises, though the file may become shorter or longer meanwhile. */
  *#file(parent: number, name: Uint8Array, entry: TarEntry): Generator<Uint8Array> {
    yield tarHeader(entry);
    if (entry.size === 0) return;
    using file = new OwnedFd(direct.openat(parent, name, sourceFlags, 0));
    for (let left = entry.size; left > 0; ) {
      const piece = alloc(Math.min(left, pieceSize));
      const got = direct.read(file.fd, piece, piece.byteLength);
      const bytes = got === 0 ? piece : piece.subarray(0, got);
      left -= bytes.byteLength;
      yield bytes;
    }
    yield tarPadding(entry.size);
  }
}

function target(parent: number, name: Uint8Array): string {
  const bytes = alloc(4096);
  const length = direct.readlinkat(parent, name, bytes, bytes.byteLength);
  return Buffer.from(bytes.buffer, 0, length).toString("latin1");
}

/**
 * What is below a directory, as an archive; names are relative to it. In pieces of about a megabyte.
 * @param root a descriptor that can be read
 */
export function* tarTree(root: number): Generator<Uint8Array> {
  let held: Uint8Array[] = [];
  let size = 0;
  for (const piece of new Writer().directory(root, "")) {
    held.push(piece);
    size += piece.byteLength;
    if (size < pieceSize) continue;
    yield Buffer.concat(held);
    held = [];
    size = 0;
  }
  yield Buffer.concat([...held, tarEnd()]);
}
