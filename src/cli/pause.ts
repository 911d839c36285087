import { ownCgroups } from "../container/own-cgroups.ts";
import { isPaused, letGoOn, pause } from "../container/pause.ts";
import { findContainer } from "../container/record.ts";
import { OciboxError } from "../errors.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

/** `pause`, and `unpause`, which is its opposite. */
export function pausing(globals: Globals, pauses: boolean, name: string, description: string): Command {
  return {
    def: {
      meta: { name, description },
      args: { CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" } },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const { root, state } = places(globals);
      for (const word of given.words) {
        const found = findContainer(root, state, word);
        const cgroups = ownCgroups(root, found);
        if (isPaused(found.id) === pauses)
          throw new OciboxError("INVALID", `the container "${word}" is ${pauses ? "paused already" : "not paused"}`);
        if (pauses) await pause(found.id, cgroups);
        else letGoOn(found.id);
        if (isPaused(found.id) !== pauses)
          throw new OciboxError("HOST", `the container "${word}" does not ${pauses ? "stop" : "go on"}`);
        print(word);
      }
      return 0;
    },
  };
}

export function command(globals: Globals): Command {
  return pausing(globals, true, "pause", "Stop all processes of containers where they are, until unpause");
}
