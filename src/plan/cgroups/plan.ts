/** linux.cgroupsPath as steps: which cgroups a container has, how they are made, joined and removed. cgroups(7) */
import { AT, AT_FDCWD, O } from "../../../ffi/constants.ts";
import type { Slot } from "../../../ffi/plan.ts";
import type { Resources, Spec } from "../../spec/runtime.ts";
import type { Builder } from "../builder.ts";
import type { Hierarchy, HostFacts } from "../facts.ts";
import { attachDeviceProgram } from "./device-program.ts";
import { limitsV1 } from "./v1.ts";
import { enableControllers, limitsV2 } from "./v2.ts";

export const cgroupMountPoint = "/sys/fs/cgroup";

export interface JoinedHierarchy {
  /** Directory below /sys/fs/cgroup. */
  readonly name: string;
  /** Other names of its controllers: "cpu" beside "cpu,cpuacct". */
  readonly links: readonly string[];
  /** What the cgroup file system is mounted with to be this one. */
  readonly options: readonly (readonly [string, string | null])[];
  readonly directory: string;
}

export interface CgroupPlan {
  readonly mode: HostFacts["cgroup"]["mode"];
  /** Directories to be made, and removed at the end. v2 has one. */
  readonly directories: readonly string[];
  /** v1: the hierarchies joined. */
  readonly hierarchies: readonly JoinedHierarchy[];
  /** Whether the directories may be there already, and their parents be missing: a path that somebody else chose. */
  readonly foreign: boolean;
}

function joined({ name, controllers }: Hierarchy, path: string): JoinedHierarchy {
  const named = controllers.length === 0;
  return {
    name,
    links: controllers.length > 1 ? controllers.filter((each) => each !== name) : [],
    options: named
      ? [
          ["none", null],
          ["name", name],
        ]
      : controllers.map((each) => [each, null] as const),
    directory: `${cgroupMountPoint}/${name}${path}`,
  };
}

/**
 * The hierarchies of v1 that `ocibox run` joins: only what is asked for, since each costs a directory made and removed.
 */
function wanted(resources: Resources | undefined): Readonly<Record<string, boolean>> {
  return {
    pids: resources?.pids !== undefined,
    devices: resources?.devices !== undefined,
    memory: resources?.memory !== undefined,
    cpu: resources?.cpu !== undefined,
  };
}

/** @param all whether every hierarchy of v1 is joined, as runtimes under other programs do */
export function planCgroups(spec: Spec, facts: HostFacts, all = false): CgroupPlan {
  const path = spec.linux?.cgroupsPath;
  const { mode, controllers, writable } = facts.cgroup;
  if (path === undefined || !writable || mode === "none")
    return { directories: [], hierarchies: [], mode, foreign: all };
  if (mode === "v2")
    return { directories: [`${cgroupMountPoint}${path}`], hierarchies: [], mode, foreign: all };
  const found: readonly Hierarchy[] =
    all && facts.cgroup.hierarchies !== undefined
      ? facts.cgroup.hierarchies
      : controllers
          .filter((name) => wanted(spec.linux?.resources)[name] === true)
          .map((name) => ({ name, controllers: [name] }));
  const hierarchies = found.map((each) => joined(each, path));
  return { directories: hierarchies.map((each) => each.directory), hierarchies, mode, foreign: all };
}

/** v1's cpuset has no processors and no memory at first: what the directory above has. cpuset(7) */
function inheritCpuset(b: Builder, parent: string, directory: string): void {
  const { p } = b;
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    const memory = p.memory(file, 4096);
    const from = p.sys.openat(AT_FDCWD, `${parent}/${file}`, O.O_RDONLY | O.O_CLOEXEC, 0);
    const got = p.sys.read(from, memory, 4096);
    b.close(from);
    const skip = p.newLabel(`${file} is empty`);
    p.branch(got, "<", 2, skip);
    const to = p.sys.openat(AT_FDCWD, `${directory}/${file}`, O.O_WRONLY | O.O_CLOEXEC, 0);
    // Somebody may have set it already.
    p.tolerate("EACCES", "EINVAL", "EBUSY").write(to, memory, got);
    b.close(to);
    p.place(skip);
  }
}

/** A directory that somebody else named: those above it are made where they are missing. */
function makePath(b: Builder, directory: string, isCpuset: boolean): void {
  const { p } = b;
  const root = directory.split("/").slice(0, 5).join("/");
  let above = root.slice(0, root.lastIndexOf("/"));
  const parts = directory.slice(above.length + 1).split("/");
  for (const part of parts) {
    const path = `${above}/${part}`;
    const there = p.newLabel(`have ${path}`);
    p.orElse(there, "EEXIST").mkdirat(AT_FDCWD, path, 0o755);
    if (isCpuset) inheritCpuset(b, above, path);
    p.place(there);
    above = path;
  }
}

/** Parent: makes the cgroups and sets their limits, before there is a process in them. */
export function makeCgroups(b: Builder, plan: CgroupPlan, resources: Resources, mustHaveDevices: boolean): void {
  const { p } = b;
  p.field("linux.cgroupsPath");
  plan.directories.forEach((directory, index) => {
    if (plan.foreign) makePath(b, directory, plan.hierarchies[index]?.options.some(([key]) => key === "cpuset") === true);
    else p.sys.mkdirat(AT_FDCWD, directory, 0o755);
  });
  const [first] = plan.directories;
  if (first === undefined) return;
  if (plan.mode !== "v2") {
    limitsV1(b, plan, resources);
    return;
  }
  if (plan.foreign) enableControllers(b, first);
  limitsV2(b, first, resources, plan.foreign);
  if (plan.foreign) attachDeviceProgram(b, first, resources.devices ?? [], mustHaveDevices);
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
export function joinCgroups(b: Builder, plan: Pick<CgroupPlan, "mode" | "directories">): void {
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
