/**
 * A container that is left to itself: its supervisor is a child of the process that was called, which ends as soon as
 * the container's command is executed, or with what has kept it from that.
 */
import { AT_FDCWD, O, SIG } from "../../ffi/constants.ts";
import type { Label, LogPlan, Recorder, Slot } from "../../ffi/plan.ts";
import { type Pair, socketPair } from "./sync.ts";

export interface Detached {
  /** What the caller prints, a line. */
  readonly says: string;
  /** The file that the container's output goes to. */
  readonly log: string;
  /** The descriptors that the supervisor keeps of what this process was started with: from one number to another. */
  readonly keeps: readonly [from: number, to: number];
}

/** Behind what is kept: the socket to who has called. */
function callerOf({ keeps }: Detached): number {
  return keeps[1] + 1;
}

/** What connects a container that is left to itself with its supervisor. */
export interface Streams {
  readonly log: Slot;
  /** Absent where it has a terminal. */
  readonly out?: Pair;
  readonly err?: Pair;
  /** One that nobody writes to, and that does not end. */
  readonly stdin?: Pair | undefined;
}

/** From here on the steps are the supervisor's, in a session of its own, with nothing of the caller's but its streams. */
export function leaveCaller(p: Recorder, detached: Detached, code: Slot): void {
  const { says, keeps } = detached;
  p.field("--detach");
  const [its, own] = socketPair(p, "caller");
  const supervisor = p.newLabel("supervisor");
  const pid = p.sys.clone(SIG.SIGCHLD, 0, null, 0, 0);
  p.branch(pid, "==", 0, supervisor);

  const failed = p.newLabel("caller has failed");
  const refused = p.newLabel("not started");
  p.add({ op: "onFailure", to: failed, code });
  p.sys.close(own);
  const got = p.sys.read(its, p.memory("started", 8), 1);
  p.branch(got, "<", 1, refused);
  p.carryOn("EPIPE").write(1, `${says}\n`, Buffer.byteLength(says) + 1);
  p.add({ op: "exit", code: 0 });
  p.place(failed);
  // Hearing of nobody, the supervisor takes back what it has made.
  p.tolerate("EBADF").close(its);
  p.add({ op: "supervise", pid, pidfd: null, terminal: null, interactive: false, code: p.slot("supervisor's code") });
  p.add({ op: "exit", code });
  p.place(refused);
  p.add({ op: "supervise", pid, pidfd: null, terminal: null, interactive: false, code });
  p.add({ op: "exit", code });

  p.place(supervisor);
  p.sys.setsid();
  p.sys.chdir("/");
  p.sys.dup3(own, callerOf(detached), O.O_CLOEXEC);
  p.sys.close_range(3, keeps[0] - 1, 0);
  p.sys.close_range(callerOf(detached) + 1, 0x7fffffff, 0);
}

function pipe(p: Recorder, name: string): Pair {
  const memory = p.memory(name, 8);
  p.sys.pipe2(memory, O.O_CLOEXEC);
  const [read, write] = [p.slot(`${name}.read`), p.slot(`${name}.write`)];
  p.add({ op: "load", memory, offset: 0, slot: read });
  p.add({ op: "load", memory, offset: 4, slot: write });
  return [read, write];
}

/** The log, and pipes into it where there is no terminal. */
export function makeStreams(p: Recorder, { log }: Detached, terminal: boolean, interactive: boolean): Streams {
  p.field("--detach");
  const flags = O.O_WRONLY | O.O_CREAT | O.O_APPEND | O.O_NOFOLLOW | O.O_CLOEXEC;
  const file = p.sys.openat(AT_FDCWD, log, flags, 0o600);
  if (terminal) return { log: file };
  return {
    log: file,
    out: pipe(p, "stdout"),
    err: pipe(p, "stderr"),
    stdin: interactive ? pipe(p, "stdin") : undefined,
  };
}

/** The supervisor's copies of the ends that are the container's: else there would be no end to be seen. */
export function closeTheirs(p: Recorder, { out, err, stdin }: Streams): void {
  for (const each of [out?.[1], err?.[1], stdin?.[0]]) if (each !== undefined) p.sys.close(each);
}

/** Tells the caller that the command is executed, and keeps nothing of it. @param teardown for where it has gone */
export function releaseCaller(p: Recorder, detached: Detached, teardown: Label): void {
  p.field("--detach");
  const nothing = p.sys.openat(AT_FDCWD, "/dev/null", O.O_RDWR | O.O_CLOEXEC, 0);
  for (const fd of [0, 1]) p.sys.dup3(nothing, fd, 0);
  p.orElse(teardown, "EPIPE").write(callerOf(detached), "s", 1);
  p.sys.dup3(nothing, 2, 0);
  p.sys.close(nothing);
  p.sys.close(callerOf(detached));
}

export function logPlan({ log, out, err }: Streams): LogPlan {
  return { file: log, out: out?.[0] ?? null, err: err?.[0] ?? null };
}
