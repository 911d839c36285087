/** linux.cgroupsPath and linux.resources as steps: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. */
import { AT, AT_FDCWD, O } from "../../ffi/constants.ts";
import type { Slot } from "../../ffi/plan.ts";
import type { DeviceRule, Resources, Spec } from "../spec/runtime.ts";
import type { Builder } from "./builder.ts";
import type { HostFacts } from "./facts.ts";

const mountPoint = "/sys/fs/cgroup";

export interface CgroupPlan {
  /** Directories to be made, and removed at the end. */
  readonly directories: readonly string[];
  /** v1: the hierarchies joined, by name. */
  readonly hierarchies: readonly string[];
  readonly mode: HostFacts["cgroup"]["mode"];
}

/** Only what is asked for is joined: each hierarchy of v1 costs a directory made and removed. */
export function planCgroups(spec: Spec, facts: HostFacts): CgroupPlan {
  const path = spec.linux?.cgroupsPath;
  const { mode, controllers, writable } = facts.cgroup;
  if (path === undefined || !writable || mode === "none") return { directories: [], hierarchies: [], mode };
  if (mode === "v2") return { directories: [`${mountPoint}${path}`], hierarchies: [], mode };
  const resources = spec.linux?.resources;
  const wanted: Readonly<Record<string, boolean>> = {
    pids: resources?.pids !== undefined,
    devices: resources?.devices !== undefined,
    memory: resources?.memory !== undefined,
    cpu: resources?.cpu !== undefined,
  };
  const hierarchies = controllers.filter((name) => wanted[name] === true);
  return { directories: hierarchies.map((name) => `${mountPoint}/${name}${path}`), hierarchies, mode };
}

/** Devices every container may use, beside making nodes that it then cannot open: runc's and crun's list. */
const defaultDevices = [
  "c *:* m",
  "b *:* m",
  "c 1:3 rwm",
  "c 1:5 rwm",
  "c 1:7 rwm",
  "c 1:8 rwm",
  "c 1:9 rwm",
  "c 5:0 rwm",
  "c 5:2 rwm",
  "c 136:* rwm",
];

function ruleText(rule: DeviceRule): string {
  if (rule.type === undefined || rule.type === "a") return "a";
  const number = (value: number | undefined): string => (value === undefined || value < 0 ? "*" : String(value));
  return `${rule.type} ${number(rule.major)}:${number(rule.minor)} ${rule.access ?? "rwm"}`;
}

function writeDevices(b: Builder, directory: string, rules: readonly DeviceRule[]): void {
  const { p } = b;
  rules.forEach((rule, index) => {
    p.field(`linux.resources.devices[${index}]`);
    b.write(AT_FDCWD, `${directory}/devices.${rule.allow ? "allow" : "deny"}`, ruleText(rule));
  });
  p.field("the default devices");
  const allow = p.sys.openat(AT_FDCWD, `${directory}/devices.allow`, O.O_WRONLY | O.O_CLOEXEC, 0);
  for (const text of defaultDevices) p.sys.write(allow, text, text.length);
  b.close(allow);
}

function limitsV1(b: Builder, directory: (controller: string) => string, resources: Resources): void {
  const { p } = b;
  const { memory, cpu, pids } = resources;
  if (pids !== undefined) {
    p.field("linux.resources.pids.limit");
    b.write(AT_FDCWD, `${directory("pids")}/pids.max`, pids.limit > 0 ? String(pids.limit) : "max");
  }
  if (memory?.limit !== undefined) {
    p.field("linux.resources.memory.limit");
    b.write(AT_FDCWD, `${directory("memory")}/memory.limit_in_bytes`, String(memory.limit));
  }
  if (memory?.swap !== undefined) {
    p.field("linux.resources.memory.swap");
    // Not there where the kernel does not count swap.
    b.write(AT_FDCWD, `${directory("memory")}/memory.memsw.limit_in_bytes`, String(memory.swap), "ENOENT", "EACCES");
  }
  if (cpu?.shares !== undefined) {
    p.field("linux.resources.cpu.shares");
    b.write(AT_FDCWD, `${directory("cpu")}/cpu.shares`, String(cpu.shares));
  }
  if (cpu?.period !== undefined) {
    p.field("linux.resources.cpu.period");
    b.write(AT_FDCWD, `${directory("cpu")}/cpu.cfs_period_us`, String(cpu.period));
  }
  if (cpu?.quota !== undefined) {
    p.field("linux.resources.cpu.quota");
    b.write(AT_FDCWD, `${directory("cpu")}/cpu.cfs_quota_us`, String(cpu.quota));
  }
}

function limitsV2(b: Builder, directory: string, resources: Resources): void {
  const { p } = b;
  const { memory, cpu, pids } = resources;
  // The controllers must be handed down by the root; where they are already, nothing changes.
  const wanted = [
    pids === undefined ? "" : "+pids",
    memory === undefined ? "" : "+memory",
    cpu === undefined ? "" : "+cpu",
  ];
  for (const controller of wanted) {
    if (controller === "") continue;
    p.field(`the ${controller.slice(1)} controller`);
    b.write(AT_FDCWD, `${mountPoint}/cgroup.subtree_control`, controller, "ENOENT", "EACCES", "EPERM", "EROFS");
  }
  if (pids !== undefined) {
    p.field("linux.resources.pids.limit");
    b.write(AT_FDCWD, `${directory}/pids.max`, pids.limit > 0 ? String(pids.limit) : "max");
  }
  if (memory?.limit !== undefined) {
    p.field("linux.resources.memory.limit");
    b.write(AT_FDCWD, `${directory}/memory.max`, String(memory.limit));
  }
  if (memory?.swap !== undefined) {
    p.field("linux.resources.memory.swap");
    // v2 counts swap alone, the specification memory and swap together.
    b.write(AT_FDCWD, `${directory}/memory.swap.max`, String(memory.swap - (memory.limit ?? 0)), "ENOENT");
  }
  if (cpu?.shares !== undefined) {
    p.field("linux.resources.cpu.shares");
    const weight = Math.round(1 + ((Math.min(Math.max(cpu.shares, 2), 262_144) - 2) * 9999) / 262_142);
    b.write(AT_FDCWD, `${directory}/cpu.weight`, String(weight));
  }
  if (cpu?.quota !== undefined) {
    p.field("linux.resources.cpu.quota");
    b.write(AT_FDCWD, `${directory}/cpu.max`, `${cpu.quota > 0 ? cpu.quota : "max"} ${cpu.period ?? 100_000}`);
  }
}

/** Parent: makes the cgroups and sets their limits, before there is a process in them. */
export function makeCgroups(b: Builder, plan: CgroupPlan, resources: Resources): void {
  for (const directory of plan.directories) {
    b.p.field("linux.cgroupsPath");
    b.p.sys.mkdirat(AT_FDCWD, directory, 0o755);
  }
  const [first] = plan.directories;
  if (first === undefined) return;
  if (plan.mode === "v2") {
    limitsV2(b, first, resources);
    return;
  }
  const directory = (controller: string): string => plan.directories[plan.hierarchies.indexOf(controller)] as string;
  limitsV1(b, directory, resources);
  if (plan.hierarchies.includes("devices")) writeDevices(b, directory("devices"), resources.devices ?? []);
}

/** v2: the cgroup that clone3 starts the child in. */
export function openCgroup(b: Builder, plan: CgroupPlan): Slot | undefined {
  const [directory] = plan.directories;
  if (plan.mode !== "v2" || directory === undefined) return undefined;
  b.p.field("linux.cgroupsPath");
  return b.p.sys.openat(AT_FDCWD, directory, O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
}

/**
 * v1, in the child: it joins by itself, one thread writing "0" to `tasks`. Writing a process id to cgroup.procs from
 * outside waits for every CPU (an RCU grace period: 11 ms were measured); this takes 0.05 ms.
 */
export function joinCgroups(b: Builder, plan: CgroupPlan): void {
  if (plan.mode === "v2") return;
  for (const directory of plan.directories) {
    b.p.field("linux.cgroupsPath");
    b.write(AT_FDCWD, `${directory}/tasks`, "0");
  }
}

/** At the end: a cgroup stays busy for a moment after its last process. Failures are counted in `trouble`. */
export function removeCgroups(b: Builder, plan: CgroupPlan, note: (result: Slot) => void): void {
  for (const directory of plan.directories) {
    b.p.field("linux.cgroupsPath");
    note(b.p.with({ retries: 1000 }).carryOn("ENOENT").unlinkat(AT_FDCWD, directory, AT.AT_REMOVEDIR));
  }
}
