import { endLeftovers } from "../container/cgroups.ts";
import { findContainer, removeContainer } from "../container/record.ts";
import { OciboxError } from "../errors.ts";
import { asRoot, type Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";
import { tidied } from "./tidied.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "rm", description: "Remove containers that have ended" },
      args: {
        force: { type: "boolean", alias: "f", description: "End a running container first, with SIGKILL" },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      await asRoot(globals);
      const { root, state } = tidied(globals);
      for (const word of given.words) {
        const found = findContainer(root, state, word);
        if (found.running) {
          if (!given.flag("force"))
            throw new OciboxError("IN_USE", `the container "${word}" is running`, {
              hint: "end it first, or remove it with: ocibox rm -f",
            });
          endLeftovers(found.id);
          // Its supervisor sees the end, and takes a moment to tidy up.
          for (let tries = 0; tries < 500 && findRunning(root, state, found.id); tries++) await Bun.sleep(10);
        }
        removeContainer(root, found.id);
        print(word);
      }
      return 0;
    },
  };
}

function findRunning(root: string, state: string, id: string): boolean {
  try {
    return findContainer(root, state, id).running;
  } catch {
    return false;
  }
}
