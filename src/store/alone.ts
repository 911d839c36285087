/** One process at a time for a digest: the others wait, and find what it has done. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { lockFile } from "../../ffi/lock.ts";
import { type Digest, hexOf } from "../spec/digest.ts";
import type { Store } from "./store.ts";

/** Works on a blob while no other process does. */
export async function alone<T>(store: Store, digest: Digest, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  const path = `${store.temporary}/${hexOf(digest)}.lock`;
  for (;;) {
    signal.throwIfAborted();
    const lock = lockFile(path, "exclusive");
    if (lock === undefined) {
      await Bun.sleep(25);
      continue;
    }
    try {
      return await work();
    } finally {
      attempt("unlinkat", AT_FDCWD, path, 0);
      lock[Symbol.dispose]();
    }
  }
}
