import { ownCgroups } from "../container/own-cgroups.ts";
import { findContainer } from "../container/record.ts";
import { processesIn } from "../runtime/cgroups.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print, table } from "./output.ts";
import { processRows } from "./process-rows.ts";
import { psLines } from "./ps-lines.ts";

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "top", description: "List the processes of a container, by the host's numbers" },
      args: {
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id" },
        OPTIONS: {
          type: "positional",
          required: false,
          description: "Of the host's ps(1): its table in place of ours",
        },
      },
    },
    stopAtFirst: true,
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const [word = "", ...options] = given.words;
      const { root, state } = places(globals);
      const pids = processesIn(ownCgroups(root, findContainer(root, state, word)));
      if (options.length > 0) print(await psLines(options, pids, true));
      else print(table(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], processRows(pids)));
      return 0;
    },
  };
}
