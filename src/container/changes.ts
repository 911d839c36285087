/** What a container has changed of its image's tree, from the directory that overlay keeps the changes in. */
import { opaqueAttribute, pathAt, xattrsOf } from "../../ffi/attributes.ts";
import { AT, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { sortedNames } from "../layer/tar-tree.ts";
import type { Changes } from "./tree.ts";

export interface Change {
  /** Added, changed, deleted. */
  readonly kind: "A" | "C" | "D";
  /** From the root on, a byte a character: names need not be text. */
  readonly path: string;
}

/** What a container's set-up makes to mount on: nobody's change. */
const ours = new Set(["/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]);
const directoryFlags = O.O_RDONLY | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC;

interface Stat {
  readonly kind: number;
  /** What two are compared by. Times and sizes of directories are those of what is in them. */
  readonly text: string;
  readonly whiteout: boolean;
}

const buffer = alloc(256);

function statOf(parent: number, name: Uint8Array): Stat | undefined {
  if (attempt("statx", parent, name, AT.AT_SYMLINK_NOFOLLOW, 0x7ff, buffer) < 0) return undefined;
  const get = (field: string): number => readField("statx", buffer, field);
  const mode = get("stx_mode");
  const kind = mode & S.S_IFMT;
  const device = [get("stx_rdev_major"), get("stx_rdev_minor")];
  const contents =
    kind === S.S_IFDIR
      ? []
      : [get("stx_size"), get("stx_mtime_sec"), get("stx_mtime_nsec"), capabilities(parent, name)];
  return {
    kind,
    text: [mode, get("stx_uid"), get("stx_gid"), ...device, ...contents].join(" "),
    // Documentation/filesystems/overlayfs: what is deleted is a character device 0:0.
    whiteout: kind === S.S_IFCHR && device.every((each) => each === 0),
  };
}

function capabilities(parent: number, name: Uint8Array): string {
  for (const [key, value, size] of xattrsOf(pathAt(parent, name)))
    if (key === "security.capability") return value.subarray(0, size).toHex();
  return "";
}

function isOpaque(directory: number): boolean {
  const value = alloc(8);
  return attempt("fgetxattr", directory, opaqueAttribute(), value, value.byteLength) === 1 && value[0] === 0x79;
}

function textOf(name: Uint8Array): string {
  return Buffer.from(name.buffer, name.byteOffset, name.byteLength - 1).toString("latin1");
}

function openBelow(parent: number | undefined, name: Uint8Array, owned: DisposableStack): number | undefined {
  if (parent === undefined) return undefined;
  const fd = attempt("openat", parent, name, directoryFlags, 0);
  return fd < 0 ? undefined : owned.use(new OwnedFd(fd)).fd;
}

interface Place {
  readonly upper: number;
  /** The image's directory of the same name, where there is one. */
  readonly lower: number | undefined;
  /** "/etc/", or "/". */
  readonly path: string;
  /** Nothing of the image's directory is seen any more. */
  readonly opaque: boolean;
}

/** Adds what is below a directory, and each directory that there is a change below. */
function changesIn({ upper, lower, path, opaque }: Place, found: Change[]): void {
  const seen = new Set<string>();
  for (const name of sortedNames(upper)) {
    const text = textOf(name);
    const full = `${path}${text}`;
    seen.add(text);
    const now = ours.has(full) ? undefined : statOf(upper, name);
    if (now === undefined) continue;
    const before = lower === undefined ? undefined : statOf(lower, name);
    const kind = kindOf(now, before);
    const at = found.length;
    if (now.kind === S.S_IFDIR) changesBelow(name, { upper, lower, path: full, opaque }, found);
    if (kind !== undefined) found.splice(at, 0, { kind, path: full });
    else if (found.length > at) found.splice(at, 0, { kind: "C", path: full });
  }
  if (!opaque || lower === undefined) return;
  for (const name of sortedNames(lower))
    if (!seen.has(textOf(name))) found.push({ kind: "D", path: `${path}${textOf(name)}` });
}

function changesBelow(name: Uint8Array, { upper, lower, path, opaque }: Place, found: Change[]): void {
  using owned = new DisposableStack();
  const inner = direct.openat(upper, name, directoryFlags, 0);
  owned.use(new OwnedFd(inner));
  const place = { upper: inner, lower: openBelow(lower, name, owned), path: `${path}/` };
  changesIn({ ...place, opaque: opaque || isOpaque(inner) }, found);
}

/** Undefined for what is as it was, though it lies there: directories above a change, files that were only opened. */
function kindOf(now: Stat, before: Stat | undefined): Change["kind"] | undefined {
  if (now.whiteout) return before === undefined ? undefined : "D";
  if (before === undefined) return "A";
  return now.text === before.text ? undefined : "C";
}

/** @returns by path; a directory before what is in it */
export function changesOf({ upper, lower, whole }: Changes): Change[] {
  const found: Change[] = [];
  changesIn({ upper, lower, path: "/", opaque: whole }, found);
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}
