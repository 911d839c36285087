/** --locked and --offline, for every command that may have to pull. */
import { OciboxError } from "../errors.ts";
import { canonical, parseReference, type Reference } from "../reference/reference.ts";
import { parsePlatform } from "../spec/platform.ts";
import { findLocked, type ImageLock, type LockedImage, named, readLock } from "../store/image-lock.ts";
import { type ImageChoice, openStore, type StoredImage } from "../store/store.ts";
import { absolute, type Places } from "./globals.ts";
import { namesFor, storeWord } from "./image-word.ts";
import type { Given } from "./options.ts";
import type { PullWish } from "./pull-image.ts";
import { isReady } from "./ready.ts";

export const usualLockFile = "ocibox.lock";

/** An image with the digest that the lock file has for it. */
export interface LockedWord {
  /** Canonical. */
  readonly name: string;
  readonly locked: LockedImage;
  /** The name with the digest, which is what a registry is asked for. */
  readonly word: string;
}

export function lockPath(given: string | undefined): string {
  return absolute(given ?? usualLockFile, "the lock file");
}

/** How an image comes into the file. */
function howToAdd(word: string, file: string | undefined): string {
  return `ocibox lock ${file === undefined ? "" : `--file ${file} `}${word}`;
}

function openLock(file: string | undefined): ImageLock {
  const path = lockPath(file);
  const lock = readLock(path);
  if (lock !== undefined) return lock;
  throw new OciboxError("NOT_FOUND", `there is no lock file "${path}"`, {
    hint: `make one with: ${howToAdd("IMAGE…", file)}`,
  });
}

function lockedWord(reference: Reference, locked: LockedImage): LockedWord {
  return { name: canonical(reference), locked, word: canonical({ ...reference, digest: locked.digest }) };
}

/**
 * What the lock file has for images.
 * @param words none: all that are in it
 * @throws OciboxError NOT_FOUND where there is no file, or an image is not in it; INVALID for a file that is none
 */
export async function lockedWords(words: readonly string[], file: string | undefined): Promise<LockedWord[]> {
  const lock = openLock(file);
  if (words.length === 0) return [...lock].map(([name, locked]) => lockedWord(parseReference(name), locked));
  const find = async (word: string): Promise<LockedWord> => {
    for (const reference of await namesFor(word, (name) => lock.has(name))) {
      const locked = lock.get(canonical(reference));
      if (locked !== undefined) return lockedWord(reference, locked);
    }
    throw new OciboxError("NOT_FOUND", `"${word}" is not in the lock file "${lockPath(file)}"`, {
      hint: `add it with: ${howToAdd(word, file)}`,
    });
  };
  return Promise.all(words.map(find));
}

/** --lock-file says nothing where nothing is locked. */
export function checkLockFlags(given: Given): void {
  if (given.text("lock-file") !== undefined && !given.flag("locked"))
    throw new OciboxError("USAGE", "--lock-file is of use with --locked only");
}

/** That an image is not there, where nothing may be fetched. */
export function notHere(word: string, flag: string): OciboxError {
  return new OciboxError("NOT_FOUND", `the image "${word}" is not in the store, and ${flag} forbids fetching it`, {
    hint: `leave ${flag} out, or bring it in with: ocibox load`,
  });
}

/** An image that must be in the store, whole. @throws OciboxError NOT_FOUND */
export async function fromStore(word: string, at: Places, platform: string | undefined): Promise<StoredImage> {
  const store = openStore(at.root, at.storeOptions);
  using lock = store.lockShared();
  void lock;
  const found = store.find(await storeWord(store, word), platform === undefined ? undefined : parsePlatform(platform));
  if (found === undefined || !(await isReady(store, found, true))) throw notHere(word, "--offline");
  return found;
}

export interface LockedWish extends PullWish {
  /** The flag that says that nothing may be fetched. */
  readonly forbids: string | undefined;
  /** Even where it is in the store. */
  readonly always: boolean;
}

/**
 * An image as it was locked: from the store, by whatever name it has it, or pulled by its digest. It has its name then.
 * @throws OciboxError
 */
export async function ensureLocked(
  { name, locked, word }: LockedWord,
  at: Places,
  { forbids, always, ...wish }: LockedWish,
): Promise<{ readonly image: ImageChoice; readonly pulled: StoredImage[] }> {
  if (!always) {
    const store = openStore(at.root, at.storeOptions);
    using lock = store.lockShared();
    void lock;
    const platform = wish.platform === undefined ? undefined : parsePlatform(wish.platform);
    const found = findLocked(store, locked, platform);
    if (found !== undefined && (await isReady(store, found.load(), wish.quiet)))
      return { image: named(store, found, name), pulled: [] };
  }
  if (forbids !== undefined) throw notHere(word, forbids);
  const { pullByName } = await import("./pull-image.ts");
  const image = await pullByName(word, at, { ...wish, names: [name] });
  return { image: { digest: image.manifestDescriptor.digest, load: () => image }, pulled: [image] };
}
