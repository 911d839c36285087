import { findVolume } from "../container/volumes.ts";
import { printObjects } from "./format.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { volumeShown } from "./volume-shown.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "volume inspect", description: "Print all that is known of volumes, as a JSON array" },
      args: {
        format: {
          type: "string",
          alias: "f",
          valueHint: "FORMAT",
          description: 'json, or a Go template: "{{.Mountpoint}}"',
        },
        NAME: { type: "positional", description: "Name of the volume; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    run(given) {
      const { root } = places(globals);
      const found = given.words.map((word) => volumeShown(root, findVolume(root, word)));
      printObjects(found, given.text("format"));
      return 0;
    },
  };
}
