/** Pulling by name: what `pull` does, and `run` where the image is not in the store. */
import { canonical, type Reference } from "../reference/reference.ts";
import { openRepository } from "../registry/client.ts";
import type { Repository } from "../registry/repository.ts";
import { parsePlatform } from "../spec/platform.ts";
import type { PullEvents } from "../spec/progress.ts";
import { pullImage } from "../store/pull.ts";
import { pullPlatforms } from "../store/pull-platforms.ts";
import { openStore, type Store, type StoredImage } from "../store/store.ts";
import type { Places } from "./globals.ts";
import { askEach, registryNames } from "./image-word.ts";
import { interruptible } from "./interruptible.ts";
import { createProgress } from "./progress.ts";

export interface PullWish {
  readonly platform: string | undefined;
  readonly authFile: string | undefined;
  readonly tlsVerify: boolean;
  readonly quiet: boolean;
  /** What it is called in the store, canonical; by its own name where nothing is said. */
  readonly names?: readonly string[];
}

interface Pulling {
  readonly store: Store;
  readonly repository: Repository;
  readonly reference: Reference;
  readonly options: { readonly names: readonly string[]; readonly events: PullEvents; readonly signal: AbortSignal };
}

/**
 * What `work` pulls of the first name that a registry has. Ctrl-c and SIGTERM end it cleanly: what was downloaded of
 * unfinished layers is kept to be gone on with.
 */
function pulling<T>(
  word: string,
  places: Places,
  wish: Omit<PullWish, "platform">,
  work: (pulling: Pulling) => Promise<T>,
): Promise<T> {
  return interruptible(`the pull of "${word}"`, async (signal) => {
    const store = openStore(places.root, places.storeOptions);
    return await askEach(word, await registryNames(store, word), async (reference) => {
      using progress = createProgress({ quiet: wish.quiet });
      using repository = openRepository(reference, { authfile: wish.authFile, insecure: !wish.tlsVerify });
      const names = wish.names ?? [canonical(reference)];
      return await work({ store, repository, reference, options: { names, events: progress, signal } });
    });
  });
}

/**
 * Pulls an image for several platforms. What was pulled before one fails stays.
 * @param platforms none: all that there are
 * @throws OciboxError
 */
export function pullSeveral(
  word: string,
  places: Places,
  wish: Omit<PullWish, "platform">,
  platforms: readonly string[] | undefined,
): Promise<StoredImage[]> {
  return pulling(word, places, wish, ({ store, repository, reference, options }) =>
    pullPlatforms(store, repository, reference, platforms?.map(parsePlatform), options),
  );
}

/** Pulls an image for one platform. @throws OciboxError */
export function pullByName(word: string, places: Places, wish: PullWish): Promise<StoredImage> {
  return pulling(word, places, wish, ({ store, repository, reference, options }) =>
    pullImage(store, repository, reference, {
      ...options,
      ...(wish.platform === undefined ? {} : { platform: parsePlatform(wish.platform) }),
    }),
  );
}
