/** A multi-platform index of images that are in the store: image-spec, image-index.md. */
import { OciboxError } from "../errors.ts";
import type { Digest } from "../spec/digest.ts";
import type { Descriptor, Platform } from "../spec/image.ts";
import { ociIndex } from "../spec/media-types.ts";
import { samePlatform, showPlatform } from "../spec/platform.ts";
import type { Store, StoredImage } from "./store.ts";

/** An image, and how it was asked for. */
export interface Part {
  readonly word: string;
  readonly image: StoredImage;
}

function platformOf({ manifestDescriptor, config }: StoredImage): Platform {
  // The index that it came from may know the variant better.
  const { os, architecture, variant } = manifestDescriptor.platform ?? config;
  return { architecture, os, ...(variant === undefined ? {} : { variant }) };
}

/** @throws OciboxError INVALID where two are for one platform */
function onePerPlatform(parts: readonly Part[]): void {
  parts.forEach(({ word, image }, at) => {
    const platform = platformOf(image);
    const twin = parts.slice(0, at).find((each) => samePlatform(platformOf(each.image), platform));
    if (twin !== undefined)
      throw new OciboxError(
        "INVALID",
        `"${twin.word}" and "${word}" are both for ${showPlatform(platform)}: an index holds one image a platform`,
        { hint: "leave one of them out" },
      );
  });
}

/**
 * Writes an index into the store, and makes a name stand for its images. The store's lock is the caller's.
 * @param name canonical
 * @param before images that are in it already: one for a platform of `parts` gives way
 * @throws OciboxError INVALID
 */
export function makeIndex(
  store: Store,
  name: string,
  parts: readonly Part[],
  before: readonly StoredImage[] = [],
): Digest {
  const unique = parts.filter(({ image }, at) => {
    const { digest } = image.manifestDescriptor;
    return parts.findIndex((each) => each.image.manifestDescriptor.digest === digest) === at;
  });
  onePerPlatform(unique);
  const isNew = (each: StoredImage): boolean =>
    unique.some(({ image }) => samePlatform(platformOf(image), platformOf(each)));
  const images = [...before.filter((each) => !isNew(each)), ...unique.map((each) => each.image)];
  const manifests = images.map((image): Descriptor => {
    const { mediaType, digest, size } = image.manifestDescriptor;
    return { mediaType, digest, size, platform: platformOf(image) };
  });
  const document = { schemaVersion: 2, mediaType: ociIndex, manifests };
  const digest = store.putBlob(new TextEncoder().encode(JSON.stringify(document)));
  store.nameIndex(name, manifests, digest);
  return digest;
}
