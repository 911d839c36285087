import { needContainer } from "../../runtime/state.ts";
import { print } from "../output.ts";
import type { OciCommand } from "./options.ts";

export const command: OciCommand = {
  usage: "<container-id>",
  summary: "output the state of a container",
  flags: {},
  words: [1, 1],
  run(given, globals) {
    const container = needContainer(globals.root, given.id);
    print(JSON.stringify(container.stateJson(container.status()), null, 2));
    return 0;
  },
};
