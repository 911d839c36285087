/**
 * Copying a tree with all that a file system knows of it: owners, modes, times, links, devices, extended attributes.
 * Every name is walked from a descriptor, and no symlink is followed. Contents are shared where the file system can.
 */
import { copyXattrs, pathAt, timesOf } from "../../ffi/attributes.ts";
import { AT, IOCTL, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { ownersHere } from "../../ffi/user.ts";
import { names } from "./remove-tree.ts";

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

class Copier {
  readonly #stat = alloc(256);
  /** The first name of each file that has several, from the top of the copy. */
  readonly #links = new Map<string, Uint8Array>();
  readonly #buffer = alloc(1 << 20);
  readonly #owners = ownersHere();
  entries = 0;

  constructor(
    readonly top: number,
    readonly signal: AbortSignal | undefined,
  ) {}

  #get(field: string): number {
    return readField("statx", this.#stat, field);
  }

  /** One name, with all below it. @param path of the copy from its top */
  copy(from: number, name: Uint8Array, to: number, as: Uint8Array, path: Uint8Array): void {
    this.signal?.throwIfAborted();
    this.entries++;
    direct.statx(from, name, AT.AT_SYMLINK_NOFOLLOW, statMask, this.#stat);
    const mode = this.#get("stx_mode");
    const kind = mode & S.S_IFMT;
    const own = {
      uid: this.#owners.uid(this.#get("stx_uid")),
      gid: this.#owners.gid(this.#get("stx_gid")),
      seconds: this.#get("stx_mtime_sec"),
      nanoseconds: this.#get("stx_mtime_nsec"),
    };
    if (kind !== S.S_IFDIR && this.#get("stx_nlink") > 1) {
      const key = `${this.#get("stx_dev_major")}:${this.#get("stx_dev_minor")}:${this.#get("stx_ino")}`;
      const first = this.#links.get(key);
      if (first !== undefined) {
        direct.linkat(this.top, first, to, as, 0);
        return;
      }
      this.#links.set(key, path);
    }
    if (kind === S.S_IFREG) this.#file(from, name, to, as);
    else if (kind === S.S_IFLNK) this.#symlink(from, name, to, as);
    else if (kind === S.S_IFDIR) this.#directory(from, name, to, as, path);
    else direct.mknodat(to, as, kind | 0o600, this.#device());
    direct.fchownat(to, as, own.uid, own.gid, AT.AT_SYMLINK_NOFOLLOW);
    // After the owner, whose change takes set-uid bits away.
    if (kind !== S.S_IFLNK) direct.fchmodat(to, as, mode & 0o7777);
    copyXattrs(pathAt(from, name), pathAt(to, as));
    direct.utimensat(to, as, timesOf(own), AT.AT_SYMLINK_NOFOLLOW);
  }

  #device(): number {
    const [major, minor] = [this.#get("stx_rdev_major"), this.#get("stx_rdev_minor")];
    return (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12);
  }

  #symlink(from: number, name: Uint8Array, to: number, as: Uint8Array): void {
    const target = alloc(4097);
    const length = direct.readlinkat(from, name, target, 4096);
    target[length] = 0;
    direct.symlinkat(target.slice(0, length + 1), to, as);
  }

  #file(from: number, name: Uint8Array, to: number, as: Uint8Array): void {
    using source = new OwnedFd(direct.openat(from, name, sourceFlags, 0));
    using copy = new OwnedFd(
      direct.openat(to, as, O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC, 0o600),
    );
    if (attempt("ioctl", copy.fd, IOCTL.FICLONE, source.fd) >= 0) return;
    copyData(source.fd, copy.fd, this.#buffer);
  }

  #directory(from: number, name: Uint8Array, to: number, as: Uint8Array, path: Uint8Array): void {
    direct.mkdirat(to, as, 0o700);
    using source = new OwnedFd(direct.openat(from, name, directoryFlags, 0));
    using copy = new OwnedFd(direct.openat(to, as, directoryFlags, 0));
    this.all(source.fd, copy.fd, path);
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
export function copyContents(from: number, to: number, signal?: AbortSignal): number {
  const copier = new Copier(to, signal);
  copier.all(from, to, alloc(1));
  return copier.entries;
}

/** One name with all below it, under another name. @throws SyscallError, EEXIST where there is one of that name */
export function copyEntry(from: number, name: string, to: number, as: string, signal?: AbortSignal): number {
  const copier = new Copier(to, signal);
  copier.copy(from, text(name), to, text(as), text(as));
  return copier.entries;
}
