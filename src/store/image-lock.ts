/**
 * The lock file: which digest each name stood for when it was locked, so that a build that runs tomorrow takes the same
 * images. It is kept beside the sources and read from strangers' checkouts: nothing of it is believed unlooked at.
 */
import { SyscallError } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";
import { canonical, parseReference } from "../reference/reference.ts";
import type { FetchedManifest } from "../registry/repository.ts";
import type { Digest } from "../spec/digest.ts";
import type { Platform } from "../spec/image.ts";
import { decodeManifestOrIndex } from "../spec/image-decode.ts";
import { hostPlatform, imagesOf, parsePlatform, platformMatches, showPlatform } from "../spec/platform.ts";
import { checkShape, type Shape } from "../spec/shape.ts";
import { parseStrictJson } from "../spec/strict-json.ts";
import { intoFile, readFile, writeAll } from "./disk.ts";
import type { ImageChoice, Store, StoredImage } from "./store.ts";

/** What a name stands for. */
export interface LockedImage {
  /** Of the multi-platform index where there is one, else of the manifest. */
  readonly digest: Digest;
  /** Of an index: the manifest for each platform, "linux/arm64". */
  readonly platforms?: Readonly<Record<string, Digest>>;
}

/** By canonical names. */
export type ImageLock = ReadonlyMap<string, LockedImage>;

const formatVersion = 1;
const mostBytes = 4 << 20;
const platformText = /^[a-z0-9][a-z0-9_.-]{0,31}(?:\/[a-z0-9][a-z0-9_.-]{0,31}){1,2}$/;

const digestShape: Shape = { matches: /^sha256:[0-9a-f]{64}$/, wanted: "sha256 with 64 digits" };
const fileShape: Shape = {
  fields: {
    version: "uint32",
    images: { map: { fields: { digest: digestShape, platforms: { map: digestShape } }, required: ["digest"] } },
  },
  required: ["version", "images"],
};

interface LockDocument {
  readonly version: number;
  readonly images: Readonly<Record<string, LockedImage>>;
}

function checkName(name: string, where: string): void {
  let full: string | undefined;
  try {
    full = canonical(parseReference(name));
  } catch {
    // said below
  }
  if (full === name) return;
  const wanted = full === undefined ? "an image's name" : `a name in full, which would be ${JSON.stringify(full)}`;
  throw new OciboxError("INVALID", `${where} is not ${wanted}`);
}

function checkPlatforms(image: LockedImage, where: string): void {
  for (const text of Object.keys(image.platforms ?? {})) {
    if (!platformText.test(text))
      throw new OciboxError("INVALID", `${where}.platforms[${JSON.stringify(text)}] is not OS/ARCHITECTURE[/VARIANT]`);
  }
}

/** @throws OciboxError INVALID naming what is wrong by its JSON path */
export function decodeLock(bytes: Uint8Array, path: string): ImageLock {
  try {
    const document = parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as unknown;
    checkShape(document, fileShape, "");
    const { version, images } = document as LockDocument;
    if (version !== formatVersion)
      throw new OciboxError("INVALID", `version is ${version}, and this ocibox knows ${formatVersion}`);
    const locked = new Map<string, LockedImage>();
    for (const name of Object.keys(images)) {
      const where = `images[${JSON.stringify(name)}]`;
      const image = images[name] as LockedImage;
      checkName(name, where);
      checkPlatforms(image, where);
      locked.set(name, image);
    }
    return locked;
  } catch (error) {
    const why = error instanceof OciboxError || error instanceof SyntaxError ? error.message : "it is not UTF-8";
    throw new OciboxError("INVALID", `the lock file "${path}" cannot be used: ${why}`, {
      hint: "mend it, or make it again with: ocibox lock",
      cause: error,
    });
  }
}

/** A lock file, undefined where there is none. @throws OciboxError */
export function readLock(path: string): ImageLock | undefined {
  try {
    const bytes = readFile(path, mostBytes);
    return bytes === undefined ? undefined : decodeLock(bytes, path);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw new OciboxError("INVALID", `cannot read the lock file "${path}": ${error.message}`, { cause: error });
  }
}

function sorted<T>(entries: Iterable<readonly [string, T]>): Record<string, T> {
  const list = [...entries].sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(list);
}

/** The same text for the same images, whatever order they were locked in: it lies in version control. */
export function encodeLock(lock: ImageLock): string {
  const images = [...lock].map(([name, { digest, platforms }]) => {
    const own = platforms === undefined ? {} : { platforms: sorted(Object.entries(platforms)) };
    return [name, { digest, ...own }] as const;
  });
  return `${JSON.stringify({ version: formatVersion, images: sorted(images) }, null, 2)}\n`;
}

/** Replaces a lock file, old or new at every moment. */
export async function writeLock(path: string, lock: ImageLock): Promise<void> {
  try {
    await intoFile(path, (fd) => writeAll(fd, new TextEncoder().encode(encodeLock(lock))));
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw new OciboxError("STORE", `cannot write the lock file "${path}": ${error.message}`, { cause: error });
  }
}

/** What is written down of a manifest or an index. @throws OciboxError INVALID */
export function lockOf({ bytes, mediaType, digest }: FetchedManifest, name: string): LockedImage {
  const decoded = decodeManifestOrIndex(bytes, mediaType, { what: `the manifest of "${name}"` });
  if (decoded.kind === "manifest") return { digest };
  const platforms: Record<string, Digest> = {};
  for (const entry of imagesOf(decoded.index)) {
    const text = entry.platform === undefined ? "" : showPlatform(entry.platform);
    // Of several for one platform, the first is the one that a pull takes.
    if (platformText.test(text)) platforms[text] ??= entry.digest;
  }
  return { digest, platforms };
}

/** What is written down of an image in the store. */
export function lockOfStored(store: Store, image: StoredImage, name: string): LockedImage {
  const { indexDigest, manifestDescriptor } = image;
  const digest = indexDigest ?? manifestDescriptor.digest;
  return lockOf({ bytes: store.readBlob(digest, mostBytes), mediaType: "", digest }, name);
}

/** The image that was locked, where the store has it by whatever name. */
export function findLocked(store: Store, locked: LockedImage, platform: Platform | undefined): ImageChoice | undefined {
  const found = store.lookUp(locked.digest, platform);
  if (found !== undefined) return found;
  // It may have come without its index: out of an archive.
  const wanted = platform ?? hostPlatform();
  for (const [text, digest] of Object.entries(locked.platforms ?? {})) {
    const image = platformMatches(parsePlatform(text), wanted) ? store.lookUp(digest, platform) : undefined;
    if (image !== undefined) return image;
  }
  return undefined;
}

/** The image with its name, which another may have had since it was locked. */
export function named(store: Store, choice: ImageChoice, name: string): ImageChoice {
  const image = choice.load();
  if (image.names.includes(name)) return choice;
  return { digest: choice.digest, load: store.tag([name], image.manifestDescriptor, image.indexDigest) };
}
