/**
 * --timeout: a child of the supervisor that waits for the container's end for so long, kills it and says so. It has nothing
 * to undo, and goes with the supervisor, however that ends.
 */
import { CLONE, P_PIDFD, PR, SIG, WEXITED } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import { cloneArgsSize } from "./builder.ts";

/** ppoll(2) */
const POLLIN = 1;
const sigsetSize = 8;

/**
 * Starts the clock.
 * @param raw whether the caller's terminal may be in raw mode, in which a line begins where the last one ended
 * @returns the watcher's pidfd, for `stopClock`
 */
export function startClock(p: Recorder, pidfd: Slot, seconds: number, raw: boolean): Slot {
  p.field("--timeout");
  const memory = p.memory("clock", 8);
  const running = p.newLabel("clock runs");
  const pid = p.sys.clone3(
    struct<Slot>("clone_args", { flags: BigInt(CLONE.CLONE_PIDFD), pidfd: memory, exit_signal: SIG.SIGCHLD }),
    cloneArgsSize,
  );
  p.branch(pid, "!=", 0, running);
  // Nothing here may fail: what is undone then is the supervisor's.
  const passed = p.newLabel("time is over");
  p.carryOn().prctl(PR.PR_SET_PDEATHSIG, SIG.SIGKILL, 0, 0, 0);
  const time = struct<Slot>("timespec", { tv_sec: seconds, tv_nsec: 0 });
  // It ends as well when the container does: where the supervisor was killed before this process could ask to go with it.
  const polled = p.carryOn().ppoll(struct<Slot>("pollfd", { fd: pidfd, events: POLLIN }), 1, time, null, sigsetSize);
  p.branch(polled, "!=", 0, passed);
  const killed = p.tolerate("ESRCH").pidfd_send_signal(pidfd, SIG.SIGKILL, null, 0);
  p.branch(killed, "<", 0, passed);
  const line = `ocibox: the container was killed: it ran for ${seconds} s, which is its --timeout`;
  const words = raw ? `\r\n${line}\r\n` : `${line}\n`;
  p.tolerate("EPIPE", "EBADF", "EIO", "ENOSPC", "EAGAIN").write(2, words, words.length);
  p.place(passed);
  p.add({ op: "exit", code: 0 });
  p.place(running);
  const clock = p.slot("clock");
  p.add({ op: "load", memory, offset: 0, slot: clock });
  p.field("");
  return clock;
}

/** The container has ended, in time or not: nobody of it is left, and nothing is written any more. */
export function stopClock(p: Recorder, clock: Slot): void {
  p.field("--timeout");
  p.tolerate("ESRCH").pidfd_send_signal(clock, SIG.SIGKILL, null, 0);
  // The supervisor may have reaped it.
  p.tolerate("ECHILD").waitid(P_PIDFD, clock, null, WEXITED, null);
  p.tolerate("EBADF").close(clock);
  p.field("");
}
