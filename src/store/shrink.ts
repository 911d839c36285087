/**
 * Keeping the store within a size: the images that were used the longest time ago go. An image is used when it is
 * pulled, named or run; the time is that of its manifest's file, so that a run has one system call to make for it.
 */
import { AT, AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { namesIn } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { sizeOfTree } from "../layer/remove-tree.ts";
import type { Digest } from "../spec/digest.ts";
import { collect, stays, usedManifests } from "./collect.ts";
import { layerFolders } from "./snapshotter.ts";
import type { Store, StoredImage } from "./store.ts";

export interface Shrunk {
  readonly removed: readonly StoredImage[];
  /** Bytes that images take then. */
  readonly left: number;
}

const stat = alloc(256);

function statField(path: string, field: string): number {
  if (attempt("statx", AT_FDCWD, path, AT.AT_SYMLINK_NOFOLLOW, 0xfff, stat) < 0) return 0;
  return readField("statx", stat, field);
}

/** Seconds since 1970, with a fraction. */
function lastUse(store: Store, { manifestDescriptor: { digest } }: StoredImage): number {
  const path = store.newBlobPath(digest);
  return statField(path, "stx_mtime_sec") + readField("statx", stat, "stx_mtime_nsec") / 1e9;
}

function bytesOf(path: string): number {
  const fd = attempt("openat", AT_FDCWD, path, O.O_RDONLY | O.O_DIRECTORY | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
  if (fd < 0) return statField(path, "stx_blocks") * 512;
  using directory = new OwnedFd(fd);
  return sizeOfTree(directory.fd);
}

/** What lies in a folder of the store, by name. */
function sizesIn(store: Store, folder: string): Map<string, number> {
  return new Map(namesIn(`${store.root}/${folder}`).map((name) => [name, bytesOf(`${store.root}/${folder}/${name}`)]));
}

class Sizes {
  readonly #blobs: ReadonlyMap<string, number>;
  readonly #layers: readonly ReadonlyMap<string, number>[];

  constructor(readonly store: Store) {
    this.#blobs = sizesIn(store, "image/blobs/sha256");
    this.#layers = Object.values(layerFolders).map((folder) => sizesIn(store, folder));
  }

  /** What is left on the disk where only these images, and what containers need, stay. */
  of(images: readonly StoredImage[]): number {
    const { blobs, layers } = stays(this.store, images);
    const sum = (names: ReadonlySet<string>, sizes: ReadonlyMap<string, number>): number =>
      [...names].reduce((total, name) => total + (sizes.get(name) ?? 0), 0);
    return sum(blobs, this.#blobs) + this.#layers.reduce((total, sizes) => total + sum(layers, sizes), 0);
  }
}

/**
 * Removes images, the least recently used first, until all take no more than `most` bytes on the disk. What a container
 * was made of stays, and what is to be kept. Where the store is in use meanwhile, it is left to another time.
 * @param keep manifests @param held the store's shared lock, where the caller has it
 * @returns undefined where the store was in use
 */
export async function shrinkTo(
  store: Store,
  most: number,
  keep: readonly Digest[],
  held?: OwnedFd,
): Promise<Shrunk | undefined> {
  let shrunk: Shrunk | undefined;
  await collect(
    store,
    (images) => {
      shrunk = choose(store, images, most, keep);
      return shrunk.removed;
    },
    held,
  );
  return shrunk;
}

function choose(store: Store, images: readonly StoredImage[], most: number, keep: readonly Digest[]): Shrunk {
  const own = new Set(store.readIndex().manifests.map((each) => each.digest));
  const used = usedManifests(store);
  const sizes = new Sizes(store);
  const old = images
    .filter(({ manifestDescriptor: { digest } }) => own.has(digest) && !used.has(digest) && !keep.includes(digest))
    .map((image) => ({ image, time: lastUse(store, image) }))
    .sort((a, b) => a.time - b.time);
  let left = images;
  let total = sizes.of(left);
  const removed: StoredImage[] = [];
  for (const { image } of old) {
    if (total <= most) break;
    removed.push(image);
    left = left.filter((each) => each !== image);
    total = sizes.of(left);
  }
  return { removed, left: total };
}
