/** Copying into a container, whose processes may do with the names in it what they like while it is done. */
import { realpathSync } from "node:fs";
import { AT_FDCWD, O, S } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { lockFile } from "../../ffi/lock.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { cleanPath } from "../bundle/values.ts";
import { OciboxError } from "../errors.ts";
import { type CopyOptions, copyContents, copyEntry } from "../layer/copy-tree.ts";
import { openRoot, untilRooted } from "../runtime/process-mark.ts";
import { openInRoot } from "../runtime/read-in-root.ts";
import type { Store } from "../store/store.ts";
import { type ContainerRecord, type ContainerStatus, copyLock } from "./record.ts";
import { noteOf, notRunning } from "./running.ts";
import { mountTree } from "./start.ts";
import { isRunning } from "./state.ts";

/** A place in a container: a tree, and a path in it. */
export interface Place {
  readonly root: number;
  readonly path: string;
}

/** Something of the host's, or a volume, that a path in a container leads to. */
export interface Mounted {
  readonly source: string;
  /** Below it; "" for itself. */
  readonly rest: string;
  readonly readonly: boolean;
}

/** What is mounted where a path leads, as it is written: the deepest of all. */
export function mountedAt({ mounts = [] }: ContainerRecord, path: string): Mounted | undefined {
  const plain = cleanPath(path, "the path");
  let found: (typeof mounts)[number] | undefined;
  for (const each of mounts)
    if (`${plain}/`.startsWith(`${each.destination}/`) && each.destination.length > (found?.destination.length ?? 0))
      found = each;
  if (found === undefined) return undefined;
  const rest = plain.slice(found.destination.length) + (path.endsWith("/.") ? "/." : "");
  return { source: found.source, rest, readonly: found.options.includes("ro") };
}

export function isDirectory(path: string): boolean {
  const stat = alloc(256);
  const STATX_TYPE = 1;
  const found = attempt("statx", AT_FDCWD, path, 0, STATX_TYPE, stat);
  return found >= 0 && (readField("statx", stat, "stx_mode") & S.S_IFMT) === S.S_IFDIR;
}

/** Calls with what is mounted, as a tree and a path in it: of a file the directory that it is in. */
export function withMounted<T>({ source, rest }: Mounted, work: (root: number, path: string) => T): T {
  const real = realpathSync(source);
  const isTree = isDirectory(real);
  const [parent, name] = isTree ? [real, ""] : split(real);
  using root = new OwnedFd(direct.openat(AT_FDCWD, parent, directoryFlags | O.O_CLOEXEC, 0));
  return work(root.fd, isTree ? rest || "/" : `/${name}${rest}`);
}

/** While this is held the container is not started. */
function heldBack(root: string, state: string, container: ContainerStatus): OwnedFd {
  const lock = lockFile(copyLock(root, container.id), "exclusive");
  if (lock !== undefined && !isRunning(state, container.id)) return lock;
  lock?.[Symbol.dispose]();
  throw new OciboxError("IN_USE", `the container "${container.name}" is being started or copied to`, {
    hint: "try again",
  });
}

/**
 * Calls with a place in a container that can be written: of one that runs as its processes see it, with all that is mounted
 * in it; else in its own tree, or in what would be mounted there.
 * @throws OciboxError; what the work throws
 */
export function withWritablePlace(
  store: Store,
  state: string,
  container: ContainerStatus,
  path: string,
  work: (place: Place) => void,
): void {
  if (container.running) {
    const mark = noteOf(store.root, container);
    // Before it has its own root, it has the host's.
    if (!untilRooted(mark)) throw notRunning(container);
    using root = openRoot(mark);
    if (root === undefined) throw notRunning(container);
    work({ root: root.fd, path });
    return;
  }
  using lock = heldBack(store.root, state, container);
  void lock;
  const mounted = mountedAt(container, path);
  if (mounted === undefined) {
    using tree = mountTree(store, container);
    work({ root: tree.fd, path });
    return;
  }
  if (mounted.readonly)
    throw new OciboxError("INVALID", `"${path}" is mounted read-only in the container "${container.name}"`);
  // Written into, and not replaced, it can be only where it is mounted.
  if (!isDirectory(mounted.source))
    throw new OciboxError(
      "INVALID",
      `"${path}" would be mounted in the container "${container.name}", which does not run`,
      {
        hint: `start it first, or write to "${mounted.source}"`,
      },
    );
  const slash = path.endsWith("/") ? "/" : "";
  withMounted(mounted, (root, rest) => work({ root, path: rest + slash }));
}

/** What is copied. */
export interface Source {
  /** On the host. */
  readonly path: string;
  /** What it is called in a directory that it is copied to. */
  readonly name: string;
  readonly isDirectory: boolean;
  /** Not itself, but what is in it. */
  readonly contents: boolean;
}

const directoryFlags = O.O_RDONLY | O.O_DIRECTORY;

function split(path: string): readonly [parent: string, name: string] {
  const at = path.lastIndexOf("/");
  return [path.slice(0, at) || "/", path.slice(at + 1)];
}

/**
 * Copies as docker cp does it: into a directory that is there, or under the name that was given. What is there is
 * overwritten, directories are merged.
 * @throws OciboxError NOT_FOUND where there is no directory to copy to, IN_USE where a directory is to be overwritten
 */
export function copyInto({ root, path }: Place, source: Source, options: CopyOptions): void {
  const how = { ...options, replace: true, watched: true };
  const plain = cleanPath(path, "the destination");
  const [place, as] = split(plain);
  using there = openInRoot(root, plain, directoryFlags);
  if (there === undefined && path.endsWith("/") && !source.isDirectory)
    throw new OciboxError("NOT_FOUND", `there is no directory "${path}" in the container`);
  using parent = there === undefined ? openInRoot(root, place, directoryFlags) : undefined;
  if (there === undefined && parent === undefined)
    throw new OciboxError("NOT_FOUND", `there is no directory "${place}" in the container`);
  if (source.contents) {
    using from = new OwnedFd(direct.openat(AT_FDCWD, source.path, directoryFlags | O.O_CLOEXEC, 0));
    using made = parent && makeDirectory(parent.fd, as);
    copyContents(from.fd, (there ?? (made as OwnedFd)).fd, how);
    return;
  }
  const [directory, name] = split(source.path);
  using from = new OwnedFd(direct.openat(AT_FDCWD, directory, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  if (there !== undefined) copyEntry(from.fd, name, there.fd, source.name, how);
  else copyEntry(from.fd, name, (parent as OwnedFd).fd, as, how);
}

function makeDirectory(parent: number, name: string): OwnedFd {
  direct.mkdirat(parent, name, 0o755);
  const made = new OwnedFd(direct.openat(parent, name, directoryFlags | O.O_NOFOLLOW | O.O_CLOEXEC, 0));
  // Whatever the caller's mask is.
  direct.fchmod(made.fd, 0o755);
  return made;
}
