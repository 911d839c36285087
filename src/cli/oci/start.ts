import { startContainer } from "../../runtime/start.ts";
import { sinksFor } from "./create-options.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "<container-id>",
  summary: "execute the user defined process in a created container",
  flags: {},
  words: [1, 1],
  run(given, globals) {
    return startContainer(globals.root, given.id, () => sinksFor(globals));
  },
};
