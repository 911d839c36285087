/** Which hierarchies of cgroups this host has, and where ocibox is in them: cgroups(7), proc_pid_cgroup(5). */
import { isThere, isWritable, readText } from "../../ffi/files.ts";
import { type CgroupHost, cgroupIn, directoryOf, type Hierarchy } from "../plan/cgroups/paths.ts";
import type { HostFacts } from "../plan/facts.ts";

const mountPoint = "/sys/fs/cgroup";

/** /proc/PID/cgroup: the path by the hierarchy's name. */
export function cgroupsOfProcess(pid: number | "self"): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of (readText(`/proc/${pid}/cgroup`) ?? "").split("\n")) {
    const [number, name, ...path] = line.split(":");
    if (name !== undefined && number !== undefined) found.set(name, path.join(":"));
  }
  return found;
}

/** Where a hierarchy of v1 is mounted: its own name, or one that links to it. @param known that are there */
function placeOf(name: string, known: readonly string[]): string | undefined {
  const short = name.startsWith("name=") ? name.slice("name=".length) : name;
  for (const each of [short, ...short.split(",")])
    if (known.includes(each) || isThere(`${mountPoint}/${each}/tasks`)) return `${mountPoint}/${each}`;
  return undefined;
}

function hostV2({ mode, controllers }: HostFacts["cgroup"], own: string): CgroupHost {
  const hierarchy = { name: "", mount: mountPoint, own };
  const beside = directoryOf(cgroupIn(hierarchy, undefined, "x"));
  return {
    mode,
    hierarchies: [hierarchy],
    controllers,
    delegate: readText("/sys/kernel/cgroup/delegate")?.trim().split("\n"),
    writable: isWritable(beside.slice(0, beside.lastIndexOf("/"))),
  };
}

/** All hierarchies that are mounted. @param found what the host's facts say of them already */
export function cgroupHost(found: HostFacts["cgroup"]): CgroupHost {
  const { mode } = found;
  const own = cgroupsOfProcess("self");
  const hierarchies: Hierarchy[] = [];
  if (mode === "v2") return hostV2(found, own.get("") ?? "/");
  const hasUnified = mode === "hybrid" || (mode === "none" && isThere(`${mountPoint}/unified/cgroup.procs`));
  for (const [name, path] of own) {
    const unified = hasUnified ? `${mountPoint}/unified` : undefined;
    const mount = name === "" ? unified : placeOf(name, found.controllers);
    if (mount !== undefined) hierarchies.push({ name, mount, own: path });
  }
  const [first] = hierarchies;
  return { mode, hierarchies, controllers: [], writable: first !== undefined && isWritable(first.mount + first.own) };
}
