import { findVolume, readVolume, removeVolumes } from "../container/volumes.ts";
import { OciboxError } from "../errors.ts";
import { asRoot, type Globals } from "./globals.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "volume rm", description: "Remove volumes that no container has, with all that is in them" },
      args: {
        force: { type: "boolean", alias: "f", description: "One that is not there is no error" },
        NAME: { type: "positional", description: "Name of the volume; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      await asRoot(globals);
      const store = openStoreOf(globals);
      const there = given.words.filter((word) => !given.flag("force") || readVolume(store.root, word) !== undefined);
      for (const word of there) findVolume(store.root, word);
      const removed = await removeVolumes(store, (all, users) => {
        for (const word of there) {
          const [user] = users.get(word) ?? [];
          if (user !== undefined)
            throw new OciboxError("IN_USE", `the volume "${word}" is in use by the container "${user}"`, {
              hint: `remove that first, with: ocibox rm ${user}`,
            });
        }
        // Somebody else may have removed one meanwhile.
        return there.filter((word, index) => there.indexOf(word) === index && all.some(({ name }) => name === word));
      });
      for (const name of removed) print(name);
      return 0;
    },
  };
}
