/** --restart: the supervisor of a container that has ended becomes the program that starts it once more. */
import { AT_FDCWD, CLOSE_RANGE } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";

export interface Restart {
  /** Not where the exit code is 0. */
  readonly onFailure: boolean;
  /** How long it is waited before, ms. */
  readonly delay: number;
  /** Where this file is there the container is not started any more. */
  readonly unless: string;
  readonly program: string;
  readonly argv: readonly string[];
  readonly env: readonly string[];
}

const sigsetSize = 8;

/** The last steps of all. @param ran whether the container's command was ever executed: else it would fail once more */
export function startAgain(p: Recorder, ran: Slot, code: Slot, restart: Restart): void {
  const { onFailure, delay, unless, program, argv, env } = restart;
  p.field("--restart");
  const never = p.newLabel("not again");
  p.branch(ran, "==", 0, never);
  if (onFailure) p.branch(code, "==", 0, never);
  const time = struct<Slot>("timespec", { tv_sec: Math.floor(delay / 1000), tv_nsec: (delay % 1000) * 1e6 });
  p.carryOn().ppoll(null, 0, time, null, sigsetSize);
  // Somebody may have stopped it, also meanwhile.
  const held = p.carryOn("ENOENT").faccessat2(AT_FDCWD, unless, 0, 0);
  p.branch(held, "==", 0, never);
  p.carryOn().close_range(3, 0x7fffffff, CLOSE_RANGE.CLOSE_RANGE_CLOEXEC);
  p.add({ op: "giveSignals" });
  p.carryOn().execve(program, [...argv], [...env]);
  p.place(never);
  p.field("");
}
