/** Images that are named by where they lie: "oci:PATH", "docker-archive:FILE". They are taken into the store first. */
import { OciboxError } from "../errors.ts";
import { isTransport } from "../reference/reference.ts";
import { parsePlatform } from "../spec/platform.ts";
import { loadOne } from "../store/load.ts";
import { unpackStored } from "../store/pull-layers.ts";
import { chooseImage, openTransport, parseTransport } from "../store/sources/open.ts";
import { chainsOf, type Store, type StoredImage } from "../store/store.ts";
import { interruptible } from "./interruptible.ts";
import { findImage } from "./open-store.ts";
import { createProgress } from "./progress.ts";

export interface LoadWish {
  readonly platform?: string | undefined;
  readonly quiet: boolean;
  /** Whether it gets the names that it has in the source; else it has none, and any prune may take it. */
  readonly named?: boolean;
}

/**
 * An image from a file or directory. @param word with a transport in front
 * @throws OciboxError
 */
export async function importByWord(word: string, store: Store, wish: LoadWish): Promise<StoredImage> {
  const transport = parseTransport(word);
  if (transport === undefined) throw new OciboxError("NAME_INVALID", `"${word}" names no file or directory`);
  return interruptible(`the import of "${word}"`, async (signal) => {
    using progress = createProgress({ quiet: wish.quiet });
    using source = await openTransport(store, transport);
    const image = chooseImage(source, transport.image);
    return await loadOne(store, source, image, {
      platform: wish.platform === undefined ? undefined : parsePlatform(wish.platform),
      names: wish.named === true ? image.names : [],
      events: progress,
      signal,
    });
  });
}

/** Unpacks an image of the store in the way that the store is to keep it. */
export async function unpackHere(store: Store, image: StoredImage, quiet: boolean): Promise<void> {
  await interruptible("the unpacking", async (signal) => {
    using progress = createProgress({ quiet });
    await unpackStored(store, image, { events: progress, signal });
  });
}

/** An image by any word: from the store, or from where a transport says. */
export async function anyImage(word: string, store: Store): Promise<StoredImage> {
  return isTransport(word) ? importByWord(word, store, { quiet: true }) : findImage(store, word);
}

/** The same, there to be mounted. */
export async function mountableImage(word: string, store: Store): Promise<StoredImage> {
  const image = await anyImage(word, store);
  if (store.unpackedAs(chainsOf(image)) === undefined) await unpackHere(store, image, true);
  return image;
}
