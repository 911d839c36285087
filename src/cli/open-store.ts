/** The store that a command works on, tidied first. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { effectiveUid } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import type { Platform } from "../spec/image.ts";
import { showPlatform } from "../spec/platform.ts";
import { openStore, type Store, type StoredImage } from "../store/store.ts";
import type { Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { tidied } from "./tidied.ts";

const W_OK = 2;

export function openStoreOf(globals: Globals): Store {
  const { root, storeOptions } = tidied(globals);
  return openStore(root, storeOptions);
}

/** An image that must be in the store. @throws OciboxError NOT_FOUND */
export async function findImage(store: Store, word: string, platform?: Platform): Promise<StoredImage> {
  return findNamed(store, await storeWord(store, word), word, platform);
}

/** The same of a name in full. @param word for the error: as it was given */
export function findNamed(store: Store, meant: string, word: string, platform?: Platform): StoredImage {
  // Whoever may remove images has it that nobody does while this one is read.
  const may = effectiveUid() === 0 || attempt("faccessat2", AT_FDCWD, store.root, W_OK, 0) >= 0;
  using lock = may ? store.lockShared() : undefined;
  void lock;
  const image = store.find(meant, platform);
  if (image !== undefined) return image;
  const others = store.findAll(meant).map((each) => showPlatform(each.config));
  if (others.length > 0)
    throw new OciboxError("PLATFORM", `the image "${word}" is in the store for ${others.join(", ")} only`, {
      hint: "choose one with --platform, or pull it for another with: ocibox pull --platform",
    });
  throw new OciboxError("NOT_FOUND", `there is no image "${word}" in the store`, {
    hint: `see: ocibox images; fetch it with: ocibox pull ${word}`,
  });
}
