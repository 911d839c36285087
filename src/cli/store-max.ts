/** --store-max: what images may take on the disk, looked at after each pull. */
import type { OwnedFd } from "../../ffi/fd.ts";
import { parseSize } from "../bundle/values.ts";
import { familiar, parseReference } from "../reference/reference.ts";
import { shrinkTo } from "../store/shrink.ts";
import { openStore, type StoredImage } from "../store/store.ts";
import type { Places } from "./globals.ts";
import { humanSize, say } from "./output.ts";

/** Bytes; undefined for no limit. @throws OciboxError USAGE */
export function storeMax({ storeMax: text }: Places): number | undefined {
  return text === undefined ? undefined : parseSize(text, "--store-max (or OCIBOX_STORE_MAX)");
}

function shown({ names: [name], configDigest }: StoredImage): string {
  return name === undefined ? configDigest.slice(7, 19) : familiar(parseReference(name));
}

/**
 * Removes what is too much, and says so.
 * @param keep images that were just asked for @param held the store's shared lock, where the caller has it
 */
export async function keepWithin(
  places: Places,
  keep: readonly StoredImage[],
  quiet: boolean,
  held?: OwnedFd,
): Promise<void> {
  const most = storeMax(places);
  if (most === undefined) return;
  const digests = keep.map((each) => each.manifestDescriptor.digest);
  const shrunk = await shrinkTo(openStore(places.root, places.storeOptions), most, digests, held);
  if (shrunk === undefined || quiet) return;
  for (const image of shrunk.removed)
    say(`removed ${shown(image)}, not used for the longest time: images may take ${places.storeMax}`);
  if (shrunk.left > most)
    say(`images take ${humanSize(shrunk.left)} of ${places.storeMax} (--store-max): what is left is in use`);
}
