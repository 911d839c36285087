/**
 * config.json and the host's facts become a plan: everything from the first cgroup to the last rmdir, in one list. Pure;
 * what it does not support it refuses by the field's name.
 *
 * The parent (which was ocibox) makes the cgroups and the child, gives it a go, hears from it whether it came to its
 * end, supervises or leaves, and tears down. The child (child.ts), in namespaces of its own, mounts, pivots, drops its
 * rights and executes. Between the two goes, over one socket:
 *
 *     parent                                    child
 *       │ clone3 ──────────────────────────────▶ waits
 *       │ writes id maps, the pid ───── "g" ────▶ joins cgroups and namespaces, mounts
 *       │ moves network devices ◀────── "n" ────│ (only where there are such devices)
 *       │                          ──── "g" ────▶ sysctls
 *       │ runs createRuntime hooks ◀─── "h" ────│ (only where there are such hooks)
 *       │                          ──── "g" ────▶ createContainer hooks, pivot_root, ids, capabilities
 *       │ create: writes the pid file, ends ◀─ "r" ─│ waits on exec.fifo; startContainer hooks
 *       │ run: supervises ◀──── end of socket ──│ execve
 *
 * A failure of the child goes the same way as (step, errno, words).
 */
import { AT_FDCWD, CLONE, O, P_PIDFD, SIG, WEXITED } from "../../ffi/constants.ts";
import { type Label, Recorder, type Slot } from "../../ffi/plan.ts";
import { type Memory, struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { Process, Spec } from "../spec/runtime.ts";
import { openSources } from "./bind-sources.ts";
import { Builder, cloneArgsSize } from "./builder.ts";
import { type CgroupPlan, leaveCgroups, makeCgroups, openCgroup, planCgroups, removeCgroups } from "./cgroups/plan.ts";
import { Child, listenerNumber } from "./child.ts";
import { execute } from "./command.ts";
import type { PlanContext } from "./context.ts";
import { closeTheirs, leaveCaller, logPlan, makeStreams, releaseCaller, type Streams } from "./detach.ts";
import type { HostFacts } from "./facts.ts";
import { runHooks } from "./hooks.ts";
import { checkCwd, warnOfCapabilities } from "./identity.ts";
import { hearOfChild } from "./joined-user.ts";
import {
  joinForChildren,
  joinForeign,
  madeByRoot,
  makeTime,
  type Namespaces,
  namespacesOf,
  setScoreOf,
  writeMaps,
} from "./namespaces.ts";
import { NetDeviceMoves, netDeviceNames } from "./net-devices.ts";
import { notePid, tellPid, writePidFile } from "./pid.ts";
import { writeReport } from "./report.ts";
import { startAgain } from "./restart.ts";
import { handListenerOver } from "./seccomp/listener.ts";
import { type Pair, socketPair } from "./sync.ts";
import { receiveTerminal } from "./terminal.ts";
import { startClock, stopClock } from "./time-limit.ts";

const ownCode = 125;
/** What runc ends with for an error of its own. */
const ociCode = 1;

export interface Sockets {
  readonly report: Pair;
  /** Over which the terminal's master comes to the parent. */
  readonly console: Pair | undefined;
  /** Over which the parent hears of the child, where a process between makes it: joined-user.ts */
  readonly between: Pair | undefined;
  /** Where the container is left to itself. */
  readonly streams: Streams | undefined;
}

function processOf(spec: Spec): Process {
  const { process, linux } = spec;
  if (process?.args === undefined || process.args.length === 0)
    throw new OciboxError("INVALID", "process.args is empty");
  checkCwd(process.cwd);
  if (linux?.intelRdt !== undefined) throw new OciboxError("UNSUPPORTED", "linux.intelRdt is not supported yet");
  if ((linux?.mountLabel ?? "") !== "") throw new OciboxError("UNSUPPORTED", "linux.mountLabel is not supported yet");
  return process;
}

class Compiler {
  readonly p = new Recorder();
  readonly b: Builder;
  readonly process: Process;
  readonly namespaces: Namespaces;
  readonly cgroups: CgroupPlan;
  readonly code: Slot;
  readonly pidfd: Slot;
  readonly trouble: Slot;
  readonly again: Slot;
  readonly netDevices: NetDeviceMoves | undefined;
  /** Whether the command was executed, where that is of interest. */
  readonly ran: Slot | undefined;

  constructor(
    readonly spec: Spec,
    readonly facts: HostFacts,
    readonly context: PlanContext,
  ) {
    this.process = processOf(spec);
    this.namespaces = namespacesOf(spec);
    this.cgroups = context.cgroups ?? planCgroups(spec, facts);
    this.b = new Builder(this.p, typeof context.rootfs === "number" ? context.rootfs : this.p.slot("root"));
    this.code = this.p.slot("code");
    this.pidfd = this.p.slot("pidfd");
    this.trouble = this.p.slot("trouble");
    this.again = this.p.slot("again");
    this.ran = context.restart === undefined && context.report === undefined ? undefined : this.p.slot("ran");
    const names = netDeviceNames(spec.linux ?? {});
    this.netDevices = names.size === 0 ? undefined : new NetDeviceMoves(this.p, names, context.netDevices ?? []);
  }

  /** A step of the teardown whose failure leaves the rest to the next command. */
  note(result: Slot): void {
    const { p } = this;
    const well = p.newLabel("well");
    p.branch(result, ">", -1, well);
    p.branch(result, "==", -2, well);
    p.add({ op: "set", slot: this.trouble, value: 1 });
    p.place(well);
  }

  get userPath(): string | undefined {
    return this.namespaces.pathOf("user");
  }

  /** Whether the terminal comes to this process, rather than to somebody behind a socket. */
  get ownsTerminal(): boolean {
    return this.process.terminal === true && this.context.oci?.consoleSocket === undefined;
  }

  all(): Recorder {
    const { p, b, code, pidfd, context, spec } = this;
    const teardown = p.newLabel("teardown");
    const child = p.newLabel("child");
    p.add({ op: "set", slot: code, value: context.oci === undefined ? ownCode : ociCode });
    p.add({ op: "set", slot: pidfd, value: -1 });
    p.add({ op: "set", slot: this.again, value: 0 });
    if (this.ran !== undefined) p.add({ op: "set", slot: this.ran, value: 0 });
    for (const sink of context.oci?.sinks ?? []) p.add({ op: "logTo", ...sink });
    warnOfCapabilities(p, this.process, this.facts.lastCap, (context.oci?.sinks.length ?? 0) > 1);
    p.add({ op: "onFailure", to: teardown, code });
    p.add({ op: "takeSignals" });
    const { detached } = context;
    if (detached !== undefined) leaveCaller(p, detached, code);
    const sockets: Sockets = {
      report: socketPair(p, "report"),
      console: this.ownsTerminal ? socketPair(p, "console") : undefined,
      between: this.userPath === undefined ? undefined : socketPair(p, "between"),
      streams: detached && makeStreams(p, detached, this.ownsTerminal, context.interactive),
    };
    const fifo = context.oci?.mode === "create" ? this.openFifo(context.oci.directory) : undefined;
    makeCgroups(b, this.cgroups);
    const cgroup = openCgroup(b, this.cgroups);
    // Else it is the process between that makes the child.
    if (this.userPath === undefined) joinForChildren(b, this.namespaces);
    if (!this.namespaces.has("user")) makeTime(b, this.namespaces, spec.linux ?? {}, false);
    const opened = openSources(b, spec, context);
    const back =
      this.userPath === undefined && madeByRoot(this.namespaces, context) ? joinForeign(b, this.namespaces) : undefined;
    p.field("linux.namespaces");
    const memory = p.memory("pidfd", 8);
    const pid = p.sys.clone3(
      struct<Slot>("clone_args", {
        flags:
          BigInt((this.userPath === undefined ? this.namespaces.cloneFlags : 0) | CLONE.CLONE_PIDFD) |
          (cgroup === undefined ? 0n : BigInt(CLONE.CLONE_INTO_CGROUP)),
        pidfd: memory,
        exit_signal: SIG.SIGCHLD,
        ...(cgroup === undefined ? {} : { cgroup }),
      }),
      cloneArgsSize,
    );
    p.branch(pid, "==", 0, child);
    back?.();
    this.parent(pid, memory, sockets, cgroup, teardown);
    p.place(child);
    new Child(this.b, spec, this.facts, context, this.namespaces, this.cgroups, sockets, fifo, opened).all();
    return p;
  }

  /**
   * For reading and writing, which waits for nobody: the child reads its go from it, and whoever opens it for writing
   * alone learns whether the child is still there. fifo(7)
   */
  openFifo(directory: string): Slot {
    this.p.field("");
    return this.p.sys.openat(AT_FDCWD, `${directory}/exec.fifo`, O.O_RDWR | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
  }

  parent(pid: Slot, memory: Memory, sockets: Sockets, cgroup: Slot | undefined, teardown: Label): void {
    const { p, b, code, pidfd, context, spec } = this;
    const { oci } = context;
    const [report] = sockets.report;
    p.field("");
    p.add({ op: "load", memory, offset: 0, slot: pidfd });
    p.sys.close(sockets.report[1]);
    if (sockets.console !== undefined) p.sys.close(sockets.console[1]);
    if (sockets.streams !== undefined) closeTheirs(p, sockets.streams);
    if (cgroup !== undefined) p.sys.close(cgroup);
    leaveCgroups(b, this.cgroups);
    if (typeof context.rootfs === "number") p.sys.close(context.rootfs);
    if (sockets.between !== undefined) {
      p.sys.write(report, "g", 1);
      hearOfChild(p, sockets.between, report, pid, pidfd);
    }
    notePid(p, pid, context.noted);
    if (this.namespaces.isNew("user")) writeMaps(b, pid, spec.linux ?? {}, oci?.privileged !== false);
    if (madeByRoot(this.namespaces, context)) setScoreOf(b, pid, this.process);
    p.field("");
    p.sys.write(report, "g", 1);
    if (this.netDevices !== undefined) {
      p.add({ op: "await", socket: report, byte: true });
      this.netDevices.take(pid);
      p.field("");
      p.sys.write(report, "g", 1);
    }
    if (oci !== undefined && this.hasRuntimeHooks()) {
      p.add({ op: "await", socket: report, byte: true });
      runHooks(p, "prestart", spec.hooks?.prestart, oci.state("creating"), pid);
      runHooks(p, "createRuntime", spec.hooks?.createRuntime, oci.state("creating"), pid);
      p.field("");
      p.sys.write(report, "g", 1);
    }
    const terminal = sockets.console === undefined ? null : receiveTerminal(p, sockets.console[0]);
    if (oci?.seccompSocket !== undefined)
      handListenerOver(p, report, pid, pidfd, listenerNumber(oci), {
        socket: oci.seccompSocket,
        metadata: spec.linux?.seccomp?.listenerMetadata ?? "",
        ociVersion: spec.ociVersion,
        state: oci.state("creating"),
      });
    p.field("");
    p.add({ op: "await", socket: report, byte: oci?.mode === "create" });
    p.sys.close(report);
    if (oci !== undefined) tellPid(p, pid, this.pidfd, oci);
    else if (context.pidFile !== undefined) writePidFile(p, pid, context.pidFile, "--pidfile");
    const gone = p.newLabel("gone");
    if (oci !== undefined && oci.mode !== "create")
      runHooks(p, "poststart", spec.hooks?.poststart, oci.state("running"), pid);
    if (oci === undefined || oci.mode === "foreground") {
      const { streams } = sockets;
      if (context.detached !== undefined) releaseCaller(p, context.detached, teardown);
      if (this.ran !== undefined) p.add({ op: "set", slot: this.ran, value: 1 });
      const interactive = context.interactive && streams === undefined;
      const clock =
        context.timeout === undefined ? undefined : startClock(p, pidfd, context.timeout, terminal !== null);
      p.add({ op: "supervise", pid, pidfd, terminal, interactive, log: streams && logPlan(streams), code });
      if (clock !== undefined) stopClock(p, clock);
      if (oci?.keep === true) p.add({ op: "exit", code });
      this.netDevices?.leave();
      p.jump(gone);
    } else p.add({ op: "exit", code: 0 });

    p.place(teardown);
    if (oci !== undefined) p.add({ op: "set", slot: code, value: ociCode });
    // A child that nobody has heard of waits for its go: now it ends.
    if (sockets.between !== undefined) p.tolerate("EBADF").close(report);
    p.branch(pidfd, "<", 0, gone);
    p.tolerate("ESRCH").pidfd_send_signal(pidfd, SIG.SIGKILL, null, 0);
    p.tolerate("ECHILD").waitid(P_PIDFD, pidfd, null, WEXITED, null);
    this.netDevices?.giveBack();
    this.tearDown(gone);
  }

  /** What the teardown could not do it tries once more; what is left then is left to the next command. */
  tearDown(gone: Label): void {
    const { p, again, code, context } = this;
    const failed = p.newLabel("failed");
    const end = p.newLabel("end");
    p.place(gone);
    p.add({ op: "set", slot: this.trouble, value: 0 });
    const note = (result: Slot): void => this.note(result);
    removeCgroups(this.b, this.cgroups, note);
    p.field("");
    context.cleanup(p, code, note, this.trouble);
    p.branch(this.trouble, "!=", 0, failed);
    context.forget(p, note);
    p.branch(this.trouble, "==", 0, end);
    p.place(failed);
    p.branch(again, "!=", 0, end);
    p.add({ op: "set", slot: again, value: 1 });
    p.jump(gone);
    p.place(end);
    if (this.ran !== undefined && context.report !== undefined) writeReport(p, this.ran, code, context.report);
    if (this.ran !== undefined && context.restart !== undefined) startAgain(p, this.ran, code, context.restart);
    p.add({ op: "exit", code });
  }

  hasRuntimeHooks(): boolean {
    const { prestart = [], createRuntime = [] } = this.spec.hooks ?? {};
    return prestart.length + createRuntime.length > 0;
  }
}

/**
 * The plan of a container up to where the command is executed: all of it but what depends on its arguments and its
 * environment.
 * @throws OciboxError INVALID or UNSUPPORTED naming the field of config.json
 */
export function compileSetUp(spec: Spec, facts: HostFacts, context: PlanContext): Recorder {
  return new Compiler(spec, facts, context).all();
}

/**
 * The whole plan of a container.
 * @throws OciboxError INVALID or UNSUPPORTED naming the field of config.json
 */
export function compile(spec: Spec, facts: HostFacts, context: PlanContext): Recorder {
  const p = compileSetUp(spec, facts, context);
  execute(p, spec.process?.args ?? [], spec.process?.env ?? []);
  return p;
}
