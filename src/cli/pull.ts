import { OciboxError } from "../errors.ts";
import type { StoredImage } from "../store/store.ts";
import type { Globals, Places } from "./globals.ts";
import { needRoot, places } from "./globals.ts";
import type { Command, Given, OptionDef } from "./options.ts";
import { print } from "./output.ts";
import type { PullWish } from "./pull-image.ts";

/** The flags of every command that may have to pull. */
export const pullOptions = {
  platform: { type: "string", valueHint: "OS/ARCH[/VARIANT]", description: "Image for another platform" },
  authfile: { type: "string", valueHint: "FILE", description: "Credentials file; $REGISTRY_AUTH_FILE" },
  "tls-verify": {
    type: "boolean",
    default: true,
    negativeDescription: "Plain HTTP and unknown certificates will do",
    description: "Demand HTTPS and a valid certificate",
  },
} as const satisfies Record<string, OptionDef>;

/** Of those that take an image as it was locked, or as it is in the store. */
export const lockOptions = {
  locked: { type: "boolean", description: "The digest that the lock file has, whatever the tag stands for now" },
  "lock-file": { type: "string", valueHint: "FILE", description: "With --locked: another file than ./ocibox.lock" },
  offline: { type: "boolean", description: "Ask no registry: the image must be in the store" },
} as const satisfies Record<string, OptionDef>;

type Pull = () => Promise<StoredImage>;

/** One after the other: what each is to be is known before the first begins. */
async function pulls(given: Given, at: Places): Promise<Pull[]> {
  const offline = given.flag("offline");
  const wish: PullWish = {
    platform: given.text("platform"),
    authFile: given.text("authfile"),
    tlsVerify: given.flag("tls-verify"),
    quiet: given.flag("quiet"),
  };
  const { checkLockFlags, ensureLocked, fromStore, lockedWords } = await import("./locked.ts");
  checkLockFlags(given);
  if (given.flag("locked")) {
    const all = lockedWords(given.words, given.text("lock-file"));
    const forbids = offline ? "--offline" : undefined;
    return all.map((each) => async () => (await ensureLocked(each, at, { ...wish, forbids, always: false })).load());
  }
  if (given.words.length === 0)
    throw new OciboxError("USAGE", "ocibox pull wants an argument and has 0", { hint: "see: ocibox pull --help" });
  if (offline) return given.words.map((word) => async () => fromStore(word, at, wish.platform));
  const { pullByName } = await import("./pull-image.ts");
  return given.words.map((word) => () => pullByName(word, at, wish));
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "pull", description: "Pull images from a registry" },
      args: {
        ...pullOptions,
        ...lockOptions,
        quiet: { type: "boolean", alias: "q", description: "No progress; only the digest" },
        IMAGE: {
          type: "positional",
          required: false,
          description: "Name, tag or digest; more may follow. With --locked alone, all that are in the lock file",
        },
      },
    },
    words: [0, Number.POSITIVE_INFINITY],
    async run(given) {
      needRoot("ocibox pull");
      for (const pull of await pulls(given, places(globals))) {
        const image = await pull();
        print(image.indexDigest ?? image.manifestDescriptor.digest);
      }
      return 0;
    },
  };
}
