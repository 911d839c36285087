import { OciboxError } from "../../errors.ts";
import { processesIn } from "../../runtime/cgroups.ts";
import { needContainer } from "../../runtime/state.ts";
import { print } from "../output.ts";
import type { OciCommand } from "./options.ts";

/** The lines of the host's ps(1) that are about these processes, under its own heading. */
function linesAbout(text: string, pids: readonly number[]): string {
  const [heading = "", ...lines] = text.trimEnd().split("\n");
  const column = heading.trim().split(/\s+/).indexOf("PID");
  if (column < 0) throw new OciboxError("USAGE", "ps prints no column PID with these options");
  const wanted = new Set(pids.map(String));
  return [heading, ...lines.filter((line) => wanted.has(line.trim().split(/\s+/)[column] ?? ""))].join("\n");
}

export const command: OciCommand = {
  usage: "[command options] <container-id> [ps options]",
  summary: "display the processes running inside a container",
  flags: { format: { short: "f", value: "text", help: "select one of: table or json (default: table)" } },
  words: [1, Number.POSITIVE_INFINITY],
  stopAtFirst: true,
  async run(given, globals) {
    const format = given.text("format") ?? "table";
    if (format !== "table" && format !== "json") throw new OciboxError("USAGE", "invalid format option");
    const pids = processesIn(needContainer(globals.root, given.id).record.cgroups);
    if (format === "json") {
      print(JSON.stringify(pids));
      return 0;
    }
    const options = given.words.slice(1);
    const ps = Bun.spawn(["ps", ...(options.length === 0 ? ["-ef"] : options)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const text = await ps.stdout.text();
    if ((await ps.exited) !== 0) throw new OciboxError("HOST", `ps ended with ${ps.exitCode}`);
    print(linesAbout(text, pids));
    return 0;
  },
};
