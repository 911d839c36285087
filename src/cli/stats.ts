import { type ContainerStatus, findContainer, listContainers } from "../container/record.ts";
import { type Usage, usageOf } from "../container/usage.ts";
import { OciboxError } from "../errors.ts";
import { formatOption, printListing } from "./format.ts";
import { type Globals, type Places, places } from "./globals.ts";
import type { Command } from "./options.ts";
import { binarySize, clearScreen, humanSize, isTerminal, readerIsGone } from "./output.ts";

/** Between two looks, ms. */
const interval = 1000;

interface StatsRow {
  readonly Container: string;
  readonly ID: string;
  readonly Name: string;
  readonly CPUPerc: string;
  readonly MemUsage: string;
  readonly MemPerc: string;
  readonly NetIO: string;
  readonly BlockIO: string;
  readonly PIDs: string;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(2)}%`;
}

/** @param before the look before this one: what was used since is the CPU's share */
function rowOf({ id, name }: ContainerStatus, now: Usage, before: Usage | undefined, whole: boolean): StatsRow {
  const passed = before === undefined ? 0 : (now.at - before.at) * 1e6;
  const ID = whole ? id : id.slice(0, 12);
  return {
    Container: ID,
    ID,
    Name: name,
    CPUPerc: percent(before === undefined || passed <= 0 ? 0 : Math.max(0, now.cpu - before.cpu) / passed),
    MemUsage: `${binarySize(now.memory)} / ${binarySize(now.memoryLimit)}`,
    MemPerc: percent(now.memoryLimit === 0 ? 0 : now.memory / now.memoryLimit),
    NetIO: `${humanSize(now.received)} / ${humanSize(now.sent)}`,
    BlockIO: `${humanSize(now.read)} / ${humanSize(now.written)}`,
    PIDs: String(now.pids),
  };
}

/** Those that are named, which must run; else all that run now. */
function chosen({ root, state }: Places, words: readonly string[]): ContainerStatus[] {
  if (words.length > 0) return words.map((word) => findContainer(root, state, word));
  return listContainers(root, state).filter(({ running }) => running);
}

/** One that ends while it is looked at is left out, where it was not named. */
function look(root: string, container: ContainerStatus, named: boolean): Usage | undefined {
  try {
    return usageOf(root, container);
  } catch (error) {
    const gone = error instanceof OciboxError && (error.code === "INVALID" || error.code === "STORE");
    if (named || !gone) throw error;
    return undefined;
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "stats", description: "What containers use, every second" },
      args: {
        "no-stream": { type: "boolean", description: "Once" },
        "no-trunc": { type: "boolean", description: "Whole ids" },
        format: formatOption,
        CONTAINER: {
          type: "positional",
          required: false,
          description: "Name, id or the beginning of an id; more may follow; all that run without",
        },
      },
    },
    words: [0, Number.POSITIVE_INFINITY],
    async run(given) {
      const at = places(globals);
      const once = given.flag("no-stream");
      const columns = [
        ["CONTAINER ID", "ID"],
        ["NAME", "Name"],
        ["CPU %", "CPUPerc"],
        ["MEM USAGE / LIMIT", "MemUsage"],
        ["MEM %", "MemPerc"],
        ["NET I/O", "NetIO"],
        ["BLOCK I/O", "BlockIO"],
        ["PIDS", "PIDs"],
      ] as const;
      const named = given.words.length > 0;
      let before = new Map<string, Usage>();
      for (let turn = 0; ; turn++) {
        const now = new Map<string, Usage>();
        const rows: StatsRow[] = [];
        for (const each of chosen(at, given.words)) {
          const usage = look(at.root, each, named);
          if (usage === undefined) continue;
          now.set(each.id, usage);
          rows.push(rowOf(each, usage, before.get(each.id), given.flag("no-trunc")));
        }
        // The first look has nothing to compare with: the second is the first that is shown.
        if (turn > 0) {
          // A terminal shows one table, always in the same place.
          if (!once && isTerminal(1)) clearScreen();
          printListing({ rows, columns }, given.text("format"));
          if (once || readerIsGone()) return 0;
        }
        before = now;
        await Bun.sleep(interval);
      }
    },
  };
}
