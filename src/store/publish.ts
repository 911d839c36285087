/** A layer's name in the store. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { makeDirectories } from "../../ffi/files.ts";
import type { ChainId } from "../spec/digest.ts";
import { exists, syncDirectory } from "./disk.ts";
import { layerFolders, type Snapshotter } from "./snapshotter.ts";
import type { Store } from "./store.ts";

/** Visible from here on, whole. Another process may have been faster. */
export function publish(store: Store, kind: Snapshotter, chainId: ChainId, place: string): void {
  const path = store.newLayerPath(kind, chainId);
  const folder = `${store.root}/${layerFolders[kind]}`;
  // A store of an older version has no folder for this kind.
  if (!exists(folder)) makeDirectories(folder);
  const renamed = attempt("renameat2", AT_FDCWD, place, AT_FDCWD, path, 1);
  if (renamed < 0 && !exists(path)) direct.renameat2(AT_FDCWD, place, AT_FDCWD, path, 1);
  syncDirectory(folder);
}
