/** Signals for a container of `ocibox run`: to its first process, whatever its supervisor does. */
import { SIG } from "../../ffi/constants.ts";
import { tolerate } from "../../ffi/direct.ts";
import { readText } from "../../ffi/files.ts";
import { openMarked, readMark, untilEnded } from "../runtime/process-mark.ts";
import { letGoOn } from "./pause.ts";
import { type ContainerStatus, containerDirectory } from "./record.ts";
import { type ContainerId, isRunning } from "./state.ts";

/** Whether a container's process does not hear of a signal now: proc_pid_status(5), SigBlk. */
function isBlocked(root: string, { id }: ContainerStatus, signal: number): boolean {
  const pid = readMark(containerDirectory(root, id))?.pid;
  const mask = /^SigBlk:\s+([0-9a-f]+)/m.exec(readText(`/proc/${pid}/status`) ?? "")?.[1];
  return mask !== undefined && ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n;
}

/** How long a process is waited for that is just being made, ms. */
const patience = 2000;

/** Who is to be signalled. */
export class Signalled implements Disposable {
  private constructor(
    readonly id: ContainerId,
    readonly process: NonNullable<ReturnType<typeof openMarked>>,
  ) {}

  /** @returns undefined where its process has ended, or was never there */
  static of(root: string, container: ContainerStatus): Signalled | undefined {
    const mark = container.running ? readMark(containerDirectory(root, container.id)) : undefined;
    const process = mark === undefined ? undefined : openMarked(mark);
    return process === undefined ? undefined : new Signalled(container.id, process);
  }

  /**
   * The same of one that is perhaps just being started, by its own supervisor too: then its process is waited for, until it
   * hears of the signal. One that comes before is lost: the kernel drops what process 1 of a namespace has not asked for.
   * @returns undefined where nobody looks after it, or its process does not come
   */
  static async find(
    root: string,
    state: string,
    container: ContainerStatus,
    signal: number,
  ): Promise<Signalled | undefined> {
    for (const end = performance.now() + patience; ; await Bun.sleep(5)) {
      const running = isRunning(state, container.id);
      const found = Signalled.of(root, { ...container, running });
      const ready = found === undefined ? !running : !isBlocked(root, container, signal);
      if (ready || performance.now() > end) return found;
      found?.[Symbol.dispose]();
    }
  }

  /** @throws SyscallError where it may not be sent */
  send(signal: number): void {
    tolerate(["ESRCH"], "pidfd_send_signal", this.process.fd, signal, null, 0);
  }

  /** Waits for its end, and after a while does not wait any more. @throws SyscallError where it may not be signalled */
  end(seconds: number): void {
    if (untilEnded(this.process, seconds)) return;
    this.send(SIG.SIGKILL);
    letGoOn(this.id);
    untilEnded(this.process, 10);
  }

  [Symbol.dispose](): void {
    this.process[Symbol.dispose]();
  }
}
