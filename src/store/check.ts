/**
 * Verifying a store: every blob by its digest, every image by what it names, every layer by making it again beside
 * what is there. And mending one: what is damaged goes, and what is missing is fetched by the name that an image has.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { namesIn } from "../../ffi/files.ts";
import { OciboxError, reason } from "../errors.ts";
import { firstDifference, sameFile } from "../layer/compare.ts";
import { type Digest, hexOf } from "../spec/digest.ts";
import { emptyTrash, toTrash } from "./collect.ts";
import { exists, streamFile } from "./disk.ts";
import { Lanes } from "./lanes.ts";
import { PullMemory } from "./pull-memory.ts";
import { layerFolders, needed, type Snapshotter, snapshotters } from "./snapshotter.ts";
import { chainsOf, refName, type Store, type StoredImage } from "./store.ts";
import { workspace } from "./temporary.ts";
import type { Layer } from "./unpack-job.ts";

export interface Problem {
  /** "blob", "image" or "layer" */
  readonly kind: string;
  /** Below the store's root: what is to be removed. */
  readonly path?: string;
  /** What it is of: digits, or a name. */
  readonly of: string;
  readonly what: string;
  /** Images that it spoils: their manifests' digests. */
  readonly images: readonly Digest[];
}

export interface CheckOptions {
  /** Without unpacking layers again. */
  readonly quick: boolean;
  readonly signal: AbortSignal;
  /** Called before each blob and layer. */
  readonly looking?: (what: string) => void;
}

async function digestOf(path: string, signal: AbortSignal): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const piece of streamFile(path)) {
    signal.throwIfAborted();
    hasher.update(piece);
  }
  return hasher.digest("hex");
}

function blobsOf(image: StoredImage): { digest: Digest; size: number }[] {
  const { digest, size } = image.manifestDescriptor;
  return [{ digest, size }, image.manifest.config, ...image.layers.map((layer) => layer.descriptor)];
}

function shownName(image: StoredImage): string {
  return image.names[0] ?? image.configDigest.slice(7, 19);
}

class Check implements Disposable {
  readonly problems: Problem[] = [];
  readonly #damaged = new Set<string>();
  readonly #looked = new Set<string>();
  /** One thing after the other; in a thread what would keep an interrupt waiting. */
  readonly #lanes = new Lanes(1, 4 << 20);

  constructor(
    readonly store: Store,
    readonly options: CheckOptions,
  ) {}

  async all(): Promise<Problem[]> {
    const { images, damaged } = this.store.inventory();
    await this.#blobs(images);
    for (const { entry, error } of damaged)
      this.problems.push({
        kind: "image",
        of: entry.annotations?.[refName] ?? entry.digest,
        what: reason(error),
        images: [entry.digest],
      });
    for (const image of images) this.#image(image);
    if (!this.options.quick) for (const image of images) await this.#unpacked(image);
    return this.problems;
  }

  async #blobs(images: readonly StoredImage[]): Promise<void> {
    for (const name of namesIn(`${this.store.root}/image/blobs/sha256`)) {
      this.options.looking?.(`blob ${name.slice(0, 12)}`);
      const found = await digestOf(`${this.store.root}/image/blobs/sha256/${name}`, this.options.signal);
      if (found === name) continue;
      this.#damaged.add(name);
      const users = images.filter((image) => blobsOf(image).some(({ digest }) => hexOf(digest) === name));
      this.problems.push({
        kind: "blob",
        of: name,
        path: `image/blobs/sha256/${name}`,
        what: `its contents have the digest ${found.slice(0, 12)}`,
        images: users.map((image) => image.manifestDescriptor.digest),
      });
    }
  }

  #image(image: StoredImage): void {
    const spoiled = [image.manifestDescriptor.digest];
    for (const { digest, size } of blobsOf(image))
      if (!this.store.hasBlob(digest, size) && !this.#damaged.has(hexOf(digest)))
        this.problems.push({
          kind: "image",
          of: shownName(image),
          what: `the blob ${digest} is missing or cut short`,
          images: spoiled,
        });
    const chains = chainsOf(image);
    if (snapshotters.some((kind) => this.store.isUnpacked(kind, chains))) return;
    const kind = this.store.snapshotter ?? "overlay";
    for (const chainId of needed(kind, chains))
      if (!this.store.hasLayer(kind, chainId))
        this.problems.push({ kind: "layer", of: hexOf(chainId), what: "it is not unpacked", images: spoiled });
  }

  /** Each layer of the image once more, in a place of its own, and compared with what is there. */
  async #unpacked(image: StoredImage): Promise<void> {
    const layers = image.layers.map((layer, index): Layer => ({ ...layer, index }));
    if (layers.some((layer) => this.#damaged.has(hexOf(layer.descriptor.digest)))) return;
    for (const kind of snapshotters)
      for (const chainId of needed(kind, chainsOf(image))) {
        const path = `${layerFolders[kind]}/${hexOf(chainId)}`;
        if (this.#looked.has(path) || !exists(`${this.store.root}/${path}`)) continue;
        this.#looked.add(path);
        this.options.looking?.(`layer ${hexOf(chainId).slice(0, 12)}`);
        const upTo = layers.slice(0, layers.findIndex((layer) => layer.chainId === chainId) + 1);
        const what = await this.#difference(kind, upTo, `${this.store.root}/${path}`);
        if (what !== undefined)
          this.problems.push({
            kind: "layer",
            of: hexOf(chainId),
            path,
            what,
            images: [image.manifestDescriptor.digest],
          });
      }
  }

  /** @param layers the last is the one that is looked at */
  async #difference(kind: Snapshotter, layers: readonly Layer[], path: string): Promise<string | undefined> {
    using owned = new DisposableStack();
    const fresh = `${workspace(this.store, owned)}/layer`;
    try {
      await this.#make(kind, layers, fresh);
    } catch (error) {
      this.options.signal.throwIfAborted();
      return `it cannot be unpacked again: ${reason(error)}`;
    }
    const flags = O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC;
    using expected = new OwnedFd(direct.openat(AT_FDCWD, fresh, flags, 0));
    using there = new OwnedFd(direct.openat(AT_FDCWD, path, flags, 0));
    return kind === "erofs"
      ? differentFile(expected.fd, there.fd)
      : firstDifference(expected.fd, there.fd, this.options.signal);
  }

  async #make(kind: Snapshotter, all: readonly Layer[], place: string): Promise<void> {
    const memory = new PullMemory(all.length);
    const layers = kind === "copy" ? all : all.slice(-1);
    const lowers = all.slice(0, -1).map(({ chainId }) => this.store.layerPath(kind, chainId));
    for (const { index, descriptor } of layers) memory.arrived(index, descriptor.size);
    for (const { index } of all.slice(0, -1)) memory.finished(index);
    const blobs = layers.map(({ descriptor }) => this.store.blobPath(descriptor.digest));
    const stop = (): void => memory.abandon();
    this.options.signal.addEventListener("abort", stop);
    try {
      await this.#lanes.run({ kind, layers, blobs, place, lowers, memory: memory.buffer, count: all.length });
    } finally {
      this.options.signal.removeEventListener("abort", stop);
    }
  }

  [Symbol.dispose](): void {
    this.#lanes[Symbol.dispose]();
  }
}

/** When the files were written says nothing. */
function differentFile(expected: number, actual: number): string | undefined {
  for (const name of ["index", "data"]) if (!sameFile(expected, actual, name)) return `its ${name} has other contents`;
  return undefined;
}

/** @returns what is wrong; nothing where all is well */
export async function checkStore(store: Store, options: CheckOptions): Promise<Problem[]> {
  using lock = store.lockShared();
  void lock;
  using check = new Check(store, options);
  return await check.all();
}

/**
 * Takes away what is damaged, so that it is fetched or unpacked anew.
 * @returns images that are to be fetched: their names, by the digest of their manifest
 */
export async function discardDamaged(
  store: Store,
  problems: readonly Problem[],
): Promise<Map<Digest, readonly string[]>> {
  const spoiled = new Map<Digest, readonly string[]>();
  {
    using lock = await store.lockAlone(30_000);
    if (lock === undefined)
      throw new OciboxError("IN_USE", "the store is in use", {
        hint: "try again when no pull and no container is just starting",
      });
    const names = new Map<Digest, readonly string[]>();
    for (const entry of store.entries()) {
      const name = entry.annotations?.[refName];
      if (name !== undefined) names.set(entry.digest, [...(names.get(entry.digest) ?? []), name]);
    }
    for (const { path, images } of problems) {
      if (path !== undefined) toTrash(store, path);
      for (const digest of images) spoiled.set(digest, names.get(digest) ?? []);
    }
  }
  emptyTrash(store);
  return spoiled;
}
