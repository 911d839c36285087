import { OciboxError } from "../../errors.ts";
import { freeze } from "../../runtime/cgroups.ts";
import { needContainer } from "../../runtime/state.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "<container-id>",
  summary: "resume all processes that have been previously paused",
  flags: {},
  words: [1, 1],
  async run(given, globals) {
    const container = needContainer(globals.root, given.id);
    if (!container.frozen) throw new OciboxError("INVALID", "container not paused");
    await freeze(container.record.cgroups, false);
    return 0;
  },
};
