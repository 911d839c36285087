import { OciboxError } from "../errors.ts";
import type { StoredImage } from "../store/store.ts";
import type { Globals, Places } from "./globals.ts";
import { asRoot, places } from "./globals.ts";
import type { Command, Given, OptionDef } from "./options.ts";
import { print } from "./output.ts";

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

type Pull = () => Promise<readonly StoredImage[]>;

/** Which platforms are wanted: one, several, or all that there are. */
function platformsOf(given: Given): { readonly all: boolean; readonly named: readonly string[] } {
  const named = given.all("platform");
  const all = given.flag("all-platforms");
  if (all && named.length > 0) throw new OciboxError("USAGE", "--platform and --all-platforms cannot both be had");
  if (all && given.flag("offline"))
    throw new OciboxError("USAGE", "--all-platforms and --offline cannot both be had", {
      hint: "name the platforms with --platform",
    });
  return { all, named };
}

/** One after the other: what each is to be is known before the first begins. */
async function pulls(given: Given, at: Places): Promise<Pull[]> {
  const offline = given.flag("offline");
  const { all, named } = platformsOf(given);
  const wish = {
    authFile: given.text("authfile"),
    tlsVerify: given.flag("tls-verify"),
    quiet: given.flag("quiet"),
  };
  const { pullByName, pullSeveral } = await import("./pull-image.ts");
  /** What is done for each platform by itself. */
  const each = async (pull: (platform: string | undefined) => Promise<StoredImage> | StoredImage) => {
    const found: StoredImage[] = [];
    for (const platform of named.length === 0 ? [undefined] : named) found.push(await pull(platform));
    return found;
  };
  if (given.flag("locked") || given.text("lock-file") !== undefined) {
    const { checkLockFlags, ensureLocked, lockedWords } = await import("./locked.ts");
    checkLockFlags(given);
    const words = await lockedWords(given.words, given.text("lock-file"));
    if (all)
      return words.map(
        ({ word, name }) =>
          () =>
            pullSeveral(word, at, { ...wish, names: [name] }, undefined),
      );
    const how = { ...wish, forbids: offline ? "--offline" : undefined, always: false };
    return words.map(
      (word) => () => each(async (platform) => (await ensureLocked(word, at, { ...how, platform })).image.load()),
    );
  }
  if (given.words.length === 0)
    throw new OciboxError("USAGE", "ocibox pull wants an argument and has 0", { hint: "see: ocibox pull --help" });
  if (offline) {
    const { fromStore } = await import("./locked.ts");
    return given.words.map((word) => () => each((platform) => fromStore(word, at, platform)));
  }
  if (all || named.length > 1)
    return given.words.map((word) => () => pullSeveral(word, at, wish, all ? undefined : named));
  return given.words.map((word) => () => each((platform) => pullByName(word, at, { ...wish, platform })));
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "pull", description: "Pull images from a registry" },
      args: {
        ...pullOptions,
        platform: { ...pullOptions.platform, repeat: true, description: "Image for another platform; may be repeated" },
        "all-platforms": { type: "boolean", description: "Every platform that there is, so that it can be pushed on" },
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
      await asRoot(globals);
      const at = places(globals);
      const limits = at.storeMax === undefined ? undefined : await import("./store-max.ts");
      // A bad size is better told before a pull than after it.
      limits?.storeMax(at);
      const pulled: StoredImage[] = [];
      for (const pull of await pulls(given, at)) {
        const images = await pull();
        pulled.push(...images);
        const digests = images.map((image) => image.indexDigest ?? image.manifestDescriptor.digest);
        for (const digest of new Set(digests)) print(digest);
      }
      await limits?.keepWithin(at, pulled, given.flag("quiet"));
      return 0;
    },
  };
}
