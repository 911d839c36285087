/** Signals for a container of `ocibox run`: to its first process, whatever its supervisor does. */
import { SIG } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { struct } from "../../ffi/sys.ts";
import { openMarked } from "../runtime/process-mark.ts";
import type { ContainerStatus } from "./record.ts";
import { noteOf, notRunning } from "./running.ts";

const POLLIN = 1;

/** Who is to be signalled. */
export class Signalled implements Disposable {
  readonly #process: ReturnType<typeof openMarked>;

  /** @throws OciboxError INVALID for one that does not run */
  constructor(root: string, container: ContainerStatus) {
    this.#process = openMarked(noteOf(root, container));
    if (this.#process === undefined) throw notRunning(container);
  }

  send(signal: number): void {
    if (this.#process !== undefined) attempt("pidfd_send_signal", this.#process.fd, signal, null, 0);
  }

  /** @param seconds how long is waited at the most @returns whether it has ended */
  ended(seconds: number): boolean {
    if (this.#process === undefined) return true;
    const polled = attempt(
      "ppoll",
      struct<number>("pollfd", { fd: this.#process.fd, events: POLLIN }),
      1,
      struct<number>("timespec", { tv_sec: seconds }),
      null,
      8,
    );
    return polled > 0;
  }

  /** Asks it to end, and after a while does not ask any more. */
  stop(signal: number, seconds: number): void {
    this.send(signal);
    if (this.ended(seconds)) return;
    this.send(SIG.SIGKILL);
    this.ended(seconds + 10);
  }

  [Symbol.dispose](): void {
    this.#process?.[Symbol.dispose]();
  }
}
