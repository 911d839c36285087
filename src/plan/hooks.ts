/** Hooks as steps: runtime-spec, config.md#posix-platform-hooks. The state goes to a hook's stdin; it ends within its time. */
import { CLOSE_RANGE, MFD, SIG } from "../../ffi/constants.ts";
import { errnoOf } from "../../ffi/errno.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import type { Hook, HookName } from "../spec/runtime.ts";

/** The state of the container as JSON, cut where its process id stands. */
export type StateText = readonly [before: string, after: string];

const cloneArgsSize = 88;
const CLONE_PIDFD = 0x1000;
const P_PIDFD = 3;
const WEXITED = 4;
const POLLIN = 1;
/** siginfo_t of waitid(2): si_code at 8, si_status at 24 on machines of 64 bits. */
const infoSize = 128;
const codeAt = 8;
const statusAt = 24;
const CLD_EXITED = 1;
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

/**
 * Runs the hooks of one kind in turn.
 * @param pid the container's process, as whoever runs the hook sees it
 * @param lenient whether a failing hook is only a warning
 */
export function runHooks(
  p: Recorder,
  name: HookName,
  hooks: readonly Hook[] | undefined,
  state: StateText,
  pid: Slot,
  lenient = false,
): void {
  (hooks ?? []).forEach((hook, index) => {
    p.field(`hooks.${name}[${index}]`);
    runHook(p, `${name} hook #${index}`, hook, state, pid, lenient);
  });
}

function runHook(p: Recorder, what: string, hook: Hook, state: StateText, pid: Slot, lenient: boolean): void {
  const child = p.newLabel(`${what}: its process`);
  const done = p.newLabel(`${what}: done`);
  const failed = p.newLabel(`${what}: failed`);
  const ended = p.newLabel(`${what}: ended`);
  const warned = lenient ? done : undefined;
  const input = stateInput(p, state, pid);
  const memory = p.memory("hook.pidfd", 8);
  const started = p.sys.clone3(
    struct<Slot>("clone_args", { flags: CLONE_PIDFD, pidfd: memory, exit_signal: SIG.SIGCHLD }),
    cloneArgsSize,
  );
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
  fail(p, `error running ${what}: it was killed, for it had not ended within ${hook.timeout} s`, warned);
  p.place(ended);
  p.sys.waitid(P_PIDFD, pidfd, info, WEXITED, null);
  p.sys.close(pidfd);
  const code = p.slot("hook.code");
  const status = p.slot("hook.status");
  p.add({ op: "load", memory: info, offset: codeAt, slot: code });
  p.add({ op: "load", memory: info, offset: statusAt, slot: status });
  p.branch(code, "!=", CLD_EXITED, failed);
  p.branch(status, "==", 0, done);
  p.place(failed);
  fail(p, `error running ${what}: ${JSON.stringify(hook.path)} ended with an error`, warned);

  p.place(child);
  const end = p.newLabel(`${what}: not executed`);
  const one = p.slot("hook.exit");
  p.add({ op: "onFailure", to: end, code: one });
  p.sys.dup3(input, 0, 0);
  // What a hook prints must not mix with the container's output.
  p.sys.dup3(2, 1, 0);
  p.sys.close_range(3, 0x7fffffff, CLOSE_RANGE.CLOSE_RANGE_CLOEXEC);
  p.add({ op: "giveSignals" });
  p.with({ says: `error running ${what}: cannot execute ${JSON.stringify(hook.path)}` }).sys.execve(
    hook.path,
    hook.args === undefined || hook.args.length === 0 ? [hook.path] : hook.args,
    hook.env ?? [],
  );
  p.place(end);
  p.add({ op: "exit", code: 1 });
  p.place(done);
}

function fail(p: Recorder, says: string, warned: Parameters<Recorder["jump"]>[0] | undefined): void {
  p.add({ op: "fail", errno: errnoOf("ECHILD"), says, blame: "ocibox", warning: warned !== undefined });
  if (warned !== undefined) p.jump(warned);
}
