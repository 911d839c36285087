/**
 * The ways that an image's layers lie on the disk, to be mounted. Which of them works depends on the kernel and on the
 * file system of the store.
 */
import { inUserNamespace } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import type { ChainId } from "../spec/digest.ts";

/** In the order of preference, where an image lies there in several. */
export const snapshotters = ["overlay", "erofs", "copy"] as const;

/**
 * "overlay": a directory a layer, mounted upon each other. "erofs": a layer's plain archive with an index that makes a
 * file system of it, mounted upon each other. "copy": the whole tree of an image, of which each container gets a copy.
 */
export type Snapshotter = (typeof snapshotters)[number];

/**
 * Below the store's root. What an ordinary user's overlay has for an opaque directory is not what root's has, so that
 * neither takes the other's layers, which may lie in an additional store.
 */
export const layerFolders: Readonly<Record<Snapshotter, string>> = {
  overlay: inUserNamespace() ? "user-layers" : "layers",
  erofs: "erofs",
  copy: "trees",
};

/** The names below such a folder that an image needs. @param chains of its layers, the lowest first */
export function needed(kind: Snapshotter, chains: readonly ChainId[]): readonly ChainId[] {
  return kind === "copy" ? chains.slice(-1) : chains;
}

/** @throws OciboxError USAGE */
export function parseSnapshotter(text: string, what: string): Snapshotter {
  const found = snapshotters.find((each) => each === text);
  if (found !== undefined) return found;
  throw new OciboxError("USAGE", `${what} is "${text}", not one of ${snapshotters.join(", ")}`);
}
