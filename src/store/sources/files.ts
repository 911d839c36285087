/**
 * Files that an image is read from, in a directory or in a tar archive. Whoever made them may be hostile: no symlink
 * is followed on the disk, nothing but regular files is opened, and an archive is never unpacked.
 */
import { AT, O, RESOLVE, S } from "../../../ffi/constants.ts";
import { attempt, direct } from "../../../ffi/direct.ts";
import { errnoOf } from "../../../ffi/errno.ts";
import { OwnedFd } from "../../../ffi/fd.ts";
import { alloc, readField } from "../../../ffi/structs.ts";
import { struct } from "../../../ffi/sys.ts";
import { OciboxError } from "../../errors.ts";
import { ByteSource, nextEntry } from "../../layer/tar.ts";

export interface SourceFiles extends Disposable {
  /** For messages. */
  readonly path: string;
  /** Bytes, or undefined where there is no such file. @throws OciboxError INVALID for what is no regular file */
  size(name: string): number | undefined;
  /** @throws OciboxError INVALID for a file of more than `most` bytes */
  read(name: string, most: number): Uint8Array | undefined;
  /** In pieces of at most 1 MiB. @throws OciboxError NOT_FOUND */
  stream(name: string): AsyncGenerator<Uint8Array>;
}

const pieceSize = 1 << 20;

/** Bytes of a file from one place to another. */
function* range(fd: number, from: number, to: number, piece = pieceSize): Generator<Uint8Array> {
  for (let at = from; at < to; ) {
    const bytes = alloc(Math.min(piece, to - at));
    const got = direct.pread64(fd, bytes, bytes.byteLength, at);
    if (got === 0) return;
    yield got === bytes.byteLength ? bytes : bytes.subarray(0, got);
    at += got;
  }
}

function whole(fd: number, from: number, size: number): Uint8Array {
  const bytes = alloc(size);
  for (let at = 0; at < size; ) {
    const got = direct.pread64(fd, at === 0 ? bytes : bytes.subarray(at), size - at, from + at);
    if (got === 0) return bytes.subarray(0, at);
    at += got;
  }
  return bytes;
}

function tooLong(path: string, name: string, size: number, most: number): OciboxError {
  return new OciboxError("INVALID", `"${name}" in "${path}" has ${size} bytes, which is more than ${most}`);
}

function absent(path: string, name: string): OciboxError {
  return new OciboxError("NOT_FOUND", `there is no "${name}" in "${path}"`);
}

/** A size that is one only for regular files. */
function regularSize(fd: number): number | undefined {
  const stat = alloc(256);
  direct.statx(fd, "", AT.AT_EMPTY_PATH, 0x201, stat);
  if ((readField("statx", stat, "stx_mode") & S.S_IFMT) !== S.S_IFREG) return undefined;
  return readField("statx", stat, "stx_size");
}

class DirectoryFiles implements SourceFiles {
  readonly path: string;
  readonly #directory: OwnedFd;

  constructor(path: string, directory: OwnedFd) {
    this.path = path;
    this.#directory = directory;
  }

  #open(name: string): { file: OwnedFd; size: number } | undefined {
    const how = struct<number>("open_how", {
      // A FIFO would else be waited for until somebody writes to it; open(2).
      flags: O.O_RDONLY | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_NOCTTY | O.O_CLOEXEC,
      resolve: RESOLVE.RESOLVE_BENEATH | RESOLVE.RESOLVE_NO_SYMLINKS | RESOLVE.RESOLVE_NO_MAGICLINKS,
    });
    const fd = attempt("openat2", this.#directory.fd, name, how, 24);
    if (fd === -errnoOf("ENOENT") || fd === -errnoOf("ENOTDIR")) return undefined;
    const refusal = (why: string): OciboxError =>
      new OciboxError("INVALID", `"${name}" in "${this.path}" cannot be used: it is ${why}`, {
        hint: "an image's files are regular files; the image is damaged or was made to mislead",
      });
    if (fd === -errnoOf("ELOOP")) throw refusal("a symlink, or behind one");
    if (fd === -errnoOf("EXDEV")) throw refusal("outside of it");
    if (fd < 0) direct.openat2(this.#directory.fd, name, how, 24);
    const file = new OwnedFd(fd);
    const size = regularSize(fd);
    if (size !== undefined) return { file, size };
    file[Symbol.dispose]();
    throw refusal("no regular file");
  }

  size(name: string): number | undefined {
    const found = this.#open(name);
    found?.file[Symbol.dispose]();
    return found?.size;
  }

  read(name: string, most: number): Uint8Array | undefined {
    const found = this.#open(name);
    if (found === undefined) return undefined;
    using file = found.file;
    if (found.size > most) throw tooLong(this.path, name, found.size, most);
    return whole(file.fd, 0, found.size);
  }

  async *stream(name: string): AsyncGenerator<Uint8Array> {
    const found = this.#open(name);
    if (found === undefined) throw absent(this.path, name);
    using file = found.file;
    yield* range(file.fd, 0, found.size);
  }

  [Symbol.dispose](): void {
    this.#directory[Symbol.dispose]();
  }
}

interface Member {
  readonly at: number;
  readonly size: number;
}

const mostMembers = 100_000;
const mostHops = 8;

/** "a/../b/./c" → "b/c"; undefined for what leads out. */
function normal(path: string): string | undefined {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") parts.push(part);
    else if (parts.pop() === undefined) return undefined;
  }
  return parts.join("/");
}

class ArchiveFiles implements SourceFiles {
  readonly #members = new Map<string, Member>();
  /** Old archives of docker's have one layer in several folders as links; they are followed in the archive alone. */
  readonly #links = new Map<string, string>();

  constructor(
    readonly path: string,
    readonly file: OwnedFd,
  ) {}

  /** Finds out what is where, by the headers alone. */
  async scan(end: number): Promise<void> {
    for (let at = 0, count = 0; at < end; count++) {
      if (count > mostMembers) throw new OciboxError("INVALID", `"${this.path}" has more than ${mostMembers} members`);
      const source = new ByteSource(range(this.file.fd, at, end, 4096));
      const entry = nextEntry(source);
      if (entry === undefined) return;
      const start = at + source.taken;
      const name = normal(entry.name);
      if (name !== undefined) {
        this.#members.delete(name);
        this.#links.delete(name);
        if (entry.type === "file") this.#members.set(name, { at: start, size: entry.size });
        const above = name.slice(0, name.lastIndexOf("/") + 1);
        const target = entry.type === "link" ? entry.linkname : entry.type === "symlink" ? above + entry.linkname : "";
        const path = target === "" ? undefined : normal(target);
        if (path !== undefined) this.#links.set(name, path);
      }
      at = start + Math.ceil(entry.size / 512) * 512;
      if (start + entry.size > end)
        throw new OciboxError("INVALID", `"${this.path}" ends in the middle of "${entry.name}"`);
    }
  }

  #find(name: string): Member | undefined {
    let path = normal(name);
    for (let hops = 0; path !== undefined && hops < mostHops; hops++) {
      const member = this.#members.get(path);
      if (member !== undefined) return member;
      path = this.#links.get(path);
    }
    return undefined;
  }

  size(name: string): number | undefined {
    return this.#find(name)?.size;
  }

  read(name: string, most: number): Uint8Array | undefined {
    const member = this.#find(name);
    if (member === undefined) return undefined;
    if (member.size > most) throw tooLong(this.path, name, member.size, most);
    return whole(this.file.fd, member.at, member.size);
  }

  async *stream(name: string): AsyncGenerator<Uint8Array> {
    const member = this.#find(name);
    if (member === undefined) throw absent(this.path, name);
    yield* range(this.file.fd, member.at, member.at + member.size);
  }

  [Symbol.dispose](): void {
    this.file[Symbol.dispose]();
  }
}

/** @param directory owned from here on */
export function directoryFiles(path: string, directory: OwnedFd): SourceFiles {
  return new DirectoryFiles(path, directory);
}

/** @param file a plain tar that can be read anywhere, owned from here on @throws OciboxError INVALID */
export async function archiveFiles(path: string, file: OwnedFd): Promise<SourceFiles> {
  const archive = new ArchiveFiles(path, file);
  try {
    const size = regularSize(file.fd);
    if (size === undefined) throw new OciboxError("INVALID", `"${path}" is no regular file`);
    await archive.scan(size);
    return archive;
  } catch (error) {
    archive[Symbol.dispose]();
    if (error instanceof OciboxError && error.code === "INVALID")
      throw new OciboxError("INVALID", `cannot read "${path}": ${error.message.replace("the layer", "it")}`, {
        cause: error,
      });
    throw error;
  }
}
