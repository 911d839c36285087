import { changesOf } from "../container/changes.ts";
import { findContainer } from "../container/record.ts";
import { withChanges } from "../container/tree.ts";
import { writeAll } from "../store/disk.ts";
import { openStore } from "../store/store.ts";
import { asRoot, type Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { tidied } from "./tidied.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: {
        name: "diff",
        description: "List what a container has changed of its image's tree: A for added, C for changed, D for deleted",
      },
      args: { CONTAINER: { type: "positional", description: "Name, id or the beginning of it" } },
    },
    words: [1, 1],
    async run(given) {
      await asRoot(globals);
      const { root, state, storeOptions } = tidied(globals);
      const container = findContainer(root, state, given.words[0] as string);
      const changes = await withChanges(openStore(root, storeOptions), container, changesOf);
      const lines = changes.map(({ kind, path }) => `${kind} ${path}\n`).join("");
      // Names as they are, which need not be text.
      writeAll(1, Buffer.from(lines, "latin1"));
      return 0;
    },
  };
}
