import { SIG } from "../../../ffi/constants.ts";
import { OciboxError } from "../../errors.ts";
import { processesIn, signalAll } from "../../runtime/cgroups.ts";
import { needContainer, parseSignal } from "../../runtime/state.ts";
import type { OciCommand } from "./options.ts";

const ending: readonly number[] = [SIG.SIGHUP, SIG.SIGINT, SIG.SIGQUIT, SIG.SIGABRT, SIG.SIGTERM];

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
    const { ownPids, cgroups } = container.record;
    // Without a PID namespace the others do not end with the first, and may be there without it.
    const others = signal === SIG.SIGKILL && !ownPids && processesIn(cgroups).length > 0;
    if (!container.signal(signal) && !others) throw new OciboxError("NOT_FOUND", "container not running");
    if (others) signalAll(cgroups, signal);
    // It is init that waits to be started: as the first process of its namespace it would not hear of these.
    if (ending.includes(signal) && container.status() === "created") container.signal(SIG.SIGKILL);
    return 0;
  },
};
