/** An image as a user names one that is in the store: a reference, a digest, or the first digits of its id. */
import { canonical, parseReference } from "../reference/reference.ts";
import { isDigest } from "../spec/digest.ts";

/** What the store looks up: the canonical name, a digest, or the digits as they are. */
export function imageWord(word: string): string {
  if (isDigest(word) || /^[0-9a-f]{6,64}$/.test(word)) return word;
  return canonical(parseReference(word));
}
