import { SIG } from "../../ffi/constants.ts";
import { letGoOn } from "../container/pause.ts";
import { findContainer } from "../container/record.ts";
import { holdBack } from "../container/restart.ts";
import { notRunning } from "../container/running.ts";
import { Signalled } from "../container/signal.ts";
import { parseSignal } from "../runtime/state.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

const ending: readonly number[] = [SIG.SIGKILL, SIG.SIGTERM, SIG.SIGINT, SIG.SIGQUIT];

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "kill", description: "Send a signal to containers that run" },
      args: {
        signal: { type: "string", alias: "s", default: "KILL", valueHint: "SIGNAL", description: "Which (KILL)" },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const signal = parseSignal(given.text("signal") ?? "KILL");
      const { root, state } = places(globals);
      for (const word of given.words) {
        const found = findContainer(root, state, word);
        // As docker: whoever ends it means it, also where it is about to be started again.
        if (ending.includes(signal) || signal === parseSignal(found.stopSignal ?? "TERM")) holdBack(root, found);
        using process = await Signalled.find(root, state, found, signal);
        if (process === undefined) throw notRunning(found);
        process.send(signal);
        if (signal === SIG.SIGKILL) letGoOn(found.id);
        print(word);
      }
      return 0;
    },
  };
}
