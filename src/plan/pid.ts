/** A process's id put down where others look for it, by rename: it is there whole or not at all. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { sendDescriptor } from "./sync.ts";

const newFile = O.O_WRONLY | O.O_CREAT | O.O_TRUNC | O.O_NOFOLLOW | O.O_CLOEXEC;
const mostStat = 1024;

/** What proc_pid_stat(5) says of a process, kept: its id and its start time tell it from any other there ever will be. */
export function notePid(p: Recorder, pid: Slot, directory: string): void {
  p.field("");
  const stat = p.memory("stat", mostStat);
  const from = p.sys.openat(AT_FDCWD, p.text`/proc/${pid}/stat`, O.O_RDONLY | O.O_CLOEXEC, 0);
  const got = p.sys.read(from, stat, mostStat);
  p.sys.close(from);
  const to = p.sys.openat(AT_FDCWD, `${directory}/.process`, newFile, 0o600);
  p.sys.write(to, stat, got);
  p.sys.close(to);
  p.sys.renameat2(AT_FDCWD, `${directory}/.process`, AT_FDCWD, `${directory}/process`, 0);
}

/** The number alone, without a newline. @param flag that asks for it */
export function writePidFile(p: Recorder, pid: Slot, path: string, flag: string): void {
  p.field(flag);
  const slash = path.lastIndexOf("/") + 1;
  const temporary = `${path.slice(0, slash)}.${path.slice(slash)}`;
  const file = p.sys.openat(AT_FDCWD, temporary, newFile, 0o644);
  // A digit at a time would be as many calls: the length of a number is found by comparing it.
  const done = p.newLabel("pid written");
  for (let digits = 1; digits <= 10; digits++) {
    const longer = p.newLabel(`more than ${digits} digits`);
    p.branch(pid, ">", 10 ** digits - 1, longer);
    p.sys.write(file, p.text`${pid}`, digits);
    p.jump(done);
    p.place(longer);
  }
  p.place(done);
  p.sys.close(file);
  p.sys.renameat2(AT_FDCWD, temporary, AT_FDCWD, path, 0);
}

/** What the caller is told of a process that is there. */
export interface PidAudience {
  /** --pid-file */
  readonly pidFile: string | undefined;
  /** --pidfd-socket: connected. */
  readonly pidfdSocket: number | undefined;
}

export function tellPid(p: Recorder, pid: Slot, pidfd: Slot, { pidFile, pidfdSocket }: PidAudience): void {
  if (pidfdSocket !== undefined) {
    p.field("--pidfd-socket");
    sendDescriptor(p, pidfdSocket, pidfd, "pidfd.sent", "pidfd");
  }
  if (pidFile !== undefined) writePidFile(p, pid, pidFile, "--pid-file");
}
