/** Pulling by name: what `pull` does, and `run` where the image is not in the store. */
import { canonical, parseReference } from "../reference/reference.ts";
import { openRepository } from "../registry/client.ts";
import { parsePlatform } from "../spec/platform.ts";
import { pullImage } from "../store/pull.ts";
import { pullPlatforms } from "../store/pull-platforms.ts";
import { openStore, type StoredImage } from "../store/store.ts";
import type { Places } from "./globals.ts";
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

/**
 * Pulls an image for several platforms. What was pulled before one fails stays.
 * @param platforms none: all that there are
 * @throws OciboxError
 */
export async function pullSeveral(
  word: string,
  places: Places,
  wish: Omit<PullWish, "platform">,
  platforms: readonly string[] | undefined,
): Promise<StoredImage[]> {
  const reference = parseReference(word);
  return interruptible(`the pull of "${word}"`, async (signal) => {
    using progress = createProgress({ quiet: wish.quiet });
    using repository = openRepository(reference, { authfile: wish.authFile, insecure: !wish.tlsVerify });
    return await pullPlatforms(
      openStore(places.root, places.storeOptions),
      repository,
      reference,
      platforms?.map(parsePlatform),
      {
        names: wish.names ?? [canonical(reference)],
        events: progress,
        signal,
      },
    );
  });
}

/**
 * Pulls an image. Ctrl-c and SIGTERM end it cleanly: what was downloaded of unfinished layers is removed.
 * @throws OciboxError
 */
export async function pullByName(word: string, places: Places, wish: PullWish): Promise<StoredImage> {
  const reference = parseReference(word);
  return interruptible(`the pull of "${word}"`, async (signal) => {
    using progress = createProgress({ quiet: wish.quiet });
    using repository = openRepository(reference, {
      authfile: wish.authFile,
      insecure: !wish.tlsVerify,
    });
    return await pullImage(openStore(places.root, places.storeOptions), repository, reference, {
      ...(wish.platform === undefined ? {} : { platform: parsePlatform(wish.platform) }),
      ...(wish.names === undefined ? {} : { names: wish.names }),
      events: progress,
      signal,
    });
  });
}
