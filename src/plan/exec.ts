/**
 * `exec`: one more process for a container that runs, as a plan. runtime-spec has no such operation; runc's is the model.
 *
 * The parent joins what only children come into (the PID namespace), makes the child inside the container's cgroup, and
 * supervises it or leaves. The child joins the other namespaces by the descriptor of the container's own process, so that
 * no path in the container is believed: setns(2), "a PID file descriptor".
 */
import { AT_FDCWD, CLONE, F, IOCTL, O, P_PIDFD, PR, SIG, WEXITED } from "../../ffi/constants.ts";
import { type Label, Recorder, type Slot } from "../../ffi/plan.ts";
import { type Memory, struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { NamespaceType, Process, Spec } from "../spec/runtime.ts";
import { Builder, cloneArgsSize } from "./builder.ts";
import { execute } from "./command.ts";
import type { ErrorSink } from "./context.ts";
import type { HostFacts } from "./facts.ts";
import type { StateText } from "./hooks.ts";
import { becomeUser, checkCwd, groupsOf, warnOfCapabilities } from "./identity.ts";
import { allowEveryProcessor, joinKeyring, setAffinity, setAttention } from "./kernel.ts";
import { labelProcess } from "./labels.ts";
import { cloneFlags, namespacesOf } from "./namespaces.ts";
import { type PidAudience, tellPid } from "./pid.ts";
import { handListenerOver, offerListener } from "./seccomp/listener.ts";
import { ownStreams } from "./streams.ts";
import { type Pair, reportTo, sendDescriptor, socketPair } from "./sync.ts";
import { receiveTerminal, unlockSlave } from "./terminal.ts";

/** What ocibox ends with for an error of its own, where the command's are 126 and 127. */
const ownCode = 125;

export interface ExecContext extends PidAudience {
  readonly id: string;
  /** A pidfd of the container's process, which init inherits. */
  readonly target: number;
  /** The container's root, which init inherits, where it is in no mount namespace that could be joined. */
  readonly root: number | undefined;
  /** Namespaces that are joined, as CLONE_NEW*. */
  readonly joined: number;
  /** Whether this process is root, of the host or of a user namespace. */
  readonly privileged: boolean;
  /** Files of v1 to write "0" to: `tasks` of each cgroup. */
  readonly tasks: readonly string[];
  /** The directory of v2's cgroup, for clone3. */
  readonly cgroup: string | undefined;
  readonly detach: boolean;
  /** What init ends with whatever fails, as runc does; undefined where that is told by the code. docs/exit-codes.md */
  readonly failure: number | undefined;
  /** Whether stdin is the process's; else it has the container's /dev/null, and with `detach` so have the others. */
  readonly interactive: boolean;
  /** Whether what runc does is done where we would not: a terminal's line ends stay, files become the process's own. */
  readonly asRunc: boolean;
  readonly consoleSocket: number | undefined;
  /** Descriptors from 3 on that the process inherits. */
  readonly keepFds: number;
  readonly keyring: boolean;
  /** A connected socket to linux.seccomp.listenerPath, where the filter asks a listener. */
  readonly seccompSocket: number | undefined;
  /** The container's state, for who listens. */
  readonly state: StateText;
  readonly sinks: readonly ErrorSink[];
}

/** What a container's process is joined by; @param sameUser whether its user namespace is the caller's own */
export function namespacesToJoin(spec: Spec, sameUser: boolean): number {
  const all = namespacesOf(spec);
  let joined = 0;
  // A process that is in a user namespace already may not join it again: setns(2), EINVAL.
  for (const type of Object.keys(cloneFlags) as NamespaceType[])
    if (all.has(type) && !(type === "user" && sameUser)) joined |= cloneFlags[type];
  return joined;
}

class ExecCompiler {
  readonly p = new Recorder();
  readonly b: Builder;
  readonly code: Slot;
  readonly pidfd: Slot;
  /** What only children come into, and what has to be joined before that can be. */
  readonly early: number;
  readonly late: number;

  constructor(
    readonly spec: Spec,
    readonly process: Process,
    readonly facts: HostFacts,
    readonly context: ExecContext,
  ) {
    this.b = new Builder(this.p, AT_FDCWD);
    this.b.closes = false;
    this.code = this.p.slot("code");
    this.pidfd = this.p.slot("pidfd");
    const forChildren = CLONE.CLONE_NEWPID | CLONE.CLONE_NEWTIME | (context.privileged ? 0 : CLONE.CLONE_NEWUSER);
    this.early = context.joined & forChildren;
    this.late = context.joined & ~forChildren;
  }

  /** The first number that is free when the filter is loaded: behind the report and the working directory. */
  get listenerNumber(): number {
    return 3 + this.context.keepFds + 2;
  }

  get ownsTerminal(): boolean {
    return this.process.terminal === true && this.context.consoleSocket === undefined;
  }

  all(): Recorder {
    const { p, code, pidfd, context } = this;
    const child = p.newLabel("child");
    const teardown = p.newLabel("teardown");
    p.add({ op: "set", slot: code, value: context.failure ?? ownCode });
    p.add({ op: "set", slot: pidfd, value: -1 });
    for (const sink of context.sinks) p.add({ op: "logTo", ...sink });
    warnOfCapabilities(p, this.process, this.facts.lastCap, context.sinks.length > 1);
    p.add({ op: "onFailure", to: teardown, code });
    p.add({ op: "takeSignals" });
    const report = socketPair(p, "report");
    const console = this.ownsTerminal ? socketPair(p, "console") : undefined;
    p.field("linux.cgroupsPath");
    const cgroup =
      context.cgroup === undefined
        ? undefined
        : p.sys.openat(AT_FDCWD, context.cgroup, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
    p.field("linux.namespaces");
    // Opened while it is the host's: nothing in the container has a hand in it.
    const proc = p.sys.openat(AT_FDCWD, "/proc", O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
    // A user namespace is joined before what belongs to it.
    const first = this.early & CLONE.CLONE_NEWUSER;
    if (first !== 0) p.sys.setns(context.target, first);
    if (this.early !== first) p.sys.setns(context.target, this.early & ~first);
    const memory = p.memory("pidfd", 8);
    const pid = p.sys.clone3(
      struct<Slot>("clone_args", {
        flags: BigInt(CLONE.CLONE_PIDFD) | (cgroup === undefined ? 0n : BigInt(CLONE.CLONE_INTO_CGROUP)),
        pidfd: memory,
        exit_signal: SIG.SIGCHLD,
        ...(cgroup === undefined ? {} : { cgroup }),
      }),
      cloneArgsSize,
    );
    p.branch(pid, "==", 0, child);
    this.parent(pid, memory, report, console, teardown);
    p.place(child);
    this.child(report, console, proc);
    return p;
  }

  parent(pid: Slot, memory: Memory, report: Pair, console: Pair | undefined, teardown: Label): void {
    const { p, code, pidfd, context } = this;
    p.field("");
    p.add({ op: "load", memory, offset: 0, slot: pidfd });
    p.sys.close(report[1]);
    if (console !== undefined) p.sys.close(console[1]);
    const terminal = console === undefined ? null : receiveTerminal(p, console[0]);
    if (context.seccompSocket !== undefined)
      handListenerOver(p, report[0], pid, pidfd, this.listenerNumber, {
        socket: context.seccompSocket,
        metadata: this.spec.linux?.seccomp?.listenerMetadata ?? "",
        ociVersion: this.spec.ociVersion,
        state: context.state,
      });
    p.field("");
    p.add({ op: "await", socket: report[0], byte: false });
    p.sys.close(report[0]);
    tellPid(p, pid, pidfd, context);
    p.field("");
    if (context.detach) p.add({ op: "exit", code: 0 });
    else {
      p.add({ op: "supervise", pid, pidfd, terminal, interactive: context.interactive, code });
      p.add({ op: "exit", code });
    }
    p.place(teardown);
    const gone = p.newLabel("gone");
    p.branch(pidfd, "<", 0, gone);
    p.tolerate("ESRCH").pidfd_send_signal(pidfd, SIG.SIGKILL, null, 0);
    p.tolerate("ECHILD").waitid(P_PIDFD, pidfd, null, WEXITED, null);
    p.place(gone);
    p.add({ op: "exit", code: context.failure ?? code });
  }

  child(report: Pair, console: Pair | undefined, proc: Slot): void {
    const { p, b, process, facts, context, spec } = this;
    p.field("");
    p.add({ op: "reportTo", socket: report[1] });
    p.sys.close(report[0]);
    if (console !== undefined) p.sys.close(console[0]);
    setAffinity(b, process.execCPUAffinity?.initial, "process.execCPUAffinity.initial");
    p.field("linux.cgroupsPath");
    for (const file of context.tasks) b.write(AT_FDCWD, file, "0");
    if (process.execCPUAffinity === undefined) allowEveryProcessor(b);
    setAffinity(b, process.execCPUAffinity?.final, "process.execCPUAffinity.final");
    p.field("");
    p.sys.setsid();
    if (process.oomScoreAdj !== undefined) {
      p.field("process.oomScoreAdj");
      b.write(proc, "self/oom_score_adj", String(process.oomScoreAdj));
    }
    labelProcess(b, process, facts, proc);
    p.field("");
    // Whoever is in the container sees this process from the next step on, and is not to look into it; execve ends that.
    p.sys.prctl(PR.PR_SET_DUMPABLE, 0, 0, 0, 0);
    this.join();
    if (context.keyring) joinKeyring(b, context.id);
    const terminal = process.terminal === true ? this.openTerminal(console) : undefined;
    if (terminal === undefined && !context.interactive) this.noStreams();
    if (terminal === undefined) ownStreams(p, process, context.asRunc);
    setAttention(b, process, spec.linux ?? {});
    if (terminal !== undefined) {
      p.field("process.terminal");
      for (const fd of [0, 1, 2]) p.sys.dup3(terminal, fd, 0);
    }
    this.closeAll(report[1]);
    becomeUser(b, process, spec.linux?.seccomp, facts, {
      diesWithParent: false,
      groups: groupsOf(spec, context.privileged && facts.ids?.setgroups !== false),
      offer: (listener) => offerListener(p, 3 + context.keepFds, listener, this.listenerNumber),
    });
  }

  join(): void {
    const { p, context } = this;
    p.field("linux.namespaces");
    const user = context.joined & CLONE.CLONE_NEWUSER;
    const others = this.late & ~CLONE.CLONE_NEWUSER;
    // Root may join what the user namespace has no right to, so that comes last for it.
    if (others !== 0) p.sys.setns(context.target, others);
    if (context.root !== undefined) {
      p.field("root.path");
      p.sys.fchdir(context.root);
      p.sys.chroot(".");
    }
    if ((this.late & user) !== 0) p.sys.setns(context.target, user);
    if (user === 0) return;
    p.tolerate("EINVAL", "EPERM").setgroups(0, null);
    p.sys.setresgid(0, 0, 0);
    p.sys.setresuid(0, 0, 0);
    // The change of ids has set it again; prctl(2), PR_SET_DUMPABLE.
    p.sys.prctl(PR.PR_SET_DUMPABLE, 0, 0, 0, 0);
  }

  /** The container's /dev/null, as it is now, in place of what the caller has. */
  noStreams(): void {
    const { p, context } = this;
    p.field("");
    const nothing = p.sys.openat(AT_FDCWD, "/dev/null", O.O_RDWR | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
    for (const fd of context.detach ? [0, 1, 2] : [0]) p.sys.dup3(nothing, fd, 0);
  }

  /** A pty of the devpts that the container has now. */
  openTerminal(console: Pair | undefined): Slot {
    const { p, context } = this;
    p.field("process.terminal");
    const master = p.sys.openat(AT_FDCWD, "/dev/pts/ptmx", O.O_RDWR | O.O_NOCTTY | O.O_CLOEXEC, 0);
    const slave = unlockSlave(p, master, this.process, console !== undefined && context.asRunc);
    const socket = context.consoleSocket ?? console?.[1];
    if (socket !== undefined) sendDescriptor(p, socket, master, "sent", "/dev/ptmx");
    p.sys.ioctl(slave, IOCTL.TIOCSCTTY, 0);
    return slave;
  }

  closeAll(report: Slot): void {
    const { p } = this;
    const first = 3 + this.context.keepFds;
    p.field("--preserve-fds");
    for (let fd = 3; fd < first; fd++) p.sys.fcntl(fd, F.F_SETFD, 0);
    p.field("");
    p.tolerate("EINVAL").dup3(report, first, O.O_CLOEXEC);
    p.sys.close_range(first + 1, 0x7fffffff, 0);
    reportTo(p, first);
  }
}

/**
 * @param spec the container's own configuration: its namespaces, seccomp, personality
 * @throws OciboxError INVALID or UNSUPPORTED naming the field
 */
export function compileExec(spec: Spec, process: Process, facts: HostFacts, context: ExecContext): Recorder {
  const { args = [], env = [] } = process;
  if (args.length === 0) throw new OciboxError("INVALID", "process.args is empty");
  checkCwd(process.cwd);
  const p = new ExecCompiler(spec, process, facts, context).all();
  execute(p, args, env);
  return p;
}
