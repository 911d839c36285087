/** Hooks as steps: runtime-spec, config.md#posix-platform-hooks. The state goes to a hook's stdin; it ends within its time. */
import { AT_FDCWD, CLOSE_RANGE, MFD, P_PIDFD, SIG, WEXITED } from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { Label, Recorder, Slot } from "../../ffi/plan.ts";
import { type Memory, ownEnvironment, struct } from "../../ffi/sys.ts";
import type { Hook, HookName } from "../spec/runtime.ts";

/** The state of the container as JSON, cut where its process id stands. */
export type StateText = readonly [before: string, after: string];

const CLONE_PIDFD = 0x1000;
const POLLIN = 1;
/** siginfo_t of waitid(2): si_code at 8, si_status at 24 on machines of 64 bits. */
const infoSize = 128;
const codeAt = 8;
const statusAt = 24;
const CLD_EXITED = 1;
const X_OK = 1;
const AT_EACCESS = 0x200;
/** What of a hook's output is told, in bytes: escaped, it goes into a line. */
const mostPrinted = 1000;
/** Digits of a process id, and the blanks that JSON allows behind them. */
const pidWidth = 12;

/** Puts the state into memory that a hook reads from its start. */
function stateInput(p: Recorder, state: StateText, pid: Slot): Slot {
  const file = p.sys.memfd_create("state", MFD.MFD_CLOEXEC);
  const [before, after] = state;
  p.sys.write(file, before, Buffer.byteLength(before));
  p.sys.write(file, p.text`${pid}            `, pidWidth);
  p.sys.write(file, after, Buffer.byteLength(after));
  p.sys.lseek(file, 0, 0);
  return file;
}

/** What a hook prints, and where it is read to. */
interface Told {
  readonly output: Slot;
  readonly text: Memory;
}

export interface HookPlace {
  /** Where hooks begin, if not where this process is. */
  readonly directory?: Slot | number;
  /** The environment of hooks that have none of their own: by default the runtime's, which init is to be given. */
  readonly env?: readonly string[];
  /** Whether a failing hook is only a warning. */
  readonly lenient?: boolean;
}

/**
 * Runs the hooks of one kind in turn.
 * @param pid the container's process, as whoever runs the hook sees it
 */
export function runHooks(
  p: Recorder,
  name: HookName,
  hooks: readonly Hook[] | undefined,
  state: StateText,
  pid: Slot,
  place: HookPlace = {},
): void {
  (hooks ?? []).forEach((hook, index) => {
    p.field(`hooks.${name}[${index}]`);
    runHook(p, `${name} hook #${index}`, hook, state, pid, place);
  });
}

function runHook(p: Recorder, what: string, hook: Hook, state: StateText, pid: Slot, place: HookPlace): void {
  const path = JSON.stringify(hook.path);
  const child = p.newLabel(`${what}: its process`);
  const done = p.newLabel(`${what}: done`);
  const ended = p.newLabel(`${what}: ended`);
  const killed = p.newLabel(`${what}: killed`);
  const warned = place.lenient === true ? done : undefined;
  const input = stateInput(p, state, pid);
  // What a hook prints must not mix with the container's output; it is told where the hook fails.
  const output = p.sys.memfd_create("output", MFD.MFD_CLOEXEC);
  const told: Told = { output, text: p.memory("printed", mostPrinted + 1) };
  const memory = p.memory("hook.pidfd", 8);
  // Not clone3, which the usual filters answer with ENOSYS: startContainer hooks are run behind them.
  const started = p.sys.clone(CLONE_PIDFD | SIG.SIGCHLD, 0, memory, 0, 0);
  p.branch(started, "==", 0, child);
  p.sys.close(input);
  const pidfd = p.slot("hook.pidfd");
  p.add({ op: "load", memory, offset: 0, slot: pidfd });
  const timeout = hook.timeout === undefined ? null : struct<Slot>("timespec", { tv_sec: hook.timeout, tv_nsec: 0 });
  const polled = p.sys.ppoll(struct<Slot>("pollfd", { fd: pidfd, events: POLLIN }), 1, timeout, null, 8);
  p.branch(polled, "!=", 0, ended);
  p.sys.pidfd_send_signal(pidfd, SIG.SIGKILL, null, 0);
  const info = p.memory("hook.info", infoSize);
  p.sys.waitid(P_PIDFD, pidfd, info, WEXITED, null);
  p.sys.close(pidfd);
  fail(p, [`error running ${what}: it was killed, for it had not ended within ${hook.timeout} s`], told, warned);
  p.place(ended);
  p.sys.waitid(P_PIDFD, pidfd, info, WEXITED, null);
  p.sys.close(pidfd);
  const code = p.slot("hook.code");
  const status = p.slot("hook.status");
  p.add({ op: "load", memory: info, offset: codeAt, slot: code });
  p.add({ op: "load", memory: info, offset: statusAt, slot: status });
  p.branch(code, "!=", CLD_EXITED, killed);
  p.branch(status, "==", 0, done);
  fail(p, [`error running ${what}: ${path} ended with exit status `, status], told, warned);
  p.place(killed);
  fail(p, [`error running ${what}: ${path} was killed by signal `, status], told, warned);

  p.place(child);
  const end = p.newLabel(`${what}: not executed`);
  const one = p.slot("hook.exit");
  p.add({ op: "onFailure", to: end, code: one });
  const says = `error running ${what}: cannot execute ${path}`;
  if (place.directory !== undefined) p.sys.fchdir(place.directory);
  // While what is said still goes where failures go.
  p.with({ says }).sys.faccessat2(AT_FDCWD, hook.path, X_OK, AT_EACCESS);
  p.sys.dup3(input, 0, 0);
  for (const fd of [1, 2]) p.sys.dup3(output, fd, 0);
  p.sys.close_range(3, 0x7fffffff, CLOSE_RANGE.CLOSE_RANGE_CLOEXEC);
  p.add({ op: "giveSignals" });
  p.with({ says }).sys.execve(
    hook.path,
    hook.args === undefined || hook.args.length === 0 ? [hook.path] : hook.args,
    hook.env ?? place.env ?? ownEnvironment,
  );
  p.place(end);
  p.add({ op: "exit", code: 1 });
  p.place(done);
  p.sys.close(output);
}

/** Fails with these words and what the hook has printed; or warns of it, and goes on at `warned`. */
function fail(p: Recorder, words: readonly (string | Slot)[], told: Told, warned: Label | undefined): void {
  const silent = p.newLabel("nothing was printed");
  const failure = { op: "fail", errno: errnoOf("ECHILD"), blame: "ocibox", warning: warned !== undefined } as const;
  const size = p.sys.pread64(told.output, told.text, mostPrinted, 0);
  p.branch(size, "<", 1, silent);
  p.add({ ...failure, says: { format: [...words, ": ", told.text] } });
  if (warned !== undefined) p.jump(warned);
  p.place(silent);
  p.add({ ...failure, says: { format: words } });
  if (warned !== undefined) p.jump(warned);
}
