import { createContainer } from "../../runtime/create.ts";
import { createFlags, createRequest } from "./create-options.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "create a container",
  description: "Makes a container of a bundle. Its process waits until it is started.",
  flags: createFlags,
  words: [1, 1],
  run(given, globals) {
    return createContainer(createRequest(given, globals, "create"));
  },
};
