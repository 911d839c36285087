import { readConnected } from "../container/network.ts";
import { type ContainerStatus, listContainers } from "../container/record.ts";
import { OciboxError } from "../errors.ts";
import { familiar, parseReference } from "../reference/reference.ts";
import { type ContainerState, containerFilters, stateOf } from "./container-filters.ts";
import { readFilters } from "./filters.ts";
import { formatOption, printListing } from "./format.ts";
import type { Globals } from "./globals.ts";
import type { Command, Given } from "./options.ts";
import { ago, goTime, print } from "./output.ts";
import { portsColumn } from "./ports.ts";
import { tidied } from "./tidied.ts";

function statusOf(each: ContainerStatus, now: Date): string {
  if (each.running) {
    const paused = stateOf(each) === "paused" ? " (Paused)" : "";
    return `Up ${ago(new Date(each.created), now).replace(/ ago$/, "")}${paused}`;
  }
  if (each.finished === undefined) return "Created";
  return `Exited${each.exitCode === undefined ? "" : ` (${each.exitCode})`} ${ago(each.finished, now)}`;
}

function imageOf(each: ContainerStatus): string {
  try {
    return familiar(parseReference(each.image));
  } catch {
    return each.image;
  }
}

interface ContainerRow {
  readonly ID: string;
  readonly Image: string;
  readonly Command: string;
  readonly CreatedAt: string;
  readonly RunningFor: string;
  readonly State: ContainerState;
  readonly Status: string;
  readonly Ports: string;
  readonly Networks: string;
  readonly Names: string;
  readonly Labels: string;
}

function rowOf(root: string, each: ContainerStatus, whole: boolean, now: Date): ContainerRow {
  const line = JSON.stringify(each.command.join(" "));
  return {
    ID: whole ? each.id : each.id.slice(0, 12),
    Image: imageOf(each),
    Command: whole || line.length <= 22 ? line : `${line.slice(0, 20)}…"`,
    CreatedAt: goTime(new Date(each.created)),
    RunningFor: ago(new Date(each.created), now),
    State: stateOf(each),
    Status: statusOf(each, now),
    Ports: portsColumn((each.running && readConnected(root, each.id)?.ports) || []),
    Networks: each.network ?? "none",
    Names: each.name,
    Labels: Object.entries(each.labels ?? {})
      .map(([name, value]) => `${name}=${value}`)
      .join(","),
  };
}

/** How many of all there are; docker's -1 is no limit. @throws OciboxError USAGE */
function lastOf(given: Given): number | undefined {
  const text = given.flag("latest") ? "1" : given.text("last");
  if (text === undefined || text === "-1") return undefined;
  if (!/^\d{1,9}$/.test(text)) throw new OciboxError("USAGE", `--last is "${text}", which is no number`);
  return Number(text);
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "ps", description: "List containers" },
      args: {
        all: { type: "boolean", alias: "a", description: "Also those that have ended" },
        quiet: { type: "boolean", alias: "q", description: "Only ids" },
        filter: {
          type: "string",
          alias: "f",
          repeat: true,
          valueHint: "KEY=VALUE",
          description:
            "id=DIGITS, name=PATTERN, label=KEY[=VALUE], status=STATUS, exited=CODE, ancestor=IMAGE, volume=NAME, before=CONTAINER, since=CONTAINER",
        },
        last: { type: "string", alias: "n", valueHint: "N", description: "The N that were made last, ended ones too" },
        latest: { type: "boolean", alias: "l", description: "The one that was made last" },
        "no-trunc": { type: "boolean", description: "Whole ids and commands" },
        format: formatOption,
      },
    },
    words: [0, 0],
    async run(given) {
      const { root, state } = tidied(globals);
      const words = given.all("filter");
      const test = await readFilters(words, containerFilters({ root, state }));
      const last = lastOf(given);
      // docker's: whoever asks for a status, or for the last ones, means all containers.
      const all = given.flag("all") || last !== undefined || words.some((each) => each.startsWith("status="));
      const kept = listContainers(root, state).filter((each) => (each.running || all) && test(each));
      const shown = kept.slice(0, last);
      const whole = given.flag("no-trunc");
      const now = new Date();
      const rows = shown.map((each) => rowOf(root, each, whole, now));
      if (given.flag("quiet")) {
        for (const row of rows) print(row.ID);
        return 0;
      }
      const columns = [
        ["CONTAINER ID", "ID"],
        ["IMAGE", "Image"],
        ["COMMAND", "Command"],
        ["CREATED", "RunningFor"],
        ["STATUS", "Status"],
        ["PORTS", "Ports"],
        ["NAMES", "Names"],
      ] as const;
      printListing({ rows, columns }, given.text("format"));
      return 0;
    },
  };
}
