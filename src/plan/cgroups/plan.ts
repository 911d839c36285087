/** linux.cgroupsPath and linux.resources as steps: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. */
import { AT, AT_FDCWD, O } from "../../../ffi/constants.ts";
import { type ErrnoName, errnoOf } from "../../../ffi/errno.ts";
import type { Slot } from "../../../ffi/plan.ts";
import { struct } from "../../../ffi/sys.ts";
import { OciboxError } from "../../errors.ts";
import type { DeviceRule, Resources, Spec } from "../../spec/runtime.ts";
import type { Builder } from "../builder.ts";
import type { CgroupMode, HostFacts } from "../facts.ts";
import { compileDeviceFilter, defaultDevices, ruleTexts } from "./device-program.ts";
import {
  type CgroupHost,
  type CgroupManager,
  cgroupIn,
  cgroupOf,
  directoryOf,
  type JoinedCgroup,
  type SystemdUnit,
  slicePath,
  waysTo,
} from "./paths.ts";
import type { Setting } from "./settings.ts";
import { settingsV1 } from "./v1.ts";
import { settingsV2 } from "./v2.ts";

const mountPoint = "/sys/fs/cgroup";

/** What init does about cgroups, and what is to be known of them afterwards: all of it can be kept as JSON. */
export interface CgroupPlan {
  readonly mode: CgroupMode;
  readonly manager: CgroupManager;
  /** The cgroups that are made, joined, and removed at the end. */
  readonly joined: readonly JoinedCgroup[];
  /** Their directories. */
  readonly directories: readonly string[];
  readonly settings: readonly Setting[];
  /** Rules for devices, the last that applies decides; undefined where nothing is said about devices. */
  readonly devices: readonly DeviceRule[] | undefined;
  /** v2: whether it is an error that the program which keeps to them cannot be had: not for a user. */
  readonly devicesMust: boolean;
  /** v2: controllers that are handed down to the container's cgroup. */
  readonly controllers: readonly string[];
  /** Whether a cgroup that is there already may be taken. */
  readonly shared: boolean;
  /** v2: the host's user who gets the container's cgroup to have more below it. config-linux.md#cgroup-ownership */
  readonly owner: number | undefined;
  /** v2: the files that the owner gets, where they are there. */
  readonly delegated: readonly string[];
  /**
   * ocibox itself is in the container's cgroups, because systemd put it there, and goes back to these (files to write
   * "0" to) when the container's process is made; limits are set after that.
   */
  readonly leave: readonly string[] | undefined;
}

const nothing: CgroupPlan = {
  mode: "none",
  manager: "cgroupfs",
  joined: [],
  directories: [],
  settings: [],
  devices: undefined,
  devicesMust: false,
  controllers: [],
  shared: false,
  owner: undefined,
  delegated: [],
  leave: undefined,
};

function controllersOf(settings: readonly Setting[]): Set<string> {
  return new Set(settings.map(({ controller }) => controller));
}

/** `ocibox run`: only what is asked for is joined, as each hierarchy of v1 costs a directory made and removed. */
export function planCgroups(spec: Spec, facts: HostFacts): CgroupPlan {
  const path = spec.linux?.cgroupsPath;
  const { mode, controllers, writable } = facts.cgroup;
  if (path === undefined || !writable || mode === "none") return { ...nothing, mode };
  const resources = spec.linux?.resources ?? {};
  // `-m` sets a limit of swap by itself: it is no more than a wish where the kernel does not count swap.
  const { limit = 0, swap } = resources.memory ?? {};
  const settings =
    mode === "v2" ? settingsV2(resources, swap === 2 * limit) : settingsV1(resources, swap === 2 * limit);
  const wanted = controllersOf(settings);
  const { devices } = resources;
  if (devices !== undefined) wanted.add("devices");
  const base = { ...nothing, mode, settings, devices: devices && [...devices, ...defaultDevices] };
  if (mode === "v2") {
    const joined = [{ hierarchy: "", mount: mountPoint, path }];
    // The program for devices wants CAP_SYS_ADMIN and clone3 the cgroup's descriptor: root has both.
    return {
      ...base,
      joined,
      directories: joined.map(directoryOf),
      controllers: [...wanted].filter((each) => each !== "devices" && each !== "cgroup"),
    };
  }
  const joined = controllers
    .filter((name) => wanted.has(name))
    .map((name) => ({ hierarchy: name, mount: `${mountPoint}/${name}`, path }));
  for (const { controller, field } of settings)
    if (cgroupOf(joined, controller) === undefined) absent(field, controller);
  return { ...base, joined, directories: joined.map(directoryOf) };
}

function absent(field: string, controller: string): never {
  throw new OciboxError(
    "UNSUPPORTED",
    `${field}: this host has no ${controller} controller of cgroups for a container`,
  );
}

export interface CgroupChoice {
  readonly id: string;
  readonly manager: CgroupManager;
  /** Whether this process may do what root may in the host's user namespace. */
  readonly privileged: boolean;
  /** systemd: where it has put ocibox for the container, and the files that lead back. */
  readonly unit?: SystemdUnit;
  readonly scope?: { readonly path: string; readonly leave: readonly string[] };
}

/** Whether there is a limit that a container without a cgroup would not have. */
function unlimited(settings: readonly Setting[]): boolean {
  return settings.every(({ text }) => text === "max" || text === "-1");
}

/**
 * The OCI runtime: every hierarchy there is, as runc does.
 * @throws OciboxError INVALID, UNSUPPORTED, PERMISSION naming the field of config.json
 */
export function planOciCgroups(spec: Spec, host: CgroupHost, choice: CgroupChoice): CgroupPlan {
  const resources = spec.linux?.resources ?? {};
  const { mode } = host;
  const settings = mode === "v2" ? settingsV2(resources) : settingsV1(resources);
  const { id, manager, scope, unit } = choice;
  const without = { ...nothing, mode, manager };
  if (manager === "disabled" || mode === "none" || (!host.writable && scope === undefined)) {
    const [first] = settings;
    if (first === undefined || unlimited(settings)) return without;
    const why = manager === "disabled" ? "cgroups are disabled by --cgroup-manager" : "no cgroup can be made here";
    throw new OciboxError("PERMISSION", `${first.field}: ${why}`, {
      hint: "a user wants cgroup v2 and a delegated cgroup: systemd-run --user --scope -p Delegate=yes, or --systemd-cgroup",
    });
  }
  // A plan that is only looked at has no scope: its place can be told only with the default slices.
  const path = scope?.path ?? (unit === undefined ? spec.linux?.cgroupsPath : `${slicePath(unit.slice)}/${unit.name}`);
  const joined = host.hierarchies.map((hierarchy) => cgroupIn(hierarchy, path, id));
  const isUser = (spec.linux?.namespaces ?? []).some(({ type }) => type === "user");
  if (mode !== "v2")
    for (const { controller, field } of settings)
      if (cgroupOf(joined, controller) === undefined) absent(field, controller);
  if (mode === "v2")
    for (const { controller, field } of settings)
      if (controller !== "cgroup" && !host.controllers.includes(controller)) absent(field, controller);
  return {
    mode,
    manager,
    joined,
    directories: joined.map(directoryOf),
    settings,
    devices: deviceRules(resources, host),
    devicesMust: choice.privileged,
    controllers: host.controllers,
    shared: true,
    owner: mode === "v2" && isUser ? ownerOf(spec) : undefined,
    // config-linux.md#cgroup-ownership: these where /sys/kernel/cgroup/delegate is not there.
    delegated: host.delegate ?? ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"],
    leave: scope?.leave,
  };
}

/** What is not allowed is denied, as runc has it, also where nothing is said. */
function deviceRules(resources: Resources, host: CgroupHost): readonly DeviceRule[] | undefined {
  if (host.mode !== "v2" && !host.hierarchies.some(({ name }) => name.split(",").includes("devices"))) {
    if ((resources.devices ?? []).some(({ allow }) => !allow)) absent("linux.resources.devices", "devices");
    return undefined;
  }
  return [...(resources.devices ?? [{ allow: false }]), ...defaultDevices];
}

/** The host's user that the container's process is: where it may write its own cgroup, that is its own to divide. */
function ownerOf(spec: Spec): number | undefined {
  const namespaces = spec.linux?.namespaces ?? [];
  const mount = (spec.mounts ?? []).find(({ type }) => type === "cgroup" || type === "cgroup2");
  const own = namespaces.some(({ type, path }) => type === "cgroup" && path === undefined);
  if (!own || mount === undefined || (mount.options ?? []).includes("ro")) return undefined;
  const uid = spec.process?.user.uid ?? 0;
  for (const { containerID, hostID, size } of spec.linux?.uidMappings ?? [])
    if (uid >= containerID && uid < containerID + size) return hostID + uid - containerID;
  return undefined;
}

/** v1: a new cpuset has no CPUs and no memory, and takes no process; it gets its parent's. cpuset(7) */
function inheritCpuset(b: Builder, directory: string): void {
  const { p } = b;
  const parent = directory.slice(0, directory.lastIndexOf("/"));
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    const has = p.newLabel(`has ${file}`);
    const text = p.memory(file, 4096);
    const own = p.sys.openat(AT_FDCWD, `${directory}/${file}`, O.O_RDWR | O.O_CLOEXEC, 0);
    const size = p.sys.read(own, text, 4096);
    p.branch(size, ">", 1, has);
    const from = p.sys.openat(AT_FDCWD, `${parent}/${file}`, O.O_RDONLY | O.O_CLOEXEC, 0);
    const inherited = p.sys.read(from, text, 4096);
    p.sys.close(from);
    p.sys.write(own, text, inherited);
    p.place(has);
    p.sys.close(own);
  }
}

/** v2: a controller is there for a cgroup when every cgroup above hands it down. What cannot be had shows itself later. */
function handDown(b: Builder, above: string, controllers: readonly string[]): void {
  if (controllers.length === 0) return;
  const { p } = b;
  const done = p.newLabel("handed down");
  const file = p
    .orElse(done, "ENOENT", "EACCES", "EPERM", "EROFS")
    .openat(AT_FDCWD, `${above}/cgroup.subtree_control`, O.O_WRONLY | O.O_CLOEXEC, 0);
  const refusals: readonly ErrnoName[] = [
    "EINVAL",
    "ENOENT",
    "EBUSY",
    "EOPNOTSUPP",
    "EACCES",
    "EPERM",
    "ENODEV",
    "EROFS",
  ];
  const all = controllers.map((name) => `+${name}`).join(" ");
  const close = p.newLabel("close");
  const wrote = p.tolerate(...refusals).write(file, all, all.length);
  if (controllers.length > 1) {
    p.branch(wrote, ">", 0, close);
    for (const name of controllers) p.tolerate(...refusals).write(file, `+${name}`, name.length + 1);
  }
  p.place(close);
  p.sys.close(file);
  p.place(done);
}

function makeDirectories(b: Builder, plan: CgroupPlan, cgroup: JoinedCgroup): void {
  const { p } = b;
  const ways = waysTo(cgroup);
  const isCpuset = cgroup.hierarchy.split(",").includes("cpuset");
  let above = cgroup.mount;
  for (const directory of ways) {
    const isLast = directory === ways.at(-1);
    p.field("linux.cgroupsPath");
    if (cgroup.hierarchy === "") handDown(b, above, plan.controllers);
    if (plan.shared || !isLast) p.tolerate("EEXIST").mkdirat(AT_FDCWD, directory, 0o755);
    else p.sys.mkdirat(AT_FDCWD, directory, 0o755);
    if (isCpuset) inheritCpuset(b, directory);
    above = directory;
  }
}

/** cgroups(7), "Cgroups delegation": the directory and what its owner needs to move processes and controllers. */
function giveToOwner(b: Builder, directory: string, owner: number, files: readonly string[]): void {
  const { p } = b;
  p.field("linux.cgroupsPath");
  p.sys.fchownat(AT_FDCWD, directory, owner, -1, 0);
  for (const file of files) p.tolerate("ENOENT").fchownat(AT_FDCWD, `${directory}/${file}`, owner, -1, 0);
}

function writeSetting(b: Builder, directory: string, setting: Setting): void {
  const { p } = b;
  const { file, text, instead, absent: mayMiss = [] } = setting;
  p.field(setting.field);
  if (instead === undefined) {
    b.write(AT_FDCWD, `${directory}/${file}`, text, ...mayMiss);
    return;
  }
  const other = p.newLabel(`no ${file}`);
  const done = p.newLabel(`wrote ${file}`);
  const fd = p.orElse(other, "ENOENT").openat(AT_FDCWD, `${directory}/${file}`, O.O_WRONLY | O.O_CLOEXEC, 0);
  p.sys.write(fd, text, text.length);
  b.close(fd);
  p.jump(done);
  p.place(other);
  b.write(AT_FDCWD, `${directory}/${instead.file}`, instead.text);
  p.place(done);
}

/** v1: rules one after another. What is allowed by default goes through one descriptor. */
function writeDevices(b: Builder, directory: string, rules: readonly DeviceRule[]): void {
  const { p } = b;
  const own = rules.length - defaultDevices.length;
  rules.slice(0, own).forEach((rule, index) => {
    p.field(`linux.resources.devices[${index}]`);
    for (const text of ruleTexts(rule, index))
      b.write(AT_FDCWD, `${directory}/devices.${rule.allow ? "allow" : "deny"}`, text);
  });
  p.field("the default devices");
  const allow = p.sys.openat(AT_FDCWD, `${directory}/devices.allow`, O.O_WRONLY | O.O_CLOEXEC, 0);
  for (const text of rules.slice(own).flatMap((rule) => ruleTexts(rule))) p.sys.write(allow, text, text.length);
  b.close(allow);
}

/** bpf(2) */
const BPF_PROG_LOAD = 5;
const BPF_PROG_ATTACH = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE = 15;
const BPF_CGROUP_DEVICE = 6;
const BPF_F_ALLOW_MULTI = 2;
const loadSize = 48;
const attachSize = 16;

/** v2: a program decides. In a user namespace there is none to be had; the host's own limits hold there. */
function attachFilter(b: Builder, directory: string, rules: readonly DeviceRule[], must: boolean): void {
  const { p } = b;
  p.field("linux.resources.devices");
  const filter = compileDeviceFilter(rules);
  const none = p.newLabel("no device filter");
  const sys = must ? p.sys : p.orElse(none, "EPERM");
  const program = sys.bpf(
    BPF_PROG_LOAD,
    struct<Slot>("bpf_prog_load", {
      prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
      insn_cnt: filter.byteLength / 8,
      insns: filter,
      license: "Apache-2.0",
    }),
    loadSize,
  );
  const cgroup = p.sys.openat(AT_FDCWD, directory, O.O_RDONLY | O.O_DIRECTORY | O.O_CLOEXEC, 0);
  p.sys.bpf(
    BPF_PROG_ATTACH,
    struct<Slot>("bpf_prog_attach", {
      target_fd: cgroup,
      attach_bpf_fd: program,
      attach_type: BPF_CGROUP_DEVICE,
      attach_flags: BPF_F_ALLOW_MULTI,
    }),
    attachSize,
  );
  p.sys.close(cgroup);
  p.sys.close(program);
  p.place(none);
}

function limit(b: Builder, plan: CgroupPlan): void {
  for (const setting of plan.settings) {
    const cgroup = cgroupOf(plan.joined, plan.mode === "v2" ? "" : setting.controller);
    if (cgroup !== undefined) writeSetting(b, directoryOf(cgroup), setting);
  }
  if (plan.devices === undefined) return;
  const cgroup = cgroupOf(plan.joined, plan.mode === "v2" ? "" : "devices");
  if (cgroup === undefined) return;
  if (plan.mode === "v2") attachFilter(b, directoryOf(cgroup), plan.devices, plan.devicesMust);
  else writeDevices(b, directoryOf(cgroup), plan.devices);
}

/** Parent: makes the cgroups and sets their limits, before there is a process in them. */
export function makeCgroups(b: Builder, plan: CgroupPlan): void {
  for (const cgroup of plan.joined) {
    makeDirectories(b, plan, cgroup);
    if (plan.owner !== undefined && cgroup.hierarchy === "")
      giveToOwner(b, directoryOf(cgroup), plan.owner, plan.delegated);
  }
  if (plan.leave === undefined) limit(b, plan);
}

/** v2, and the part of v2 in a hybrid: the cgroup that clone3 starts the child in. */
export function openCgroup(b: Builder, plan: CgroupPlan): Slot | undefined {
  const cgroup = cgroupOf(plan.joined, "");
  if (cgroup === undefined) return undefined;
  b.p.field("linux.cgroupsPath");
  return b.p.sys.openat(AT_FDCWD, directoryOf(cgroup), O.O_PATH | O.O_DIRECTORY | O.O_CLOEXEC, 0);
}

/** Parent, when the child is made and waits: goes back from the unit that systemd has made for the container. */
export function leaveCgroups(b: Builder, plan: CgroupPlan): void {
  if (plan.leave === undefined) return;
  const { p } = b;
  p.field("linux.cgroupsPath");
  for (const file of plan.leave) {
    const stay = p.newLabel("stay");
    // A user may not move a process out of systemd's own cgroups: then this one stays, and is counted.
    const fd = p.orElse(stay, "EACCES", "EPERM", "ENOENT", "EROFS").openat(AT_FDCWD, file, O.O_WRONLY | O.O_CLOEXEC, 0);
    p.tolerate("EACCES", "EPERM", "ENOENT", "EBUSY", "EINVAL", "EOPNOTSUPP").write(fd, "0", 1);
    p.sys.close(fd);
    p.place(stay);
  }
  limit(b, plan);
}

/**
 * v1, in the child: it joins by itself, one thread writing "0" to `tasks`. Writing a process id to cgroup.procs from
 * outside waits for every CPU (an RCU grace period: 11 ms were measured); this takes 0.05 ms.
 */
export function joinCgroups(b: Builder, plan: Pick<CgroupPlan, "joined">): void {
  for (const cgroup of plan.joined) {
    if (cgroup.hierarchy === "") continue;
    b.p.field("linux.cgroupsPath");
    b.write(AT_FDCWD, `${directoryOf(cgroup)}/tasks`, "0");
  }
}

/**
 * At the end: a cgroup stays busy for a moment after its last process, and for good where the container has made others
 * below it. Failures are counted in `trouble`.
 */
export function removeCgroups(b: Builder, plan: CgroupPlan, note: (result: Slot) => void): void {
  const { p } = b;
  for (const cgroup of plan.joined) {
    p.field("linux.cgroupsPath");
    const directory = directoryOf(cgroup);
    if (plan.leave !== undefined) {
      // systemd removes what it has made, with all below, when nobody is in it any more: it would not hear of that of a
      // cgroup that was removed before. Hierarchies of v1 that it does not know are ours to remove.
      if (cgroup.hierarchy === "" || cgroup.hierarchy === "name=systemd") continue;
      p.with({ retries: 500 });
      p.tolerate("ENOENT", "EBUSY", "EACCES", "EPERM").unlinkat(AT_FDCWD, directory, AT.AT_REMOVEDIR);
      continue;
    }
    if (plan.shared) {
      const empty = p.newLabel("no cgroup below");
      const first = p.with({ retries: 20 }).tolerate("ENOENT", "EBUSY").unlinkat(AT_FDCWD, directory, AT.AT_REMOVEDIR);
      p.branch(first, "!=", -errnoOf("EBUSY"), empty);
      p.add({ op: "remove", dirfd: AT_FDCWD, name: directory });
      p.place(empty);
    }
    note(p.with({ retries: 1000 }).carryOn("ENOENT").unlinkat(AT_FDCWD, directory, AT.AT_REMOVEDIR));
  }
}
