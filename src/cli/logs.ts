import { type LogEntry, LogReader, type StreamName, Tail } from "../container/log.ts";
import { type ContainerStatus, findContainer, logFile } from "../container/record.ts";
import { isRunning } from "../container/state.ts";
import { OciboxError } from "../errors.ts";
import { writeAll } from "../store/disk.ts";
import { type Globals, places } from "./globals.ts";
import { momentOf } from "./moment.ts";
import type { Command, Given } from "./options.ts";

const descriptors = { stdout: 1, stderr: 2 } as const satisfies Record<StreamName, number>;
const newline = Uint8Array.of(10);
const encoder = new TextEncoder();
/** Between two looks at a log that is followed, ms. */
const pause = 20;

/** The time as it stands in a log, without what is smaller than a millisecond. */
function stampOf(given: Given, option: string): string | undefined {
  const text = given.text(option);
  return text === undefined ? undefined : new Date(momentOf(text, `--${option}`)).toISOString().slice(0, -1);
}

/** Writes what was written to where it was written to. */
class Printer {
  readonly #inLine = { stdout: false, stderr: false };
  readonly #timestamps: boolean;
  readonly #since: string | undefined;
  readonly #until: string | undefined;

  constructor(given: Given) {
    this.#timestamps = given.flag("timestamps");
    this.#since = stampOf(given, "since");
    this.#until = stampOf(given, "until");
  }

  #wants({ time }: LogEntry): boolean {
    const short = time.slice(0, "2006-01-02T15:04:05.000".length);
    return (this.#since === undefined || short >= this.#since) && (this.#until === undefined || short < this.#until);
  }

  write(entries: readonly LogEntry[]): void {
    let parts: Uint8Array[] = [];
    let last: StreamName = "stdout";
    const flush = (): void => {
      if (parts.length > 0) writeAll(descriptors[last], Buffer.concat(parts));
      parts = [];
    };
    for (const entry of entries) {
      if (!this.#wants(entry)) continue;
      const { stream, time, text, whole } = entry;
      if (stream !== last) flush();
      last = stream;
      if (this.#timestamps && !this.#inLine[stream]) parts.push(encoder.encode(`${time} `));
      parts.push(text);
      if (whole) parts.push(newline);
      this.#inLine[stream] = !whole;
    }
    flush();
  }
}

/** --tail: how many lines; undefined for all. */
function tailOf(given: Given): number | undefined {
  const text = given.text("tail") ?? "all";
  if (text === "all") return undefined;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new OciboxError("USAGE", `--tail is "${text}", neither a number of lines nor "all"`);
}

/** All that is there by now. */
function writePresent(log: LogReader, printer: Printer, most: number | undefined): void {
  const tail = most === undefined ? undefined : new Tail(most);
  for (let entries = log.read(); entries.length > 0; entries = log.read())
    if (tail === undefined) printer.write(entries);
    else tail.add(entries);
  if (tail !== undefined) printer.write(tail.entries());
}

async function show(log: LogReader, given: Given, state: string, { id }: ContainerStatus): Promise<void> {
  const printer = new Printer(given);
  // Looked at before the log is: what was written before the end is in there.
  let runs = given.flag("follow") && isRunning(state, id);
  writePresent(log, printer, tailOf(given));
  while (runs) {
    await Bun.sleep(pause);
    runs = isRunning(state, id);
    writePresent(log, printer, undefined);
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "logs", description: "What a container has written that was started with -d" },
      args: {
        follow: { type: "boolean", alias: "f", description: "Go on until the container ends" },
        timestamps: { type: "boolean", alias: "t", description: "When each line was written, before it" },
        tail: { type: "string", alias: "n", default: "all", valueHint: "LINES", description: "The last lines only" },
        since: { type: "string", valueHint: "TIME", description: "What was written since a time, or since 10m ago" },
        until: { type: "string", valueHint: "TIME", description: "What was written before that" },
        CONTAINER: { type: "positional", description: "Name, id or the beginning of an id" },
      },
    },
    words: [1, 1],
    async run(given) {
      const [word = ""] = given.words;
      const { root, state } = places(globals);
      const found = findContainer(root, state, word);
      using log = LogReader.open(logFile(root, found.id));
      if (log === undefined)
        throw new OciboxError("NOT_FOUND", `the container "${found.name}" has no log: it was not started with -d`);
      try {
        await show(log, given, state, found);
      } catch (error) {
        // Whoever reads has seen enough.
        if (!(error instanceof Error && "code" in error && error.code === "EPIPE")) throw error;
      }
      return 0;
    },
  };
}
