/**
 * Applying a layer to a directory: to an empty one of its own, in overlay's terms, or onto what lower layers have left.
 * image-spec, layer.md. Nothing is ever written outside of that directory: each name is walked from its descriptor, one
 * component at a time, and no symlink of the archive is followed out of it.
 */
import { clearXattrs, copyXattrs, opaqueAttribute, timesOf } from "../../ffi/attributes.ts";
import { withoutFtl } from "../../ffi/compile.ts";
import { AT, AT_FDCWD, O, RESOLVE, S } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { readText } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { struct } from "../../ffi/sys.ts";
import { inUserNamespace, ownersHere } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import { copyData } from "./copy-tree.ts";
import {
  checkDevice,
  components,
  hiddenBy,
  isLeftOut,
  isPlain,
  mostEntries,
  partsOf,
  refuse,
  whiteoutPrefix,
} from "./entry-name.ts";
import { fileBelow, forKernel, inheritAttributes, liesUpon, openRegular, ownDirectory, raw } from "./implied.ts";
import { names, removeTree } from "./remove-tree.ts";
import { type ByteSource, drain, finishEntry, nextEntry, type TarEntry } from "./tar.ts";

/**
 * Into an empty directory: `lowers` are the layers below, the uppermost first, as paths of directories, asked for only if
 * something of them is needed. Or onto what the layers below have left in the same directory.
 */
export type ApplyOptions =
  | { readonly lowers: () => readonly string[]; readonly onto?: undefined }
  | { readonly onto: true };

export interface Applied {
  readonly entries: number;
}

const mostDescriptors = 128;
/** Symlinks on one way, as in the kernel. */
const mostLinks = 40;
/** Memory of this size does not move: fact 17 of bun:ffi. */
const largeEnough = 1 << 16;
const directoryFlags = O.O_PATH | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;
const untold = { seconds: 0, nanoseconds: 0 };

interface Directory {
  readonly fd: number;
  /** Its group, which what is made in it may get. */
  gid: number;
  /** Its name from the root, with no symlink in it: "usr/lib"; "" for the root itself. */
  readonly path: string;
}

interface Place {
  readonly parent: number;
  readonly directory: Directory;
  readonly base: string;
  /** The whole name, with no symlink on its way: "usr/lib/x". */
  readonly path: string;
}

const within = (path: string, name: string): string => (path === "" ? name : `${path}/${name}`);

/** Where a descriptor leads, as the kernel says it; a byte a character. */
function nameOf(fd: number): string {
  const name = alloc(8192);
  const length = direct.readlinkat(AT_FDCWD, `/proc/self/fd/${fd}`, name, name.byteLength);
  return Buffer.from(name.subarray(0, length)).toString("latin1");
}

function mtimeOf(fd: number): TarEntry["mtime"] {
  const stat = alloc(256);
  direct.statx(fd, "", AT.AT_EMPTY_PATH, 0x40, stat);
  return {
    seconds: readField("statx", stat, "stx_mtime_sec"),
    nanoseconds: readField("statx", stat, "stx_mtime_nsec"),
  };
}

const defaultAcl = "system.posix_acl_default";

function gidOf(fd: number): number {
  const stat = alloc(256);
  direct.statx(fd, "", AT.AT_EMPTY_PATH, 0x10, stat);
  return readField("statx", stat, "stx_gid");
}

/** umask(2) cannot be read without being set, for all threads. */
function currentUmask(): number {
  const line = /^Umask:\s*([0-7]+)$/m.exec(readText("/proc/self/status") ?? "");
  return line?.[1] === undefined ? 0o777 : Number.parseInt(line[1], 8);
}

function isEmpty(directory: number): boolean {
  for (const _ of names(directory)) return false;
  return true;
}

function refuseLink({ name, linkname }: TarEntry): never {
  refuse(name, `a hard link to ${JSON.stringify(linkname)}, which is a file of neither this layer nor one below`);
}

/** Overlay's: a character device 0:0. */
function isWhiteout(parent: number, name: Uint8Array): boolean {
  const stat = alloc(256);
  return (
    attempt("statx", parent, name, AT.AT_SYMLINK_NOFOLLOW, 0x3, stat) >= 0 &&
    (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFCHR &&
    readField("statx", stat, "stx_rdev_major") === 0 &&
    readField("statx", stat, "stx_rdev_minor") === 0
  );
}

class Applier {
  readonly root: Directory;
  readonly options: ApplyOptions;
  /** Open directories by the names that the archive has for them, the least recently used first. */
  readonly #directories = new Map<string, Directory>();
  /** Directories' descriptors that are not remembered any more. */
  readonly #done: number[] = [];
  /** Directories whose times are set at the end, when nothing more is put in them. */
  readonly #times = new Map<string, TarEntry["mtime"]>();
  /** Directories that are there because of what is in them; "" is the root. */
  readonly #implied = new Set<string>([""]);
  /** What this layer has, where those below are in the same directory; undefined in a directory of its own. */
  readonly #own: Set<string> | undefined;
  /** Directories that this layer has told the attributes of. */
  readonly #told = new Set<string>();
  /** Where whiteouts were made: the directory's path, and what they hide. */
  readonly #whiteouts = new Map<string, Set<string>>();
  readonly #buffer = alloc(1 << 20);
  #rootName: string | undefined;
  /** The directory that the entry before was in, by the archive's name: archives go through them one by one. */
  #last: { readonly above: string; readonly directory: Directory } | undefined;
  /** Then a new file's mode is not what it is made with (acl(5)). */
  #hasDefaultAcl: boolean;
  readonly #umask = currentUmask();
  /** Whether not all that an archive has can be had: there are no devices, and not everybody's ids. */
  readonly #limited = inUserNamespace();
  readonly #owners = ownersHere();

  constructor(root: number, options: ApplyOptions) {
    this.root = { fd: root, path: "", gid: gidOf(root) };
    this.options = options;
    this.#hasDefaultAcl = attempt("fgetxattr", root, defaultAcl, null, 0) >= 0;
    withoutFtl(this.apply, this.#applyAny, this.#take, this.#file, this.#body, this.#makeDirectory, this.#link);
    withoutFtl(this.#symlink, this.#finish, this.#create, this.#setXattrs, this.#place, this.#placeIn, this.#placeOf);
    withoutFtl(this.#directory, this.#step, this.#remember, this.#forget, this.#clear, this.#closeDone);
    if (options.onto !== true) return;
    this.#own = new Set([""]);
    this.#times.set("", isEmpty(root) ? untold : mtimeOf(root));
  }

  close(): void {
    for (const { fd } of this.#directories.values()) this.#done.push(fd);
    this.#directories.clear();
    this.#closeDone();
  }

  /** Descriptors may be in use until an entry is done with: another one would get the number of one that is closed. */
  #closeDone(): void {
    for (const fd of this.#done) direct.close(fd);
    this.#done.length = 0;
  }

  /** Forgets what is known of a path that is replaced, and of all below it. */
  #forget(path: string): void {
    const gone = (known: string): boolean => known === path || known.startsWith(`${path}/`);
    for (const [known, { fd, path: real }] of this.#directories) {
      if (!gone(known) && !gone(real)) continue;
      this.#done.push(fd);
      this.#directories.delete(known);
    }
    for (const known of this.#times.keys()) if (gone(known)) this.#times.delete(known);
    for (const set of [this.#implied, this.#told]) for (const known of set) if (gone(known)) set.delete(known);
    if (this.#own?.has(path) === true) for (const known of this.#own) if (gone(known)) this.#own.delete(known);
    this.#last = undefined;
  }

  #remember(name: string, directory: Directory): Directory {
    this.#directories.set(name, directory);
    if (this.#directories.size > mostDescriptors) {
      const [oldest] = this.#directories;
      if (oldest !== undefined && oldest[0] !== name) {
        this.#done.push(oldest[1].fd);
        this.#directories.delete(oldest[0]);
        if (this.#last?.directory === oldest[1]) this.#last = undefined;
      }
    }
    return directory;
  }

  /** The directory of a path, made with those above it where the archive has not named them. */
  #directory(parts: readonly string[], count: number): Directory {
    if (count === 0) return this.root;
    const name = parts.slice(0, count).join("/");
    const known = this.#directories.get(name);
    if (known !== undefined) {
      this.#directories.delete(name);
      this.#directories.set(name, known);
      return known;
    }
    const above = this.#directory(parts, count - 1);
    return this.#remember(name, this.#step(above, parts[count - 1] as string));
  }

  #step(above: Directory, base: string): Directory {
    const path = within(above.path, base);
    let fd = attempt("openat", above.fd, raw(base), directoryFlags, 0);
    const isOther = fd === -errnoOf("ENOTDIR") || fd === -errnoOf("ELOOP");
    // What a lower layer has there is no way for this one: the directory that this one needs hides it.
    const isLower = isOther && this.#own?.has(path) === false;
    if (isLower) removeTree(above.fd, raw(base));
    if (fd === -errnoOf("ENOENT") || isLower) fd = this.#imply(above, base, path);
    else if (isOther && isWhiteout(above.fd, raw(base))) fd = this.#instead(above, base, path);
    // A symlink of this layer where a directory is meant: it is followed inside the layer, and nowhere else.
    else if (isOther) return this.#through(path);
    if (fd < 0) throw new SyscallError("openat", [above.fd, path, directoryFlags, 0], -fd);
    if (this.#own !== undefined) {
      if (!this.#times.has(path)) this.#times.set(path, mtimeOf(fd));
      this.#own.add(path);
    }
    return { fd, path, gid: gidOf(fd) };
  }

  #imply(above: Directory, base: string, path: string): number {
    const name = raw(base);
    direct.mkdirat(above.fd, name, 0o755);
    direct.fchmodat(above.fd, name, 0o755);
    this.#implied.add(path);
    if (this.#own !== undefined) this.#times.set(path, untold);
    return attempt("openat", above.fd, name, directoryFlags, 0);
  }

  /** In the place of what a whiteout of this layer hides: nothing of that is seen again. */
  #instead(above: Directory, base: string, path: string): number {
    this.#clear(this.#placeIn(above, base));
    const fd = this.#imply(above, base, path);
    this.#opaque(above.fd, base);
    this.#implied.delete(path);
    this.#times.set(path, untold);
    return fd;
  }

  #through(path: string): Directory {
    // Whatever is in the way that is no symlink to a directory of this layer gives way to nothing: it is refused.
    const how = struct<number>("open_how", {
      flags: O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC,
      resolve: RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS | RESOLVE.RESOLVE_NO_XDEV,
    });
    const fd = attempt("openat2", this.root.fd, raw(path), how, 24);
    const inTheWay = "which is not a directory, as the way to another entry";
    if (fd < 0) refuse(path, inTheWay);
    this.#rootName ??= nameOf(this.root.fd);
    const real = nameOf(fd).slice(this.#rootName.length + 1);
    // By way of a lower layer's it does not lead through this one.
    if (this.#own !== undefined && !this.#leadsBy(path, this.#own)) {
      direct.close(fd);
      refuse(path, inTheWay);
    }
    return { fd, path: real, gid: gidOf(fd) };
  }

  /** Whether a path leads somewhere by this layer's own names alone: openat2(2) with RESOLVE_IN_ROOT, by hand. */
  #leadsBy(path: string, own: ReadonlySet<string>): boolean {
    const left = path.split("/");
    let at: string[] = [];
    const target = alloc(4096);
    for (let links = 0; left.length > 0; ) {
      const part = left.shift() as string;
      if (part === "" || part === ".") continue;
      if (part === "..") {
        at.pop();
        continue;
      }
      const next = [...at, part].join("/");
      if (!own.has(next)) return false;
      const length = attempt("readlinkat", this.root.fd, raw(next), target, target.byteLength);
      if (length < 0) {
        at.push(part);
        continue;
      }
      if (++links > mostLinks) return false;
      const text = Buffer.from(target.subarray(0, length)).toString("latin1");
      if (text.startsWith("/")) at = [];
      left.unshift(...text.split("/"));
    }
    return true;
  }

  #placeOf(parts: readonly string[], base: string): Place {
    return this.#placeIn(this.#directory(parts, parts.length - 1), base);
  }

  #placeIn(directory: Directory, base: string): Place {
    return { parent: directory.fd, directory, base, path: within(directory.path, base) };
  }

  #place(name: string): Place {
    const parts = components(name);
    const base = parts.at(-1);
    if (base === undefined) refuse(name, "which names no file");
    return this.#placeOf(parts, base);
  }

  /** Makes way for an entry. @returns whether something was there */
  #clear(place: Place): boolean {
    const name = raw(place.base);
    if (attempt("faccessat2", place.parent, name, 0, AT.AT_SYMLINK_NOFOLLOW) < 0) return false;
    this.#forget(place.path);
    removeTree(place.parent, name);
    return true;
  }

  /** Makes something new; what stands in its way is removed first. */
  #create(place: Place, make: (name: string | Uint8Array) => number): void {
    const name = forKernel(place.base);
    let made = make(name);
    if (made === -errnoOf("EEXIST")) {
      this.#clear(place);
      made = make(name);
    }
    if (made < 0) throw new SyscallError("mknodat", [place.parent, place.path, 0, 0], -made);
    this.#own?.add(place.path);
  }

  #setXattrs(path: string | number, entry: TarEntry): void {
    for (const [name, value] of entry.xattrs) {
      if (isLeftOut(name, entry.type)) continue;
      if (name === defaultAcl) this.#hasDefaultAcl = true;
      const bytes = alloc(value.byteLength);
      bytes.set(value);
      const label = raw(name);
      const result =
        typeof path === "number"
          ? attempt("fsetxattr", path, label, bytes, bytes.byteLength, 0)
          : attempt("lsetxattr", raw(path), label, bytes, bytes.byteLength, 0);
      // The host's root alone may give a file such a one.
      if (result === -errnoOf("EPERM") && this.#limited && name !== "security.capability") continue;
      // A label of SELinux means nothing where there is none.
      if (result < 0 && (result !== -errnoOf("EOPNOTSUPP") || name === "security.capability"))
        throw new SyscallError("lsetxattr", [entry.name, name, bytes, bytes.byteLength, 0], -result);
    }
  }

  /** Whether what is new has an owner already: it is root's, and of its directory's group at the most. */
  #isOwned({ directory }: Place, { uid, gid }: TarEntry): boolean {
    return uid === 0 && gid === 0 && directory.gid === 0;
  }

  /** Owner, mode, attributes and times of what is no regular file. */
  #finish(place: Place, entry: TarEntry, isNew = true): void {
    const name = forKernel(place.base);
    if (!isNew || !this.#isOwned(place, entry))
      direct.fchownat(place.parent, name, entry.uid, entry.gid, AT.AT_SYMLINK_NOFOLLOW);
    if (entry.type !== "symlink") direct.fchmodat(place.parent, name, entry.mode);
    if (entry.xattrs.size > 0) this.#setXattrs(`/proc/self/fd/${place.parent}/${place.base}`, entry);
    if (entry.type === "directory") {
      for (const known of this.#directories.values()) if (known.path === place.path) known.gid = entry.gid;
      this.#times.set(place.path, entry.mtime);
      this.#implied.delete(place.path);
      this.#told.add(place.path);
    } else direct.utimensat(place.parent, name, timesOf(entry.mtime), AT.AT_SYMLINK_NOFOLLOW);
  }

  #file(place: Place, entry: TarEntry, source: ByteSource): void {
    const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
    let fd = -1;
    this.#create(place, (name) => {
      fd = attempt("openat", place.parent, name, flags, entry.mode & 0o777);
      return fd;
    });
    using file = new OwnedFd(fd);
    this.#body(file.fd, entry.size, source);
    if (!this.#isOwned(place, entry)) direct.fchown(file.fd, entry.uid, entry.gid);
    if (this.#hasDefaultAcl || (entry.mode & (this.#umask | 0o7000)) !== 0) direct.fchmod(file.fd, entry.mode);
    if (entry.xattrs.size > 0) this.#setXattrs(file.fd, entry);
    direct.utimensat(file.fd, null, timesOf(entry.mtime), 0);
  }

  #body(fd: number, size: number, source: ByteSource): void {
    const buffer = this.#buffer;
    for (let left = size; left > 0; ) {
      const piece = source.piece(Math.min(left, buffer.byteLength));
      if (piece === undefined)
        throw new OciboxError("INVALID", "the layer is not a sound tar archive: it ends in the middle");
      // A small piece of memory is JavaScript's own and may move; the kernel reads from ours.
      const from = piece.buffer.byteLength >= largeEnough ? piece : buffer.subarray(0, piece.byteLength);
      if (from !== piece) from.set(piece);
      for (let at = 0; at < piece.byteLength; )
        at += direct.write(fd, at === 0 ? from : from.subarray(at), piece.byteLength - at);
      left -= piece.byteLength;
    }
  }

  #opaque(parent: number, base: string): void {
    const value = alloc(1);
    value[0] = 0x79;
    direct.lsetxattr(raw(`/proc/self/fd/${parent}/${base}`), opaqueAttribute(), value, 1, 0);
  }

  #makeDirectory(place: Place, entry: TarEntry): void {
    const name = forKernel(place.base);
    const made = attempt("mkdirat", place.parent, name, 0o700);
    if (made === -errnoOf("EEXIST")) {
      const fd = attempt("openat", place.parent, name, directoryFlags, 0);
      if (fd >= 0) {
        if (this.#own !== undefined && !this.#told.has(place.path)) clearXattrs(`/proc/self/fd/${fd}/.`);
        direct.close(fd);
      } else {
        const was = this.#clear(place);
        direct.mkdirat(place.parent, name, 0o700);
        // What was there before hid what lower layers have, and that does not come back.
        if (was && this.#own === undefined) this.#opaque(place.parent, place.base);
      }
    } else if (made < 0) throw new SyscallError("mkdirat", [place.parent, place.path, 0o700], -made);
    this.#own?.add(place.path);
    this.#finish(place, entry, made === 0);
  }

  #link(place: Place, entry: TarEntry): void {
    const target = this.#place(entry.linkname);
    if (target.path === place.path) refuse(entry.name, "a hard link to itself");
    const link = (name: string | Uint8Array): number =>
      attempt("linkat", target.parent, raw(target.base), place.parent, name, 0);
    if (isWhiteout(target.parent, raw(target.base))) refuse(entry.name, "a hard link to what the layer hides");
    if (attempt("faccessat2", target.parent, raw(target.base), 0, AT.AT_SYMLINK_NOFOLLOW) < 0)
      this.#copyUp(target, entry);
    else if (this.#own?.has(target.path) === false && !this.#takeOver(target)) refuseLink(entry);
    this.#create(place, link);
  }

  /**
   * A file that lower layers have becomes one of this layer: other names that they have for it keep the old one.
   * @returns false for what is no file
   */
  #takeOver(target: Place): boolean {
    const name = raw(target.base);
    using from = openRegular(target.parent, name);
    if (from === undefined) return false;
    const stat = alloc(256);
    direct.statx(from.fd, "", AT.AT_EMPTY_PATH, 0xfff, stat);
    this.#own?.add(target.path);
    if (readField("statx", stat, "stx_nlink") === 1) return true;
    direct.unlinkat(target.parent, name, 0);
    this.#copy(from.fd, target);
    return true;
  }

  /** A hard link to a file of a lower layer: the file is copied into this one first, as overlay does when it is written. */
  #copyUp(target: Place, entry: TarEntry): void {
    const parts = target.path.split("/");
    // Nor is what this layer hides one of its own.
    using own = ownDirectory(this.root.fd, parts.slice(0, -1));
    const lowers =
      this.options.onto === true || own?.covered === true || own?.opaque === true ? [] : this.options.lowers();
    using from = fileBelow(parts, lowers) ?? refuseLink(entry);
    this.#copy(from.fd, target);
  }

  #copy(from: number, target: Place): void {
    const stat = alloc(256);
    direct.statx(from, "", AT.AT_EMPTY_PATH, 0xfff, stat);
    const get = (field: string): number => readField("statx", stat, field);
    const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
    using to = new OwnedFd(direct.openat(target.parent, raw(target.base), flags, 0o600));
    copyData(from, to.fd, this.#buffer);
    direct.fchown(to.fd, get("stx_uid"), get("stx_gid"));
    direct.fchmod(to.fd, get("stx_mode") & 0o7777);
    copyXattrs(from, to.fd);
    const mtime = { seconds: get("stx_mtime_sec"), nanoseconds: get("stx_mtime_nsec") };
    direct.utimensat(to.fd, null, timesOf(mtime), 0);
  }

  /** A whiteout hides what lower layers have, never what this one has, before it or behind it. */
  #whiteout(entry: TarEntry, parts: readonly string[]): void {
    const parent = this.#directory(parts, parts.length - 1);
    const hidden = hiddenBy(entry, parts.at(-1) as string);
    if (hidden === undefined) return;
    if (this.#own !== undefined) {
      this.#remove(parent, hidden, this.#own);
      return;
    }
    if (hidden === true) {
      this.#opaque(parent.fd, ".");
      return;
    }
    const made = attempt("mknodat", parent.fd, raw(hidden), S.S_IFCHR, 0);
    if (made === -errnoOf("EEXIST")) {
      const fd = attempt("openat", parent.fd, raw(hidden), directoryFlags, 0);
      if (fd < 0) return;
      direct.close(fd);
      this.#opaque(parent.fd, hidden);
    } else if (made < 0) throw new SyscallError("mknodat", [parent.fd, hidden, S.S_IFCHR, 0], -made);
    else this.#whiteouts.set(parent.path, (this.#whiteouts.get(parent.path) ?? new Set()).add(hidden));
  }

  /** The same where those below are in this directory: what they have goes. */
  #remove(parent: Directory, hidden: string | true, own: ReadonlySet<string>): void {
    if (hidden === true) {
      this.#removeBelow(parent, own);
      return;
    }
    const path = within(parent.path, hidden);
    const name = raw(hidden);
    if (!own.has(path)) {
      removeTree(parent.fd, name);
      return;
    }
    const fd = attempt("openat", parent.fd, name, directoryFlags, 0);
    if (fd < 0) return;
    using directory = new OwnedFd(fd);
    this.#removeBelow({ fd: directory.fd, path }, own);
  }

  #removeBelow(directory: Omit<Directory, "gid">, own: ReadonlySet<string>): void {
    using opened = new OwnedFd(direct.openat(directory.fd, ".", O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
    for (const name of [...names(opened.fd)]) {
      const path = within(directory.path, Buffer.from(name.subarray(0, -1)).toString("latin1"));
      if (!own.has(path)) {
        removeTree(opened.fd, name);
        continue;
      }
      const fd = attempt("openat", opened.fd, name, directoryFlags, 0);
      if (fd < 0) continue;
      using below = new OwnedFd(fd);
      this.#removeBelow({ fd: below.fd, path }, own);
      if (!this.#told.has(path)) this.#untell(opened.fd, name, path, below.fd);
    }
  }

  /** A directory that layers below have described, and this one only has things in: nothing is known of it any more. */
  #untell(parent: number, name: Uint8Array, path: string, fd: number): void {
    direct.fchownat(parent, name, 0, 0, AT.AT_SYMLINK_NOFOLLOW);
    for (const known of this.#directories.values()) if (known.path === path) known.gid = 0;
    direct.fchmodat(parent, name, 0o755);
    clearXattrs(`/proc/self/fd/${fd}/.`);
    this.#times.set(path, untold);
  }

  #node(place: Place, entry: TarEntry): void {
    const kinds = { char: S.S_IFCHR, block: S.S_IFBLK, fifo: S.S_IFIFO };
    const told = kinds[entry.type as keyof typeof kinds];
    checkDevice(entry);
    // An empty file in a device's place hides what layers below have there.
    const kind = this.#limited && told !== S.S_IFIFO ? S.S_IFREG : told;
    const device = (entry.minor & 0xff) | (entry.major << 8) | ((entry.minor & ~0xff) << 12);
    this.#create(place, (name) => attempt("mknodat", place.parent, name, kind | 0o600, device));
    this.#finish(place, entry);
  }

  /** The archive's "./": the root's own owner, mode and time. */
  #rootEntry(entry: TarEntry): void {
    if (entry.type !== "directory") refuse(entry.name, "which names no file");
    const { fd } = this.root;
    this.root.gid = entry.gid;
    if (this.#own !== undefined && !this.#told.has("")) clearXattrs(`/proc/self/fd/${fd}/.`);
    direct.fchownat(fd, ".", entry.uid, entry.gid, 0);
    direct.fchmodat(fd, ".", entry.mode);
    if (entry.xattrs.size > 0) this.#setXattrs(`/proc/self/fd/${fd}/.`, entry);
    this.#times.set("", entry.mtime);
    this.#implied.delete("");
    this.#told.add("");
  }

  apply(told: TarEntry, source: ByteSource): void {
    this.#closeDone();
    const entry = this.#limited ? { ...told, uid: this.#owners.uid(told.uid), gid: this.#owners.gid(told.gid) } : told;
    const { above, base } = partsOf(entry.name);
    if (this.#last?.above === above && isPlain(base))
      this.#take(this.#placeIn(this.#last.directory, base), entry, source);
    else this.#applyAny(entry, source);
  }

  #applyAny(entry: TarEntry, source: ByteSource): void {
    const parts = components(entry.name);
    const base = parts.at(-1);
    if (base === undefined) {
      this.#rootEntry(entry);
      return;
    }
    for (const part of parts.slice(0, -1))
      if (part.startsWith(whiteoutPrefix)) refuse(entry.name, "an entry inside a whiteout");
    if (base.startsWith(whiteoutPrefix)) {
      this.#whiteout(entry, parts);
      source.skip(entry.size);
      return;
    }
    const place = this.#placeOf(parts, base);
    const simple = partsOf(entry.name);
    this.#last = simple.base === base ? { above: simple.above, directory: place.directory } : undefined;
    this.#take(place, entry, source);
  }

  #take(place: Place, entry: TarEntry, source: ByteSource): void {
    switch (entry.type) {
      case "file":
        this.#file(place, entry, source);
        break;
      case "directory":
        this.#makeDirectory(place, entry);
        break;
      case "link":
        this.#link(place, entry);
        break;
      case "symlink":
        this.#symlink(place, entry);
        break;
      case "char":
      case "block":
      case "fifo":
        this.#node(place, entry);
        break;
      default:
        entry.type satisfies never;
    }
  }

  #symlink(place: Place, entry: TarEntry): void {
    if (entry.linkname === "" || entry.linkname.includes("\0")) refuse(entry.name, "a symlink to nothing");
    const target = raw(entry.linkname);
    this.#create(place, (name) => attempt("symlinkat", target, place.parent, name));
    this.#finish(place, entry);
  }

  /**
   * Whiteouts in a directory that lies upon none of those below hide nothing, and go: overlay shows the names of what it
   * does not merge as they are.
   */
  finishWhiteouts(): void {
    if (this.options.onto === true) return;
    for (const [path, hidden] of this.#whiteouts) {
      const parts = path.split("/").filter((part) => part !== "");
      using place = ownDirectory(this.root.fd, parts);
      if (place === undefined) continue;
      if (!place.covered && !place.opaque && liesUpon(parts, this.options.lowers())) continue;
      for (const name of hidden) if (isWhiteout(place.fd, raw(name))) direct.unlinkat(place.fd, raw(name), 0);
    }
  }

  /** What the archive has not said of its directories, from the layers below. */
  finishImplied(): void {
    if (this.options.onto === true || this.#implied.size === 0) return;
    inheritAttributes(this.root.fd, this.#implied, this.options.lowers());
  }

  /** Directories' times, those deepest first. */
  finishTimes(): void {
    for (const [path, mtime] of [...this.#times].reverse()) {
      const parts = path.split("/");
      const times = timesOf(mtime);
      if (path === "") direct.utimensat(this.root.fd, ".", times, 0);
      else {
        const { fd } = this.#directory(parts, parts.length - 1);
        direct.utimensat(fd, raw(parts.at(-1) as string), times, AT.AT_SYMLINK_NOFOLLOW);
      }
    }
  }
}

/**
 * Applies a plain tar to a directory. umask must be 0 to the caller's liking: every mode is set explicitly.
 * @param root a descriptor of the directory
 * @throws OciboxError INVALID naming the entry that is refused; SyscallError where the kernel refuses
 */
export function applyLayer(root: number, source: ByteSource, options: ApplyOptions): Applied {
  const applier = new Applier(root, options);
  let entries = 0;
  try {
    for (;;) {
      const entry = nextEntry(source);
      if (entry === undefined) break;
      if (++entries > mostEntries) throw new OciboxError("INVALID", `the layer has more than ${mostEntries} entries`);
      applier.apply(entry, source);
      finishEntry(source, entry);
    }
    applier.finishWhiteouts();
    applier.finishImplied();
    applier.finishTimes();
    drain(source);
    return { entries };
  } finally {
    applier.close();
  }
}

withoutFtl(within, raw, forKernel, gidOf, timesOf, readField, alloc);
