import { findContainer } from "../container/record.ts";
import { type StopOptions, stopAll } from "../container/stop.ts";
import { OciboxError } from "../errors.ts";
import { type Globals, places } from "./globals.ts";
import type { Command, Given, OptionDef } from "./options.ts";
import { print } from "./output.ts";

const mostSeconds = 1_000_000;

function secondsOf(text: string): number {
  const seconds = Number(text);
  if (/^\d+$/.test(text) && seconds <= mostSeconds) return seconds;
  throw new OciboxError("USAGE", `--time is "${text}", which is no number of seconds`);
}

/** The flags of `stop` and `restart`. */
export const stopArgs = {
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
} as const satisfies Readonly<Record<string, OptionDef>>;

/** @throws OciboxError USAGE */
export function stopOptions(given: Given): StopOptions {
  const time = given.text("time");
  return { seconds: time === undefined ? undefined : secondsOf(time), signal: given.text("signal") };
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "stop", description: "Ask containers to end, and end them after a while" },
      args: {
        ...stopArgs,
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id; more may follow" },
      },
    },
    words: [1, Number.POSITIVE_INFINITY],
    async run(given) {
      const { root, state } = places(globals);
      const found = given.words.map((word) => findContainer(root, state, word));
      await stopAll(root, state, found, stopOptions(given), (index) => print(given.words[index] ?? ""));
      return 0;
    },
  };
}
