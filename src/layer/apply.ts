/**
 * Applying a layer to an empty directory of its own, in overlay's terms: image-spec, layer.md. Nothing is ever written
 * outside of that directory: each name is walked from its descriptor, one component at a time, and no symlink of the
 * archive is followed out of it.
 */
import { timesOf } from "../../ffi/attributes.ts";
import { AT, O, RESOLVE, S } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import { inheritAttributes, raw } from "./implied.ts";
import { removeTree } from "./remove-tree.ts";
import { type ByteSource, drain, finishEntry, nextEntry, type TarEntry } from "./tar.ts";

export interface ApplyOptions {
  /** The unpacked layers below, the uppermost first: hard links may point there. Awaited only if one does. */
  lowers(): Promise<readonly string[]>;
  /** The largest plain size that is believed, in bytes. */
  readonly most: number;
}

export interface Applied {
  readonly entries: number;
}

const whiteoutPrefix = ".wh.";
const opaqueName = ".wh..wh..opq";
const mostDescriptors = 128;
const mostEntries = 5_000_000;
const mostDepth = 2000;
const directoryFlags = O.O_PATH | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;

function refuse(name: string, why: string): never {
  throw new OciboxError("INVALID", `the layer has ${JSON.stringify(name)}, ${why}`);
}

/** The components of a member's name. @throws for "..", NULs and names that no file system takes */
function components(name: string): string[] {
  if (name.includes("\0")) refuse(name, "a name with a NUL in it");
  const parts: string[] = [];
  for (const part of name.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") refuse(name, 'which leads out of the layer by ".."');
    if (part.length > 255) refuse(name, "a name of more than 255 bytes");
    parts.push(part);
  }
  if (parts.length > mostDepth) refuse(name.slice(0, 200), `more than ${mostDepth} directories deep`);
  return parts;
}

interface Place {
  readonly parent: number;
  readonly base: string;
  /** The whole name, normalised: "usr/lib/x". */
  readonly path: string;
}

class Applier {
  readonly root: number;
  readonly options: ApplyOptions;
  /** Open directories by path, the least recently used first. */
  readonly #directories = new Map<string, number>();
  /** Directories whose times are set at the end, when nothing more is put in them. */
  readonly #times = new Map<string, TarEntry["mtime"]>();
  /** Directories that are there because of what is in them; "" is the root. */
  readonly #implied = new Set<string>([""]);
  readonly #buffer = alloc(1 << 20);

  constructor(root: number, options: ApplyOptions) {
    this.root = root;
    this.options = options;
  }

  close(): void {
    for (const fd of this.#directories.values()) direct.close(fd);
    this.#directories.clear();
  }

  /** Forgets what is known of a path that is replaced, and of all below it. */
  #forget(path: string): void {
    for (const [known, fd] of this.#directories) {
      if (known !== path && !known.startsWith(`${path}/`)) continue;
      direct.close(fd);
      this.#directories.delete(known);
    }
    for (const known of this.#times.keys())
      if (known === path || known.startsWith(`${path}/`)) this.#times.delete(known);
    for (const known of this.#implied) if (known === path || known.startsWith(`${path}/`)) this.#implied.delete(known);
  }

  #remember(path: string, fd: number): number {
    this.#directories.set(path, fd);
    if (this.#directories.size > mostDescriptors) {
      const [oldest] = this.#directories;
      if (oldest !== undefined && oldest[0] !== path) {
        direct.close(oldest[1]);
        this.#directories.delete(oldest[0]);
      }
    }
    return fd;
  }

  /** The directory of a path, made with those above it where the archive has not named them. */
  #directory(parts: readonly string[], count: number, make: boolean): number {
    if (count === 0) return this.root;
    const path = parts.slice(0, count).join("/");
    const known = this.#directories.get(path);
    if (known !== undefined) {
      this.#directories.delete(path);
      this.#directories.set(path, known);
      return known;
    }
    const above = this.#directory(parts, count - 1, make);
    const name = raw(parts[count - 1] as string);
    let fd = attempt("openat", above, name, directoryFlags, 0);
    if (fd === -errnoOf("ENOENT") && make) {
      direct.mkdirat(above, name, 0o755);
      direct.fchmodat(above, name, 0o755);
      this.#implied.add(path);
      fd = attempt("openat", above, name, directoryFlags, 0);
    }
    // A symlink of this layer where a directory is meant: it is followed inside the layer, and nowhere else.
    if (fd === -errnoOf("ENOTDIR") || fd === -errnoOf("ELOOP")) fd = this.#through(above, name, path);
    if (fd < 0) throw new SyscallError("openat", [above, path, directoryFlags, 0], -fd);
    return this.#remember(path, fd);
  }

  #through(above: number, name: Uint8Array, path: string): number {
    // Whatever is in the way that is no symlink to a directory of this layer gives way to nothing: it is refused.
    const how = struct<number>("open_how", {
      flags: O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC,
      resolve: RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS | RESOLVE.RESOLVE_NO_XDEV,
    });
    const fd = attempt("openat2", this.root, raw(path), how, 24);
    void above;
    void name;
    if (fd < 0) refuse(path, "which is not a directory, as the way to another entry");
    return fd;
  }

  #place(name: string): Place {
    const parts = components(name);
    const base = parts.at(-1);
    if (base === undefined) refuse(name, "which names no file");
    return { parent: this.#directory(parts, parts.length - 1, true), base, path: parts.join("/") };
  }

  /** Makes way for an entry. @returns what was there: a whiteout hides what lower layers have */
  #clear(place: Place): "nothing" | "whiteout" | "other" {
    const name = raw(place.base);
    const stat = alloc(256);
    if (attempt("statx", place.parent, name, AT.AT_SYMLINK_NOFOLLOW, 0x3, stat) < 0) return "nothing";
    const isWhiteout =
      (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFCHR &&
      readField("statx", stat, "stx_rdev_major") === 0 &&
      readField("statx", stat, "stx_rdev_minor") === 0;
    this.#forget(place.path);
    removeTree(place.parent, name);
    return isWhiteout ? "whiteout" : "other";
  }

  /** Makes something new; what stands in its way is removed first. */
  #create(place: Place, make: (name: Uint8Array) => number): "nothing" | "whiteout" | "other" {
    const name = raw(place.base);
    const made = make(name);
    if (made >= 0) return "nothing";
    if (made !== -errnoOf("EEXIST")) throw new SyscallError("mknodat", [place.parent, place.path, 0, 0], -made);
    const was = this.#clear(place);
    const again = make(name);
    if (again < 0) throw new SyscallError("mknodat", [place.parent, place.path, 0, 0], -again);
    return was;
  }

  #setXattrs(path: string | number, entry: TarEntry): void {
    for (const [name, value] of entry.xattrs) {
      // Overlay's own attributes would let a layer speak for the kernel; they are never taken from an archive.
      if (name.startsWith("trusted.overlay.") || name.startsWith("user.overlay.")) continue;
      const bytes = alloc(value.byteLength);
      bytes.set(value);
      const label = raw(name);
      const result =
        typeof path === "number"
          ? attempt("fsetxattr", path, label, bytes, bytes.byteLength, 0)
          : attempt("lsetxattr", raw(path), label, bytes, bytes.byteLength, 0);
      // A label of SELinux means nothing where there is none.
      if (result < 0 && (result !== -errnoOf("EOPNOTSUPP") || name === "security.capability"))
        throw new SyscallError("lsetxattr", [entry.name, name, bytes, bytes.byteLength, 0], -result);
    }
  }

  /** Owner, mode, attributes and times of what is no regular file. */
  #finish(place: Place, entry: TarEntry): void {
    const name = raw(place.base);
    direct.fchownat(place.parent, name, entry.uid, entry.gid, AT.AT_SYMLINK_NOFOLLOW);
    if (entry.type !== "symlink") direct.fchmodat(place.parent, name, entry.mode);
    if (entry.xattrs.size > 0) this.#setXattrs(`/proc/self/fd/${place.parent}/${place.base}`, entry);
    if (entry.type === "directory") {
      this.#times.set(place.path, entry.mtime);
      this.#implied.delete(place.path);
    } else direct.utimensat(place.parent, name, timesOf(entry.mtime), AT.AT_SYMLINK_NOFOLLOW);
  }

  async #file(place: Place, entry: TarEntry, source: ByteSource): Promise<void> {
    const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
    let fd = -1;
    this.#create(place, (name) => {
      fd = attempt("openat", place.parent, name, flags, 0o600);
      return fd;
    });
    using file = new OwnedFd(fd);
    await this.#body(file.fd, entry.size, source);
    direct.fchown(file.fd, entry.uid, entry.gid);
    direct.fchmod(file.fd, entry.mode);
    if (entry.xattrs.size > 0) this.#setXattrs(file.fd, entry);
    direct.utimensat(file.fd, null, timesOf(entry.mtime), 0);
  }

  async #body(fd: number, size: number, source: ByteSource): Promise<void> {
    const buffer = this.#buffer;
    for (let left = size; left > 0; ) {
      const piece =
        source.ready(Math.min(left, buffer.byteLength)) ?? (await source.piece(Math.min(left, buffer.byteLength)));
      if (piece === undefined)
        throw new OciboxError("INVALID", "the layer is not a sound tar archive: it ends in the middle");
      // The stream's memory is JavaScript's and may move; the kernel reads from ours.
      buffer.set(piece);
      for (let at = 0; at < piece.byteLength; )
        at += direct.write(fd, at === 0 ? buffer : buffer.subarray(at), piece.byteLength - at);
      left -= piece.byteLength;
    }
  }

  #opaque(parent: number, base: string): void {
    const value = alloc(1);
    value[0] = 0x79;
    direct.lsetxattr(raw(`/proc/self/fd/${parent}/${base}`), "trusted.overlay.opaque", value, 1, 0);
  }

  #makeDirectory(place: Place, entry: TarEntry): void {
    const name = raw(place.base);
    const made = attempt("mkdirat", place.parent, name, 0o700);
    if (made === -errnoOf("EEXIST")) {
      const fd = attempt("openat", place.parent, name, directoryFlags, 0);
      if (fd >= 0) direct.close(fd);
      else {
        const was = this.#clear(place);
        direct.mkdirat(place.parent, name, 0o700);
        if (was === "whiteout") this.#opaque(place.parent, place.base);
      }
    } else if (made < 0) throw new SyscallError("mkdirat", [place.parent, place.path, 0o700], -made);
    this.#finish(place, entry);
  }

  async #link(place: Place, entry: TarEntry): Promise<void> {
    const target = this.#place(entry.linkname);
    if (target.path === place.path) refuse(entry.name, "a hard link to itself");
    const link = (name: Uint8Array): number =>
      attempt("linkat", target.parent, raw(target.base), place.parent, name, 0);
    if (attempt("faccessat2", target.parent, raw(target.base), 0, AT.AT_SYMLINK_NOFOLLOW) < 0)
      await this.#copyUp(target, entry);
    this.#create(place, link);
  }

  /** A hard link to a file of a lower layer: the file is copied into this one first, as overlay does when it is written. */
  async #copyUp(target: Place, entry: TarEntry): Promise<void> {
    const how = struct<number>("open_how", {
      flags: O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC | O.O_NONBLOCK,
      resolve: RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_SYMLINKS,
    });
    for (const lower of await this.options.lowers()) {
      using directory = new OwnedFd(direct.openat(-100, lower, directoryFlags, 0));
      const fd = attempt("openat2", directory.fd, raw(target.path), how, 24);
      if (fd < 0) continue;
      using from = new OwnedFd(fd);
      if (this.#copy(from.fd, target)) return;
    }
    refuse(
      entry.name,
      `a hard link to ${JSON.stringify(entry.linkname)}, which is in neither this layer nor one below`,
    );
  }

  #copy(from: number, target: Place): boolean {
    const stat = alloc(256);
    direct.statx(from, "", AT.AT_EMPTY_PATH, 0xfff, stat);
    const get = (field: string): number => readField("statx", stat, field);
    if ((get("stx_mode") & S.S_IFMT) !== S.S_IFREG) return false;
    const flags = O.O_WRONLY | O.O_CREAT | O.O_EXCL | O.O_NOFOLLOW | O.O_CLOEXEC;
    using to = new OwnedFd(direct.openat(target.parent, raw(target.base), flags, 0o600));
    while (direct.copy_file_range(from, null, to.fd, null, 1 << 30, 0) > 0);
    direct.fchown(to.fd, get("stx_uid"), get("stx_gid"));
    direct.fchmod(to.fd, get("stx_mode") & 0o7777);
    const value = alloc(65_536);
    const size = attempt("fgetxattr", from, "security.capability", value, value.byteLength);
    if (size > 0) direct.fsetxattr(to.fd, "security.capability", value, size, 0);
    const mtime = { seconds: get("stx_mtime_sec"), nanoseconds: get("stx_mtime_nsec") };
    direct.utimensat(to.fd, null, timesOf(mtime), 0);
    return true;
  }

  /** A whiteout hides what lower layers have, never what this one has, before it or behind it. */
  #whiteout(name: string, parts: readonly string[]): void {
    const base = parts.at(-1) as string;
    const hidden = base.slice(whiteoutPrefix.length);
    const parent = this.#directory(parts, parts.length - 1, true);
    if (base === opaqueName) {
      const above = parts.slice(0, -1);
      const holder = above.length === 0 ? this.root : this.#directory(above, above.length - 1, true);
      this.#opaque(holder, above.at(-1) ?? ".");
      return;
    }
    // What aufs kept for itself.
    if (hidden.startsWith(whiteoutPrefix)) return;
    if (hidden === "" || hidden === "." || hidden === "..") refuse(name, "a whiteout of no file");
    const made = attempt("mknodat", parent, raw(hidden), S.S_IFCHR, 0);
    if (made === -errnoOf("EEXIST")) {
      const fd = attempt("openat", parent, raw(hidden), directoryFlags, 0);
      if (fd < 0) return;
      direct.close(fd);
      this.#opaque(parent, hidden);
    } else if (made < 0) throw new SyscallError("mknodat", [parent, hidden, S.S_IFCHR, 0], -made);
  }

  #node(place: Place, entry: TarEntry): void {
    const kind = { char: S.S_IFCHR, block: S.S_IFBLK, fifo: S.S_IFIFO }[entry.type as "char" | "block" | "fifo"];
    if (entry.type === "char" && entry.major === 0 && entry.minor === 0)
      refuse(entry.name, "the device 0:0, which is a whiteout to overlay");
    if (entry.major < 0 || entry.major > 0xfff || entry.minor < 0 || entry.minor > 0xfffff)
      refuse(entry.name, "no such device");
    const device = (entry.minor & 0xff) | (entry.major << 8) | ((entry.minor & ~0xff) << 12);
    this.#create(place, (name) => attempt("mknodat", place.parent, name, kind | 0o600, device));
    this.#finish(place, entry);
  }

  /** The archive's "./": the root's own owner, mode and time. */
  #rootEntry(entry: TarEntry): void {
    if (entry.type !== "directory") refuse(entry.name, "which names no file");
    direct.fchownat(this.root, ".", entry.uid, entry.gid, 0);
    direct.fchmodat(this.root, ".", entry.mode);
    if (entry.xattrs.size > 0) this.#setXattrs(`/proc/self/fd/${this.root}/.`, entry);
    this.#times.set("", entry.mtime);
    this.#implied.delete("");
  }

  async apply(entry: TarEntry, source: ByteSource): Promise<void> {
    const parts = components(entry.name);
    const base = parts.at(-1);
    if (base === undefined) {
      this.#rootEntry(entry);
      return;
    }
    if (base.startsWith(whiteoutPrefix)) {
      this.#whiteout(entry.name, parts);
      await source.skip(entry.size);
      return;
    }
    for (const part of parts) if (part.startsWith(whiteoutPrefix)) refuse(entry.name, "an entry inside a whiteout");
    const place: Place = { parent: this.#directory(parts, parts.length - 1, true), base, path: parts.join("/") };
    switch (entry.type) {
      case "file":
        return this.#file(place, entry, source);
      case "directory":
        return this.#makeDirectory(place, entry);
      case "link":
        return this.#link(place, entry);
      case "symlink": {
        if (entry.linkname === "" || entry.linkname.includes("\0")) refuse(entry.name, "a symlink to nothing");
        const target = raw(entry.linkname);
        this.#create(place, (name) => attempt("symlinkat", target, place.parent, name));
        return this.#finish(place, entry);
      }
      case "char":
      case "block":
      case "fifo":
        return this.#node(place, entry);
      default:
        return entry.type satisfies never;
    }
  }

  /** What the archive has not said of its directories, from the layers below. */
  async finishImplied(): Promise<void> {
    if (this.#implied.size > 0) inheritAttributes(this.root, this.#implied, await this.options.lowers());
  }

  /** Directories' times, those deepest first. */
  finishTimes(): void {
    for (const [path, mtime] of [...this.#times].reverse()) {
      const parts = path.split("/");
      const times = timesOf(mtime);
      if (path === "") direct.utimensat(this.root, ".", times, 0);
      else {
        const parent = this.#directory(parts, parts.length - 1, false);
        direct.utimensat(parent, raw(parts.at(-1) as string), times, AT.AT_SYMLINK_NOFOLLOW);
      }
    }
  }
}

/**
 * Applies a plain tar to an empty directory. umask must be 0 to the caller's liking: every mode is set explicitly.
 * @param root a descriptor of the directory
 * @throws OciboxError INVALID naming the entry that is refused; SyscallError where the kernel refuses
 */
export async function applyLayer(root: number, source: ByteSource, options: ApplyOptions): Promise<Applied> {
  const applier = new Applier(root, options);
  let entries = 0;
  try {
    for (;;) {
      const entry = await nextEntry(source);
      if (entry === undefined) break;
      if (++entries > mostEntries) throw new OciboxError("INVALID", `the layer has more than ${mostEntries} entries`);
      await applier.apply(entry, source);
      await finishEntry(source, entry);
    }
    await applier.finishImplied();
    applier.finishTimes();
    await drain(source);
    return { entries };
  } finally {
    applier.close();
  }
}
