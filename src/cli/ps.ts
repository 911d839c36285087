import { type ContainerStatus, listContainers } from "../container/record.ts";
import { familiar, parseReference } from "../reference/reference.ts";
import type { Globals } from "./globals.ts";
import type { Command } from "./options.ts";
import { ago, print, table } from "./output.ts";
import { tidied } from "./tidied.ts";

function statusOf(each: ContainerStatus): string {
  if (each.running) return "Up";
  return each.exitCode === undefined ? "Created" : `Exited (${each.exitCode})`;
}

function imageOf(each: ContainerStatus): string {
  try {
    return familiar(parseReference(each.image));
  } catch {
    return each.image;
  }
}

export function command(globals: Globals): Command {
  return {
    def: {
      meta: { name: "ps", description: "List containers" },
      args: {
        all: { type: "boolean", alias: "a", description: "Also those that have ended" },
        quiet: { type: "boolean", alias: "q", description: "Only ids" },
        "no-trunc": { type: "boolean", description: "Whole ids and commands" },
        format: {
          type: "enum",
          options: ["table", "json"],
          default: "table",
          description: "table, or json: one object a line",
        },
      },
    },
    words: [0, 0],
    run(given) {
      const { root, state } = tidied(globals);
      const shown = listContainers(root, state).filter((each) => each.running || given.flag("all"));
      const whole = given.flag("no-trunc");
      const id = (each: ContainerStatus): string => (whole ? each.id : each.id.slice(0, 12));
      if (given.flag("quiet")) {
        for (const each of shown) print(id(each));
        return 0;
      }
      if (given.text("format") === "json") {
        for (const each of shown) print(JSON.stringify(each));
        return 0;
      }
      const now = new Date();
      const rows = shown.map((each) => {
        const line = JSON.stringify(each.command.join(" "));
        const cut = whole || line.length <= 22 ? line : `${line.slice(0, 20)}…"`;
        return [id(each), imageOf(each), cut, ago(new Date(each.created), now), statusOf(each), each.name];
      });
      print(table(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"], rows));
      return 0;
    },
  };
}
