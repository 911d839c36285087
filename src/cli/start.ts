import { findContainer } from "../container/record.ts";
import { startContainer } from "../container/start.ts";
import { asRoot, type Globals } from "./globals.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { explainerIf, faultOf, planOptions } from "./plan-options.ts";
import { tidied } from "./tidied.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "start", description: "Start a container that has ended once more, with what it has changed" },
      args: {
        attach: { type: "boolean", alias: "a", description: "In the foreground, as run without -d" },
        ...planOptions,
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id" },
      },
    },
    words: [1, 1],
    async run(given) {
      await asRoot(globals);
      const [word = ""] = given.words;
      const { root, state } = tidied(globals);
      const found = findContainer(root, state, word);
      const attach = given.flag("attach");
      return startContainer(openStoreOf(globals), state, found, {
        attach,
        says: word,
        explain: await explainerIf(given.flag("explain")),
        fault: faultOf(given.text("inject")),
      });
    },
  };
}
