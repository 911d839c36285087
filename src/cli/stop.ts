import { findContainer } from "../container/record.ts";
import { Signalled } from "../container/signal.ts";
import { untilLeft } from "../container/state.ts";
import { OciboxError } from "../errors.ts";
import { parseSignal } from "../runtime/state.ts";
import { type Globals, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { print } from "./output.ts";

const mostSeconds = 1_000_000;

function secondsOf(text: string): number {
  const seconds = Number(text);
  if (/^\d+$/.test(text) && seconds <= mostSeconds) return seconds;
  throw new OciboxError("USAGE", `--time is "${text}", which is no number of seconds`);
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "stop", description: "Ask containers to end, and end them after a while" },
      args: {
        time: {
          type: "string",
          alias: "t",
          valueHint: "SECONDS",
          description: "Until SIGKILL; without it the container's own, or 10",
        },
        signal: {
          type: "string",
          alias: "s",
          valueHint: "SIGNAL",
          description: "What asks; without it the container's own, or TERM",
        },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const time = given.text("time");
      const seconds = time === undefined ? undefined : secondsOf(time);
      const asked = given.text("signal");
      const { root, state } = places(globals);
      const all = given.words.map((word) => ({ word, found: findContainer(root, state, word) }));
      using owned = new DisposableStack();
      // All are asked before the first is waited for.
      const stopped = all.map((each) => {
        const process = Signalled.of(root, each.found);
        if (process !== undefined) owned.use(process);
        process?.send(parseSignal(asked ?? each.found.stopSignal ?? "TERM"));
        return { ...each, process };
      });
      const from = performance.now();
      for (const { word, found, process } of stopped) {
        const within = seconds ?? found.stopTimeout ?? 10;
        process?.end(Math.max(0, within - (performance.now() - from) / 1000));
        await untilLeft(state, found.id, 10_000);
        print(word);
      }
      return 0;
    },
  };
}
