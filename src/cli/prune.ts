import { inUserNamespace } from "../../ffi/user.ts";
import { removeBridge } from "../network/bridge.ts";
import { bridgeName } from "../network/names.ts";
import { prune } from "../store/collect.ts";
import { agreed } from "./ask.ts";
import { asRoot, type Globals } from "./globals.ts";
import { openStoreOf } from "./open-store.ts";
import type { Command } from "./options.ts";
import { humanSize, print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "prune", description: "Remove images that nobody needs, and what killed commands have left" },
      args: {
        all: {
          type: "boolean",
          alias: "a",
          description: "Every image that no container was made of, not only those without a name",
        },
        force: { type: "boolean", alias: "f", description: "Do not ask" },
      },
    },
    words: [0, 0],
    async run(given) {
      await asRoot(globals);
      const all = given.flag("all");
      const what = all ? "every image that no container was made of" : "images without a name";
      if (!given.flag("force") && !agreed("images", what)) return 0;
      const { images, freed } = await prune(openStoreOf(globals), all);
      print(`Removed ${images} image${images === 1 ? "" : "s"}`);
      if (!inUserNamespace() && removeBridge()) print(`Removed the bridge ${bridgeName}, which no container was at`);
      print(`Total reclaimed space: ${humanSize(freed)}`);
      return 0;
    },
  };
}
