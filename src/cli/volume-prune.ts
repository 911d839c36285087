import { removeVolumes } from "../container/volumes.ts";
import { agreed } from "./ask.ts";
import { asRoot, type Globals } from "./globals.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "volume prune", description: "Remove volumes without a name of their own that no container has" },
      args: {
        all: { type: "boolean", alias: "a", description: "Those with a name, too" },
        force: { type: "boolean", alias: "f", description: "Do not ask" },
      },
    },
    words: [0, 0],
    async run(given) {
      await asRoot(globals);
      const every = given.flag("all");
      const what = `every volume ${every ? "" : "without a name "}that no container has`;
      if (!given.flag("force") && !agreed("volumes", what)) return 0;
      const removed = await removeVolumes(openStoreOf(globals), (all, users) =>
        all.filter(({ name, anonymous }) => (every || anonymous === true) && !users.has(name)).map(({ name }) => name),
      );
      for (const name of removed) print(name);
      print(`Removed ${removed.length} volume${removed.length === 1 ? "" : "s"}`);
      return 0;
    },
  };
}
