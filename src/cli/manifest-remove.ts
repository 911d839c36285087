import { removeEntry } from "../store/edit-index.ts";
import { asRoot, type Globals } from "./globals.ts";
import { storeWord } from "./image-word.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "manifest remove",
        description: "Take an image out of a multi-platform image; it stays in the store",
      },
      args: {
        NAME: { type: "positional", description: "The multi-platform image, in the store" },
        IMAGE: { type: "positional", description: "Which of its images: a digest, or its name in the store" },
      },
    },
    words: [2, 2],
    async run(given) {
      await asRoot(globals);
      const [word = "", image = ""] = given.words;
      const store = openStoreOf(globals);
      using lock = store.lockShared();
      void lock;
      const list = { name: await storeWord(store, word), word };
      print(removeEntry(store, list, { meant: await storeWord(store, image), word: image }));
      return 0;
    },
  };
}
