import { createContainer } from "../../runtime/create.ts";
import { createFlags, createRequest } from "./create-options.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "[command options] <container-id>",
  summary: "create and run a container",
  description: "Makes a container of a bundle and runs it, in the foreground unless it is detached.",
  flags: {
    ...createFlags,
    detach: { short: "d", help: "detach from the container's process" },
    keep: { help: "do not delete the container after it exits" },
    "no-subreaper": { help: "accepted: the supervisor takes no orphans of others" },
  },
  words: [1, 1],
  run(given, globals) {
    return createContainer(createRequest(given, globals, given.flag("detach") ? "detach" : "foreground"));
  },
};
