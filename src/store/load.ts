/** Taking images from files into the store: a pull, with the same checks, from a source on the disk. */
import { OciboxError } from "../errors.ts";
import type { Platform } from "../spec/image.ts";
import { hostPlatform, platformMatches, showPlatform } from "../spec/platform.ts";
import type { PullEvents } from "../spec/progress.ts";
import { fetchCompanions } from "./companions.ts";
import { pullImage } from "./pull.ts";
import { type LocalImage, LocalRepository, type LocalSource, platformsOf } from "./sources/local.ts";
import type { Store, StoredImage } from "./store.ts";

export interface LoadOptions {
  /** Only this one; by default every platform that is there. */
  readonly platform?: Platform | undefined;
  /** By default those that the source knows. */
  readonly names?: readonly string[];
  readonly events: PullEvents;
  readonly signal: AbortSignal;
}

/**
 * Loads one entry of a source.
 * @returns an image a platform
 * @throws OciboxError; the store is as it was then, but for layers that were finished
 */
export async function loadImage(
  store: Store,
  source: LocalSource,
  image: LocalImage,
  { platform, names = image.names, events, signal }: LoadOptions,
): Promise<StoredImage[]> {
  const { digest, mediaType } = image.descriptor;
  const repository = new LocalRepository(source.name, source.place, new Map([[digest, mediaType]]));
  const all = await platformsOf(repository, image);
  const chosen = platform === undefined ? all : all.filter((each) => platformMatches(each, platform)).slice(0, 1);
  if (chosen.length === 0)
    throw new OciboxError(
      "PLATFORM",
      `"${source.name}" has no image for ${platform === undefined ? "any platform" : showPlatform(platform)}`,
      all.length === 0 ? {} : { hint: `it is there for ${all.map(showPlatform).join(", ")}` },
    );
  const loaded: StoredImage[] = [];
  for (const each of chosen) {
    const reference = { registry: "localhost", repository: "image", digest };
    loaded.push(await pullImage(store, repository, reference, { platform: each, names, events, signal }));
  }
  const index = loaded[0]?.indexDigest;
  if (platform === undefined && index !== undefined) await fetchCompanions(store, repository, index, signal);
  return loaded;
}

/** The one that runs here, where there are several. */
export async function loadOne(
  store: Store,
  source: LocalSource,
  image: LocalImage,
  options: LoadOptions,
): Promise<StoredImage> {
  const repository = new LocalRepository(source.name, source.place);
  const platforms = options.platform === undefined ? await platformsOf(repository, image) : [];
  const platform = options.platform ?? (platforms.length > 1 ? hostPlatform() : undefined);
  const [loaded] = await loadImage(store, source, image, { ...options, platform });
  return loaded as StoredImage;
}
