/** A process by what was noted of it when it began: nobody who has its number later is taken for it. */
import { AT_FDCWD, O } from "../../ffi/constants.ts";
import { attempt } from "../../ffi/direct.ts";
import { OwnedFd } from "../../ffi/fd.ts";
import { readText } from "../../ffi/files.ts";
import { alloc, readField } from "../../ffi/structs.ts";
import { struct } from "../../ffi/sys.ts";

/** A process by its id and start time (field 22 of proc_pid_stat(5), in clock ticks since boot). */
export interface ProcessMark {
  readonly pid: number;
  readonly startTime: string;
  /** "Z" for one that has ended. */
  readonly state: string;
}

/** USER_HZ of every machine ocibox runs on: times(2). */
export const ticksPerSecond = 100;

/** A process's name, which may have anything in it, and the fields behind that: the first is proc_pid_stat(5)'s third. */
export function statOf(text: string): { readonly name: string; readonly fields: readonly string[] } {
  const close = text.lastIndexOf(")");
  return { name: text.slice(text.indexOf("(") + 1, close), fields: text.slice(close + 2).split(" ") };
}

/** What a line of /proc/PID/stat says. */
function parseStat(text: string): ProcessMark | undefined {
  const { fields } = statOf(text);
  const pid = Number.parseInt(text, 10);
  const startTime = fields[19];
  return Number.isInteger(pid) && startTime !== undefined ? { pid, startTime, state: fields[0] ?? "" } : undefined;
}

/** What a plan has noted in a directory (plan/pid.ts); undefined where nothing has been yet. */
export function readMark(directory: string): ProcessMark | undefined {
  return parseStat(readText(`${directory}/process`) ?? "");
}

/** Whether the process is there, and is the one that was noted. Since a reboot another may have its number and its time. */
export function isThere(mark: ProcessMark): boolean {
  const now = parseStat(readText(`/proc/${mark.pid}/stat`) ?? "");
  return now !== undefined && now.startTime === mark.startTime && now.state !== "Z" && now.state !== "X";
}

/**
 * A descriptor of the process; undefined where that has ended, whoever has its number now.
 * @param check what tells that it is still there: asked when the descriptor holds on to whoever had the number then
 */
export function openMarked(mark: ProcessMark, check = (): boolean => isThere(mark)): OwnedFd | undefined {
  const fd = attempt("pidfd_open", mark.pid, 0);
  if (fd < 0) return undefined;
  const process = new OwnedFd(fd);
  if (check()) return process;
  process[Symbol.dispose]();
  return undefined;
}

/** What /proc has of the process, closed on exec; undefined where it has ended: another's may have been opened then. */
function openOf(mark: ProcessMark, name: string, flags: number): OwnedFd | undefined {
  const fd = attempt("openat", AT_FDCWD, `/proc/${mark.pid}/${name}`, flags | O.O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  const opened = new OwnedFd(fd);
  if (isThere(mark)) return opened;
  opened[Symbol.dispose]();
  return undefined;
}

/** The root of the process; undefined where it has ended. */
export function openRoot(mark: ProcessMark): OwnedFd | undefined {
  return openOf(mark, "root", O.O_PATH | O.O_DIRECTORY);
}

/** The network namespace of the process; undefined where it has ended. */
export function openNetwork(mark: ProcessMark): OwnedFd | undefined {
  return openOf(mark, "ns/net", O.O_RDONLY);
}

const POLLIN = 1;

/** Waits for the end of a process. @param seconds the most @returns whether it has ended */
export function untilEnded(process: OwnedFd, seconds: number): boolean {
  const end = performance.now() + seconds * 1000;
  for (;;) {
    const left = Math.max(0, end - performance.now());
    const polled = attempt(
      "ppoll",
      struct<number>("pollfd", { fd: process.fd, events: POLLIN }),
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

const STATX_INO = 0x100;
/** Making a container takes milliseconds, but for hooks. */
const patience = 2000;

/** Which directory it is, whatever it is called. */
function identityOf(path: string): string | undefined {
  const stat = alloc(256);
  if (attempt("statx", AT_FDCWD, path, 0, STATX_INO, stat) < 0) return undefined;
  const get = (field: string): number => readField("statx", stat, field);
  return `${get("stx_dev_major")}:${get("stx_dev_minor")}:${get("stx_ino")}`;
}

/**
 * Waits until a container's process has its root, for a while: before, whoever joined it would be in the host's.
 * @param rootfs what the root is, where that can be the host's own
 * @returns false where it still has not, or has ended
 */
export function untilRooted({ pid }: ProcessMark, rootfs?: string): boolean {
  const host = identityOf("/");
  if (rootfs !== undefined && identityOf(rootfs) === host) return true;
  const end = performance.now() + patience;
  for (;;) {
    const root = identityOf(`/proc/${pid}/root`);
    if (root !== host) return root !== undefined;
    if (performance.now() > end) return false;
    Bun.sleepSync(2);
  }
}
