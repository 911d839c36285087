/** Trees to be read, an image's or a container's: layers as one mount that nobody else sees. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { makeDirectories } from "../../ffi/files.ts";
import { OciboxError } from "../errors.ts";
import { prepareTree } from "../rootfs/prepare.ts";
import type { ChainId } from "../spec/digest.ts";
import { chainsOf, type Store, type StoredImage } from "../store/store.ts";
import { workspace } from "../store/temporary.ts";
import { type ContainerRecord, containerDirectory } from "./record.ts";

type Work<T> = (root: number) => Promise<T> | T;

function openDirectory(parent: number, path: string): OwnedFd {
  return new OwnedFd(direct.openat(parent, path, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
}

/** @param above a directory of overlay's that lies over the layers */
async function withLayers<T>(
  store: Store,
  chains: readonly ChainId[],
  above: string | undefined,
  work: Work<T>,
): Promise<T> {
  using owned = new DisposableStack();
  owned.use(store.lockShared());
  const kind = store.unpackedAs(chains);
  if (kind === undefined)
    throw new OciboxError("STORE", "the image's layers are not there to be mounted", {
      hint: "pull it again, by its name",
    });
  const layers = store.layerPaths(kind, chains);
  const [only] = layers;
  if (kind === "copy" && above === undefined && only !== undefined) {
    using root = openDirectory(AT_FDCWD, only);
    return await work(root.fd);
  }
  const place = workspace(store, owned);
  for (const name of ["upper", "work"]) makeDirectories(`${place}/${name}`);
  const parts = { layers, above, upper: `${place}/upper`, work: `${place}/work`, volatile: true };
  using mount = prepareTree({ ...parts, kind: kind === "copy" ? "overlay" : kind }, place);
  using root = openDirectory(mount.fd, ".");
  return await work(root.fd);
}

/**
 * Calls with a descriptor of the root of an image's tree, which can be read.
 * @throws OciboxError HOST where it cannot be mounted; what the work throws
 */
export function withTree<T>(store: Store, image: StoredImage, work: Work<T>): Promise<T> {
  return withLayers(store, chainsOf(image), undefined, work);
}

/**
 * The same of a container's tree: what it has changed lies over its image's layers, so that it can be read while the
 * container runs. What is mounted in it is not part of it.
 */
export async function withContainerTree<T>(store: Store, record: ContainerRecord, work: Work<T>): Promise<T> {
  const own = `${containerDirectory(store.root, record.id)}/upper`;
  if (record.snapshotter !== "copy") return withLayers(store, record.layers, own, work);
  using root = openDirectory(AT_FDCWD, own);
  return await work(root.fd);
}

/** What a container has written, and the tree that it began with. */
export interface Changes {
  readonly upper: number;
  readonly lower: number;
  /** All of the container's tree is in `upper`; else only what differs, in overlay's words. */
  readonly whole: boolean;
}

export function withChanges<T>(store: Store, record: ContainerRecord, work: (changes: Changes) => T): Promise<T> {
  return withLayers(store, record.layers, undefined, (lower) => {
    using upper = openDirectory(AT_FDCWD, `${containerDirectory(store.root, record.id)}/upper`);
    return work({ upper: upper.fd, lower, whole: record.snapshotter === "copy" });
  });
}
