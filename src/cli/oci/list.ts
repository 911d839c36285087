import { OciboxError } from "../../errors.ts";
import { listIds, readContainer } from "../../runtime/state.ts";
import { print } from "../output.ts";
import type { OciCommand } from "./options.ts";

interface Row {
  readonly id: string;
  readonly pid: number;
  readonly status: string;
  readonly bundle: string;
  readonly created: string;
  readonly owner: string;
}

function table(rows: readonly Row[]): string {
  const cells = [
    ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"],
    ...rows.map((row) => [row.id, String(row.pid), row.status, row.bundle, row.created, row.owner]),
  ];
  const widths = [0, 1, 2, 3, 4].map((column) =>
    Math.max(column === 0 ? 12 : 8, ...cells.map((row) => (row[column] ?? "").length + 3)),
  );
  return cells.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("")).join("\n");
}

export const command: OciCommand = {
  usage: "[command options]",
  summary: "list containers with the given root",
  flags: {
    format: { short: "f", value: "text", help: "select one of: table or json (default: table)" },
    quiet: { short: "q", help: "display only container IDs" },
  },
  words: [0, 0],
  run(given, globals) {
    const format = given.text("format") ?? "table";
    if (format !== "table" && format !== "json") throw new OciboxError("USAGE", "invalid format option");
    const rows = listIds(globals.root).flatMap((id) => {
      const container = readContainer(globals.root, id);
      return container === undefined ? [] : [container.stateJson(container.status()) as Row];
    });
    if (given.flag("quiet")) {
      if (rows.length > 0) print(rows.map((row) => row.id).join("\n"));
    } else if (format === "json") print(rows.length === 0 ? "null" : JSON.stringify(rows));
    else print(table(rows));
    return 0;
  },
};
