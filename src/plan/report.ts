/** --report: what became of a container, written when it has ended, also where its command was never executed. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";

export interface Report {
  readonly path: string;
  /** The beginning of a JSON object: fields, each with a comma behind it. */
  readonly head: string;
}

const CLOCK_REALTIME = 0;
/** Of a time in seconds since 1970, which a slot of 32 bits holds until 2038; of an exit code, with blanks. */
const [timeDigits, codeDigits] = [10, 3];

/** @param ran whether the command was executed: else the exit code is ocibox's own */
export function writeReport(p: Recorder, ran: Slot, code: Slot, { path, head }: Report): void {
  p.field("--report");
  const given = p.newLabel("report given");
  const close = p.newLabel("report written");
  const own = p.newLabel("not the command's");
  const clock = p.memory("time", 16);
  p.carryOn().clock_gettime(CLOCK_REALTIME, clock);
  const time = p.slot("time");
  p.add({ op: "load", memory: clock, offset: 0, slot: time });
  const flags = O.O_WRONLY | O.O_CREAT | O.O_TRUNC | O.O_NOFOLLOW | O.O_NONBLOCK | O.O_CLOEXEC;
  const file = p.carryOn().openat(AT_FDCWD, path, flags, 0o644);
  p.branch(file, "<", 0, given);
  const write = (origin: string): void => {
    const [begin, middle] = [`${head}"origin":"${origin}","finished":`, ',"exitCode":'];
    const size = Buffer.byteLength(begin) + timeDigits + middle.length + codeDigits;
    p.carryOn().write(file, { format: [begin, time, middle, code, "   "] }, size);
  };
  p.branch(ran, "==", 0, own);
  write("command");
  p.jump(close);
  p.place(own);
  write("ocibox");
  p.place(close);
  p.carryOn().write(file, "}\n", 2);
  p.carryOn().close(file);
  p.place(given);
  p.field("");
}
