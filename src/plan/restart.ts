/** --restart: the supervisor of a container that has ended becomes the program that starts it once more. */
import { AT_FDCWD } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";

export interface Restart {
  /** Not where the exit code is 0. */
  readonly onFailure: boolean;
  /** How long it is waited before, ms. */
  readonly delay: number;
  /** Where the container has run until this time, in seconds since boot, the wait is the shortest; undefined where it is so anyway. */
  readonly enough: number | undefined;
  /** Where this file is there the container is not started any more. */
  readonly unless: string;
  readonly program: string;
  readonly argv: readonly string[];
  readonly env: readonly string[];
}

/** ms: before the first restart, and after a run that was long enough. */
export const shortestDelay = 100;
const sigsetSize = 8;
const CLOCK_BOOTTIME = 7;

function wait(p: Recorder, delay: number): void {
  const time = struct<Slot>("timespec", { tv_sec: Math.floor(delay / 1000), tv_nsec: (delay % 1000) * 1e6 });
  p.carryOn().ppoll(null, 0, time, null, sigsetSize);
}

/** The last steps of all. @param ran whether the container's command was ever executed: else it would fail once more */
export function startAgain(p: Recorder, ran: Slot, code: Slot, restart: Restart): void {
  const { onFailure, delay, enough, unless, program, argv, env } = restart;
  p.field("--restart");
  const never = p.newLabel("not again");
  p.branch(ran, "==", 0, never);
  if (onFailure) p.branch(code, "==", 0, never);
  // Nothing of the container is held while it is waited: neither its ports, nor its network, nor its lock.
  p.carryOn().close_range(3, 0x7fffffff, 0);
  // Whoever ends this process now ends it.
  p.add({ op: "giveSignals" });
  const waited = p.newLabel("waited");
  if (enough !== undefined) {
    const clock = p.memory("since boot", 16);
    const long = p.newLabel("was not long");
    p.carryOn().clock_gettime(CLOCK_BOOTTIME, clock);
    const now = p.slot("since boot");
    p.add({ op: "load", memory: clock, offset: 0, slot: now });
    p.branch(now, "<", enough, long);
    wait(p, shortestDelay);
    p.jump(waited);
    p.place(long);
  }
  wait(p, delay);
  p.place(waited);
  // Somebody may have stopped it, also meanwhile.
  const held = p.carryOn("ENOENT").faccessat2(AT_FDCWD, unless, 0, 0);
  p.branch(held, "==", 0, never);
  p.carryOn().execve(program, [...argv], [...env]);
  p.place(never);
  p.field("");
}
