import { OciboxError } from "../../errors.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "restore a container from a previous checkpoint",
  flags: { "image-path": { value: "text", help: "path for criu image files" } },
  words: [1, 1],
  run() {
    throw new OciboxError("UNSUPPORTED", "restore is not supported: ocibox does not work with criu");
  },
};
