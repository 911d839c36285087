/** Pulling: what a registry has into the store. An image gets its name when all of it is there, and not before. */
import { OciboxError } from "../errors.ts";
import { canonical, type Reference } from "../reference/reference.ts";
import type { Repository } from "../registry/repository.ts";
import { type ChainId, chainIds, type DiffId, type Digest } from "../spec/digest.ts";
import type { Descriptor, Platform } from "../spec/image.ts";
import { decodeImageConfig, decodeManifestOrIndex } from "../spec/image-decode.ts";
import { hostPlatform, platformMatches, selectPlatform, showPlatform } from "../spec/platform.ts";
import { alone } from "./alone.ts";
import { storeError } from "./disk.ts";
import { type LayerOptions, pullLayers } from "./pull-layers.ts";
import type { Store, StoredImage } from "./store.ts";
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
  const load = store.tag(options.names ?? [name], { ...resolved.descriptor, platform: described }, indexDigest);
  options.events.done({ name, digest, downloaded, elapsed: performance.now() - started });
  return load();
}
