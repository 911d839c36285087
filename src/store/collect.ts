/**
 * Removing: names from images, and what no name and no container needs from the disk. Deletion is a rename into
 * ROOT/trash, which anybody may empty at any time.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { namesIn, readText } from "../../ffi/files.ts";
import { tryLock } from "../../ffi/lock.ts";
import { OciboxError } from "../errors.ts";
import { removeTree, sizeOfTree } from "../layer/remove-tree.ts";
import { type ChainId, type Digest, hexOf } from "../spec/digest.ts";
import { companionsOf } from "./companions.ts";
import { layerFolders } from "./snapshotter.ts";
import { refName, type Store, type StoredImage } from "./store.ts";
import { reclaim } from "./temporary.ts";

/** What a container's record says that it needs. */
interface InUse {
  readonly id: string;
  readonly manifestDigest?: Digest;
  readonly layers?: readonly ChainId[];
}

/** Every container's needs. */
function containersUsing(store: Store): InUse[] {
  const found: InUse[] = [];
  for (const id of namesIn(`${store.root}/containers`)) {
    const text = readText(`${store.root}/containers/${id}/container.json`);
    if (text === undefined) continue;
    try {
      found.push({ ...(JSON.parse(text) as object), id });
    } catch {
      // a folder that a killed command has left unfinished
    }
  }
  return found;
}

interface RemoveOptions {
  readonly force: boolean;
}

/**
 * Takes a name from an image, and with the last name the image; then what nothing needs any more.
 * @param word as Store.find takes it
 * @returns lines to print, as docker's: "Untagged: …", "Deleted: …"
 * @throws OciboxError NOT_FOUND; IN_USE where a container was made of it, or where it has names in several repositories
 */
export async function removeImage(store: Store, word: string, options: RemoveOptions): Promise<string[]> {
  const lines = takeNames(store, word, options);
  await collect(store);
  return lines;
}

/** What goes of an image: one of its names, or all of it. */
interface Going {
  readonly image: StoredImage;
  readonly byName: boolean;
}

/** @throws OciboxError IN_USE */
function checkGoing(store: Store, word: string, { image, byName }: Going): void {
  const { digest } = image.manifestDescriptor;
  const user = containersUsing(store).find((each) => each.manifestDigest === digest);
  if (!byName && user !== undefined)
    throw new OciboxError("IN_USE", `the image "${word}" is used by the container ${user.id.slice(0, 12)}`, {
      hint: `remove that first, with: ocibox rm ${user.id.slice(0, 12)}`,
    });
  if (!image.names.includes(word) && image.names.length > 1)
    throw new OciboxError("IN_USE", `the image "${word}" has ${image.names.length} names: ${image.names.join(", ")}`, {
      hint: "remove them one by one, or all of them with: ocibox rmi -f",
    });
}

/** The names go from the index, those of every platform, while nobody removes what the images are made of. */
function takeNames(store: Store, word: string, options: RemoveOptions): string[] {
  using lock = store.lockShared();
  void lock;
  const there = new Set(store.readIndex().manifests.map((each) => each.digest));
  const found = store.findAll(word);
  const going = found
    .filter((image) => there.has(image.manifestDescriptor.digest))
    .map((image) => ({ image, byName: image.names.includes(word) && image.names.length > 1 }));
  if (going.length === 0) {
    if (found.length > 0 && store.additional.length > 0)
      throw new OciboxError("STORE", `the image "${word}" is in a store that is only read, not in "${store.root}"`);
    // Or somebody else has removed it meanwhile.
    throw new OciboxError("NOT_FOUND", `there is no image "${word}"`, { hint: "see: ocibox images" });
  }
  if (!options.force) for (const each of going) checkGoing(store, word, each);
  const names = new Map(going.map(({ image, byName }) => [image.manifestDescriptor.digest, byName]));
  store.changeIndex((manifests) =>
    manifests.filter((each) => {
      const byName = names.get(each.digest);
      return byName === undefined || (byName && each.annotations?.[refName] !== word);
    }),
  );
  const untagged = new Set(going.flatMap(({ image, byName }) => (byName ? [word] : image.names)));
  return [
    ...[...untagged].map((name) => `Untagged: ${name}`),
    ...going.filter((each) => !each.byName).map(({ image }) => `Deleted: ${image.configDigest}`),
  ];
}

/** What must stay: hexadecimal digits of blobs and of layers, however they are kept. */
export function stays(store: Store, images: readonly StoredImage[]): { blobs: Set<string>; layers: Set<string> } {
  const blobs = new Set<string>();
  const layers = new Set<string>();
  for (const image of images) {
    blobs.add(hexOf(image.manifestDescriptor.digest));
    blobs.add(hexOf(image.configDigest));
    for (const layer of image.layers) {
      blobs.add(hexOf(layer.descriptor.digest));
      layers.add(hexOf(layer.chainId));
    }
  }
  for (const digest of store.indexDigests()) {
    blobs.add(hexOf(digest));
    for (const { manifest, blobs: own } of companionsOf(store, digest))
      for (const each of [manifest, ...own]) blobs.add(hexOf(each.digest));
  }
  for (const user of containersUsing(store)) for (const chainId of user.layers ?? []) layers.add(hexOf(chainId));
  return { blobs, layers };
}

/**
 * Removes blobs and layers that no name and no container needs. Where something is just being pulled or started it is
 * left to another time, and where an image cannot be read nobody knows what it needs: then only the trash goes.
 */
export async function collect(store: Store, drop: Drop = () => [], held?: OwnedFd): Promise<number> {
  let dropped = 0;
  {
    using lock = held === undefined ? await store.lockAlone(5_000) : await alone(held);
    if (lock === undefined) return 0;
    const before = store.inventory();
    const gone = drop(before.images).map((image) => image.manifestDescriptor.digest);
    if (gone.length > 0) store.changeIndex((manifests) => manifests.filter((each) => !gone.includes(each.digest)));
    dropped = gone.length;
    const { images, damaged } = gone.length === 0 ? before : store.inventory();
    if (damaged.length === 0) {
      const { blobs, layers } = stays(store, images);
      discard(store, "image/blobs/sha256", blobs);
      for (const folder of Object.values(layerFolders)) discard(store, folder, layers);
    }
    // Plans of images that may be gone: they are compiled again.
    discard(store, "plans", new Set());
  }
  emptyTrash(store);
  return dropped;
}

/** Which images go. Asked when nobody can begin to use one. */
export type Drop = (images: readonly StoredImage[]) => readonly StoredImage[];

/** The store's shared lock for a moment as an exclusive one; undefined where others have it too. */
async function alone(held: OwnedFd): Promise<Disposable | undefined> {
  for (let tries = 0; !tryLock(held.fd, "exclusive"); tries++) {
    if (tries === 10) return undefined;
    await Bun.sleep(20);
  }
  return { [Symbol.dispose]: () => void tryLock(held.fd, "shared") };
}

/** Manifests of images that containers were made of. */
export function usedManifests(store: Store): Set<Digest | undefined> {
  return new Set(containersUsing(store).map((each) => each.manifestDigest));
}

export interface Pruned {
  readonly images: number;
  /** Bytes on the disk. */
  readonly freed: number;
}

/**
 * Removes images that have no name, or all that no container was made of, with what only they need; and what killed
 * commands have left.
 */
export async function prune(store: Store, all: boolean): Promise<Pruned> {
  store.prepare();
  const before = usageOf(store);
  reclaim(store, true);
  const images = await collect(store, (there) => {
    const used = usedManifests(store);
    return there.filter((each) => (all || each.names.length === 0) && !used.has(each.manifestDescriptor.digest));
  });
  const after = usageOf(store);
  return {
    images,
    freed: Math.max(0, before.blobs + before.layers + before.other - after.blobs - after.layers - after.other),
  };
}

export interface Usage {
  /** Bytes on the disk. */
  readonly blobs: number;
  readonly layers: number;
  readonly containers: number;
  /** What is unfinished, and what is to go. */
  readonly other: number;
}

/** Bytes below a directory, a file with several names once. */
function bytesBelow(directory: string): number {
  const fd = attempt("openat", AT_FDCWD, directory, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (fd < 0) return 0;
  using top = new OwnedFd(fd);
  return sizeOfTree(top.fd);
}

export function usageOf(store: Store): Usage {
  const below = (name: string): number => bytesBelow(`${store.root}/${name}`);
  return {
    blobs: below("image"),
    layers: Object.values(layerFolders).reduce((sum, folder) => sum + below(folder), 0),
    containers: below("containers"),
    other: below("tmp") + below("trash") + below("plans"),
  };
}

/** Bytes of all volumes. */
export function volumeBytes(store: Store): number {
  return bytesBelow(`${store.root}/volumes`);
}

/** How many images and layers a container was made of. */
export function inUse(store: Store): { readonly images: number; readonly layers: number; readonly containers: number } {
  const users = containersUsing(store);
  return {
    images: new Set(users.map((each) => each.manifestDigest)).size,
    layers: new Set(users.flatMap((each) => each.layers ?? [])).size,
    containers: users.length,
  };
}

/** Into the trash by a rename, so that no half of it is ever found where it was. */
function discard(store: Store, directory: string, keep: ReadonlySet<string>): void {
  for (const name of namesIn(`${store.root}/${directory}`)) if (!keep.has(name)) toTrash(store, `${directory}/${name}`);
}

/** @param path below ROOT */
export function toTrash(store: Store, path: string): void {
  const trash = `${store.root}/trash/${crypto.getRandomValues(new Uint8Array(12)).toHex()}`;
  attempt("renameat2", AT_FDCWD, `${store.root}/${path}`, AT_FDCWD, trash, 0);
}

/** Anybody may, at any time. */
export function emptyTrash(store: Store): void {
  const fd = attempt("openat", AT_FDCWD, `${store.root}/trash`, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  if (fd < 0) return;
  using trash = new OwnedFd(fd);
  for (const name of namesIn(`${store.root}/trash`)) removeTree(trash.fd, name);
}
