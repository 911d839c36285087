/** Pulling an image for several platforms: an index as a whole, or a part of it that was named. */
import { OciboxError } from "../errors.ts";
import type { Reference } from "../reference/reference.ts";
import type { FetchedManifest, Repository } from "../registry/repository.ts";
import type { Index, Manifest, Platform } from "../spec/image.ts";
import { decodeImageConfig, decodeManifestOrIndex } from "../spec/image-decode.ts";
import { imagesOf, selectPlatform, showPlatform } from "../spec/platform.ts";
import { fetchCompanions } from "./companions.ts";
import { type PullOptions, pullImage, whole } from "./pull.ts";
import type { Store, StoredImage } from "./store.ts";

const mostConfig = 8 << 20;

type Options = Omit<PullOptions, "platform">;

/** Each that the index has an image for, once. */
function platformsOf(index: Index): Platform[] {
  const found = new Map<string, Platform>();
  for (const { platform } of imagesOf(index)) if (platform !== undefined) found.set(showPlatform(platform), platform);
  return [...found.values()];
}

/** An image without an index is for the one platform that its configuration tells. */
async function platformOf(repository: Repository, { config }: Manifest, options: Options): Promise<Platform> {
  const stream = repository.blob(config, { signal: options.signal });
  const what = `the configuration of "${repository.name}"`;
  const { os, architecture, variant } = decodeImageConfig(await whole(stream, mostConfig, what), { what });
  return { os, architecture, ...(variant === undefined ? {} : { variant }) };
}

async function wanted(
  repository: Repository,
  fetched: FetchedManifest,
  platforms: readonly Platform[] | undefined,
  options: Options,
): Promise<readonly Platform[]> {
  const name = `"${repository.name}"`;
  const decoded = decodeManifestOrIndex(fetched.bytes, fetched.mediaType, { what: `the manifest of ${name}` });
  if (decoded.kind === "manifest") return platforms ?? [await platformOf(repository, decoded.manifest, options)];
  if (platforms === undefined) {
    const all = platformsOf(decoded.index);
    if (all.length > 0) return all;
    throw new OciboxError("PLATFORM", `the index of ${name} names no platform`, {
      hint: "leave --all-platforms out",
    });
  }
  // Whether all are there is better said before the first is fetched.
  for (const each of platforms) selectPlatform(decoded.index, each, repository.name);
  return platforms;
}

/**
 * Pulls several platforms of what a name stands for at this moment.
 * @param platforms undefined: all that there are, and what the index lists beside them
 * @throws OciboxError; what was pulled before stays
 */
export async function pullPlatforms(
  store: Store,
  repository: Repository,
  reference: Reference,
  platforms: readonly Platform[] | undefined,
  options: Options,
): Promise<StoredImage[]> {
  const name = reference.digest ?? reference.tag ?? "latest";
  const fetched = await repository.manifest(name, { signal: options.signal });
  // From here on by its digest: a tag may move on between two platforms.
  const fixed = { ...reference, digest: fetched.digest };
  const pulled: StoredImage[] = [];
  for (const platform of await wanted(repository, fetched, platforms, options))
    pulled.push(await pullImage(store, repository, fixed, { ...options, platform }));
  const index = pulled[0]?.indexDigest;
  if (platforms === undefined && index !== undefined) await fetchCompanions(store, repository, index, options.signal);
  return pulled;
}
