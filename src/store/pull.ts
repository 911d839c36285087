/**
 * Pulling: a registry's streams into the store. Each layer is verified three times over while it streams: size and
 * digest of the blob, DiffID of the plain tar. An image gets its name when all of it is there, and not before.
 */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { lockFile } from "../../ffi/lock.ts";
import { OciboxError } from "../errors.ts";
import { applyLayer } from "../layer/apply.ts";
import { decompress } from "../layer/decompress.ts";
import { ByteSource } from "../layer/tar.ts";
import { canonical, type Reference } from "../reference/reference.ts";
import type { Repository } from "../registry/repository.ts";
import { type ChainId, chainIds, type DiffId, type Digest, hexOf } from "../spec/digest.ts";
import type { Descriptor, Platform } from "../spec/image.ts";
import { decodeImageConfig, decodeManifestOrIndex } from "../spec/image-decode.ts";
import { hostPlatform, platformMatches, selectPlatform, showPlatform } from "../spec/platform.ts";
import type { PullEvents } from "../spec/progress.ts";
import { openForWriting, renameDurably, storeError, streamFile, syncDirectory, writeAll } from "./disk.ts";
import type { Store, StoredImage } from "./store.ts";
import { reclaim, workspace } from "./temporary.ts";

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
/** A plain layer larger than this and than 500 times its blob is a bomb and nothing else. */
const bombFrom = 1 << 30;
const bombRatio = 500;

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

/** A stream whose bytes are hashed and counted on their way. */
async function* counted(
  stream: AsyncIterable<Uint8Array>,
  hasher: Bun.CryptoHasher,
  onBytes: (total: number) => void,
): AsyncGenerator<Uint8Array> {
  let total = 0;
  for await (const chunk of stream) {
    hasher.update(chunk);
    total += chunk.byteLength;
    onBytes(total);
    yield chunk;
  }
}

/** The same stream, written to a file as it goes by. */
async function* kept(stream: AsyncIterable<Uint8Array>, fd: number): AsyncGenerator<Uint8Array> {
  for await (const chunk of stream) {
    writeAll(fd, chunk);
    yield chunk;
  }
}

interface Layer {
  readonly descriptor: Descriptor;
  readonly diffId: DiffId;
  readonly chainId: ChainId;
  readonly index: number;
}

/** One pull's work on its layers. */
class Puller {
  downloaded = 0;
  readonly #running = new Map<string, Promise<void>>();
  readonly #finished: Promise<void>[] = [];

  constructor(
    readonly store: Store,
    readonly repository: Repository,
    readonly options: PullOptions,
    /** A directory of this process's own. */
    readonly temporary: string,
    readonly layers: readonly Layer[],
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
    const { store } = this;
    const { events } = this.options;
    const { digest, size } = layer.descriptor;
    const haveBlob = store.hasBlob(digest, size);
    const haveLayer = store.hasLayer(layer.chainId);
    if (haveBlob && haveLayer) {
      events.layerState(digest, "exists");
      return;
    }
    events.layerState(digest, haveBlob ? "applying" : "downloading");
    await this.stream(layer, haveBlob, haveLayer);
    events.layerState(digest, "done");
  }

  /** From the registry or the disk through the checks to the disk: the blob, and the layer's directory. */
  async stream(layer: Layer, haveBlob: boolean, haveLayer: boolean): Promise<void> {
    const { store, repository, options, temporary } = this;
    const { digest, size } = layer.descriptor;
    const blobTemporary = `${temporary}/${hexOf(digest)}`;
    const directory = `${temporary}/${layer.index}`;
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
    using file = haveBlob ? undefined : openForWriting(blobTemporary);
    const counting = counted(source, hasher, onBytes);
    const raw = file === undefined ? counting : kept(counting, file.fd);
    if (haveLayer) for await (const _ of raw);
    else await this.unpack(layer, raw, directory);
    const found = `sha256:${hasher.digest("hex")}`;
    if (found !== digest || total !== size)
      throw new OciboxError(
        "DIGEST_MISMATCH",
        `the layer ${digest} has the digest ${found} and ${total} of ${size} bytes`,
        {
          hint: haveBlob
            ? `remove "${store.blobPath(digest)}" and pull again`
            : "the registry or something on the way is at fault",
        },
      );
    if (file !== undefined) {
      direct.fsync(file.fd);
      renameDurably(blobTemporary, store.newBlobPath(digest));
      this.downloaded += size;
    }
    if (!haveLayer) this.publish(layer, directory);
  }

  async unpack(layer: Layer, raw: AsyncIterable<Uint8Array>, directory: string): Promise<void> {
    const hasher = new Bun.CryptoHasher("sha256");
    const { size } = layer.descriptor;
    const onBytes = (total: number): void => {
      if (total > bombFrom && total > size * bombRatio)
        throw new OciboxError(
          "INVALID",
          `the layer ${layer.descriptor.digest} grows to more than ${bombRatio} times its size`,
        );
    };
    direct.mkdirat(AT_FDCWD, directory, 0o755);
    direct.fchmodat(AT_FDCWD, directory, 0o755);
    using root = new OwnedFd(direct.openat(AT_FDCWD, directory, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0));
    const plain = counted(decompress(layer.descriptor.mediaType, raw), hasher, onBytes);
    const lowers = async (): Promise<string[]> => {
      await Promise.all(this.#finished.slice(0, layer.index));
      return this.layers
        .slice(0, layer.index)
        .map((each) => this.store.layerPath(each.chainId))
        .reverse();
    };
    try {
      await applyLayer(root.fd, new ByteSource(plain), { lowers, most: size * bombRatio });
    } catch (error) {
      throw storeError(error, `cannot unpack the layer ${layer.descriptor.digest}`);
    }
    const diffId = `sha256:${hasher.digest("hex")}`;
    if (diffId !== layer.diffId)
      throw new OciboxError(
        "DIGEST_MISMATCH",
        `the layer ${layer.descriptor.digest} has the DiffID ${diffId}, and the image promises ${layer.diffId}`,
      );
    direct.syncfs(root.fd);
  }

  /** Visible from here on, whole. Another process may have been faster. */
  publish(layer: Layer, directory: string): void {
    const path = this.store.layerPath(layer.chainId);
    const renamed = attempt("renameat2", AT_FDCWD, directory, AT_FDCWD, path, 1);
    if (renamed < 0 && !this.store.hasLayer(layer.chainId)) direct.renameat2(AT_FDCWD, directory, AT_FDCWD, path, 1);
    syncDirectory(path.slice(0, path.lastIndexOf("/")));
  }
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
  const abort = new AbortController();
  const signal = AbortSignal.any([options.signal, abort.signal]);
  const puller = new Puller(store, repository, { ...options, signal }, temporary, layers);
  await puller.all(() => abort.abort());
  store.putBlob(resolved.bytes);
  const indexDigest = resolved.indexBytes === undefined ? undefined : store.putBlob(resolved.indexBytes);
  const described: Platform = {
    os: config.os,
    architecture: config.architecture,
    ...(config.variant === undefined ? {} : { variant: config.variant }),
  };
  const load = store.tag(options.names ?? [name], { ...resolved.descriptor, platform: described }, indexDigest);
  options.events.done({ name, digest, downloaded: puller.downloaded, elapsed: performance.now() - started });
  return load();
}
