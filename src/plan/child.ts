/** The container's own process, from clone3 to execve: each stage in the order that the kernel's rights ask for. */
import { AT_FDCWD, CLONE, F, IOCTL, MNT, MS, O, OPEN_TREE, PR, SIG } from "../../ffi/constants.ts";
import type { Recorder, Slot } from "../../ffi/plan.ts";

import { OciboxError } from "../errors.ts";
import type { Process, Spec } from "../spec/runtime.ts";
import { type Builder, cloneByFd, moveByFd, moveToPath } from "./builder.ts";
import { type CgroupPlan, joinCgroups } from "./cgroups/plan.ts";
import { lookUp } from "./command.ts";
import type { Sockets } from "./compile.ts";
import type { OciContext, PlanContext } from "./context.ts";
import { bindDefaultDevices, makeDevices } from "./devices.ts";
import type { HostFacts } from "./facts.ts";
import { runHooks } from "./hooks.ts";
import { becomeUser, groupsOf } from "./identity.ts";
import { goBetween } from "./joined-user.ts";
import { allowEveryProcessor, joinKeyring, raiseLoopback, setAffinity, setAttention, writeSysctls } from "./kernel.ts";
import { labelProcess } from "./labels.ts";
import {
  coverDirectory,
  type Mounted,
  makeMounts,
  makeReadonly,
  maskPaths,
  readonlyRoot,
  sealMounts,
} from "./mounts.ts";
import { joinByPath, madeByRoot, makeTime, type Namespaces } from "./namespaces.ts";
import { offerListener } from "./seccomp/listener.ts";
import { ownStreams } from "./streams.ts";
import { reportTo, sendDescriptor } from "./sync.ts";
import { unlockSlave } from "./terminal.ts";

const propagations: Readonly<Record<string, number>> = {
  shared: MS.MS_SHARED,
  rshared: MS.MS_SHARED | MS.MS_REC,
  slave: MS.MS_SLAVE,
  rslave: MS.MS_SLAVE | MS.MS_REC,
  private: MS.MS_PRIVATE,
  rprivate: MS.MS_PRIVATE | MS.MS_REC,
  unbindable: MS.MS_UNBINDABLE,
  runbindable: MS.MS_UNBINDABLE | MS.MS_REC,
};

function propagationOf(name: string | undefined): number {
  const value = Object.hasOwn(propagations, name ?? "") ? propagations[name ?? ""] : undefined;
  if (value === undefined && name !== undefined && name !== "")
    throw new OciboxError("INVALID", `linux.rootfsPropagation is ${JSON.stringify(name)}`);
  return value ?? MS.MS_SLAVE | MS.MS_REC;
}

/** The first number that is free when the filter is loaded: behind the report, exec.fifo, and the working directory. */
export function listenerNumber({ keepFds, mode }: Pick<OciContext, "keepFds" | "mode">): number {
  return 3 + keepFds + (mode === "create" ? 3 : 2);
}

export class Child {
  readonly p: Recorder;
  readonly process: Process;

  constructor(
    readonly b: Builder,
    readonly spec: Spec,
    readonly facts: HostFacts,
    readonly context: PlanContext,
    readonly namespaces: Namespaces,
    readonly cgroups: CgroupPlan,
    readonly sockets: Sockets,
    readonly fifo: Slot | undefined,
    /** Sources of binds that the parent has opened, by the index of their mount. */
    readonly opened: ReadonlyMap<number, Slot>,
  ) {
    this.p = b.p;
    this.process = spec.process as Process;
  }

  get inUserNamespace(): boolean {
    return this.namespaces.has("user") || this.facts.userNamespace;
  }

  /** Nobody would see its end, and tidy after it; whoever waits for its output would wait for ever. */
  get diesWithParent(): boolean {
    const { oci } = this.context;
    return oci === undefined || oci.mode === "foreground";
  }

  all(): void {
    const { p, b, spec, context, namespaces, sockets } = this;
    const { oci } = context;
    const [, report] = sockets.report;
    p.field("");
    p.add({ op: "reportTo", socket: report });
    // The parent's ends: a child that held them would never see that the parent is gone.
    p.sys.close(sockets.report[0]);
    if (sockets.console !== undefined) p.sys.close(sockets.console[0]);
    b.closes = false;
    if (this.diesWithParent) p.sys.prctl(PR.PR_SET_PDEATHSIG, SIG.SIGKILL, 0, 0, 0);
    this.waitForGo(report);
    const userPath = namespaces.pathOf("user");
    if (userPath === undefined || sockets.between === undefined) joinCgroups(b, this.cgroups);
    else {
      p.sys.close(sockets.between[0]);
      goBetween(b, this.cgroups, sockets.between[1], userPath, namespaces, madeByRoot(namespaces, context));
      p.field("");
      this.waitForGo(report);
    }
    this.enterNamespaces();
    p.field("");
    p.sys.setsid();
    p.sys.umask(0);
    if (oci?.newKeyring === true) joinKeyring(b, oci.id);
    if (oci !== undefined) {
      allowEveryProcessor(b);
      setAffinity(b, this.process.execCPUAffinity?.initial, "process.execCPUAffinity.initial");
    }
    const masked = spec.linux?.maskedPaths ?? [];
    const cover = this.placeRoot(masked);
    const mounted = makeMounts(b, spec, {
      cgroups: this.cgroups,
      sources: context.sources,
      inUserNamespace: this.inUserNamespace,
      ownCgroups: namespaces.has("cgroup"),
      opened: this.opened,
      copyUp: oci?.copyUp ?? new Map(),
    });
    if (this.inUserNamespace && mounted.dev !== undefined) bindDefaultDevices(b);
    makeDevices(b, spec.linux?.devices ?? [], this.inUserNamespace);
    const terminal = this.process.terminal === true ? this.openTerminal(mounted) : undefined;
    if (namespaces.isNew("network")) raiseLoopback(b);
    if (Object.keys(spec.linux?.netDevices ?? {}).length > 0) {
      p.field("linux.netDevices");
      p.sys.write(report, "n", 1);
      this.waitForGo(report);
    }
    writeSysctls(b, spec.linux ?? {}, namespaces, mounted.proc);
    this.oomScore(mounted);
    this.hooksBeforePivot(report);
    // It is the runtime's, and was for hooks; others in a PID namespace could read it while the process waits to be started.
    if (spec.hooks !== undefined) p.add({ op: "forgetEnvironment" });
    maskPaths(b, spec, mounted, cover, this.inUserNamespace);
    makeReadonly(b, spec.linux?.readonlyPaths ?? []);
    if (this.process.cwd !== "/") {
      p.field("process.cwd");
      b.ensure(this.process.cwd, "directory");
    }
    this.standardStreams(terminal, mounted);
    labelProcess(b, this.process, this.facts, mounted.proc);
    sealMounts(b, mounted, readonlyRoot(spec));
    this.pivot();
    this.names();
    setAttention(b, this.process, spec.linux ?? {});
    const fifo = this.closeAll(report);
    becomeUser(b, this.process, spec.linux?.seccomp, this.facts, {
      diesWithParent: this.diesWithParent,
      groups: groupsOf(spec, oci === undefined ? this.facts.ids?.setgroups !== false : oci.privileged),
      beforeFilter: () => this.ready(fifo),
      last: () => this.hooksBeforeCommand(),
      ...(oci === undefined
        ? {}
        : { offer: (listener: Slot) => offerListener(p, 3 + oci.keepFds, listener, listenerNumber(oci)) }),
    });
    if (context.init) this.beInit();
  }

  /** Where the parent is gone already, the socket has ended. */
  waitForGo(report: Slot): void {
    const { p } = this;
    const byte = p.memory("go", 8);
    const go = p.newLabel("go");
    const got = p.sys.read(report, byte, 1);
    p.branch(got, "==", 1, go);
    p.add({ op: "exit", code: 125 });
    p.place(go);
  }

  enterNamespaces(): void {
    const { p, b, namespaces, context } = this;
    joinByPath(b, namespaces, madeByRoot(namespaces, context));
    if (namespaces.has("user")) {
      // Before the change of ids, after which what /proc has of this process is not its own any more; prctl(2), PR_SET_DUMPABLE
      makeTime(b, namespaces, this.spec.linux ?? {}, true);
      p.field("linux.namespaces[user]");
      // Root of the new namespace: what is made from here on is its.
      p.tolerate("EINVAL", "EPERM").setgroups(0, null);
      p.sys.setresgid(0, 0, 0);
      p.sys.setresuid(0, 0, 0);
      if (namespaces.isNew("ipc")) {
        p.field("linux.namespaces[ipc]");
        p.sys.unshare(CLONE.CLONE_NEWIPC);
      }
    }
    if (namespaces.isNew("cgroup")) {
      p.field("linux.namespaces[cgroup]");
      p.sys.unshare(CLONE.CLONE_NEWCGROUP);
    }
  }

  /** The container's root on its place. @returns what directories are masked with */
  placeRoot(masked: readonly string[]): Slot | undefined {
    const { p, b, context, spec } = this;
    p.field("linux.rootfsPropagation");
    const propagation = propagationOf(spec.linux?.rootfsPropagation);
    // What is mounted on the host must not be changed from here; shared mounts of the container are so among themselves.
    const outer = propagation & (MS.MS_SHARED | MS.MS_SLAVE) ? MS.MS_SLAVE : MS.MS_PRIVATE;
    const own = this.namespaces.has("mount");
    if (own) p.sys.mount(null, "/", null, MS.MS_REC | outer, null);
    p.field("root.path");
    if (typeof context.rootfs === "string") {
      const flags = OPEN_TREE.OPEN_TREE_CLONE | OPEN_TREE.OPEN_TREE_CLOEXEC | OPEN_TREE.AT_RECURSIVE;
      p.with({ into: b.root as Slot }).sys.open_tree(AT_FDCWD, context.rootfs, flags);
    }
    // Else what is mounted here would be where the host's mounts are copied to, too.
    const alone = (): unknown => own || p.sys.mount(null, context.mountpoint, null, MS.MS_REC | MS.MS_PRIVATE, null);
    const cover = coverDirectory(b, masked, context.mountpoint);
    if (cover !== undefined) alone();
    p.field("root.path");
    p.sys.move_mount(b.root, "", AT_FDCWD, context.mountpoint, moveToPath);
    alone();
    return cover;
  }

  /** A pty of the container's own devpts: its slave by TIOCGPTPEER, never by a name; ioctl_tty(2). */
  openTerminal(mounted: Mounted): Slot {
    const { p, b, context, sockets } = this;
    p.field("process.terminal");
    if (mounted.pts === undefined)
      throw new OciboxError("INVALID", "process.terminal wants a devpts on /dev/pts among the mounts");
    const master = p.sys.openat(mounted.pts, "ptmx", O.O_RDWR | O.O_NOCTTY | O.O_CLOEXEC, 0);
    const slave = unlockSlave(p, master, this.process, context.oci !== undefined && sockets.console !== undefined);
    const console = p.sys.open_tree(slave, "", cloneByFd);
    const target =
      mounted.dev === undefined
        ? b.ensure("/dev/console", "file")
        : p.sys.openat(mounted.dev, "console", O.O_PATH | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
    p.sys.move_mount(console, "", target, "", moveByFd);
    const socket = context.oci?.consoleSocket ?? sockets.console?.[1];
    if (socket !== undefined) sendDescriptor(p, socket, master, "sent", "/dev/ptmx");
    p.sys.ioctl(slave, IOCTL.TIOCSCTTY, 0);
    return slave;
  }

  oomScore(mounted: Mounted): void {
    const score = this.process.oomScoreAdj;
    if (score === undefined || madeByRoot(this.namespaces, this.context)) return;
    this.p.field("process.oomScoreAdj");
    if (mounted.proc !== undefined) this.b.write(mounted.proc, "self/oom_score_adj", String(score));
    else this.b.write(AT_FDCWD, "/proc/self/oom_score_adj", String(score));
  }

  /** runtime.md#lifecycle: createRuntime hooks, by the parent, then createContainer hooks, when all but the root is made. */
  hooksBeforePivot(report: Slot): void {
    const { p, context, spec } = this;
    const { oci } = context;
    if (oci === undefined) return;
    const { prestart = [], createRuntime = [], createContainer = [] } = spec.hooks ?? {};
    if (prestart.length + createRuntime.length > 0) {
      p.field("");
      p.sys.write(report, "h", 1);
      this.waitForGo(report);
    }
    if (createContainer.length > 0)
      runHooks(p, "createContainer", createContainer, oci.state("creating"), p.sys.getpid(), {
        directory: this.b.root,
      });
  }

  standardStreams(terminal: Slot | undefined, mounted: Mounted): void {
    const { p } = this;
    if (terminal !== undefined) {
      p.field("process.terminal");
      for (const fd of [0, 1, 2]) p.sys.dup3(terminal, fd, 0);
      return;
    }
    const { out, err, stdin } = this.sockets.streams ?? {};
    const pipes = [stdin?.[0], out?.[1], err?.[1]] as const;
    for (const [fd, pipe] of pipes.entries()) if (pipe !== undefined) p.sys.dup3(pipe, fd, 0);
    if (!this.context.interactive && mounted.dev !== undefined) {
      p.field("stdin");
      const nothing = p.sys.openat(mounted.dev, "null", O.O_RDONLY | O.O_NOFOLLOW | O.O_CLOEXEC, 0);
      p.sys.dup3(nothing, 0, 0);
    }
    ownStreams(p, this.process, this.context.oci !== undefined);
  }

  /** pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new, and is then taken away. */
  pivot(): void {
    const { p, b, spec } = this;
    p.field("root.path");
    p.sys.fchdir(b.root);
    if (!this.namespaces.has("mount")) {
      // The root of the namespace is the host's; it stays where it is.
      p.sys.chroot(".");
      p.sys.chdir("/");
      return;
    }
    p.sys.pivot_root(".", ".");
    p.sys.umount2(".", MNT.MNT_DETACH);
    p.sys.chdir("/");
    const asked = spec.linux?.rootfsPropagation;
    if (asked === undefined || asked === "") return;
    p.field("linux.rootfsPropagation");
    p.sys.mount(null, "/", null, propagationOf(asked), null);
  }

  names(): void {
    const { p, spec, namespaces } = this;
    if (spec.hostname !== undefined && spec.hostname !== "") {
      p.field("hostname");
      if (!namespaces.has("uts"))
        throw new OciboxError("INVALID", "hostname wants a uts namespace in linux.namespaces");
      p.sys.sethostname(spec.hostname, Buffer.byteLength(spec.hostname));
    }
    if (spec.domainname !== undefined && spec.domainname !== "") {
      p.field("domainname");
      if (!namespaces.has("uts"))
        throw new OciboxError("INVALID", "domainname wants a uts namespace in linux.namespaces");
      p.sys.setdomainname(spec.domainname, Buffer.byteLength(spec.domainname));
    }
  }

  /**
   * Nothing is open any more but the standard streams, what the process is to inherit, the report's socket, which
   * execve closes, and behind it exec.fifo. @returns the fifo's number
   */
  closeAll(report: Slot): number | undefined {
    const { p, context, fifo } = this;
    const first = 3 + (context.oci?.keepFds ?? 0);
    p.field("--preserve-fds");
    for (let fd = 3; fd < first; fd++) p.sys.fcntl(fd, F.F_SETFD, 0);
    p.field("");
    // Out of the way of the numbers that are about to be given.
    const away = fifo === undefined ? undefined : p.sys.fcntl(fifo, F.F_DUPFD_CLOEXEC, first + 2);
    p.tolerate("EINVAL").dup3(report, first, O.O_CLOEXEC);
    if (away !== undefined) p.sys.dup3(away, first + 1, O.O_CLOEXEC);
    p.sys.close_range(first + (fifo === undefined ? 1 : 2), 0x7fffffff, 0);
    reportTo(p, first);
    return fifo === undefined ? undefined : first + 1;
  }

  /** All that can fail by the configuration is done: the runtime is told, and the process waits to be started. */
  ready(fifo: number | undefined): void {
    const { p, context } = this;
    const { oci } = context;
    if (oci === undefined) return;
    const report = 3 + oci.keepFds;
    if (fifo !== undefined) {
      lookUp(p, this.process.args ?? [], this.process.env ?? []);
      p.field("");
      p.sys.write(report, "r", 1);
      p.sys.close(report);
      reportTo(p, -1);
      p.sys.read(fifo, p.memory("start", 8), 1);
      p.sys.close(fifo);
    }
    setAffinity(this.b, this.process.execCPUAffinity?.final, "process.execCPUAffinity.final");
  }

  /** startContainer hooks: as the process's user, with its rights and behind its filter. */
  hooksBeforeCommand(): void {
    const { p, context, spec, process } = this;
    const hooks = spec.hooks?.startContainer ?? [];
    if (context.oci === undefined || hooks.length === 0) return;
    runHooks(p, "startContainer", hooks, context.oci.state("created"), p.sys.getpid(), { env: process.env ?? [] });
  }

  /** --init: this process stays as process 1, and a child of it goes on to be the command. */
  beInit(): void {
    const { p } = this;
    p.field("--init");
    const goOn = p.newLabel("command");
    // Not clone3, which the default filter answers with ENOSYS.
    const pid = p.sys.clone(SIG.SIGCHLD, 0, null, 0, 0);
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
