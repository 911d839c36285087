/** Asking containers to end, and ending them after a while. */
import { parseSignal } from "../runtime/state.ts";
import { letGoOn } from "./pause.ts";
import type { ContainerStatus } from "./record.ts";
import { holdBack } from "./restart.ts";
import { Signalled } from "./signal.ts";
import { untilLeft } from "./state.ts";

export interface StopOptions {
  /** Until SIGKILL; else the container's own, or ten. */
  readonly seconds: number | undefined;
  /** What asks; else the container's own, or TERM. */
  readonly signal: string | undefined;
}

const usualSeconds = 10;

/**
 * Stops containers, those that have ended as well. All are asked before the first is waited for.
 * @param stopped called for each in turn, when it has ended
 * @throws OciboxError USAGE for what is no signal; SyscallError where one may not be signalled
 */
export async function stopAll(
  root: string,
  state: string,
  containers: readonly ContainerStatus[],
  { seconds, signal }: StopOptions,
  stopped: (index: number) => void,
): Promise<void> {
  using owned = new DisposableStack();
  const processes = containers.map((each) => {
    holdBack(root, each.id);
    const process = Signalled.of(root, each);
    if (process !== undefined) owned.use(process);
    process?.send(parseSignal(signal ?? each.stopSignal ?? "TERM"));
    // Of one that is paused it is heard of then.
    letGoOn(each.id);
    return process;
  });
  const from = performance.now();
  for (const [index, { id, stopTimeout }] of containers.entries()) {
    const within = seconds ?? stopTimeout ?? usualSeconds;
    processes[index]?.end(Math.max(0, within - (performance.now() - from) / 1000));
    await untilLeft(state, id, 10_000);
    stopped(index);
  }
}
