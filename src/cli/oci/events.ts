import { OciboxError } from "../../errors.ts";
import { jsonOf, oomKills, statsOf } from "../../runtime/cgroup-stats.ts";
import { needContainer } from "../../runtime/state.ts";
import { print } from "../output.ts";
import type { OciCommand } from "./options.ts";

const units: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};
/** How often the kernel's count of processes that it ended is looked at. Milliseconds. */
const look = 50;

/** A duration as Go writes it: "5s", "1m30s", "250ms". @returns milliseconds */
function durationOf(text: string): number {
  let total = 0;
  const rest = text.replace(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g, (_, number: string, unit: string) => {
    total += Number(number) * (units[unit] ?? 0);
    return "";
  });
  if (rest !== "" || total < 0.001)
    throw new OciboxError("USAGE", `invalid value ${JSON.stringify(text)} for --interval: it is a duration such as 5s`);
  return total;
}

export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
  description:
    "Statistics are told once every five seconds, and a process that the kernel ends for want of memory at once.",
  flags: {
    interval: { value: "text", help: "set the stats collection interval (default: 5s)" },
    stats: { help: "display the container's stats then exit" },
  },
  words: [1, 1],
  async run(given, globals) {
    const interval = durationOf(given.text("interval") ?? "5s");
    const container = needContainer(globals.root, given.id);
    const { id, record } = container;
    if (!container.alive) throw new OciboxError("INVALID", `container with id ${id} is not running`);
    const tell = (type: string, data?: unknown): void =>
      print(jsonOf({ type, id, ...(data === undefined ? {} : { data }) }));
    if (given.flag("stats")) {
      tell("stats", statsOf(record.cgroups));
      return 0;
    }
    let killed = oomKills(record.cgroups) ?? 0n;
    let next = performance.now() + interval;
    while (container.alive) {
      await Bun.sleep(Math.min(look, Math.max(1, next - performance.now())));
      const now = oomKills(record.cgroups) ?? killed;
      for (; killed < now; killed++) tell("oom");
      if (performance.now() < next) continue;
      next += interval;
      if (container.alive) tell("stats", statsOf(record.cgroups));
    }
    return 0;
  },
};
