/**
 * Directories that a layer has things in without naming them itself. In an overlay the layer's own directory hides the
 * attributes of those below, so it is given theirs: what unpacking layer upon layer into one directory would leave.
 */
import { type Attributes, copyAttributes, opaqueAttribute, readAttributes, timesOf } from "../../ffi/attributes.ts";
import { AT, AT_FDCWD, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";

const directoryFlags = O.O_PATH | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;

const ascii = /^[\x01-\x7f]*$/;

/** A name for the kernel: as it is where its bytes are those of its UTF-8, else as bytes. */
export function forKernel(name: string): string | Uint8Array {
  return ascii.test(name) ? name : raw(name);
}

/** A name's bytes with a NUL behind them, for the kernel; names are a byte a character. */
export function raw(name: string): Uint8Array {
  const bytes = alloc(name.length + 1);
  for (let at = 0; at < name.length; at++) bytes[at] = name.charCodeAt(at);
  return bytes;
}

function isOpaque(fd: number): boolean {
  const value = alloc(8);
  return attempt("lgetxattr", `/proc/self/fd/${fd}/.`, opaqueAttribute(), value, 8) === 1 && value[0] === 0x79;
}

/** A directory of one layer; "absent" where the layers below decide, "hidden" where nothing of theirs is seen. */
function find(layer: OwnedFd, parts: readonly string[]): OwnedFd | "absent" | "hidden" {
  let at = layer;
  let covered = false;
  for (const part of parts) {
    covered ||= isOpaque(at.fd);
    const fd = attempt("openat", at.fd, raw(part), directoryFlags, 0);
    if (at !== layer) at[Symbol.dispose]();
    if (fd < 0) return fd === -errnoOf("ENOENT") && !covered ? "absent" : "hidden";
    at = new OwnedFd(fd);
  }
  return at;
}

/** The directory that a layer's own lies upon, in the uppermost layer that has it; undefined where none is seen. */
function below(parts: readonly string[], lowers: readonly string[]): OwnedFd | undefined {
  for (const lower of lowers) {
    using layer = new OwnedFd(direct.openat(AT_FDCWD, lower, directoryFlags, 0));
    const found = find(layer, parts);
    if (found === "hidden") return undefined;
    if (found === layer) return new OwnedFd(direct.openat(layer.fd, ".", directoryFlags, 0));
    if (found !== "absent") return found;
  }
  return undefined;
}

/** A regular file to be read; undefined for all else, which is not opened: to open a device may be to do something. */
export function openRegular(parent: number, name: Uint8Array): OwnedFd | undefined {
  const fd = attempt("openat", parent, name, O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  using found = new OwnedFd(fd);
  const stat = alloc(256);
  direct.statx(found.fd, "", AT.AT_EMPTY_PATH, 1, stat);
  if ((readField("statx", stat, "stx_mode") & S.S_IFMT) !== S.S_IFREG) return undefined;
  return new OwnedFd(direct.openat(AT_FDCWD, `/proc/self/fd/${found.fd}`, O.O_RDONLY | O.O_CLOEXEC, 0));
}

/**
 * A file as it is seen of the layers below, to be read; undefined where there is none, or where one of them hides it.
 * @param lowers the uppermost first
 */
export function fileBelow(parts: readonly string[], lowers: readonly string[]): OwnedFd | undefined {
  const base = raw(parts.at(-1) as string);
  for (const lower of lowers) {
    using layer = new OwnedFd(direct.openat(AT_FDCWD, lower, directoryFlags, 0));
    const found = find(layer, parts.slice(0, -1));
    if (found === "hidden") return undefined;
    if (found === "absent") continue;
    using directory = found;
    if (attempt("faccessat2", directory.fd, base, 0, AT.AT_SYMLINK_NOFOLLOW) >= 0)
      return openRegular(directory.fd, base);
    if (isOpaque(directory.fd)) return undefined;
  }
  return undefined;
}

/** Whether a directory of that name is seen in the layers below. @param lowers the uppermost first */
export function liesUpon(parts: readonly string[], lowers: readonly string[]): boolean {
  using found = below(parts, lowers);
  return found !== undefined;
}

/**
 * How the directory is that a layer's own lies upon.
 * @param parts of its name; none for the root
 * @param lowers layers below, the uppermost first
 */
export function attributesBelow(parts: readonly string[], lowers: readonly string[]): Attributes | undefined {
  using found = below(parts, lowers);
  return found === undefined ? undefined : readAttributes(`/proc/self/fd/${found.fd}/.`);
}

class OwnDirectory extends OwnedFd {
  constructor(
    fd: number,
    /** One above it hides what layers below have. */
    readonly covered: boolean,
    readonly opaque: boolean,
  ) {
    super(fd);
  }
}

/** A layer's own directory; undefined where it was made through a symlink of the archive, and has another name. */
export function ownDirectory(root: number, parts: readonly string[]): OwnDirectory | undefined {
  let fd = direct.openat(root, ".", directoryFlags, 0);
  let covered = false;
  for (const part of parts) {
    using above = new OwnedFd(fd);
    covered ||= isOpaque(above.fd);
    fd = attempt("openat", above.fd, raw(part), directoryFlags, 0);
    if (fd < 0) return undefined;
  }
  return new OwnDirectory(fd, covered, isOpaque(fd));
}

/**
 * Gives directories of a layer the attributes of those that they lie upon.
 * @param root a descriptor of the layer
 * @param paths relative, "" for the root itself
 * @param lowers unpacked layers below, the uppermost first
 */
export function inheritAttributes(root: number, paths: Iterable<string>, lowers: readonly string[]): void {
  for (const path of paths) {
    const parts = path.split("/").filter((part) => part !== "");
    using own = ownDirectory(root, parts);
    if (own === undefined) continue;
    const to = `/proc/self/fd/${own.fd}/.`;
    using from = own.covered ? undefined : below(parts, lowers);
    if (from !== undefined) copyAttributes(`/proc/self/fd/${from.fd}/.`, to);
    // Nobody has said when: the same each time, and not the time of unpacking.
    else direct.utimensat(AT_FDCWD, to, timesOf({ seconds: 0, nanoseconds: 0 }), 0);
  }
}
