/** Images out of the store to a registry: what they are made of first, then what names it, and the index last. */
import { OciboxError } from "../errors.ts";
import type { PushOutcome, Uploads } from "../registry/push.ts";
import type { Digest } from "../spec/digest.ts";
import type { Descriptor } from "../spec/image.ts";
import { isNonDistributable } from "../spec/media-types.ts";
import { wholeIndex } from "./save.ts";
import type { Store, StoredImage } from "./store.ts";

const mostManifest = 4 << 20;
const atOnce = 3;

interface PushEvents {
  blob?(descriptor: Descriptor, outcome: PushOutcome): void;
}

export interface PushRequest {
  readonly image: StoredImage;
  /** A tag, or a digest that the image must have. */
  readonly name: string;
  /** With the other platforms of its index; else the image alone. */
  readonly all: boolean;
  /** Layers that are not to be passed on are sent too. */
  readonly withForeign?: boolean;
  readonly events?: PushEvents;
  readonly signal?: AbortSignal;
}

/** Blobs some at a time; each digest once. */
async function pushBlobs(
  store: Store,
  uploads: Uploads,
  blobs: readonly Descriptor[],
  request: PushRequest,
): Promise<void> {
  const left = [...new Map(blobs.map((each) => [each.digest, each])).values()];
  const worker = async (): Promise<void> => {
    for (let each = left.shift(); each !== undefined; each = left.shift()) {
      const { digest, size } = each;
      const withheld = request.withForeign !== true && isNonDistributable(each.mediaType);
      if (withheld && !(await uploads.has("blobs", digest, undefined, request.signal))) {
        request.events?.blob?.(each, "withheld");
        continue;
      }
      if (!store.hasBlob(digest, size))
        throw new OciboxError("STORE", `the blob ${digest} is not in the store whole`, {
          hint: "pull the image again",
        });
      const outcome = await uploads.blob({ digest, size, file: Bun.file(store.blobPath(digest)) }, request.signal);
      request.events?.blob?.(each, outcome);
    }
  };
  const workers = Array.from({ length: atOnce }, worker);
  try {
    await Promise.all(workers);
  } finally {
    left.length = 0;
    await Promise.allSettled(workers);
  }
}

async function pushManifest(store: Store, uploads: Uploads, image: StoredImage, name: string, request: PushRequest) {
  const { digest, mediaType } = image.manifestDescriptor;
  await pushBlobs(store, uploads, [image.manifest.config, ...image.manifest.layers], request);
  return uploads.manifest(name, store.readBlob(digest, mostManifest), mediaType, request.signal);
}

/** @returns the digest that the registry has it by @throws OciboxError */
export async function pushImage(store: Store, uploads: Uploads, request: PushRequest): Promise<Digest> {
  const { image, name } = request;
  const whole = request.all ? wholeIndex(store, image) : undefined;
  if (request.all && whole === undefined)
    throw new OciboxError("USAGE", "not every platform of the image is in the store", {
      hint: "pull them with: ocibox pull --all-platforms; or push one: name it with --platform",
    });
  if (whole === undefined) return pushManifest(store, uploads, image, name, request);
  for (const each of whole.images) await pushManifest(store, uploads, each, each.manifestDescriptor.digest, request);
  for (const { manifest, blobs } of whole.companions) {
    await pushBlobs(store, uploads, blobs, request);
    const bytes = store.readBlob(manifest.digest, mostManifest);
    await uploads.manifest(manifest.digest, bytes, manifest.mediaType, request.signal);
  }
  const { digest, mediaType } = whole.descriptor;
  return uploads.manifest(name, store.readBlob(digest, mostManifest), mediaType, request.signal);
}
