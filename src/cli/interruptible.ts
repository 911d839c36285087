/** Work that ctrl-c and SIGTERM end cleanly. */
import { OciboxError } from "../errors.ts";

/**
 * @param what for the error: `the pull of "alpine"`
 * @throws OciboxError INTERRUPTED where a signal came; else what the work throws
 */
export async function interruptible<T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController();
  let stopped: NodeJS.Signals | undefined;
  const stop = (signal: NodeJS.Signals): void => {
    stopped = signal;
    abort.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  try {
    return await work(abort.signal);
  } catch (error) {
    if (stopped === undefined) throw error;
    throw new OciboxError("INTERRUPTED", `${what} was stopped by ${stopped}`, { cause: error });
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}
