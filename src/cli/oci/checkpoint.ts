import { OciboxError } from "../../errors.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "checkpoint a running container",
  flags: { "image-path": { value: "text", help: "path for criu image files" } },
  words: [1, 1],
  run() {
    throw new OciboxError("UNSUPPORTED", "checkpoint is not supported: ocibox does not work with criu");
  },
};
