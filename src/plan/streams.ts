/** A process's standard streams, where they are its caller's, and no terminal of its own. */
import { AT, S } from "../../ffi/constants.ts";
import type { Recorder } from "../../ffi/plan.ts";
import type { Process } from "../spec/runtime.ts";

const STATX_TYPE = 1;
/** struct statx: stx_mode, and behind it 16 bits that are 0. */
const modeAt = 28;
/** The types of files are multiples of it. */
const type = S.S_IFIFO;

/**
 * Pipes become the process's own: who is not root could open neither /dev/stdout nor /proc/self/fd/1 else, as a pipe is
 * its maker's alone. What may not be changed stays as it is.
 * @param files whether files do as well, as runc has it
 */
export function ownStreams(p: Recorder, { user }: Process, files: boolean): void {
  if (user.uid === 0) return;
  p.field("process.user.uid");
  const stat = p.memory("stream", 256);
  const mode = p.slot("stream.mode");
  for (const fd of [0, 1, 2]) {
    const own = p.newLabel(`stream ${fd} is given away`);
    const next = p.newLabel(`stream ${fd} is settled`);
    p.orElse(next, "EBADF").statx(fd, "", AT.AT_EMPTY_PATH, STATX_TYPE, stat);
    p.add({ op: "load", memory: stat, offset: modeAt, slot: mode });
    p.branch(mode, "<", S.S_IFIFO, next);
    p.branch(mode, "<", S.S_IFIFO + type, own);
    if (files) {
      p.branch(mode, "<", S.S_IFREG, next);
      p.branch(mode, "<", S.S_IFREG + type, own);
    }
    p.jump(next);
    p.place(own);
    p.tolerate("EPERM", "EINVAL", "EROFS").fchown(fd, user.uid, -1);
    p.place(next);
  }
}
