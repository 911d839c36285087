/** A tar of a root file system becomes an image of one layer: what `docker import` and `podman import` do. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { direct } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { OciboxError } from "../errors.ts";
import { decompress } from "../layer/decompress.ts";
import { type Digest, sha256 } from "../spec/digest.ts";
import type { ContainerDefaults, Platform } from "../spec/image.ts";
import { ociConfig, ociManifest } from "../spec/media-types.ts";
import type { PullEvents } from "../spec/progress.ts";
import { openForWriting, streamFile, writeAll } from "./disk.ts";
import { loadOne } from "./load.ts";
import type { LocalSource } from "./sources/local.ts";
import { breathe, layerType, packingOf, readPieces } from "./sources/spool.ts";
import type { Store, StoredImage } from "./store.ts";
import { workspace } from "./temporary.ts";

export interface ImportRequest {
  /** A file, or stdin. */
  readonly path: string | undefined;
  /** Canonical. */
  readonly names: readonly string[];
  readonly platform: Platform;
  readonly config: ContainerDefaults;
  readonly message: string;
  /** RFC 3339. */
  readonly created: string;
  readonly events: PullEvents;
  readonly signal: AbortSignal;
}

interface Spooled {
  readonly digest: Digest;
  readonly size: number;
  readonly head: Uint8Array;
}

/** The archive as it is, in a file of the store's: it may come from a pipe, and is read twice. */
async function spool(input: number, path: string, signal: AbortSignal): Promise<Spooled> {
  using file = openForWriting(path);
  const hasher = new Bun.CryptoHasher("sha256");
  let size = 0;
  let head: Uint8Array = new Uint8Array();
  for (const piece of readPieces(input)) {
    await breathe();
    signal.throwIfAborted();
    if (size === 0) head = piece.slice(0, 16);
    size += piece.byteLength;
    hasher.update(piece);
    writeAll(file.fd, piece);
  }
  return { digest: `sha256:${hasher.digest("hex")}` as Digest, size, head };
}

async function diffIdOf(path: string, mediaType: string, signal: AbortSignal): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  using file = openArchive(path);
  for (const piece of decompress(mediaType, readPieces(file.fd))) {
    await breathe();
    signal.throwIfAborted();
    hasher.update(piece);
  }
  return `sha256:${hasher.digest("hex")}`;
}

function bytesOf(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** @throws OciboxError INVALID for what is no archive, NOT_FOUND for a file that is not there */
export async function importTar(store: Store, request: ImportRequest): Promise<StoredImage> {
  const { path, platform, created, signal } = request;
  const what = path === undefined ? "stdin" : `"${path}"`;
  store.prepare();
  using owned = new DisposableStack();
  owned.use(store.lockShared());
  const place = `${workspace(store, owned)}/archive`;
  const input = path === undefined ? 0 : owned.use(openArchive(path)).fd;
  const { digest, size, head } = await spool(input, place, signal);
  if (size === 0) throw new OciboxError("INVALID", `${what} is empty, where an archive was expected`);
  const mediaType = layerType(packingOf(head, what));
  const config = bytesOf({
    created,
    ...platform,
    config: request.config,
    rootfs: { type: "layers", diff_ids: [await diffIdOf(place, mediaType, signal)] },
    history: [{ created, comment: request.message }],
  });
  const manifest = bytesOf({
    schemaVersion: 2,
    mediaType: ociManifest,
    config: { mediaType: ociConfig, digest: sha256(config), size: config.byteLength },
    layers: [{ mediaType, digest, size }],
  });
  const blobs = new Map([config, manifest].map((bytes) => [sha256(bytes), bytes]));
  const descriptor = { mediaType: ociManifest, digest: sha256(manifest), size: manifest.byteLength };
  const source: LocalSource = {
    name: what,
    images: [],
    place: {
      read: (of) => blobs.get(of),
      stream: (of) => (of === digest ? streamFile(place) : once(blobs.get(of))),
    },
    [Symbol.dispose]() {},
  };
  const { names, events } = request;
  return await loadOne(store, source, { names, label: undefined, descriptor }, { platform, names, events, signal });
}

function openArchive(path: string): OwnedFd {
  return new OwnedFd(direct.openat(AT_FDCWD, path, O.O_RDONLY | O.O_CLOEXEC, 0));
}

async function* once(bytes: Uint8Array | undefined): AsyncGenerator<Uint8Array> {
  if (bytes !== undefined) yield bytes;
}
