import { findContainer } from "../container/record.ts";
import { stopAll } from "../container/stop.ts";
import { OciboxError } from "../errors.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { startEach } from "./start-each.ts";
import { stopArgs, stopOptions } from "./stop.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "restart", description: "Stop containers as stop does, and start them once more" },
      args: {
        ...stopArgs,
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const { root, state } = places(globals);
      const found = given.words.map((word) => findContainer(root, state, word));
      for (const { name, autoRemove } of found)
        if (autoRemove)
          throw new OciboxError("USAGE", `the container "${name}" was run with --rm: when it ends it is gone`, {
            hint: "run it without --rm to start it once more",
          });
      await stopAll(root, state, found, stopOptions(given), () => {});
      return startEach(globals, given.words);
    },
  };
}
