import { type ContainerStatus, listContainers } from "../container/record.ts";
import { familiar, parseReference } from "../reference/reference.ts";
import { formatOption, printListing } from "./format.ts";
import type { Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { ago, goTime, print } from "./output.ts";
import { tidied } from "./tidied.ts";

function statusOf(each: ContainerStatus, now: Date): string {
  if (each.running) return `Up ${ago(new Date(each.created), now).replace(/ ago$/, "")}`;
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
  readonly State: "running" | "exited" | "created";
  readonly Status: string;
  readonly Names: string;
  readonly Labels: string;
}

function rowOf(each: ContainerStatus, whole: boolean, now: Date): ContainerRow {
  const line = JSON.stringify(each.command.join(" "));
  return {
    ID: whole ? each.id : each.id.slice(0, 12),
    Image: imageOf(each),
    Command: whole || line.length <= 22 ? line : `${line.slice(0, 20)}…"`,
    CreatedAt: goTime(new Date(each.created)),
    RunningFor: ago(new Date(each.created), now),
    State: each.running ? "running" : each.finished === undefined ? "created" : "exited",
    Status: statusOf(each, now),
    Names: each.name,
    Labels: Object.entries(each.labels ?? {})
      .map(([name, value]) => `${name}=${value}`)
      .join(","),
  };
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "ps", description: "List containers" },
      args: {
        all: { type: "boolean", alias: "a", description: "Also those that have ended" },
        quiet: { type: "boolean", alias: "q", description: "Only ids" },
        "no-trunc": { type: "boolean", description: "Whole ids and commands" },
        format: formatOption,
      },
    },
    words: [0, 0],
    run(given) {
      const { root, state } = tidied(globals);
      const shown = listContainers(root, state).filter((each) => each.running || given.flag("all"));
      const whole = given.flag("no-trunc");
      const now = new Date();
      const rows = shown.map((each) => rowOf(each, whole, now));
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
        ["NAMES", "Names"],
      ] as const;
      printListing({ rows, columns }, given.text("format"));
      return 0;
    },
  };
}
