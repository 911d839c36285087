/** Platforms and the choice among an index's images: image-spec, image-index.md; names as Go's GOOS and GOARCH. */
import { OciboxError } from "../errors.ts";
import type { Descriptor, Index, Platform } from "./image.ts";
import { isIndexType, isManifestType } from "./media-types.ts";

const aliases: Readonly<Record<string, readonly [architecture: string, variant?: string]>> = {
  x86_64: ["amd64"],
  "x86-64": ["amd64"],
  x64: ["amd64"],
  aarch64: ["arm64"],
  armhf: ["arm", "v7"],
  armel: ["arm", "v6"],
  i386: ["386"],
  i686: ["386"],
};

function normal(platform: Platform): Platform {
  const [architecture, implied] = Object.hasOwn(aliases, platform.architecture)
    ? (aliases[platform.architecture] ?? [platform.architecture])
    : [platform.architecture];
  let variant = platform.variant ?? implied ?? "";
  if (/^[0-9]$/.test(variant)) variant = `v${variant}`;
  if (architecture === "arm64" && variant === "v8") variant = "";
  if (architecture === "amd64" && variant === "v1") variant = "";
  if (architecture === "arm" && variant === "") variant = "v7";
  return { os: platform.os, architecture, ...(variant === "" ? {} : { variant }) };
}

/** "linux/arm/v7". */
export function showPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, ...(platform.variant === undefined ? [] : [platform.variant])].join("/");
}

/**
 * A platform as `--platform` takes it: "linux/arm64", "linux/arm/v7", "arm64".
 * @throws OciboxError PLATFORM
 */
export function parsePlatform(text: string): Platform {
  const parts = text.toLowerCase().split("/");
  const [first, second, third] = parts;
  if (first === undefined || parts.length > 3 || parts.some((part) => !/^[a-z0-9][a-z0-9_.-]{0,31}$/.test(part)))
    throw new OciboxError("PLATFORM", `cannot read ${JSON.stringify(text)} as a platform`, {
      hint: 'write OS/ARCHITECTURE, for example "linux/arm64"',
    });
  if (second === undefined) {
    if (first === "linux") return hostPlatform();
    return normal({ os: "linux", architecture: first });
  }
  return normal({ os: first, architecture: second, ...(third === undefined ? {} : { variant: third }) });
}

/** The platform this program runs on. */
export function hostPlatform(): Platform {
  return { os: "linux", architecture: process.arch === "x64" ? "amd64" : process.arch };
}

/** Which variants run on a machine of the given one, best first: an ARMv7 runs what was built for v6 and v5. */
function variantsFor(wanted: Platform): readonly string[] {
  const level = /^v([0-9])$/.exec(wanted.variant ?? "")?.[1];
  if (wanted.architecture === "arm" && level !== undefined)
    return Array.from({ length: Math.max(1, Number(level) - 4) }, (_, below) => `v${Number(level) - below}`);
  if (wanted.architecture === "amd64" && level !== undefined)
    return [...Array.from({ length: Number(level) - 1 }, (_, below) => `v${Number(level) - below}`), ""];
  return wanted.variant === undefined ? [""] : [wanted.variant, ""];
}

/** How well an image suits the platform: 0 best, undefined not at all. */
function rank(has: Platform, wanted: Platform): number | undefined {
  const image = normal(has);
  const target = normal(wanted);
  if (image.os !== target.os || image.architecture !== target.architecture) return undefined;
  const at = variantsFor(target).indexOf(image.variant ?? "");
  return at < 0 ? undefined : at;
}

/** Two ways to write one platform, or none. */
export function samePlatform(a: Platform | undefined, b: Platform | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return showPlatform(normal(a)) === showPlatform(normal(b));
}

/** Does an image of the one platform run where the other is wanted? */
export function platformMatches(has: Platform, wanted: Platform): boolean {
  return rank(has, wanted) !== undefined;
}

/** BuildKit's attestations lie in the index as manifests for "unknown/unknown". */
function isImage(entry: Descriptor): boolean {
  if (!isManifestType(entry.mediaType) && !isIndexType(entry.mediaType)) return false;
  if (entry.annotations?.["vnd.docker.reference.type"] !== undefined) return false;
  return entry.platform?.os !== "unknown" && entry.platform?.architecture !== "unknown";
}

/** The entries of an index that can be run somewhere. */
export function imagesOf(index: Index): readonly Descriptor[] {
  return index.manifests.filter(isImage);
}

/**
 * The entry of an index for a platform. Attestations and what is not an image are passed over; the only image of an
 * index that names no platforms is taken as it is.
 * @param name what the index is of, for the error
 * @throws OciboxError PLATFORM naming the platforms there are
 */
export function selectPlatform(index: Index, platform: Platform, name = "the image"): Descriptor {
  const images = imagesOf(index);
  let best: { entry: Descriptor; rank: number } | undefined;
  for (const entry of images) {
    const fits = entry.platform === undefined ? undefined : rank(entry.platform, platform);
    if (fits !== undefined && (best === undefined || fits < best.rank)) best = { entry, rank: fits };
  }
  if (best !== undefined) return best.entry;
  const unnamed = images.filter((entry) => entry.platform === undefined);
  if (unnamed.length === 1 && unnamed[0] !== undefined) return unnamed[0];
  const there = [
    ...new Set(images.flatMap((entry) => (entry.platform === undefined ? [] : showPlatform(entry.platform)))),
  ];
  throw new OciboxError(
    "PLATFORM",
    `cannot use ${JSON.stringify(name)}: it has no image for ${showPlatform(platform)}`,
    there.length === 0
      ? { hint: "its index names no platform at all" }
      : {
          hint: `it is there for ${there.slice(0, 20).join(", ")}${there.length > 20 ? ", …" : ""}; choose with --platform`,
        },
  );
}
