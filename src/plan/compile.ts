/**
 * config.json and the host's facts become a plan: everything from the first cgroup to the last rmdir, in one list. Pure;
 * what it does not support yet it refuses by the field's name.
 *
 * The parent (which was ocibox) makes the cgroups and the child, gives it a go, hears from it whether execve worked,
 * supervises, and tears down. The child, in namespaces of its own, mounts, pivots, drops its rights and executes.
 */
import { AT_FDCWD, CLONE, IOCTL, MNT, MOVE_MOUNT, MS, O, PR, SIG } from "../../ffi/constants.ts";
import { type Label, Recorder, type Slot } from "../../ffi/plan.ts";
import { type Memory, struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { NamespaceType, Process, Spec } from "../spec/runtime.ts";
import { Builder, cloneByFd, moveByFd } from "./builder.ts";
import {
  type CgroupPlan,
  joinCgroups,
  leaveCgroups,
  makeCgroups,
  openCgroup,
  planCgroups,
  removeCgroups,
} from "./cgroups/plan.ts";
import { execute } from "./command.ts";
import type { HostFacts } from "./facts.ts";
import { becomeUser, setRlimits } from "./identity.ts";
import {
  coverDirectory,
  type Mounted,
  makeMounts,
  makeReadonly,
  maskPaths,
  readonlyRoot,
  type SourceKinds,
} from "./mounts.ts";

export interface PlanContext {
  /** A detached mount: a descriptor that init inherits, or the slot that a recording leaves it in. */
  readonly rootfs: number;
  /** A directory of the host's that the root is mounted on, in the container's namespace alone, until it is pivoted to. */
  readonly mountpoint: string;
  /** Whether stdin is the container's; else it has /dev/null. */
  readonly interactive: boolean;
  /** Whether init is process 1 in the container, with the command as its child. */
  readonly init: boolean;
  readonly sources: SourceKinds;
  /** The container's cgroups, where they are not those of `ocibox run`. */
  readonly cgroups?: CgroupPlan;
  /**
   * The last steps of the parent, with the exit code: `note` takes results that must not be negative, and `trouble` is
   * set where something is left. All of it may be done a second time.
   */
  cleanup(p: Recorder, code: Slot, note: (result: Slot) => void, trouble: Slot): void;
  /** What is done only when all before went well. */
  forget(p: Recorder, note: (result: Slot) => void): void;
}

const cloneFlags: Readonly<Record<NamespaceType, number>> = {
  pid: CLONE.CLONE_NEWPID,
  network: CLONE.CLONE_NEWNET,
  mount: CLONE.CLONE_NEWNS,
  ipc: CLONE.CLONE_NEWIPC,
  uts: CLONE.CLONE_NEWUTS,
  user: CLONE.CLONE_NEWUSER,
  cgroup: CLONE.CLONE_NEWCGROUP,
  time: CLONE.CLONE_NEWTIME,
};

const cloneArgsSize = 88;
const P_PIDFD = 3;
const MSG_CMSG_CLOEXEC = 0x40000000;
const WEXITED = 4;
/** struct cmsghdr with one descriptor: length 20, SOL_SOCKET, SCM_RIGHTS, and the descriptor at 16. unix(7) */
const controlSize = 24;
const controlHead = new Uint8Array([20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
const descriptorAt = 16;

function unsupported(field: string): never {
  throw new OciboxError("UNSUPPORTED", `${field} is not supported yet`);
}

function refuseUnsupported(spec: Spec): Process {
  const { process, linux } = spec;
  if (process?.args === undefined || process.args.length === 0)
    throw new OciboxError("INVALID", "process.args is empty");
  if (spec.hooks !== undefined) unsupported("hooks");
  if (process.apparmorProfile !== undefined) unsupported("process.apparmorProfile");
  if (process.selinuxLabel !== undefined) unsupported("process.selinuxLabel");
  if (linux?.devices !== undefined && linux.devices.length > 0) unsupported("linux.devices");
  if (linux?.uidMappings !== undefined) unsupported("linux.uidMappings");
  if (linux?.mountLabel !== undefined) unsupported("linux.mountLabel");
  for (const namespace of linux?.namespaces ?? []) {
    if (namespace.path !== undefined) unsupported(`linux.namespaces[${namespace.type}].path`);
    if (namespace.type === "user" || namespace.type === "time") unsupported(`linux.namespaces[${namespace.type}]`);
  }
  if (!(linux?.namespaces ?? []).some((each) => each.type === "mount"))
    unsupported("a container without a mount namespace");
  if (!(linux?.namespaces ?? []).some((each) => each.type === "pid"))
    unsupported("a container without a PID namespace");
  return process;
}

/** A connected pair of sockets: each end in a slot of its own. */
function socketPair(p: Recorder, name: string): readonly [parent: Slot, child: Slot] {
  const memory = p.memory(name, 8);
  p.sys.socketpair(1, 5 | O.O_CLOEXEC, 0, memory);
  const parent = p.slot(`${name}.parent`);
  const child = p.slot(`${name}.child`);
  p.add({ op: "load", memory, offset: 0, slot: parent });
  p.add({ op: "load", memory, offset: 4, slot: child });
  return [parent, child];
}

/** The message that carries the terminal's master from the child to the parent. */
function descriptorMessage(p: Recorder, name: string): { message: ReturnType<typeof struct<Slot>>; control: Memory } {
  const control = p.memory(`${name}.control`, controlSize, controlHead);
  const byte = p.memory(`${name}.byte`, 8);
  const iov = struct<Slot>("iovec", { iov_base: byte, iov_len: 1 });
  const message = struct<Slot>("msghdr", {
    msg_iov: iov,
    msg_iovlen: 1,
    msg_control: control,
    msg_controllen: controlSize,
  });
  return { message, control };
}

interface Sockets {
  readonly report: readonly [parent: Slot, child: Slot];
  readonly console: readonly [parent: Slot, child: Slot] | undefined;
}

/** The namespace flags that clone3 takes; the cgroup namespace is entered from inside the cgroup, later. */
function namespaceFlags(spec: Spec): number {
  let flags = 0;
  for (const { type } of spec.linux?.namespaces ?? []) if (type !== "cgroup") flags += cloneFlags[type];
  return flags;
}

class Compiler {
  readonly p = new Recorder();
  readonly b: Builder;
  readonly process: Process;
  readonly cgroups: CgroupPlan;
  readonly code: Slot;
  readonly pidfd: Slot;
  readonly trouble: Slot;
  readonly again: Slot;

  constructor(
    readonly spec: Spec,
    readonly facts: HostFacts,
    readonly context: PlanContext,
  ) {
    this.process = refuseUnsupported(spec);
    this.cgroups = context.cgroups ?? planCgroups(spec, facts);
    this.b = new Builder(this.p, context.rootfs);
    this.code = this.p.slot("code");
    this.pidfd = this.p.slot("pidfd");
    this.trouble = this.p.slot("trouble");
    this.again = this.p.slot("again");
  }

  has(type: NamespaceType): boolean {
    return (this.spec.linux?.namespaces ?? []).some((each) => each.type === type);
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

  all(): Recorder {
    const { p, b, code, pidfd } = this;
    const teardown = p.newLabel("teardown");
    const child = p.newLabel("child");
    p.add({ op: "set", slot: code, value: 125 });
    p.add({ op: "set", slot: pidfd, value: -1 });
    p.add({ op: "set", slot: this.again, value: 0 });
    p.add({ op: "onFailure", to: teardown, code });
    p.add({ op: "takeSignals" });
    const sockets: Sockets = {
      report: socketPair(p, "report"),
      console: this.process.terminal === true ? socketPair(p, "console") : undefined,
    };
    makeCgroups(b, this.cgroups);
    const cgroup = openCgroup(b, this.cgroups);
    p.field("linux.namespaces");
    const memory = p.memory("pidfd", 8);
    const pid = p.sys.clone3(
      struct<Slot>("clone_args", {
        flags:
          BigInt(namespaceFlags(this.spec) | CLONE.CLONE_PIDFD) |
          (cgroup === undefined ? 0n : BigInt(CLONE.CLONE_INTO_CGROUP)),
        pidfd: memory,
        exit_signal: SIG.SIGCHLD,
        ...(cgroup === undefined ? {} : { cgroup }),
      }),
      cloneArgsSize,
    );
    p.branch(pid, "==", 0, child);
    this.parent(pid, memory, sockets, cgroup, teardown);
    p.place(child);
    this.child(sockets);
    return p;
  }

  parent(pid: Slot, memory: Memory, sockets: Sockets, cgroup: Slot | undefined, teardown: Label): void {
    const { p, code, pidfd, context } = this;
    p.field("");
    p.add({ op: "load", memory, offset: 0, slot: pidfd });
    p.sys.close(sockets.report[1]);
    if (sockets.console !== undefined) p.sys.close(sockets.console[1]);
    if (cgroup !== undefined) p.sys.close(cgroup);
    leaveCgroups(this.b, this.cgroups);
    p.sys.close(context.rootfs);
    p.sys.write(sockets.report[0], "g", 1);
    const terminal = sockets.console === undefined ? null : this.receiveTerminal(sockets.console[0]);
    p.add({ op: "await", socket: sockets.report[0] });
    p.sys.close(sockets.report[0]);
    p.add({ op: "supervise", pid, pidfd, terminal, interactive: context.interactive, code });
    const gone = p.newLabel("gone");
    p.jump(gone);

    p.place(teardown);
    p.branch(pidfd, "<", 0, gone);
    p.tolerate("ESRCH").pidfd_send_signal(pidfd, SIG.SIGKILL, null, 0);
    p.tolerate("ECHILD").waitid(P_PIDFD, pidfd, null, WEXITED, null);
    // What the teardown could not do it tries once more; what is left then is left to the next command.
    const { again } = this;
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
    p.add({ op: "exit", code });
  }

  /** The pty's master, or 0 bytes where the child has ended before it sent one; `await` then says why. */
  receiveTerminal(socket: Slot): Slot {
    const { p } = this;
    p.field("process.terminal");
    const { message, control } = descriptorMessage(p, "received");
    const terminal = p.slot("terminal");
    const none = p.newLabel("no terminal");
    p.add({ op: "set", slot: terminal, value: -1 });
    const got = p.sys.recvmsg(socket, message, MSG_CMSG_CLOEXEC);
    p.branch(got, "<", 1, none);
    p.add({ op: "load", memory: control, offset: descriptorAt, slot: terminal });
    p.place(none);
    p.sys.close(socket);
    return terminal;
  }

  child(sockets: Sockets): void {
    const { p, b, spec, context, process } = this;
    const [, report] = sockets.report;
    p.field("");
    p.add({ op: "reportTo", socket: report });
    // The parent's ends: a child that held them would never see that the parent is gone.
    p.sys.close(sockets.report[0]);
    if (sockets.console !== undefined) p.sys.close(sockets.console[0]);
    b.closes = false;
    this.waitForGo(report);
    joinCgroups(b, this.cgroups);
    if (this.has("cgroup")) {
      p.field("linux.namespaces[cgroup]");
      p.sys.unshare(CLONE.CLONE_NEWCGROUP);
    }
    p.field("");
    p.sys.setsid();
    p.sys.umask(0);
    p.field("linux.rootfsPropagation");
    p.sys.mount(null, "/", null, MS.MS_REC | MS.MS_SLAVE, null);
    const masked = spec.linux?.maskedPaths ?? [];
    const cover = coverDirectory(b, masked, context.mountpoint);
    p.field("root.path");
    p.sys.move_mount(context.rootfs, "", AT_FDCWD, context.mountpoint, MOVE_MOUNT.MOVE_MOUNT_F_EMPTY_PATH);
    const mounted = makeMounts(b, spec, this.cgroups, context.sources);
    const terminal = process.terminal === true ? this.openTerminal(sockets, mounted) : undefined;
    this.network();
    this.sysctls(mounted);
    this.oomScore(mounted);
    maskPaths(b, masked, mounted.dev, cover);
    makeReadonly(b, spec.linux?.readonlyPaths ?? []);
    if (process.cwd !== "/") {
      p.field("process.cwd");
      b.ensure(process.cwd, "directory");
    }
    this.standardStreams(terminal, mounted);
    if (spec.root?.readonly === true) readonlyRoot(b);
    this.pivot();
    this.names();
    setRlimits(b, process.rlimits ?? []);
    this.closeAll(report);
    becomeUser(b, process, spec.linux?.seccomp, this.facts);
    if (context.init) this.beInit();
  }

  /** Dies with the parent from here on; where that is gone already, the socket has ended. */
  waitForGo(report: Slot): void {
    const { p } = this;
    p.sys.prctl(PR.PR_SET_PDEATHSIG, SIG.SIGKILL, 0, 0, 0);
    const byte = p.memory("go", 8);
    const go = p.newLabel("go");
    const got = p.sys.read(report, byte, 1);
    p.branch(got, "==", 1, go);
    p.add({ op: "exit", code: 125 });
    p.place(go);
  }

  /** A pty of the container's own devpts: its slave by TIOCGPTPEER, never by a name; ioctl_tty(2). */
  openTerminal(sockets: Sockets, mounted: Mounted): Slot {
    const { p, b } = this;
    p.field("process.terminal");
    if (mounted.pts === undefined || mounted.dev === undefined || sockets.console === undefined)
      throw new OciboxError(
        "INVALID",
        "process.terminal wants a devpts on /dev/pts and a tmpfs on /dev among the mounts",
      );
    const master = p.sys.openat(mounted.pts, "ptmx", O.O_RDWR | O.O_NOCTTY | O.O_CLOEXEC, 0);
    p.sys.ioctl(master, IOCTL.TIOCSPTLCK, p.memory("unlock", 8));
    const slave = p.sys.ioctl(master, IOCTL.TIOCGPTPEER, O.O_RDWR | O.O_NOCTTY | O.O_CLOEXEC);
    p.sys.fchown(slave, this.process.user.uid, -1);
    const size = this.process.consoleSize;
    if (size !== undefined)
      p.sys.ioctl(master, IOCTL.TIOCSWINSZ, struct<Slot>("winsize", { ws_row: size.height, ws_col: size.width }));
    const console = p.sys.open_tree(slave, "", cloneByFd);
    const target = p.sys.openat(mounted.dev, "console", O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
    p.sys.move_mount(console, "", target, "", moveByFd);
    const { message, control } = descriptorMessage(p, "sent");
    p.add({ op: "store", memory: control, offset: descriptorAt, slot: master });
    p.sys.sendmsg(sockets.console[1], message, 0);
    p.sys.ioctl(slave, IOCTL.TIOCSCTTY, 0);
    void b;
    return slave;
  }

  /** A new network namespace has a loopback device that is down; netdevice(7). */
  network(): void {
    if (!this.has("network")) return;
    const { p } = this;
    p.field("linux.namespaces[network]");
    const socket = p.sys.socket(2, 2 | O.O_CLOEXEC, 0);
    p.sys.ioctl(socket, IOCTL.SIOCSIFFLAGS, struct<Slot>("ifreq", { ifr_name: "lo", ifr_flags: 0x41 }));
  }

  sysctls(mounted: Mounted): void {
    const { p, b } = this;
    const sysctl = this.spec.linux?.sysctl ?? {};
    for (const key in sysctl) {
      p.field(`linux.sysctl[${key}]`);
      if (mounted.proc === undefined)
        throw new OciboxError("INVALID", "linux.sysctl wants a proc on /proc among the mounts");
      const path = this.sysctlPath(key);
      b.write(mounted.proc, `sys/${path}`, sysctl[key] ?? "");
    }
  }

  /** Only what belongs to a namespace that the container has to itself. */
  sysctlPath(key: string): string {
    const own =
      (key.startsWith("net.") && this.has("network")) ||
      (/^(?:kernel\.(?:shm[a-z_]*|msg[a-z_]*|sem)|fs\.mqueue\.[a-z_]+)$/.test(key) && this.has("ipc"));
    if (!own || !/^[a-z0-9_]+(?:\.[A-Za-z0-9_-]+)+$/.test(key))
      throw new OciboxError(
        "INVALID",
        `linux.sysctl: ${JSON.stringify(key)} is not of a namespace that the container has to itself`,
      );
    return key.replaceAll(".", "/");
  }

  oomScore(mounted: Mounted): void {
    const score = this.process.oomScoreAdj;
    if (score === undefined || mounted.proc === undefined) return;
    this.p.field("process.oomScoreAdj");
    this.b.write(mounted.proc, "self/oom_score_adj", String(score));
  }

  standardStreams(terminal: Slot | undefined, mounted: Mounted): void {
    const { p } = this;
    if (terminal !== undefined) {
      p.field("process.terminal");
      for (const fd of [0, 1, 2]) p.sys.dup3(terminal, fd, 0);
      return;
    }
    if (this.context.interactive || mounted.dev === undefined) return;
    p.field("stdin");
    const nothing = p.sys.openat(mounted.dev, "null", O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
    p.sys.dup3(nothing, 0, 0);
  }

  /** pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new, and is then taken away. */
  pivot(): void {
    const { p, context } = this;
    p.field("root.path");
    p.sys.fchdir(context.rootfs);
    p.sys.pivot_root(".", ".");
    p.sys.umount2(".", MNT.MNT_DETACH);
    p.sys.chdir("/");
  }

  names(): void {
    const { p, spec } = this;
    if (!this.has("uts")) return;
    if (spec.hostname !== undefined) {
      p.field("hostname");
      p.sys.sethostname(spec.hostname, Buffer.byteLength(spec.hostname));
    }
    if (spec.domainname !== undefined) {
      p.field("domainname");
      p.sys.setdomainname(spec.domainname, Buffer.byteLength(spec.domainname));
    }
  }

  /** Nothing is open any more but the standard streams and, as 3, the report's socket, which execve closes. */
  closeAll(report: Slot): void {
    const { p } = this;
    p.field("");
    p.tolerate("EINVAL").dup3(report, 3, O.O_CLOEXEC);
    p.sys.close_range(4, 0x7fffffff, 0);
    const three = p.slot("report");
    p.add({ op: "set", slot: three, value: 3 });
    p.add({ op: "reportTo", socket: three });
  }

  /** --init: this process stays as process 1, and a child of it goes on to be the command. */
  beInit(): void {
    const { p } = this;
    p.field("--init");
    const goOn = p.newLabel("command");
    // Not clone3, which the default filter answers with ENOSYS.
    const pid = p.sys.clone(SIG.SIGCHLD, 0, 0, 0, 0);
    p.branch(pid, "==", 0, goOn);
    p.sys.close(3);
    p.sys.prctl(PR.PR_SET_NAME, "ocibox-init", 0, 0, 0);
    const code = p.slot("init.code");
    p.add({ op: "supervise", pid, pidfd: null, terminal: null, interactive: false, code });
    p.add({ op: "exit", code });
    p.place(goOn);
    // A process group of its own, in front: what is typed reaches the command once.
    p.sys.setpgid(0, 0);
    if (this.process.terminal === true) {
      const group = p.memory("group", 8);
      const own = p.sys.getpid();
      p.add({ op: "store", memory: group, offset: 0, slot: own });
      p.sys.ioctl(0, IOCTL.TIOCSPGRP, group);
    }
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
