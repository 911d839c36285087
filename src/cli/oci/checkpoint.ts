import { OciboxError } from "../../errors.ts";
import type { OciCommand } from "./options.ts";

/** checkpoint and restore: known by name, with any flags of runc's, and refused. */
export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "not supported: it would need the program criu",
  flags: {},
  words: [0, Number.POSITIVE_INFINITY],
  stopAtFirst: true,
  anyFlags: true,
  run() {
    throw new OciboxError("UNSUPPORTED", "checkpoint and restore are not supported: ocibox does not drive criu", {
      hint: "a container that is to be stopped for a while can be paused",
    });
  },
};
