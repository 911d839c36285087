/** Pulling: what a registry has into the store. An image gets its name when all of it is there, and not before. */
import { OciboxError } from "../errors.ts";
import { canonical, type Reference } from "../reference/reference.ts";
import type { FetchedManifest, Repository } from "../registry/repository.ts";
import { type ChainId, chainIds, type DiffId, type Digest } from "../spec/digest.ts";
import type { Descriptor, Platform } from "../spec/image.ts";
import { decodeImageConfig, decodeIndex, decodeManifestOrIndex, manifestLimit } from "../spec/image-decode.ts";
import { hostPlatform, platformMatches, selectPlatform, showPlatform } from "../spec/platform.ts";
import { alone } from "./alone.ts";
import { storeError } from "./disk.ts";
import type { LayerOptions } from "./pull-layers.ts";
import { chainsOf, refName, type Store, type StoredImage } from "./store.ts";
import { reclaim, workspace } from "./temporary.ts";
import type { Layer } from "./unpack-job.ts";

export interface PullOptions extends LayerOptions {
  readonly platform?: Platform;
  /** The names that the image gets, canonical; by default that of the reference. */
  readonly names?: readonly string[];
}

const mostNesting = 2;
const mostConfig = 8 << 20;

interface Resolved {
  readonly descriptor: Descriptor;
  readonly bytes: Uint8Array;
  readonly indexBytes: Uint8Array | undefined;
  readonly manifest: { readonly config: Descriptor; readonly layers: readonly Descriptor[] };
}

/** The platform's manifest, through an index where there is one. @param first what the registry has by the name */
async function resolve(
  repository: Repository,
  first: FetchedManifest,
  platform: Platform,
  options: PullOptions,
): Promise<Resolved> {
  let fetched = first;
  let indexBytes: Uint8Array | undefined;
  let chosen: Platform | undefined;
  for (let depth = 0; depth <= mostNesting; depth++) {
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
    if (depth < mostNesting) fetched = await repository.manifest(entry.digest, { signal: options.signal });
  }
  throw new OciboxError("INVALID", `the index of "${repository.name}" leads from index to index`);
}

export async function whole(stream: AsyncIterable<Uint8Array>, most: number, what: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.byteLength;
    if (size > most) throw new OciboxError("INVALID", `${what} has more than ${most} bytes`);
    parts.push(chunk);
  }
  return Buffer.concat(parts);
}

/**
 * The image, where all of it is in the store by these names, and is what the registry has: most pulls find that. What
 * was decoded with all care when it came is only read again.
 */
function unchanged(
  store: Store,
  names: readonly string[],
  { digest, mediaType }: FetchedManifest,
  platform: Platform,
): StoredImage | undefined {
  const [name] = names;
  if (name === undefined) return undefined;
  const image = store.find(name, platform);
  if (image === undefined) return undefined;
  // Named here, and not in an additional store alone.
  const own = store.readIndex().manifests.filter((each) => each.digest === image.manifestDescriptor.digest);
  if (!names.every((each) => own.some(({ annotations }) => annotations?.[refName] === each))) return undefined;
  const { manifestDescriptor, indexDigest, manifest } = image;
  if (digest !== (indexDigest ?? manifestDescriptor.digest)) return undefined;
  if (indexDigest !== undefined) {
    const index = decodeIndex(store.readBlob(indexDigest, manifestLimit), mediaType, { trusted: true });
    if (selectPlatform(index, platform, `"${name}"`).digest !== manifestDescriptor.digest) return undefined;
  }
  const blobs = [manifest.config, ...manifest.layers];
  if (!blobs.every((each) => store.hasBlob(each.digest, each.size))) return undefined;
  if (store.unpackedAs(chainsOf(image)) === undefined) return undefined;
  store.touch(manifestDescriptor.digest);
  return image;
}

/** Undefined where the store has lost a part of it: it is fetched again. */
function unlessLost<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (error instanceof OciboxError && (error.code === "STORE" || error.code === "INVALID")) return undefined;
    throw error;
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
    const told = storeError(error, `cannot pull "${repository.name}"`);
    // A disk that is full has no room for what could be gone on with.
    if (told instanceof OciboxError && told.code === "STORE") reclaim(store, true);
    throw told;
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
  const platform = options.platform ?? hostPlatform();
  const names = options.names ?? [canonical(reference)];
  const what = reference.digest ?? reference.tag ?? "latest";
  const fetched = await repository.manifest(what, { signal: options.signal });
  const same = unlessLost(() => unchanged(store, names, fetched, platform));
  if (same !== undefined) {
    const { events } = options;
    const name = names[0] ?? canonical(reference);
    const layers = same.layers.map(({ descriptor }) => descriptor);
    const { digest } = same.manifestDescriptor;
    events.resolved(name, digest, layers);
    for (const layer of layers) events.layerState(layer.digest, "exists");
    events.done({ name, digest, downloaded: 0, elapsed: performance.now() - started });
    return same;
  }
  // Loaded where something is to be done.
  const { pullLayers } = await import("./pull-layers.ts");
  const temporary = workspace(store, owned);
  const resolved = await resolve(repository, fetched, platform, options);
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
  // Configurations of ARM's may leave the variant to the index.
  const variant = config.variant ?? resolved.descriptor.platform?.variant;
  const described: Platform = {
    os: config.os,
    architecture: config.architecture,
    ...(variant === undefined ? {} : { variant }),
  };
  if (!platformMatches(described, platform))
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
  const name = names[0] ?? canonical(reference);
  const digest: Digest = resolved.descriptor.digest;
  options.events.resolved(
    name,
    digest,
    layers.map((layer) => layer.descriptor),
  );
  const downloaded = await pullLayers(store, repository, options, temporary, layers);
  store.putBlob(resolved.bytes);
  const indexDigest = resolved.indexBytes === undefined ? undefined : store.putBlob(resolved.indexBytes);
  const load = store.tag(names, { ...resolved.descriptor, platform: described }, indexDigest);
  options.events.done({ name, digest, downloaded, elapsed: performance.now() - started });
  return load();
}
