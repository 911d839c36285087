import { OciboxError } from "../../errors.ts";
import { signalAll } from "../../runtime/cgroups.ts";
import { needContainer, parseSignal } from "../../runtime/state.ts";
import type { OciCommand } from "./options.ts";

const SIGKILL = 9;

export const command: OciCommand = {
  usage: "[command options] <container-id> [signal]",
  summary: "send a signal (default: SIGTERM) to the container's init process",
  flags: { all: { short: "a", help: "send the signal to all processes inside the container" } },
  words: [1, 2],
  run(given, globals) {
    const container = needContainer(globals.root, given.id);
    const signal = parseSignal(given.words[1] ?? "SIGTERM");
    if (given.flag("all")) {
      signalAll(container.record.cgroups, signal);
      return 0;
    }
    if (!container.signal(signal)) throw new OciboxError("NOT_FOUND", "container not running");
    // Without a PID namespace the others do not end with the first.
    if (signal === SIGKILL && !container.record.ownPids) signalAll(container.record.cgroups, signal);
    return 0;
  },
};
