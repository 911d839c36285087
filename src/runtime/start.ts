/** `start`: the process that waits on exec.fifo is let go; then the poststart hooks. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { OciboxError } from "../errors.ts";
import type { ErrorSink } from "../plan/context.ts";
import { needContainer } from "./state.ts";

/** @returns the exit code; does not return where there are hooks to run, which init does @throws OciboxError */
export function startContainer(root: string, id: string, sinks: () => ErrorSink[]): number | Promise<number> {
  const container = needContainer(root, id);
  const fifo = `${container.directory}/exec.fifo`;
  // Nobody but the waiting process has it open: without a reader there is no such process any more. fifo(7)
  const fd = attempt("openat", AT_FDCWD, fifo, O.O_WRONLY | O.O_NONBLOCK | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
  if (fd < 0) {
    const status = container.status();
    if (status === "stopped" || fd !== -2)
      throw new OciboxError("INVALID", "cannot start a container that has stopped");
    throw new OciboxError("INVALID", `cannot start a container that is ${status}`);
  }
  {
    using file = new OwnedFd(fd);
    // Gone first, so that nobody takes the container for a created one afterwards.
    const removed = attempt("unlinkat", AT_FDCWD, fifo, 0);
    if (removed < 0) throw new OciboxError("INVALID", "cannot start a container that is running");
    attempt("write", file.fd, new Uint8Array([0]), 1);
  }
  if (!container.record.hooks.includes("poststart")) return 0;
  return import("./late-hooks.ts").then(({ runLateHooks }) => runLateHooks(container, "poststart", sinks()));
}
