import { deleteContainer } from "../../runtime/delete.ts";
import { sinksFor } from "./create-options.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "delete any resources held by the container",
  flags: { force: { short: "f", help: "forcibly delete the container if it is still running (uses SIGKILL)" } },
  words: [1, 1],
  run(given, globals) {
    return deleteContainer(globals.root, given.id, given.flag("force"), () => sinksFor(globals));
  },
};
