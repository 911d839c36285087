/**
 * Images in files, shown as a repository: what pulls from a registry pulls from them, with every check that there is.
 */
import { OciboxError } from "../../errors.ts";
import type { BlobOptions, BlobRequest, FetchedManifest, Repository } from "../../registry/repository.ts";
import { type Digest, isDigest, sha256 } from "../../spec/digest.ts";
import type { Descriptor, Platform } from "../../spec/image.ts";
import { decodeImageConfig, decodeManifestOrIndex, manifestLimit } from "../../spec/image-decode.ts";
import { isManifestType } from "../../spec/media-types.ts";

/** Where a source keeps what has a digest. */
export interface BlobPlace {
  read(digest: Digest, most: number): Uint8Array | undefined;
  stream(digest: Digest): AsyncIterable<Uint8Array>;
}

/** One entry of a source. */
export interface LocalImage {
  /** Canonical names. */
  readonly names: readonly string[];
  /** What it is called in the source, whether or not that is a name. */
  readonly label: string | undefined;
  readonly descriptor: Descriptor;
}

export interface LocalSource extends Disposable {
  /** "oci:/path", for messages. */
  readonly name: string;
  readonly images: readonly LocalImage[];
  readonly place: BlobPlace;
}

export class LocalRepository implements Repository {
  constructor(
    readonly name: string,
    readonly place: BlobPlace,
    /** Media types of the top entries, where they are told; a manifest's own word counts else. */
    readonly types: ReadonlyMap<Digest, string> = new Map(),
  ) {}

  manifest(tagOrDigest: string): Promise<FetchedManifest> {
    const bytes = isDigest(tagOrDigest) ? this.place.read(tagOrDigest, manifestLimit) : undefined;
    if (!isDigest(tagOrDigest) || bytes === undefined)
      throw new OciboxError("NOT_FOUND", `"${this.name}" has no manifest ${tagOrDigest}`);
    const digest = sha256(bytes);
    if (digest !== tagOrDigest)
      throw new OciboxError(
        "DIGEST_MISMATCH",
        `in "${this.name}" the manifest ${tagOrDigest} has the digest ${digest}`,
      );
    return Promise.resolve({ bytes, mediaType: this.types.get(digest) ?? "", digest });
  }

  resolve(tagOrDigest: string): Promise<Digest | undefined> {
    return Promise.resolve(isDigest(tagOrDigest) ? tagOrDigest : undefined);
  }

  async *blob({ digest, size }: BlobRequest, { signal, from = 0 }: BlobOptions = {}): AsyncGenerator<Uint8Array> {
    const hasher = new Bun.CryptoHasher("sha256");
    let total = 0;
    for await (const piece of this.place.stream(digest)) {
      signal?.throwIfAborted();
      hasher.update(piece);
      const skip = Math.max(0, from - total);
      total += piece.byteLength;
      if (total > size) break;
      if (skip < piece.byteLength) yield piece.subarray(skip);
    }
    const found = `sha256:${hasher.digest("hex")}`;
    if (total !== size)
      throw new OciboxError(
        "DIGEST_MISMATCH",
        `in "${this.name}" the blob ${digest} has not the ${size} bytes promised`,
      );
    if (found !== digest)
      throw new OciboxError("DIGEST_MISMATCH", `in "${this.name}" the blob ${digest} has the digest ${found}`);
  }

  [Symbol.dispose](): void {}
}

/**
 * The platforms that an entry has an image for in its source: one of a manifest, those that are there of an index.
 * @throws OciboxError NOT_FOUND, INVALID
 */
export async function platformsOf(repository: LocalRepository, { descriptor }: LocalImage): Promise<Platform[]> {
  const fetched = await repository.manifest(descriptor.digest);
  const what = `the manifest of "${repository.name}"`;
  const decoded = decodeManifestOrIndex(fetched.bytes, fetched.mediaType, { what });
  if (decoded.kind === "manifest") {
    const { config } = decoded.manifest;
    const bytes = repository.place.read(config.digest, manifestLimit);
    if (bytes === undefined) throw new OciboxError("NOT_FOUND", `"${repository.name}" has no blob ${config.digest}`);
    const { os, architecture, variant } = decodeImageConfig(bytes, {
      what: `the configuration of "${repository.name}"`,
    });
    return [{ os, architecture, ...(variant === undefined ? {} : { variant }) }];
  }
  const found: Platform[] = [];
  for (const entry of decoded.index.manifests) {
    // BuildKit's attestations are manifests for "unknown/unknown".
    if (!isManifestType(entry.mediaType) || entry.platform?.os === "unknown") continue;
    if (repository.place.read(entry.digest, manifestLimit) === undefined) continue;
    if (entry.platform !== undefined) found.push(entry.platform);
    else found.push(...(await platformsOf(repository, { names: [], label: undefined, descriptor: entry })));
  }
  return found;
}
