/**
 * What an index lists beside images: BuildKit's attestations and the like. They are run nowhere, but an index is only
 * whole with them: a registry takes none that lists what it does not have.
 */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt, direct } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";
import type { Repository } from "../registry/repository.ts";
import type { Digest } from "../spec/digest.ts";
import type { Descriptor } from "../spec/image.ts";
import { decodeIndex, decodeManifest, manifestLimit } from "../spec/image-decode.ts";
import { isManifestType } from "../spec/media-types.ts";
import { imagesOf } from "../spec/platform.ts";
import { openForWriting, readFile, renameDurably, writeAll } from "./disk.ts";
import type { Store } from "./store.ts";

export interface Companion {
  readonly manifest: Descriptor;
  /** Its configuration and layers. */
  readonly blobs: readonly Descriptor[];
  readonly whole: boolean;
}

/** A manifest that the store has as a blob. */
export function companionOf(store: Store, manifest: Descriptor): Companion | undefined {
  if (!isManifestType(manifest.mediaType) || !store.hasBlob(manifest.digest, manifest.size)) return undefined;
  const bytes = store.readBlob(manifest.digest, manifestLimit);
  const decoded = unlessDamaged(() => decodeManifest(bytes, manifest.mediaType));
  if (decoded === undefined) return undefined;
  const blobs = [decoded.config, ...decoded.layers];
  return { manifest, blobs, whole: blobs.every(({ digest, size }) => store.hasBlob(digest, size)) };
}

/** What is damaged is as good as not there; `ocibox check` tells of it. */
function unlessDamaged<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch (error) {
    if (error instanceof OciboxError) return undefined;
    throw error;
  }
}

function entriesOf(store: Store, index: Digest): Descriptor[] {
  const bytes = readFile(store.blobPath(index), manifestLimit);
  const decoded = bytes === undefined ? undefined : unlessDamaged(() => decodeIndex(bytes, ""));
  if (decoded === undefined) return [];
  const images = new Set(imagesOf(decoded).map((each) => each.digest));
  return decoded.manifests.filter((each) => isManifestType(each.mediaType) && !images.has(each.digest));
}

/** Those of an index that are in the store, whole or not. */
export function companionsOf(store: Store, index: Digest): Companion[] {
  return entriesOf(store, index).flatMap((each) => companionOf(store, each) ?? []);
}

/** A blob as it is, verified while it streams: it is no layer that could be unpacked. */
async function fetchBlob(store: Store, repository: Repository, blob: Descriptor, signal: AbortSignal): Promise<void> {
  if (store.hasBlob(blob.digest, blob.size)) return;
  const temporary = store.temporaryName();
  using file = openForWriting(temporary);
  using undo = new DisposableStack();
  undo.defer(() => attempt("unlinkat", AT_FDCWD, temporary, 0));
  for await (const piece of repository.blob(blob, { signal })) writeAll(file.fd, piece);
  direct.fsync(file.fd);
  renameDurably(temporary, store.newBlobPath(blob.digest));
}

/**
 * Fetches what an index lists beside images. What the source does not have stays away: the images are there without it.
 * @param index in the store, and named by an image there
 */
export async function fetchCompanions(
  store: Store,
  repository: Repository,
  index: Digest,
  signal: AbortSignal,
): Promise<void> {
  using lock = store.lockShared();
  void lock;
  for (const entry of entriesOf(store, index)) {
    try {
      const { bytes } = await repository.manifest(entry.digest, { signal });
      const { config, layers } = decodeManifest(bytes, entry.mediaType);
      for (const blob of [config, ...layers]) await fetchBlob(store, repository, blob, signal);
      store.putBlob(bytes);
    } catch (error) {
      if (!(error instanceof OciboxError) || error.code !== "NOT_FOUND") throw error;
    }
  }
}
