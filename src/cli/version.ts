import type { Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "version", description: "Print the version of ocibox, Bun and the specs it follows" },
      args: {},
    },
    words: [0, 0],
    run() {
      print(`ocibox ${globals.version}`);
      print(`bun ${Bun.version}`);
      print("runtime-spec 1.3.0");
      print("image-spec 1.1.1");
      return 0;
    },
  };
}
