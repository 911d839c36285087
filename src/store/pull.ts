/**
 * Pulling: a registry's streams into the store. Each layer is verified three times over while it streams: size and
 * digest of the blob, DiffID of the plain tar. An image gets its name when all of it is there, and not before.
 */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { lockFile } from "../../ffi/lock.ts";
import { OciboxError } from "../errors.ts";
import { canonical, type Reference } from "../reference/reference.ts";
import type { Repository } from "../registry/repository.ts";
import { type ChainId, chainIds, type DiffId, type Digest, hexOf } from "../spec/digest.ts";
import type { Descriptor, Platform } from "../spec/image.ts";
import { decodeImageConfig, decodeManifestOrIndex } from "../spec/image-decode.ts";
import { hostPlatform, platformMatches, selectPlatform, showPlatform } from "../spec/platform.ts";
import type { PullEvents } from "../spec/progress.ts";
import { openForWriting, renameDurably, storeError, streamFile } from "./disk.ts";
import { chooseSnapshotter } from "./probe.ts";
import type { Snapshotter } from "./snapshotter.ts";
import type { Store, StoredImage } from "./store.ts";
import { counted, kept } from "./streams.ts";
import { reclaim, workspace } from "./temporary.ts";
import { type Layer, LayerViews, publish, unpackLayer, unpackTree } from "./unpack.ts";

export interface PullOptions {
  readonly platform?: Platform;
  /** The names that the image gets, canonical; by default that of the reference. */
  readonly names?: readonly string[];
  readonly events: PullEvents;
  readonly signal: AbortSignal;
}

const atOnce = 3;
const mostNesting = 2;
const mostConfig = 8 << 20;

interface Resolved {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
  readonly indexBytes: Uint8Array | undefined;
  readonly manifest: { readonly config: Descriptor; readonly layers: readonly Descriptor[] };
}

/** Works on a blob while no other process does. */
async function alone<T>(store: Store, digest: Digest, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
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

/** The platform's manifest, through an index where there is one. */
async function resolve(
  repository: Repository,
  reference: Reference,
  platform: Platform,
  options: PullOptions,
): Promise<Resolved> {
  let what: string = reference.digest ?? reference.tag ?? "latest";
  let indexBytes: Uint8Array | undefined;
  let chosen: Platform | undefined;
  for (let depth = 0; depth <= mostNesting; depth++) {
    const fetched = await repository.manifest(what, { signal: options.signal });
    const decoded = decodeManifestOrIndex(fetched.bytes, fetched.mediaType, {
      what: `the manifest of "${repository.name}"`,
    });
    if (decoded.kind === "manifest") {
      const descriptor: Descriptor = {
        mediaType: decoded.manifest.mediaType,
        digest: fetched.digest,
        size: fetched.bytes.byteLength,
        ...(chosen === undefined ? {} : { platform: chosen }),
      };
      return { descriptor, bytes: fetched.bytes, indexBytes, manifest: decoded.manifest };
    }
    indexBytes ??= fetched.bytes;
    const entry = selectPlatform(decoded.index, platform, `"${repository.name}"`);
    chosen = entry.platform;
    what = entry.digest;
  }
  throw new OciboxError("INVALID", `the index of "${repository.name}" leads from index to index`);
}

async function whole(stream: AsyncIterable<Uint8Array>, most: number, what: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.byteLength;
    if (size > most) throw new OciboxError("INVALID", `${what} has more than ${most} bytes`);
    parts.push(chunk);
  }
  return Buffer.concat(parts);
}

/** One pull's work on its layers. */
class Puller {
  downloaded = 0;
  readonly #running = new Map<string, Promise<void>>();
  readonly #finished: Promise<void>[] = [];

  constructor(
    readonly store: Store,
    readonly repository: Repository,
    readonly options: Pick<PullOptions, "events" | "signal">,
    /** A directory of this process's own. */
    readonly temporary: string,
    readonly layers: readonly Layer[],
    readonly kind: Snapshotter,
    readonly views: LayerViews,
  ) {}

  /** All layers, a few at once; the first failure ends the others. */
  async all(signalOthers: () => void): Promise<void> {
    let next = 0;
    let failure: unknown;
    const gates = this.layers.map(() => Promise.withResolvers<void>());
    for (const gate of gates) {
      gate.promise.catch(() => {});
      this.#finished.push(gate.promise);
    }
    const worker = async (): Promise<void> => {
      while (next < this.layers.length && failure === undefined) {
        const layer = this.layers[next++] as Layer;
        const gate = gates[layer.index] as (typeof gates)[number];
        try {
          await this.one(layer);
          gate.resolve();
        } catch (error) {
          failure ??= error;
          gate.reject(error);
          signalOthers();
        }
      }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
    if (failure !== undefined) throw failure;
    if (this.kind === "copy") await this.tree();
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
    return alone(this.store, layer.descriptor.digest, this.options.signal, () => this.fetch(layer));
  }

  async fetch(layer: Layer): Promise<void> {
    const { store, kind } = this;
    const { events } = this.options;
    const { digest, size } = layer.descriptor;
    const haveBlob = store.hasBlob(digest, size);
    const unpack = kind !== "copy" && !store.hasLayer(kind, layer.chainId) ? kind : undefined;
    if (haveBlob && unpack === undefined) {
      events.layerState(digest, "exists");
      return;
    }
    events.layerState(digest, haveBlob ? "applying" : "downloading");
    await this.stream(layer, haveBlob, unpack);
    events.layerState(digest, "done");
  }

  /** From the registry or the disk through the checks to the disk: the blob, and what is mounted. */
  async stream(layer: Layer, haveBlob: boolean, unpack: "overlay" | "erofs" | undefined): Promise<void> {
    const { store, temporary } = this;
    const { digest } = layer.descriptor;
    const blobTemporary = `${temporary}/${hexOf(digest)}`;
    const place = `${temporary}/${layer.index}`;
    const blob = this.blob(layer, haveBlob);
    using file = haveBlob ? undefined : openForWriting(blobTemporary);
    const raw = file === undefined ? blob.stream : kept(blob.stream, file.fd);
    if (unpack === undefined) for await (const _ of raw);
    else await unpackLayer(unpack, { layer, raw, place, lowers: () => this.lowers(layer) });
    blob.verify();
    if (file !== undefined) {
      direct.fsync(file.fd);
      renameDurably(blobTemporary, store.newBlobPath(digest));
      this.downloaded += layer.descriptor.size;
    }
    if (unpack !== undefined) publish(store, unpack, layer.chainId, place);
  }

  /** A layer's blob, and the check of its size and digest for when all of it has been read. */
  blob({ descriptor }: Layer, haveBlob: boolean): { stream: AsyncIterable<Uint8Array>; verify(): void } {
    const { store, repository, options } = this;
    const { digest, size } = descriptor;
    const hasher = new Bun.CryptoHasher("sha256");
    let total = 0;
    const onBytes = (count: number): void => {
      total = count;
      if (total > size)
        throw new OciboxError("DIGEST_MISMATCH", `the layer ${digest} has more than the ${size} bytes promised`);
      options.events.layerBytes(digest, count);
    };
    const source = haveBlob
      ? streamFile(store.blobPath(digest))
      : repository.blob({ digest, size }, { signal: options.signal });
    return {
      stream: counted(source, hasher, onBytes),
      verify() {
        const found = `sha256:${hasher.digest("hex")}`;
        if (found === digest && total === size) return;
        throw new OciboxError(
          "DIGEST_MISMATCH",
          `the layer ${digest} has the digest ${found} and ${total} of ${size} bytes`,
          {
            hint: haveBlob
              ? `remove "${store.blobPath(digest)}" and pull again`
              : "the registry or something on the way is at fault",
          },
        );
      },
    };
  }

  /** The layers below one, as directories, the uppermost first, when they are there. */
  async lowers(layer: Layer): Promise<string[]> {
    const below = this.layers.slice(0, layer.index);
    await Promise.all(this.#finished.slice(0, layer.index));
    return below.map((each) => this.views.path(this.store.layerPath(this.kind, each.chainId))).reverse();
  }

  /** The whole tree of the image, from blobs that are all there. */
  async tree(): Promise<void> {
    const { store, temporary, layers } = this;
    const top = layers.at(-1);
    if (top === undefined || store.hasLayer("copy", top.chainId)) return;
    const place = `${temporary}/tree`;
    await unpackTree(layers, place, (layer) => {
      this.options.signal.throwIfAborted();
      this.options.events.layerState(layer.descriptor.digest, "applying");
      return streamFile(store.blobPath(layer.descriptor.digest));
    });
    publish(store, "copy", top.chainId, place);
    for (const layer of layers) this.options.events.layerState(layer.descriptor.digest, "done");
  }
}

/** Brings what is missing of an image's layers, blobs and what is mounted. @returns bytes that were fetched */
async function pullLayers(
  store: Store,
  repository: Repository,
  options: Pick<PullOptions, "events" | "signal">,
  temporary: string,
  layers: readonly Layer[],
): Promise<number> {
  const abort = new AbortController();
  const signal = AbortSignal.any([options.signal, abort.signal]);
  const kind = store.unpackedAs(layers.map((layer) => layer.chainId)) ?? chooseSnapshotter(store);
  using views = new LayerViews(kind);
  const puller = new Puller(store, repository, { ...options, signal }, temporary, layers, kind, views);
  await puller.all(() => abort.abort());
  return puller.downloaded;
}

/**
 * Unpacks an image whose blobs are in the store, in the way that the store asks for.
 * @throws OciboxError STORE where one of them is not
 */
export async function unpackStored(
  store: Store,
  image: StoredImage,
  options: Pick<PullOptions, "events" | "signal">,
): Promise<void> {
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

/**
 * Pulls an image for a platform (this machine's by default).
 * @returns the image, now in the store
 * @throws OciboxError; the store is as it was then, but for layers that were finished
 */
export async function pullImage(
  store: Store,
  repository: Repository,
  reference: Reference,
  options: PullOptions,
): Promise<StoredImage> {
  const started = performance.now();
  try {
    store.prepare();
    reclaim(store);
    return await pullLocked(store, repository, reference, options, started);
  } catch (error) {
    throw storeError(error, `cannot pull "${repository.name}"`);
  }
}

async function pullLocked(
  store: Store,
  repository: Repository,
  reference: Reference,
  options: PullOptions,
  started: number,
): Promise<StoredImage> {
  using owned = new DisposableStack();
  owned.use(store.lockShared());
  const temporary = workspace(store, owned);
  const platform = options.platform ?? hostPlatform();
  const resolved = await resolve(repository, reference, platform, options);
  const { manifest } = resolved;
  const { digest: configDigest, size: configSize } = manifest.config;
  // It is kept at once, so that others who wait for it find it; what nothing names is collected.
  const configBytes = await alone(store, configDigest, options.signal, async () => {
    if (store.hasBlob(configDigest, configSize)) return store.readBlob(configDigest, mostConfig);
    const request = repository.blob(manifest.config, { signal: options.signal });
    const bytes = await whole(request, mostConfig, "the image's configuration");
    store.putBlob(bytes);
    return bytes;
  });
  const config = decodeImageConfig(configBytes, {
    layers: manifest.layers.length,
    what: `the configuration of "${repository.name}"`,
  });
  if (!platformMatches(config, platform))
    throw new OciboxError(
      "PLATFORM",
      `the image "${repository.name}" is for ${showPlatform(config)}, not ${showPlatform(platform)}`,
      {
        hint: `ask for it with: --platform ${showPlatform(config)}`,
      },
    );
  const chains = chainIds(config.rootfs.diff_ids);
  const layers = manifest.layers.map(
    (descriptor, index): Layer => ({
      descriptor,
      diffId: config.rootfs.diff_ids[index] as DiffId,
      chainId: chains[index] as ChainId,
      index,
    }),
  );
  const name = options.names?.[0] ?? canonical(reference);
  const digest: Digest = resolved.descriptor.digest;
  options.events.resolved(
    name,
    digest,
    layers.map((layer) => layer.descriptor),
  );
  const downloaded = await pullLayers(store, repository, options, temporary, layers);
  store.putBlob(resolved.bytes);
  const indexDigest = resolved.indexBytes === undefined ? undefined : store.putBlob(resolved.indexBytes);
  const described: Platform = {
    os: config.os,
    architecture: config.architecture,
    ...(config.variant === undefined ? {} : { variant: config.variant }),
  };
  const load = store.tag(options.names ?? [name], { ...resolved.descriptor, platform: described }, indexDigest);
  options.events.done({ name, digest, downloaded, elapsed: performance.now() - started });
  return load();
}
