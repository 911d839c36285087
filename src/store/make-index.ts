/** A multi-platform index of images that are in the store: image-spec, image-index.md. */
import { OciboxError } from "../errors.ts";
import type { Digest } from "../spec/digest.ts";
import type { Descriptor, Platform } from "../spec/image.ts";
import { ociIndex } from "../spec/media-types.ts";
import { samePlatform, showPlatform } from "../spec/platform.ts";
import { indexOf, type Store, type StoredImage } from "./store.ts";

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

/** What an index says of images, each once. @throws OciboxError INVALID where two are for one platform */
export function entriesOf(parts: readonly Part[]): (Descriptor & { readonly platform: Platform })[] {
  const unique = parts.filter(({ image }, at) => {
    const { digest } = image.manifestDescriptor;
    return parts.findIndex((each) => each.image.manifestDescriptor.digest === digest) === at;
  });
  onePerPlatform(unique);
  return unique.map(({ image }) => {
    const { mediaType, digest, size } = image.manifestDescriptor;
    return { mediaType, digest, size, platform: platformOf(image) };
  });
}

/**
 * Writes an index into the store, and makes a name stand for its images. The store's lock is the caller's.
 * @param name canonical
 * @param instead the image that has the name
 * @returns undefined where the name stands for something else
 * @throws OciboxError INVALID
 */
export function makeIndex(
  store: Store,
  name: string,
  parts: readonly Part[],
  instead?: StoredImage,
): Digest | undefined {
  const manifests = entriesOf(parts);
  const document = { schemaVersion: 2, mediaType: ociIndex, manifests };
  const digest = store.putBlob(new TextEncoder().encode(JSON.stringify(document)));
  const isStill = (named: readonly Descriptor[]): boolean =>
    instead === undefined
      ? named.length === 0
      : named.some((each) => each.digest === instead.manifestDescriptor.digest && indexOf(each) === undefined);
  return store.nameIndex(name, manifests, digest, isStill) ? digest : undefined;
}
