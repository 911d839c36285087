/** Signals for a container of `ocibox run`: to its first process, whatever its supervisor does. */
import { SIG } from "../../ffi/constants.ts";
import { attempt, tolerate } from "../../ffi/direct.ts";
import { struct } from "../../ffi/sys.ts";
import { openMarked, readMark } from "../runtime/process-mark.ts";
import { type ContainerStatus, containerDirectory } from "./record.ts";

const POLLIN = 1;

/** Who is to be signalled. */
export class Signalled implements Disposable {
  private constructor(readonly process: NonNullable<ReturnType<typeof openMarked>>) {}

  /** @returns undefined where its process has ended, or was never there */
  static of(root: string, container: ContainerStatus): Signalled | undefined {
    const mark = container.running ? readMark(containerDirectory(root, container.id)) : undefined;
    const process = mark === undefined ? undefined : openMarked(mark);
    return process === undefined ? undefined : new Signalled(process);
  }

  /** @throws SyscallError where it may not be sent */
  send(signal: number): void {
    tolerate(["ESRCH"], "pidfd_send_signal", this.process.fd, signal, null, 0);
  }

  /** @param seconds how long is waited at the most @returns whether it has ended */
  ended(seconds: number): boolean {
    const end = performance.now() + seconds * 1000;
    for (;;) {
      const left = Math.max(0, end - performance.now());
      const polled = attempt(
        "ppoll",
        struct<number>("pollfd", { fd: this.process.fd, events: POLLIN }),
        1,
        struct<number>("timespec", { tv_sec: Math.floor(left / 1000), tv_nsec: Math.floor((left % 1000) * 1e6) }),
        null,
        8,
      );
      if (polled > 0) return true;
      // A signal of ours ends a wait, too.
      if (performance.now() >= end) return false;
    }
  }

  /** Asks it to end, and after a while does not ask any more. @throws SyscallError where it may not be signalled */
  stop(signal: number, seconds: number): void {
    this.send(signal);
    if (this.ended(seconds)) return;
    this.send(SIG.SIGKILL);
    this.ended(10);
  }

  [Symbol.dispose](): void {
    this.process[Symbol.dispose]();
  }
}
