import { OciboxError } from "../../errors.ts";
import { processesIn } from "../../runtime/cgroups.ts";
import { needContainer } from "../../runtime/state.ts";
import { print } from "../output.ts";
import { psLines } from "../ps-lines.ts";
import type { OciCommand } from "./options.ts";

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
    print(await psLines(options.length === 0 ? ["-ef"] : options, pids, false));
    return 0;
  },
};
