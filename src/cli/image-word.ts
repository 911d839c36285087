/** An image as a user names one: a reference, a digest, or the first digits of its id. */
import { OciboxError, reason } from "../errors.ts";
import { canonical, isShortName, parseReference, type Reference } from "../reference/reference.ts";
import { isDigest } from "../spec/digest.ts";
import type { Store } from "../store/store.ts";

/** What the store looks up: the canonical name, a digest, or the digits as they are. */
export function imageWord(word: string): string {
  if (isDigest(word) || /^[0-9a-f]{6,64}$/.test(word)) return word;
  return canonical(parseReference(word));
}

/**
 * What a name stands for, the likeliest first. One without a registry is Docker Hub's where that is known already, so
 * that nothing is read for it; else what this machine's configuration says that it is.
 */
export async function namesFor(
  word: string,
  isKnown: (name: string) => boolean,
): Promise<readonly [Reference, ...Reference[]]> {
  const usual = parseReference(word);
  if (!isShortName(word) || isKnown(canonical(usual))) return [usual];
  const { longNames } = await import("../registry/short-names.ts");
  return longNames(word, process.env);
}

/** What registries are asked for, one after the other until one has it. */
export function registryNames(store: Store, word: string): Promise<readonly [Reference, ...Reference[]]> {
  return namesFor(word, (name) => store.lookUp(name) !== undefined);
}

/** What is looked up in a store for the user's own word. */
export async function storeWord(store: Store, word: string): Promise<string> {
  const usual = imageWord(word);
  // 64 digits are an id, and never a name.
  const isName = !isDigest(word) && !/^[0-9a-f]{64}$/.test(word);
  if (!isName || !isShortName(word) || store.lookUp(usual) !== undefined) return usual;
  const names = (await registryNames(store, word)).map(canonical);
  return names.find((each) => store.lookUp(each) !== undefined) ?? usual;
}

/**
 * Asks for one name after the other until a registry has it. One that does not answer ends it: another registry's image
 * of the same name is not what was meant.
 * @throws OciboxError
 */
export async function askEach<T>(
  word: string,
  names: readonly Reference[],
  ask: (reference: Reference) => Promise<T>,
): Promise<T> {
  const without: string[] = [];
  for (const reference of names) {
    try {
      return await ask(reference);
    } catch (error) {
      const lacks = error instanceof OciboxError && (error.code === "NOT_FOUND" || error.code === "DENIED");
      if (!lacks || names.length === 1) throw error;
      without.push(reason(error));
    }
  }
  throw new OciboxError(
    "NOT_FOUND",
    `none of the registries that "${word}" is looked for in has it: ${without.join("; ")}`,
    {
      hint: "write the registry too, or change unqualified-search-registries in registries.conf",
    },
  );
}
