/** Pulling by name: what `pull` does, and `run` where the image is not in the store. */
import { OciboxError } from "../errors.ts";
import { parseReference } from "../reference/reference.ts";
import { openRepository } from "../registry/client.ts";
import { parsePlatform } from "../spec/platform.ts";
import { pullImage } from "../store/pull.ts";
import { openStore, type StoredImage } from "../store/store.ts";
import type { Places } from "./globals.ts";
import { createProgress } from "./progress.ts";

export interface PullWish {
  readonly platform: string | undefined;
  readonly authFile: string | undefined;
  readonly tlsVerify: boolean;
  readonly quiet: boolean;
}

/**
 * Pulls an image. Ctrl-c and SIGTERM end it cleanly: what was downloaded of unfinished layers is removed.
 * @throws OciboxError
 */
export async function pullByName(word: string, places: Places, wish: PullWish): Promise<StoredImage> {
  const reference = parseReference(word);
  const abort = new AbortController();
  let stopped: NodeJS.Signals | undefined;
  const stop = (signal: NodeJS.Signals): void => {
    stopped = signal;
    abort.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  using progress = createProgress({ quiet: wish.quiet });
  try {
    using repository = openRepository(reference, {
      authfile: wish.authFile,
      insecure: !wish.tlsVerify,
    });
    return await pullImage(openStore(places.root), repository, reference, {
      ...(wish.platform === undefined ? {} : { platform: parsePlatform(wish.platform) }),
      events: progress,
      signal: abort.signal,
    });
  } catch (error) {
    if (stopped === undefined) throw error;
    throw new OciboxError("INTERRUPTED", `the pull of "${word}" was stopped by ${stopped}`, { cause: error });
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}
