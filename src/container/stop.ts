/** Asking containers to end, and ending them after a while. */
import { SIG } from "../../ffi/constants.ts";
import { OciboxError } from "../errors.ts";
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
  // What is no signal is told before anything is stopped.
  const signals = containers.map((each) => parseSignal(signal ?? each.stopSignal ?? "TERM"));
  for (const each of containers) holdBack(root, each);
  const processes: (Signalled | undefined)[] = [];
  for (const [index, each] of containers.entries()) {
    const process = await Signalled.find(root, state, each, signals[index] ?? SIG.SIGTERM);
    if (process !== undefined) owned.use(process);
    process?.send(signals[index] ?? SIG.SIGTERM);
    // Of one that is paused it is heard of then.
    letGoOn(each.id);
    processes.push(process);
  }
  let left: string | undefined;
  const from = performance.now();
  for (const [index, { id, name, stopTimeout }] of containers.entries()) {
    const within = seconds ?? stopTimeout ?? usualSeconds;
    processes[index]?.end(Math.max(0, within - (performance.now() - from) / 1000));
    if (!(await untilLeft(state, id, 10_000))) {
      left ??= name;
      continue;
    }
    stopped(index);
  }
  if (left !== undefined)
    throw new OciboxError("HOST", `the container "${left}" did not end`, { hint: `see: ocibox top ${left}` });
}
