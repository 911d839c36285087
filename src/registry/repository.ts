/** What the store asks of a registry: manifests whole, blobs as verified streams. distribution-spec 1.1, "Pull". */
import type { Digest } from "../spec/digest.ts";

/** A manifest or an index as the registry sent it; `digest` has been computed over `bytes`. */
export interface FetchedManifest {
  readonly bytes: Uint8Array;
  /** The Content-Type without parameters, or "" where the registry sent none. */
  readonly mediaType: string;
  readonly digest: Digest;
}

/** What must be known of a blob to fetch it; a Descriptor fits. */
export interface BlobRequest {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  /** Where it may be had too, where the registry does not have it: image-spec, descriptor.md. */
  readonly urls?: readonly string[];
}

export interface FetchOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface BlobOptions extends FetchOptions {
  /**
   * Bytes that the caller already has, counted from the start: the stream begins there. Only the size is checked then
   * (the digest is over all bytes, which the stream has not seen): the caller must verify the digest.
   */
  readonly from?: number | undefined;
  /** The caller computes the digest himself: here only the size is checked. */
  readonly unhashed?: boolean | undefined;
}

/** One repository of one registry, through its mirrors where there are some. Nothing is sent until something is asked. */
export interface Repository extends Disposable {
  /** "docker.io/library/alpine", for messages. */
  readonly name: string;
  /**
   * A manifest or index of at most 4 MiB, its digest verified where one was asked for or promised.
   * @throws OciboxError NOT_FOUND, DENIED, DIGEST_MISMATCH, REGISTRY, NETWORK
   */
  manifest(tagOrDigest: string, options?: FetchOptions): Promise<FetchedManifest>;
  /**
   * The digest of a manifest by a HEAD request, or undefined where the registry does not say it.
   * @throws OciboxError as manifest() does
   */
  resolve(tagOrDigest: string, options?: FetchOptions): Promise<Digest | undefined>;
  /**
   * A blob's raw bytes. Resets and stalls are retried and resumed by Range inside the iteration. It throws at its end,
   * after the last bytes were given out, where size or digest are wrong: nothing may be believed before it ends.
   * @throws OciboxError NOT_FOUND, DENIED, DIGEST_MISMATCH, REGISTRY, NETWORK
   */
  blob(blob: BlobRequest, options?: BlobOptions): AsyncIterable<Uint8Array>;
}
