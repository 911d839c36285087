/** `delete`: whatever is left of a container goes, wherever its making or its end was cut off. */
import { SIG } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OciboxError } from "../errors.ts";
import type { ErrorSink } from "../plan/context.ts";
import { removeAll, signalAll } from "./cgroups.ts";
import { untilEnded } from "./process-mark.ts";
import {
  type Container,
  checkId,
  forgetContainer,
  listIds,
  lockContainer,
  readContainer,
  stateDirectory,
} from "./state.ts";

/** SIGKILL to its process, and up to ten seconds until it has ended. */
function end(container: Container): void {
  using process = container.openProcess();
  if (process === undefined) return;
  attempt("pidfd_send_signal", process.fd, SIG.SIGKILL, null, 0);
  // A process that is stopped by a freezer dies when it goes on.
  if (!container.record.ownPids || container.frozen) signalAll(container.record.cgroups, SIG.SIGKILL);
  if (!untilEnded(process, 10))
    throw new OciboxError("HOST", `the process of the container "${container.id}" does not end`);
}

/**
 * @returns the exit code; does not return where there are hooks to run, which init does
 * @throws OciboxError INVALID for one that runs, unless it is forced
 */
export function deleteContainer(
  root: string,
  id: string,
  force: boolean,
  sinks: () => ErrorSink[],
): number | Promise<number> {
  checkId(id);
  const directory = stateDirectory(root, id);
  let container = readContainer(root, id);
  if (container === undefined) {
    // A directory without a record is one that was just begun, or half forgotten.
    if (listIds(root).includes(id)) {
      using lock = lockContainer(directory);
      container = readContainer(root, id);
      if (lock === undefined || container === undefined) {
        forgetContainer(directory);
        return 0;
      }
    } else if (force) return 0;
    else throw new OciboxError("NOT_FOUND", "container does not exist");
  }
  const status = container.status();
  if (!force && status !== "stopped" && status !== "created")
    throw new OciboxError("INVALID", `cannot delete container ${id} that is not stopped: ${status}`);
  end(container);
  // Whoever is just making it ends by itself when its process does.
  const lock = lockContainer(directory);
  if (lock === undefined) return 0;
  const { unit } = container.record;
  if (unit !== undefined) return deleteUnit(container, unit, lock, sinks);
  using held = lock;
  void held;
  return finish(container, sinks);
}

async function deleteUnit(
  container: Container,
  unit: string,
  lock: Disposable,
  sinks: () => ErrorSink[],
): Promise<number> {
  using held = lock;
  void held;
  const { stopUnit } = await import("./systemd.ts");
  // What is left in it ends first: systemd would wait for it, and end it more gently.
  signalAll(container.record.cgroups, SIG.SIGKILL);
  await stopUnit(unit);
  return finish(container, sinks);
}

/** What a container without a process leaves, and its last hooks. Its lock is held. */
function finish(container: Container, sinks: () => ErrorSink[]): number | Promise<number> {
  removeAll(container.record.cgroups);
  // Where it is gone somebody else is forgetting the container, and runs them.
  const config = container.record.hooks.includes("poststop") ? container.configText() : undefined;
  forgetContainer(container.directory);
  if (config === undefined) return 0;
  return import("./late-hooks.ts").then(({ runLateHooks }) => runLateHooks(container, "poststop", sinks(), config));
}
