import { OciboxError } from "../../errors.ts";
import { freeze } from "../../runtime/cgroups.ts";
import { needContainer } from "../../runtime/state.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "<container-id>",
  summary: "suspend all processes inside the container",
  flags: {},
  words: [1, 1],
  async run(given, globals) {
    const container = needContainer(globals.root, given.id);
    const status = container.status();
    if (status !== "running" && status !== "created")
      throw new OciboxError("INVALID", `container not running: it is ${status}`);
    await freeze(container.record.cgroups, true);
    return 0;
  },
};
