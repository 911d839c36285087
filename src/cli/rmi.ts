import { removeImage } from "../store/collect.ts";
import { openStore } from "../store/store.ts";
import { type Globals, needRoot } from "./globals.ts";
import { imageWord } from "./image-word.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { tidied } from "./tidied.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "rmi", description: "Remove images, and what only they need" },
      args: {
        force: { type: "boolean", alias: "f", description: "Also where an ended container was made of it" },
        IMAGE: { type: "positional", description: "Name, digest or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      needRoot("ocibox rmi");
      const store = openStore(tidied(globals).root);
      for (const word of given.words) {
        for (const line of await removeImage(store, imageWord(word), { force: given.flag("force") })) print(line);
      }
      return 0;
    },
  };
}
