import { OciboxError } from "../errors.ts";
import { familiar, isTransport, parseReference } from "../reference/reference.ts";
import { Uploads } from "../registry/push.ts";
import { parsePlatform } from "../spec/platform.ts";
import { pushImage } from "../store/push.ts";
import type { Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { interruptible } from "./interruptible.ts";
import { importByWord } from "./load-image.ts";
import { findImage, openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { humanSize, print, say } from "./output.ts";
import { pullOptions } from "./pull.ts";

/** Repositories of the destination's registry that have the image, by the names it has in the store. */
function siblings(names: readonly string[], registry: string, repository: string): string[] {
  const found = new Set<string>();
  for (const name of names) {
    const each = parseReference(name);
    if (each.registry === registry && each.repository !== repository) found.add(each.repository);
  }
  return [...found].slice(0, 3);
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "push", description: "Push an image to a registry" },
      args: {
        ...pullOptions,
        "all-platforms": { type: "boolean", also: "all", description: "Every platform of the image, with its index" },
        "chunk-size": { type: "string", valueHint: "MiB", description: "Larger layers go in chunks of this size (64)" },
        "allow-nondistributable-artifacts": {
          type: "boolean",
          description: "Also layers that their maker lets nobody pass on (foreign ones), for a registry of one's own",
        },
        quiet: { type: "boolean", alias: "q", description: "No progress; only the digest" },
        IMAGE: {
          type: "positional",
          description: "Name, digest, or beginning of an id in the store; or oci:DIR and the like",
        },
        DESTINATION: {
          type: "positional",
          required: false,
          description: "Name that it is to have there; its own if left out",
        },
      },
    },
    words: [1, 2],
    async run(given) {
      const [word = "", destination = word] = given.words;
      if (isTransport(destination))
        throw new OciboxError("USAGE", `"${destination}" is no place in a registry`, {
          hint: "name one, or use ocibox save",
        });
      const target = parseReference(destination.replace(/^docker:\/\//, ""));
      const store = openStoreOf(globals);
      const platformText = given.text("platform");
      const platform = platformText === undefined ? undefined : parsePlatform(platformText);
      const all = given.flag("all-platforms");
      const image = isTransport(word)
        ? await importByWord(word, store, { quiet: true, platform: platformText })
        : // Whichever there is leads to the others.
          ((all ? store.findAll(await storeWord(store, word))[0] : undefined) ??
          (await findImage(store, word, platform)));
      const quiet = given.flag("quiet");
      const chunk = given.text("chunk-size");
      if (chunk !== undefined && !/^[1-9]\d{0,4}$/.test(chunk))
        throw new OciboxError("USAGE", `--chunk-size is "${chunk}", which is no number of MiB`);
      using uploads = new Uploads(target, {
        authfile: given.text("authfile"),
        insecure: !given.flag("tls-verify"),
        from: siblings(image.names, target.registry, target.repository),
        ...(chunk === undefined ? {} : { chunk: Number(chunk) << 20 }),
      });
      const words = {
        there: "is there already",
        mounted: "is there, in another repository",
        sent: "pushed",
        withheld: "not to be passed on: left out",
      } as const;
      const digest = await interruptible(`the push of "${familiar(target)}"`, (signal) =>
        pushImage(store, uploads, {
          image,
          name: target.digest ?? target.tag ?? "latest",
          all,
          withForeign: given.flag("allow-nondistributable-artifacts"),
          signal,
          events: {
            blob({ digest: of, size }, outcome) {
              if (!quiet) say(`${of.slice(7, 19)} ${humanSize(size).padStart(8)} ${words[outcome]}`);
            },
          },
        }),
      );
      print(digest);
      return 0;
    },
  };
}
