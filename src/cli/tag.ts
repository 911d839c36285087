import { OciboxError } from "../errors.ts";
import { canonical, parseReference } from "../reference/reference.ts";
import type { Globals } from "./globals.ts";
import { asRoot } from "./globals.ts";
import { anyImage } from "./load-image.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "tag", description: "Give an image another name" },
      args: {
        IMAGE: { type: "positional", description: "Name, digest or the beginning of an id" },
        NAME: { type: "positional", description: "The new name; more may follow" },
      },
    },
    words: [2, Number.POSITIVE_INFINITY],
    async run(given) {
      await asRoot(globals);
      const store = openStoreOf(globals);
      const [word = "", ...names] = given.words;
      const references = names.map(parseReference);
      for (const { digest } of references)
        if (digest !== undefined)
          throw new OciboxError("USAGE", `an image cannot be given the digest ${digest} as a name`, {
            hint: "leave out the part from the @ on",
          });
      // Shared, so that nobody collects the image between the look and the new name.
      using lock = store.lockShared();
      void lock;
      const { manifestDescriptor, indexDigest } = await anyImage(word, store);
      store.tag(references.map(canonical), manifestDescriptor, indexDigest);
      return 0;
    },
  };
}
