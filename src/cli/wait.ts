import { findContainer, killed } from "../container/record.ts";
import { awaitEnd } from "../container/state.ts";
import { OciboxError } from "../errors.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "wait", description: "Wait until containers have ended, and print their exit codes" },
      args: {
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    run(given) {
      const { root, state } = places(globals);
      const found = given.words.map((word) => findContainer(root, state, word));
      for (const each of found) {
        const code = awaitEnd(state, each.id);
        if (code !== undefined) print(String(code));
        else if (each.autoRemove) throw new OciboxError("NOT_FOUND", `the container "${each.name}" has gone meanwhile`);
        else print(String(findContainer(root, state, each.id).exitCode ?? killed));
      }
      return 0;
    },
  };
}
