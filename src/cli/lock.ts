import { OciboxError } from "../errors.ts";
import { canonical, familiar, parseReference, type Reference } from "../reference/reference.ts";
import { openRepository } from "../registry/client.ts";
import { type ImageLock, type LockedImage, lockOf, lockOfStored, readLock, writeLock } from "../store/image-lock.ts";
import { openStore } from "../store/store.ts";
import { type Globals, places } from "./globals.ts";
import { askEach, namesFor } from "./image-word.ts";
import { interruptible } from "./interruptible.ts";
import { lockPath, usualLockFile } from "./locked.ts";
import { findNamed } from "./open-store.ts";
import type { Command, Given } from "./options.ts";
import { print } from "./output.ts";
import { pullOptions } from "./pull.ts";

const { authfile, "tls-verify": tlsVerify } = pullOptions;
/** Registries that are asked at once. */
const atOnce = 4;

/** What a name stands for today. */
async function ask(reference: Reference, given: Given, globals: Globals, signal: AbortSignal): Promise<LockedImage> {
  const shown = familiar(reference);
  if (given.flag("offline")) {
    const { root, storeOptions } = places(globals);
    const store = openStore(root, storeOptions);
    return lockOfStored(store, findNamed(store, canonical(reference), shown), shown);
  }
  using repository = openRepository(reference, {
    authfile: given.text("authfile"),
    insecure: !given.flag("tls-verify"),
  });
  const fetched = await repository.manifest(reference.digest ?? reference.tag ?? "latest", { signal });
  return lockOf(fetched, shown);
}

/** A name, and what it may stand for. */
interface Asked {
  readonly word: string;
  readonly references: readonly Reference[];
}

/** Some at a time, in the order of the names. */
async function askAll(names: readonly Asked[], given: Given, globals: Globals): Promise<Map<string, LockedImage>> {
  return interruptible("the locking", async (signal) => {
    const found = new Map<string, LockedImage>();
    for (let at = 0; at < names.length; at += atOnce) {
      const some = names.slice(at, at + atOnce);
      const answers = some.map(({ word, references }) =>
        askEach(word, references, async (each) => [canonical(each), await ask(each, given, globals, signal)] as const),
      );
      for (const [name, locked] of await Promise.all(answers)) found.set(name, locked);
    }
    return found;
  });
}

/** The names that are asked for: those on the command line, or all that are in the file. */
async function namesOf(words: readonly string[], before: ImageLock | undefined, path: string): Promise<Asked[]> {
  const isKnown = (name: string): boolean => before?.has(name) === true;
  if (words.length > 0)
    return Promise.all([...new Set(words)].map(async (word) => ({ word, references: await namesFor(word, isKnown) })));
  if (before === undefined)
    throw new OciboxError("NOT_FOUND", `there is no lock file "${path}"`, {
      hint: "name the images that are to be in it: ocibox lock IMAGE…",
    });
  return [...before.keys()].map((word) => ({ word, references: [parseReference(word)] }));
}

/** One line an image whose digest is another than in the file. */
function changes(before: ImageLock, now: ImageLock): string[] {
  return [...now].flatMap(([name, { digest }]) => {
    const old = before.get(name)?.digest;
    return old === digest ? [] : [`${familiar(parseReference(name))} ${old ?? "not locked"} → ${digest}`];
  });
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "lock",
        description:
          "Write down which digest each image has now, for pull --locked and run --locked; without IMAGE, for all that are in the file",
      },
      args: {
        file: {
          type: "string",
          also: "lock-file",
          valueHint: "FILE",
          description: `The lock file (./${usualLockFile})`,
        },
        check: { type: "boolean", description: "Write nothing: 1 is the exit code where the file is not up to date" },
        remove: { type: "boolean", description: "Take the images out of the file" },
        offline: { type: "boolean", description: "Ask the store, and no registry" },
        authfile,
        "tls-verify": tlsVerify,
        IMAGE: { type: "positional", required: false, description: "Name with its tag; more may follow" },
      },
    },
    words: [0, Number.POSITIVE_INFINITY],
    async run(given) {
      const path = lockPath(given.text("file"));
      const before = readLock(path);
      const names = await namesOf(given.words, before, path);
      if (given.flag("remove")) {
        await remove(path, before ?? new Map(), given.words);
        return 0;
      }
      const now = await askAll(names, given, globals);
      const changed = changes(before ?? new Map(), now);
      for (const line of changed) print(line);
      if (given.flag("check")) return changed.length === 0 ? 0 : 1;
      const after = new Map([...(before ?? []), ...now]);
      // The platforms of an index go with its digest: a file that says the same stays as it is.
      if (changed.length > 0 || before === undefined) await writeLock(path, after);
      return 0;
    },
  };
}

async function remove(path: string, before: ImageLock, words: readonly string[]): Promise<void> {
  if (words.length === 0) throw new OciboxError("USAGE", "--remove wants the images that are to go");
  const after = new Map(before);
  for (const word of words) {
    const names = (await namesFor(word, (name) => after.has(name))).map(canonical);
    if (!names.some((name) => after.delete(name)))
      throw new OciboxError("NOT_FOUND", `"${word}" is not in the lock file "${path}"`);
  }
  await writeLock(path, after);
}
