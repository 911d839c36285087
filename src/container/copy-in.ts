/** Copying into a container, whose processes may do with the names in it what they like while it is done. */
import { AT_FDCWD, O, RESOLVE } from "../../ffi/constants.ts";
import { attempt, direct, SyscallError } from "../../ffi/direct.ts";
import { failedBy } from "../../ffi/errno.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import { type CopyOptions, copyContents, copyEntry } from "../layer/copy-tree.ts";
import { openRoot } from "../runtime/process-mark.ts";
import type { Store } from "../store/store.ts";
import type { ContainerStatus } from "./record.ts";
import { noteOf, notRunning } from "./running.ts";
import { mountTree } from "./start.ts";
import { claimId } from "./state.ts";

/** A place in a tree, whatever symlinks lead to it: they stay inside. @returns undefined where there is none */
export function openInside(root: number, path: string, flags: number): OwnedFd | undefined {
  const how = struct<number>("open_how", {
    flags: flags | O.O_CLOEXEC,
    resolve: RESOLVE.RESOLVE_IN_ROOT | RESOLVE.RESOLVE_NO_MAGICLINKS,
  });
  const fd = attempt("openat2", root, path.replace(/^\/+/, "") || ".", how, 24);
  if (failedBy(fd, "ENOENT") || failedBy(fd, "ENOTDIR")) return undefined;
  if (fd < 0) throw new SyscallError("openat2", [root, path, how, 24], -fd);
  return new OwnedFd(fd);
}

/**
 * Calls with a container's tree, which can be written: of one that runs as its processes see it, with all that is mounted
 * in it; else its own, while it cannot be started.
 * @throws OciboxError; what the work throws
 */
export async function withWritableTree<T>(
  store: Store,
  state: string,
  container: ContainerStatus,
  work: (root: number) => T,
): Promise<T> {
  if (container.running) {
    using root = openRoot(noteOf(store.root, container));
    if (root === undefined) throw notRunning(container);
    return work(root.fd);
  }
  using claimed = claimId(state, container.id);
  if (claimed === undefined)
    throw new OciboxError("IN_USE", `the container "${container.name}" is being started or copied to`, {
      hint: "try again",
    });
  using mounted = mountTree(store, container);
  return work(mounted.fd);
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
 * @param root of the container @param path in it
 * @throws OciboxError NOT_FOUND where there is no directory to copy to, IN_USE where a directory is to be overwritten
 */
export function copyInto(root: number, path: string, source: Source, options: CopyOptions): void {
  const how = { ...options, replace: true, watched: true };
  const plain = path.replace(/\/+\.?$/, "") || "/";
  using there = openInside(root, plain, directoryFlags);
  if (there === undefined && plain !== path && !source.isDirectory)
    throw new OciboxError("NOT_FOUND", `there is no directory "${path}" in the container`);
  if (source.contents) {
    using from = new OwnedFd(direct.openat(AT_FDCWD, source.path, directoryFlags | O.O_CLOEXEC, 0));
    using into = there === undefined ? makeDirectory(root, plain) : openInside(root, plain, directoryFlags);
    if (into !== undefined) copyContents(from.fd, into.fd, how);
    return;
  }
  const [parent, name] = split(source.path);
  using from = new OwnedFd(direct.openat(AT_FDCWD, parent, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  if (there !== undefined) {
    copyEntry(from.fd, name, there.fd, source.name, how);
    return;
  }
  const [place, as] = split(plain);
  using into = openInside(root, place, directoryFlags);
  if (into === undefined) throw new OciboxError("NOT_FOUND", `there is no directory "${place}" in the container`);
  copyEntry(from.fd, name, into.fd, as, how);
}

function makeDirectory(root: number, path: string): OwnedFd {
  const [place, name] = split(path);
  using parent = openInside(root, place, directoryFlags);
  if (parent === undefined) throw new OciboxError("NOT_FOUND", `there is no directory "${place}" in the container`);
  direct.mkdirat(parent.fd, name, 0o755);
  return new OwnedFd(direct.openat(parent.fd, name, directoryFlags | O.O_NOFOLLOW | O.O_CLOEXEC, 0));
}
