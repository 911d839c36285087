import { checkVolumeName, createVolume } from "../container/volumes.ts";
import { asRoot, type Globals } from "./globals.ts";
import { labelsOf } from "./labels.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "volume create", description: "Make a volume; one that is there already is no error" },
      args: {
        label: {
          type: "string",
          alias: "l",
          repeat: true,
          valueHint: "NAME[=VALUE]",
          description: "Said of it by volume inspect",
        },
        NAME: { type: "positional", required: false, description: "Its name; without one it gets a random one" },
      },
    },
    words: [0, 1],
    async run(given) {
      const [word] = given.words;
      if (word !== undefined) checkVolumeName(word);
      const labels = labelsOf(given.all("label"));
      await asRoot(globals);
      const store = openStoreOf(globals);
      using lock = store.lockShared();
      void lock;
      const name = word ?? crypto.getRandomValues(new Uint8Array(32)).toHex();
      createVolume(store.root, name, { labels, ...(word === undefined ? { anonymous: true } : {}) });
      print(name);
      return 0;
    },
  };
}
