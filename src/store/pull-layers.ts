/**
 * An image's layers: from a registry's streams, or from blobs that are there, to what is mounted. Each is verified three
 * times over while it comes: size and digest of the blob, DiffID of the plain tar.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { OciboxError } from "../errors.ts";
import { removeTree } from "../layer/remove-tree.ts";
import type { Repository } from "../registry/repository.ts";
import type { PullEvents } from "../spec/progress.ts";
import { alone } from "./alone.ts";
import { Lanes } from "./lanes.ts";
import { PartialBlob } from "./partial-blob.ts";
import { chooseSnapshotter } from "./probe.ts";
import { publish } from "./publish.ts";
import { Abandoned, PullMemory } from "./pull-memory.ts";
import type { Snapshotter } from "./snapshotter.ts";
import type { Store, StoredImage } from "./store.ts";
import { workspace } from "./temporary.ts";
import type { Layer } from "./unpack-job.ts";

const atOnce = 3;
/** Bytes. */
const sweepEvery = 16 << 20;
const worthSplitting = 4 << 20;
/** Smaller blobs are there before a thread has started that would follow them. */
const worthFollowing = 1 << 18;

export interface LayerOptions {
  readonly events: PullEvents;
  readonly signal: AbortSignal;
}

/** What the parts of a pull work with. */
interface PullWork {
  readonly store: Store;
  readonly repository: Repository;
  readonly events: PullEvents;
  readonly signal: AbortSignal;
  /** A directory of this process's own. */
  readonly temporary: string;
  readonly layers: readonly Layer[];
  readonly kind: Snapshotter;
  readonly lanes: Lanes;
  readonly memory: PullMemory;
}

/** One pull's work on its layers. */
class Puller {
  downloaded = 0;
  unswept = 0;
  readonly #running = new Map<string, Promise<void>>();

  constructor(readonly work: PullWork) {}

  /** All layers, a few at once; the first failure ends the others. */
  async all(signalOthers: () => void): Promise<void> {
    const { layers, memory, kind } = this.work;
    let next = 0;
    let failure: unknown;
    const runner = async (): Promise<void> => {
      while (next < layers.length && failure === undefined) {
        const layer = layers[next++] as Layer;
        try {
          await this.one(layer);
          memory.finished(layer.index);
        } catch (error) {
          failure ??= error;
          memory.abandon();
          signalOthers();
        }
      }
    };
    await Promise.all(Array.from({ length: atOnce }, runner));
    if (failure !== undefined) throw failure;
    if (kind === "copy") await this.tree();
  }

  /** A digest that stands in the manifest twice is fetched once: the second waits, and then finds the blob. */
  async one(layer: Layer): Promise<void> {
    const { digest } = layer.descriptor;
    const before = this.#running.get(digest);
    const work = (async () => {
      await before?.catch(() => {});
      await this.locked(layer);
    })();
    this.#running.set(digest, work);
    await work;
  }

  /** One download of a digest, however many processes ask: the others wait for its lock, and find it done. */
  locked(layer: Layer): Promise<void> {
    const { store, signal } = this.work;
    return alone(store, layer.descriptor.digest, signal, () => this.fetch(layer));
  }

  async fetch(layer: Layer): Promise<void> {
    const { store, kind, events } = this.work;
    const { digest, size } = layer.descriptor;
    const haveBlob = store.hasBlob(digest, size);
    const unpacks = kind !== "copy" && !store.hasLayer(kind, layer.chainId);
    if (haveBlob && !unpacks) {
      events.layerState(digest, "exists");
      return;
    }
    events.layerState(digest, haveBlob ? "applying" : "downloading");
    if (haveBlob) await this.unpack(layer, store.blobPath(digest));
    else await this.bring(layer, unpacks);
    events.layerState(digest, "done");
  }

  /** A blob, and what is mounted of it. What an earlier pull has left of it is gone on with, and not believed. */
  async bring(layer: Layer, unpacks: boolean): Promise<void> {
    const partial = new PartialBlob(this.work.store, layer.descriptor);
    try {
      await this.fetched(layer, unpacks, partial);
      partial.keep();
      this.downloaded += layer.descriptor.size;
    } finally {
      partial[Symbol.dispose]();
    }
    if (unpacks) this.publish(layer);
  }

  /** All of it, and once more from its beginning where what was there already was not what it should be. */
  async fetched(layer: Layer, unpacks: boolean, partial: PartialBlob): Promise<void> {
    const attempt = (): Promise<void> => (unpacks ? this.both(layer, partial) : this.download(layer, partial));
    const resumed = partial.size > 0;
    try {
      await attempt();
    } catch (error) {
      const code = error instanceof OciboxError ? error.code : undefined;
      // What came before the network went away, or somebody had enough, is gone on with; nothing else.
      if (code !== "NETWORK" && code !== "REGISTRY" && !this.work.signal.aborted) partial.clear();
      if (!resumed || (code !== "DIGEST_MISMATCH" && code !== "INVALID")) throw error;
      this.work.memory.arrived(layer.index, 0);
      removePlace(this.place(layer));
      await attempt();
    }
  }

  /** The blob alone. */
  async download(layer: Layer, partial: PartialBlob): Promise<void> {
    await this.receive(layer, partial, this.work.signal);
    await partial.verify();
  }

  async receive(layer: Layer, partial: PartialBlob, signal: AbortSignal): Promise<void> {
    const { repository, events, memory } = this.work;
    const { descriptor } = layer;
    const { digest, size } = descriptor;
    const arrived = (): void => {
      memory.arrived(layer.index, partial.size);
      events.layerBytes(digest, partial.size);
    };
    arrived();
    if (partial.size === size) return;
    for await (const chunk of repository.blob(descriptor, { signal, from: partial.size, unhashed: true })) {
      if (partial.size + chunk.byteLength > size)
        throw new OciboxError("DIGEST_MISMATCH", `the layer ${digest} has more than the ${size} bytes promised`);
      partial.append(chunk);
      arrived();
      this.sweep(chunk.byteLength);
    }
    if (partial.size < size)
      throw new OciboxError("DIGEST_MISMATCH", `the layer ${digest} has ${partial.size} of ${size} bytes`);
  }

  /** Chunks that have been written: the collector does not see how much memory they hold, and would let it grow. */
  sweep(bytes: number): void {
    this.unswept += bytes;
    if (this.unswept < sweepEvery) return;
    this.unswept = 0;
    Bun.gc(true);
  }

  /**
   * The blob comes into its file, and a thread follows it there: it verifies, and makes of it what is mounted. A small one
   * is looked at when all of it has come.
   */
  async both(layer: Layer, partial: PartialBlob): Promise<void> {
    const { memory, signal } = this.work;
    if (layer.descriptor.size < worthFollowing) {
      await this.receive(layer, partial, signal);
      await this.made(layer, partial.path);
      return;
    }
    const own = new AbortController();
    let refusal: unknown;
    const unpacked = this.made(layer, partial.path).catch((error: unknown) => {
      refusal = error;
      own.abort();
    });
    try {
      await this.receive(layer, partial, AbortSignal.any([signal, own.signal]));
    } catch (error) {
      memory.failed(layer.index);
      await unpacked;
      // What the thread has against the blob is the reason, where it was not only told to stop.
      throw refusal === undefined || refusal instanceof Abandoned ? error : refusal;
    }
    await unpacked;
    if (refusal !== undefined) throw refusal;
  }

  /** A blob that is there. */
  async unpack(layer: Layer, blob: string): Promise<void> {
    this.work.memory.arrived(layer.index, layer.descriptor.size);
    await this.made(layer, blob);
    this.publish(layer);
  }

  /** What is mounted, in a place of its own. */
  made(layer: Layer, blob: string): Promise<void> {
    const { store, kind, layers, lanes, memory } = this.work;
    const lowers = layers.slice(0, layer.index).map((each) => store.layerPath(kind, each.chainId));
    const job = {
      kind,
      layers: [layer],
      blobs: [blob],
      place: this.place(layer),
      lowers,
      memory: memory.buffer,
      count: layers.length,
    };
    // Two threads for it where there is nothing else to do; then it need not wait for a layer below either, with both.
    const isLeft = layers.every((each) => each === layer || memory.isDone(each.index));
    const splits = isLeft && lanes.most > 1 && layer.descriptor.size > worthSplitting;
    return splits ? lanes.runSplit(job) : lanes.run(job);
  }

  place(layer: Layer): string {
    return `${this.work.temporary}/${layer.index}`;
  }

  publish(layer: Layer): void {
    const { store, kind } = this.work;
    publish(store, kind, layer.chainId, this.place(layer));
  }

  /** The whole tree of the image, from blobs that are all there. */
  async tree(): Promise<void> {
    const { store, temporary, layers, lanes, events } = this.work;
    const top = layers.at(-1);
    if (top === undefined || store.hasLayer("copy", top.chainId)) return;
    const place = `${temporary}/tree`;
    const memory = new PullMemory(layers.length);
    for (const layer of layers) {
      memory.arrived(layer.index, layer.descriptor.size);
      events.layerState(layer.descriptor.digest, "applying");
    }
    const blobs = layers.map((layer) => store.blobPath(layer.descriptor.digest));
    await abandoned(memory, this.work.signal, () =>
      lanes.run({ kind: "copy", layers, blobs, place, lowers: [], memory: memory.buffer, count: layers.length }),
    );
    publish(store, "copy", top.chainId, place);
    for (const layer of layers) events.layerState(layer.descriptor.digest, "done");
  }
}

/** What has been made of a blob that was not what it should be. */
function removePlace(path: string): void {
  const slash = path.lastIndexOf("/");
  using parent = new OwnedFd(direct.openat(AT_FDCWD, path.slice(0, slash), O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0));
  removeTree(parent.fd, path.slice(slash + 1));
}

/** Work of threads that ends when the signal comes. */
async function abandoned<T>(memory: PullMemory, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  const stop = (): void => memory.abandon();
  signal.addEventListener("abort", stop);
  try {
    signal.throwIfAborted();
    return await work();
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** Brings what is missing of an image's layers, blobs and what is mounted. @returns bytes that were fetched */
export async function pullLayers(
  store: Store,
  repository: Repository,
  { events, signal: outer }: LayerOptions,
  temporary: string,
  layers: readonly Layer[],
): Promise<number> {
  const abort = new AbortController();
  const signal = AbortSignal.any([outer, abort.signal]);
  const kind = store.unpackedAs(layers.map((layer) => layer.chainId)) ?? chooseSnapshotter(store);
  const memory = new PullMemory(layers.length);
  using lanes = new Lanes();
  const puller = new Puller({ store, repository, events, signal, temporary, layers, kind, lanes, memory });
  await abandoned(memory, outer, () => puller.all(() => abort.abort()));
  return puller.downloaded;
}

/**
 * Unpacks an image whose blobs are in the store, in the way that the store asks for.
 * @throws OciboxError STORE where one of them is not
 */
export async function unpackStored(store: Store, image: StoredImage, options: LayerOptions): Promise<void> {
  using owned = new DisposableStack();
  owned.use(store.lockShared());
  const missing = (): never => {
    throw new OciboxError("STORE", "the store has lost a layer of the image", { hint: "pull the image again" });
  };
  const none: Repository = {
    name: "the store",
    manifest: missing,
    resolve: missing,
    blob: missing,
    [Symbol.dispose]() {},
  };
  const layers = image.layers.map((layer, index): Layer => ({ ...layer, index }));
  await pullLayers(store, none, options, workspace(store, owned), layers);
}
