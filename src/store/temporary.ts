/** What is unfinished, below ROOT/tmp: each process has a directory of its own with a lock, and what a killed one left goes. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories, namesIn } from "../../ffi/files.ts";
import { lockFile } from "../../ffi/lock.ts";
import { removeTree } from "../layer/remove-tree.ts";
import { removePartials } from "./partial-blob.ts";
import type { Store } from "./store.ts";

/** What Store.temporaryName makes. */
const temporaryFile = /^[0-9a-f]{24}$/;

/**
 * Directories and files of pulls that were killed: their lock is free.
 * @param all blobs too that the next pull could go on with
 */
export function reclaim(store: Store, all = false): void {
  const fd = attempt("openat", AT_FDCWD, store.temporary, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (fd < 0) return;
  using temporary = new OwnedFd(fd);
  const names = namesIn(store.temporary);
  removePartials(store, names, all);
  for (const name of names) {
    if (!name.endsWith(".lock") && !temporaryFile.test(name)) continue;
    using lock = lockFile(`${store.temporary}/${name}`, "exclusive");
    if (lock === undefined) continue;
    if (name.startsWith("pull-")) removeTree(temporary.fd, name.slice(0, -5));
    attempt("unlinkat", AT_FDCWD, `${store.temporary}/${name}`, 0);
  }
}

/** A directory of this process's own below ROOT/tmp, with a lock that says so. */
export function workspace(store: Store, owned: DisposableStack): string {
  let path: string;
  let lock: OwnedFd | undefined;
  do {
    path = `${store.temporary}/pull-${crypto.getRandomValues(new Uint8Array(8)).toHex()}`;
    // Somebody who clears up may take it for one that was left, before it is locked.
    lock = lockFile(`${path}.lock`, "exclusive");
  } while (lock === undefined);
  owned.use(lock);
  owned.defer(() => attempt("unlinkat", AT_FDCWD, `${path}.lock`, 0));
  makeDirectories(path);
  owned.defer(() => {
    using parent = new OwnedFd(direct.openat(AT_FDCWD, store.temporary, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
    removeTree(parent.fd, path.slice(path.lastIndexOf("/") + 1));
  });
  return path;
}
