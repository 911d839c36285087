import { OciboxError } from "../errors.ts";
import { canonical, isTransport, parseReference } from "../reference/reference.ts";
import type { Digest } from "../spec/digest.ts";
import { addEntries } from "../store/edit-index.ts";
import { makeIndex, type Part } from "../store/make-index.ts";
import type { Store } from "../store/store.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { importByWord } from "./load-image.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command, Given } from "./options.ts";
import { print } from "./output.ts";
import { pullOptions } from "./pull.ts";

const { authfile, "tls-verify": tlsVerify } = pullOptions;

/** An image's platforms: those that are in the store; of one that is not there, all that the registry has. */
async function partsOf(word: string, store: Store, given: Given, globals: Globals): Promise<Part[]> {
  const quiet = given.flag("quiet");
  if (isTransport(word)) return [{ word, image: await importByWord(word, store, { quiet }) }];
  const there = store.findAll(await storeWord(store, word));
  if (there.length > 0) return there.map((image) => ({ word, image }));
  const { pullSeveral } = await import("./pull-image.ts");
  const wish = { authFile: given.text("authfile"), tlsVerify: given.flag("tls-verify"), quiet };
  return (await pullSeveral(word, places(globals), wish, undefined)).map((image) => ({ word, image }));
}

function nameOf(word: string): string {
  const reference = parseReference(word);
  if (reference.digest === undefined) return canonical(reference);
  throw new OciboxError("USAGE", `"${word}" names a digest, which is known when the index is made`, {
    hint: "give it a name with a tag",
  });
}

interface List {
  /** Canonical. */
  readonly name: string;
  /** As it was given. */
  readonly word: string;
}

function refuseTaken(store: Store, name: string, word: string): void {
  if (store.findAll(name).length > 0)
    throw new OciboxError("IN_USE", `there is an image "${word}" already`, {
      hint: `add to it with --amend, or remove it first with: ocibox rmi ${word}`,
    });
}

function create(store: Store, { name, word }: List, parts: readonly Part[]): Digest | undefined {
  refuseTaken(store, name, word);
  return makeIndex(store, name, parts);
}

/** @returns undefined where the name has come to stand for something else meanwhile */
function add(store: Store, list: List, parts: readonly Part[]): Digest | undefined {
  const { name, word } = list;
  const [own] = store.findAll(name);
  if (own === undefined) return makeIndex(store, name, parts);
  // One image is the first of the index that it becomes.
  const isIndex =
    own.indexes.get(name) !== undefined || makeIndex(store, name, [{ word, image: own }], own) !== undefined;
  return isIndex ? addEntries(store, list, parts) : undefined;
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "manifest create",
        description:
          "Make a multi-platform image of images for one platform each; it is in the store, to be run, saved and pushed",
      },
      args: {
        amend: { type: "boolean", alias: "a", description: "Add to what the name stands for; also: manifest add" },
        authfile,
        "tls-verify": tlsVerify,
        quiet: { type: "boolean", alias: "q", description: "No pull progress" },
        NAME: { type: "positional", description: "Name that the multi-platform image is to have" },
        IMAGE: { type: "positional", description: "In the store, or else in its registry; more may follow" },
      },
    },
    words: [2, Number.POSITIVE_INFINITY],
    async run(given) {
      await asRoot(globals);
      const [word = "", ...images] = given.words;
      const name = nameOf(word);
      const store = openStoreOf(globals);
      store.prepare();
      // Until the index is there, nobody removes what it is made of.
      using lock = store.lockShared();
      void lock;
      const amend = given.flag("amend");
      if (!amend) refuseTaken(store, name, word);
      const parts: Part[] = [];
      for (const each of images) parts.push(...(await partsOf(each, store, given, globals)));
      const list = { name, word };
      let made: Digest | undefined;
      // Somebody else may be quicker to give the name to something.
      while (made === undefined) made = amend ? add(store, list, parts) : create(store, list, parts);
      print(made);
      return 0;
    },
  };
}
