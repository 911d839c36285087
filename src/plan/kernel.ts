/** What the kernel is told of a container outside its mounts: sysctls, network devices up, keyring, scheduling. */
import { IOCTL, O } from "../../ffi/constants.ts";
import type { Slot } from "../../ffi/plan.ts";
import { struct } from "../../ffi/sys.ts";
import { OciboxError } from "../errors.ts";
import type { Linux, Process, Scheduler } from "../spec/runtime.ts";
import type { Builder } from "./builder.ts";
import type { Namespaces } from "./namespaces.ts";

/** A new network namespace has a loopback device that is down; netdevice(7). */
export function raiseLoopback(b: Builder): void {
  const { p } = b;
  p.field("linux.namespaces[network]");
  const socket = p.sys.socket(2, 2 | O.O_CLOEXEC, 0);
  p.sys.ioctl(socket, IOCTL.SIOCSIFFLAGS, struct<Slot>("ifreq", { ifr_name: "lo", ifr_flags: 0x41 }));
}

const ofIpc = new Set([
  "kernel.msgmax",
  "kernel.msgmnb",
  "kernel.msgmni",
  "kernel.msg_next_id",
  "kernel.sem",
  "kernel.sem_next_id",
  "kernel.shmall",
  "kernel.shmmax",
  "kernel.shmmni",
  "kernel.shm_next_id",
  "kernel.shm_rmid_forced",
]);
/** Without kernel.hostname: the name is for the field that is made for it, as with runc and crun. */
const ofUts = new Set(["kernel.domainname"]);

/**
 * Only what belongs to a namespace that the container has to itself. A name is written with dots, or with slashes where
 * it has dots of its own; sysctl.d(5).
 * @returns the path below /proc/sys
 * @throws OciboxError INVALID
 */
function sysctlPath(key: string, namespaces: Namespaces): string {
  const slash = key.indexOf("/");
  const dot = key.indexOf(".");
  const slashed = slash >= 0 && (dot < 0 || slash < dot);
  const path = slashed ? key : key.replace(/[./]/g, (sign) => (sign === "." ? "/" : "."));
  const name = path.replaceAll("/", ".");
  const parts = path.split("/");
  const plain = parts.every((part) => /^[A-Za-z0-9_.:@-]+$/.test(part) && part !== "." && part !== "..");
  const own =
    (parts[0] === "net" && namespaces.has("network")) ||
    ((ofIpc.has(name) || name.startsWith("fs.mqueue.")) && namespaces.has("ipc")) ||
    (ofUts.has(name) && namespaces.has("uts")) ||
    (parts[0] === "user" && namespaces.has("user"));
  if (name === "kernel.hostname")
    throw new OciboxError("INVALID", 'linux.sysctl: "kernel.hostname" is for the field "hostname"');
  if (!plain || parts.length < 2 || !own)
    throw new OciboxError(
      "INVALID",
      `linux.sysctl: ${JSON.stringify(key)} is not of a namespace that the container has to itself`,
    );
  return path;
}

export function writeSysctls(b: Builder, linux: Linux, namespaces: Namespaces, proc: Slot | undefined): void {
  const sysctl = linux.sysctl ?? {};
  for (const key in sysctl) {
    b.p.field(`linux.sysctl[${key}]`);
    if (proc === undefined) throw new OciboxError("INVALID", "linux.sysctl wants a proc on /proc among the mounts");
    b.write(proc, `sys/${sysctlPath(key, namespaces)}`, sysctl[key] ?? "");
  }
}

const KEYCTL_JOIN_SESSION_KEYRING = 1;
const KEYCTL_SETPERM = 5;

/** A session keyring of the container's own, keyrings(7): without, it would have that of whoever called. */
export function joinKeyring(b: Builder, id: string): void {
  const { p } = b;
  p.field("the session keyring");
  const done = p.newLabel("keyring joined");
  const ring = p
    .orElse(done, "ENOSYS", "EPERM", "EACCES", "EDQUOT")
    .keyctl(KEYCTL_JOIN_SESSION_KEYRING, `_ses.${id}`, 0, 0, 0);
  // Its user may search it, so that a new user of the container finds it: KEY_POS_ALL | KEY_USR_ALL
  p.tolerate("EACCES", "ENOSYS", "EPERM").keyctl(KEYCTL_SETPERM, ring, 0x3f3f0000, 0, 0);
  p.place(done);
}

const policies: Readonly<Record<string, number>> = {
  SCHED_OTHER: 0,
  SCHED_FIFO: 1,
  SCHED_RR: 2,
  SCHED_BATCH: 3,
  SCHED_ISO: 4,
  SCHED_IDLE: 5,
  SCHED_DEADLINE: 6,
};
const schedulerFlags: Readonly<Record<string, number>> = {
  SCHED_FLAG_RESET_ON_FORK: 1,
  SCHED_FLAG_RECLAIM: 2,
  SCHED_FLAG_DL_OVERRUN: 4,
  SCHED_FLAG_KEEP_POLICY: 8,
  SCHED_FLAG_KEEP_PARAMS: 16,
  SCHED_FLAG_UTIL_CLAMP_MIN: 32,
  SCHED_FLAG_UTIL_CLAMP_MAX: 64,
};
const schedAttrSize = 48;

function one(table: Readonly<Record<string, number>>, name: string, field: string): number {
  const value = Object.hasOwn(table, name) ? table[name] : undefined;
  if (value === undefined) throw new OciboxError("INVALID", `${field}: there is no ${JSON.stringify(name)}`);
  return value;
}

function setScheduler(b: Builder, scheduler: Scheduler): void {
  b.p.field("process.scheduler");
  let flags = 0;
  for (const name of scheduler.flags ?? []) flags |= one(schedulerFlags, name, "process.scheduler.flags");
  const attr = struct<Slot>("sched_attr", {
    size: schedAttrSize,
    sched_policy: one(policies, scheduler.policy, "process.scheduler.policy"),
    sched_flags: flags,
    sched_nice: scheduler.nice ?? 0,
    sched_priority: scheduler.priority ?? 0,
    sched_runtime: scheduler.runtime ?? 0,
    sched_deadline: scheduler.deadline ?? 0,
    sched_period: scheduler.period ?? 0,
  });
  b.p.sys.sched_setattr(0, attr, 0);
}

/** "0-3,7" as a set of bits, in the kernel's own cpumask. @throws OciboxError INVALID */
function cpuMask(text: string, field: string): Uint8Array<ArrayBuffer> {
  const mask = new Uint8Array(new ArrayBuffer(128));
  for (const part of text.split(",")) {
    const match = /^\s*(\d{1,4})(?:-(\d{1,4}))?\s*$/.exec(part);
    const from = Number(match?.[1] ?? Number.NaN);
    const to = match?.[2] === undefined ? from : Number(match[2]);
    if (!(from <= to && to < 1024))
      throw new OciboxError("INVALID", `${field} is ${JSON.stringify(text)}, which is no list of processors`);
    for (let cpu = from; cpu <= to; cpu++) mask[cpu >> 3] = (mask[cpu >> 3] ?? 0) | (1 << (cpu & 7));
  }
  return mask;
}

export function setAffinity(b: Builder, list: string | undefined, field: string): void {
  if (list === undefined || list === "") return;
  b.p.field(field);
  b.p.sys.sched_setaffinity(0, 128, cpuMask(list, field));
}

/** Every processor there can be: the kernel takes of them what the cgroup has. */
const everyProcessor = new Uint8Array(1024).fill(0xff);

/**
 * Before Linux 6.2 a process that joined a cpuset got the processors of it; since then it keeps what it, or whoever
 * started it, was bound to. A container that asks for none is to have those of its cgroup, as runc's have.
 * sched_setaffinity(2)
 */
export function allowEveryProcessor(b: Builder): void {
  b.p.field("process.execCPUAffinity");
  b.p.tolerate("EINVAL", "EPERM").sched_setaffinity(0, everyProcessor.byteLength, everyProcessor);
}

const ioClasses: Readonly<Record<string, number>> = { IOPRIO_CLASS_RT: 1, IOPRIO_CLASS_BE: 2, IOPRIO_CLASS_IDLE: 3 };
const IOPRIO_WHO_PROCESS = 1;

const personalities: Readonly<Record<string, number>> = { LINUX: 0, LINUX32: 8 };

const memoryModes: Readonly<Record<string, number>> = {
  MPOL_DEFAULT: 0,
  MPOL_PREFERRED: 1,
  MPOL_BIND: 2,
  MPOL_INTERLEAVE: 3,
  MPOL_LOCAL: 4,
  MPOL_PREFERRED_MANY: 5,
  MPOL_WEIGHTED_INTERLEAVE: 6,
};
const memoryFlags: Readonly<Record<string, number>> = {
  MPOL_F_STATIC_NODES: 1 << 15,
  MPOL_F_RELATIVE_NODES: 1 << 14,
  MPOL_F_NUMA_BALANCING: 1 << 13,
};

/** process.scheduler, ioPriority, linux.personality and memoryPolicy: what the process has of the kernel's attention. */
export function setAttention(b: Builder, process: Process, linux: Linux): void {
  const { p } = b;
  if (process.scheduler !== undefined) setScheduler(b, process.scheduler);
  if (process.ioPriority !== undefined) {
    p.field("process.ioPriority");
    const level = one(ioClasses, process.ioPriority.class, "process.ioPriority.class");
    p.sys.ioprio_set(IOPRIO_WHO_PROCESS, 0, (level << 13) | (process.ioPriority.priority ?? 0));
  }
  if (linux.personality !== undefined) {
    p.field("linux.personality");
    if ((linux.personality.flags ?? []).length > 0)
      throw new OciboxError("UNSUPPORTED", "linux.personality.flags: the specification has none so far");
    p.sys.personality(one(personalities, linux.personality.domain, "linux.personality.domain"));
  }
  if (linux.memoryPolicy !== undefined) {
    const { mode, nodes = "", flags = [] } = linux.memoryPolicy;
    p.field("linux.memoryPolicy");
    let word = one(memoryModes, mode, "linux.memoryPolicy.mode");
    for (const name of flags) word |= one(memoryFlags, name, "linux.memoryPolicy.flags");
    const mask = nodes === "" ? null : cpuMask(nodes, "linux.memoryPolicy.nodes");
    p.sys.set_mempolicy(word, mask, mask === null ? 0 : 1024);
  }
}
