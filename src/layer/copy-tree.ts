/**
 * Copying a tree with all that a file system knows of it: owners, modes, times, links, devices, extended attributes.
 * Every name is walked from a descriptor, and no symlink is followed. Contents are shared where the file system can.
 */
import { copyXattrs, pathAt, timesOf } from "../../ffi/attributes.ts";
import { AT, AT_FDCWD, IOCTL, O, S } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError, tolerate } from "../../ffi/direct.ts";
import { errnoOf, failedBy } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { ownersHere } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import { names } from "./remove-tree.ts";

/** What a copy is given. */
interface Own {
  readonly uid: number;
  readonly gid: number;
  readonly mode: number;
  /** Device and inode. */
  readonly identity: string;
  /** Whether it has more than one name. */
  readonly several: boolean;
  readonly seconds: number;
  readonly nanoseconds: number;
}

const statMask = 0xfff;
const piece = 1 << 30;
const sourceFlags = O.O_RDONLY | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC;
const directoryFlags = O.O_RDONLY | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;

/** All that is left to be read of one file, to where the other stands. */
export function copyData(from: number, to: number, buffer = alloc(1 << 20)): void {
  for (;;) {
    const got = attempt("copy_file_range", from, null, to, null, piece, 0);
    if (got === 0) return;
    if (got > 0) continue;
    // Between file systems that know nothing of each other.
    if (![errnoOf("EXDEV"), errnoOf("EINVAL"), errnoOf("EOPNOTSUPP"), errnoOf("ENOSYS")].includes(-got))
      direct.copy_file_range(from, null, to, null, piece, 0);
    break;
  }
  for (;;) {
    const got = direct.read(from, buffer, buffer.byteLength);
    if (got === 0) return;
    for (let at = 0; at < got; ) at += direct.write(to, at === 0 ? buffer : buffer.subarray(at), got - at);
  }
}

export interface CopyOptions {
  readonly signal?: AbortSignal | undefined;
  /** What has the name goes, and directories are merged; else it is EEXIST. */
  readonly replace?: boolean;
  /** Whose the copy is; else whose the original is. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  /** Somebody may change names in the copy while it is made: then files that have several names get a copy each. */
  readonly watched?: boolean;
}

class Copier {
  readonly #stat = alloc(256);
  /** The first name of each file that has several, from the top of the copy. */
  readonly #links = new Map<string, Uint8Array>();
  readonly #buffer = alloc(1 << 20);
  readonly #owners = ownersHere();
  /** Directories that were made, or copied into. */
  readonly #made = new Set<string>();
  entries = 0;

  constructor(
    readonly top: number,
    readonly options: CopyOptions,
  ) {}

  #get(field: string): number {
    return readField("statx", this.#stat, field);
  }

  /** One name, with all below it. @param path of the copy from its top */
  copy(from: number, name: Uint8Array, to: number, as: Uint8Array, path: Uint8Array): void {
    this.options.signal?.throwIfAborted();
    this.entries++;
    direct.statx(from, name, AT.AT_SYMLINK_NOFOLLOW, statMask, this.#stat);
    const mode = this.#get("stx_mode");
    const kind = mode & S.S_IFMT;
    const { owner, watched } = this.options;
    const own = {
      uid: owner?.uid ?? this.#owners.uid(this.#get("stx_uid")),
      gid: owner?.gid ?? this.#owners.gid(this.#get("stx_gid")),
      mode: mode & 0o7777,
      identity: this.#identity(),
      several: kind !== S.S_IFDIR && watched !== true && this.#get("stx_nlink") > 1,
      seconds: this.#get("stx_mtime_sec"),
      nanoseconds: this.#get("stx_mtime_nsec"),
    };
    if (kind === S.S_IFREG) {
      this.#file(from, name, to, as, own, path);
      return;
    }
    if (kind === S.S_IFDIR) {
      this.#directory(from, name, to, as, own, path);
      return;
    }
    const device = this.#device();
    this.#checkOther(to, as, own);
    if (this.#linked(to, as, path, own)) return;
    if (this.options.replace === true && !this.#makeRoom(to, as))
      throw new OciboxError("IN_USE", `"${shown(as)}" is mounted there, and cannot be overwritten`);
    if (kind === S.S_IFLNK) this.#symlink(from, name, to, as, own);
    else this.#node(to, as, own, kind, device);
    // By name, which somebody may have given to something else.
    if (this.options.watched !== true) copyXattrs(pathAt(from, name), pathAt(to, as));
    direct.utimensat(to, as, timesOf(own), AT.AT_SYMLINK_NOFOLLOW);
  }

  /** Another name of a file that was copied under its first. */
  #linked(to: number, as: Uint8Array, path: Uint8Array, own: Own): boolean {
    if (!own.several) return false;
    const first = this.#links.get(own.identity);
    if (first === undefined) {
      this.#links.set(own.identity, path);
      return false;
    }
    if (this.options.replace === true) this.#makeRoom(to, as);
    direct.linkat(this.top, first, to, as, 0);
    return true;
  }

  /**
   * Takes away what has the name.
   * @returns false for a file that is mounted there, and cannot be taken away
   * @throws OciboxError IN_USE for a directory
   */
  #makeRoom(to: number, as: Uint8Array): boolean {
    const result = attempt("unlinkat", to, as, 0);
    if (result >= 0 || failedBy(result, "ENOENT")) return true;
    if (failedBy(result, "EBUSY")) return false;
    if (failedBy(result, "EISDIR"))
      throw new OciboxError("IN_USE", `"${shown(as)}" is a directory there, and cannot be overwritten by what is none`);
    throw new SyscallError("unlinkat", [to, as, 0], -result);
  }

  /** Owner and mode of what a descriptor is of: by name somebody might have put a symlink in its place. */
  #own(fd: number, { uid, gid, mode }: Own, source: number): void {
    direct.fchownat(fd, "", uid, gid, AT.AT_EMPTY_PATH);
    // After the owner, whose change takes set-uid bits away.
    direct.fchmod(fd, mode);
    copyXattrs(source, fd);
  }

  #identity(): string {
    return `${this.#get("stx_dev_major")}:${this.#get("stx_dev_minor")}:${this.#get("stx_ino")}`;
  }

  /** What has the name is not what is copied. @throws OciboxError INVALID */
  #checkOther(to: number, as: Uint8Array, own: Own): void {
    if (this.options.replace !== true) return;
    const found = attempt("statx", to, as, AT.AT_SYMLINK_NOFOLLOW, statMask, this.#stat);
    if (found >= 0 && this.#identity() === own.identity)
      throw new OciboxError("INVALID", `"${shown(as)}" is the file that is copied, and stays as it is`);
  }

  #node(to: number, as: Uint8Array, { uid, gid, mode }: Own, kind: number, device: number): void {
    direct.mknodat(to, as, kind | 0o600, device);
    using node = new OwnedFd(direct.openat(to, as, O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0));
    direct.fchownat(node.fd, "", uid, gid, AT.AT_EMPTY_PATH);
    direct.fchmodat(AT_FDCWD, `/proc/self/fd/${node.fd}`, mode);
  }

  #device(): number {
    const [major, minor] = [this.#get("stx_rdev_major"), this.#get("stx_rdev_minor")];
    return (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12);
  }

  #symlink(from: number, name: Uint8Array, to: number, as: Uint8Array, { uid, gid }: Own): void {
    const target = alloc(4097);
    const length = direct.readlinkat(from, name, target, 4096);
    target[length] = 0;
    direct.symlinkat(target.slice(0, length + 1), to, as);
    direct.fchownat(to, as, uid, gid, AT.AT_SYMLINK_NOFOLLOW);
  }

  #file(from: number, name: Uint8Array, to: number, as: Uint8Array, own: Own, path: Uint8Array): void {
    // First of all: what cannot be read takes nothing away.
    using source = new OwnedFd(direct.openat(from, name, sourceFlags, 0));
    this.#checkOther(to, as, own);
    if (this.#linked(to, as, path, own)) return;
    let flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
    let mounted = false;
    if (this.options.replace === true) {
      mounted = !this.#makeRoom(to, as);
      if (mounted) flags = O.O_WRONLY | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC;
    }
    using copy = new OwnedFd(direct.openat(to, as, flags, 0o600));
    if (mounted) this.#empty(copy.fd, as, own);
    if (attempt("ioctl", copy.fd, IOCTL.FICLONE, source.fd) < 0) copyData(source.fd, copy.fd, this.#buffer);
    // A file that is mounted stays the one that it is, whosever that is.
    if (!mounted) this.#own(copy.fd, own, source.fd);
    direct.utimensat(to, as, timesOf(own), AT.AT_SYMLINK_NOFOLLOW);
  }

  /** What is mounted is written into: a file, and none that is copied. */
  #empty(fd: number, as: Uint8Array, own: Own): void {
    direct.statx(fd, "", AT.AT_EMPTY_PATH, statMask, this.#stat);
    const same = this.#identity() === own.identity;
    if (same || (this.#get("stx_mode") & S.S_IFMT) !== S.S_IFREG)
      throw new OciboxError(
        "INVALID",
        `"${shown(as)}" is mounted there, and is ${same ? "the file that is copied" : "no file that could be overwritten"}`,
      );
    direct.ftruncate(fd, 0);
  }

  #directory(from: number, name: Uint8Array, to: number, as: Uint8Array, own: Own, path: Uint8Array): void {
    if (this.#made.has(own.identity)) throw new OciboxError("INVALID", `"${shown(name)}" cannot be copied into itself`);
    using source = new OwnedFd(direct.openat(from, name, directoryFlags, 0));
    if (this.options.replace === true) tolerate(["EEXIST"], "mkdirat", to, as, 0o700);
    else direct.mkdirat(to, as, 0o700);
    const opened = tolerate(["ENOTDIR", "ELOOP"], "openat", to, as, directoryFlags, 0);
    if (opened < 0)
      throw new OciboxError("IN_USE", `"${shown(as)}" is no directory there, and cannot be overwritten by one`);
    using copy = new OwnedFd(opened);
    this.enter(copy.fd);
    if (this.#made.has(own.identity)) throw new OciboxError("INVALID", `"${shown(name)}" cannot be copied into itself`);
    this.all(source.fd, copy.fd, path);
    this.#own(copy.fd, own, source.fd);
    direct.utimensat(to, as, timesOf(own), AT.AT_SYMLINK_NOFOLLOW);
  }

  /** A directory that is copied into: where it is found among what is copied there would be no end of it. */
  enter(fd: number): void {
    if (this.options.replace !== true) return;
    direct.statx(fd, "", AT.AT_EMPTY_PATH, statMask, this.#stat);
    this.#made.add(this.#identity());
  }

  /** Whether it is one of those. */
  isEntered(fd: number): boolean {
    direct.statx(fd, "", AT.AT_EMPTY_PATH, statMask, this.#stat);
    return this.#made.has(this.#identity());
  }

  /** What is in a directory. @param path of the copy from its top, with a NUL behind it */
  all(from: number, to: number, path: Uint8Array): void {
    for (const name of names(from)) {
      const below = alloc(path.byteLength + name.byteLength);
      below.set(path);
      if (path.byteLength > 1) below[path.byteLength - 1] = 0x2f;
      below.set(name, path.byteLength > 1 ? path.byteLength : 0);
      this.copy(from, name, to, name, path.byteLength > 1 ? below : name);
    }
  }
}

function shown(name: Uint8Array): string {
  return new TextDecoder().decode(name.subarray(0, -1));
}

function text(name: string): Uint8Array {
  const encoded = new TextEncoder().encode(name);
  const bytes = alloc(encoded.byteLength + 1);
  bytes.set(encoded);
  return bytes;
}

/**
 * What is in a directory, into one that is there.
 * @param from, to descriptors of directories that can be read
 * @returns how many names there were
 * @throws SyscallError; what was copied until then is left
 */
export function copyContents(from: number, to: number, options: CopyOptions = {}): number {
  const copier = new Copier(to, options);
  copier.enter(to);
  if (copier.isEntered(from)) throw new OciboxError("INVALID", "a directory cannot be copied into itself");
  copier.all(from, to, alloc(1));
  return copier.entries;
}

/**
 * One name with all below it, under another name.
 * @throws SyscallError, EEXIST where there is one of that name; with `replace` OciboxError for what cannot be overwritten
 */
export function copyEntry(from: number, name: string, to: number, as: string, options: CopyOptions = {}): number {
  for (const each of [name, as])
    if (each === "" || each === "." || each === "..")
      throw new OciboxError("INVALID", `"${each}" is no name that could be copied`);
  const copier = new Copier(to, options);
  copier.copy(from, text(name), to, text(as), text(as));
  return copier.entries;
}
