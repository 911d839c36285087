import { removeImage } from "../store/collect.ts";
import { asRoot, type Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print, say } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "rmi", description: "Remove images, and what only they need" },
      args: {
        force: {
          type: "boolean",
          alias: "f",
          description: "Also where an ended container was made of it, or where it has several names",
        },
        IMAGE: { type: "positional", description: "Name, digest or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      await asRoot(globals);
      const store = openStoreOf(globals);
      const { oneLine } = await import("./explain-error.ts");
      let failure: unknown;
      for (const word of given.words) {
        try {
          for (const line of await removeImage(store, await storeWord(store, word), { force: given.flag("force") }))
            print(line);
        } catch (error) {
          // One that cannot go does not keep the others.
          if (failure !== undefined) say(oneLine(failure).text);
          failure = error;
        }
      }
      if (failure !== undefined) throw failure;
      return 0;
    },
  };
}
