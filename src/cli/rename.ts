import { findContainer, renameContainer } from "../container/record.ts";
import { asRoot, type Globals, places } from "./globals.ts";
import { checkName } from "./labels.ts";
import type { Command } from "./options.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "rename", description: "Call a container otherwise" },
      args: {
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id" },
        NAME: { type: "positional", description: "Its new name" },
      },
    },
    words: [2, 2],
    async run(given) {
      const [word = "", name = ""] = given.words;
      checkName(name, "the new name");
      await asRoot(globals);
      const { root, state } = places(globals);
      renameContainer(root, findContainer(root, state, word), name);
      return 0;
    },
  };
}
