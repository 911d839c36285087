/** linux.resources for cgroup v1: Documentation/admin-guide/cgroup-v1. */
import type { Resources } from "../../spec/runtime.ts";
import { checkResources, orMax, rdmaSettings, type Setting, Settings, throttleSettings } from "./settings.ts";

function cpuSettings({ cpu }: Resources, s: Settings): void {
  if (cpu === undefined) return;
  // runtime-spec has no word for "unset" but leaving out; runc's for it, which engines write, is 0.
  if (cpu.realtimePeriod) s.add("cpu", "cpu.rt_period_us", cpu.realtimePeriod, "cpu.realtimePeriod");
  if (cpu.realtimeRuntime) s.add("cpu", "cpu.rt_runtime_us", cpu.realtimeRuntime, "cpu.realtimeRuntime");
  if (cpu.shares) s.add("cpu", "cpu.shares", cpu.shares, "cpu.shares");
  if (cpu.idle !== undefined)
    s.add("cpu", "cpu.idle", cpu.idle, "cpu.idle", cpu.idle === 0 ? { absent: ["ENOENT"] } : {});
  if (cpu.period) s.add("cpu", "cpu.cfs_period_us", cpu.period, "cpu.period");
  if (cpu.quota) s.add("cpu", "cpu.cfs_quota_us", cpu.quota, "cpu.quota");
  if (cpu.burst !== undefined)
    s.add("cpu", "cpu.cfs_burst_us", cpu.burst, "cpu.burst", cpu.burst === 0 ? { absent: ["ENOENT"] } : {});
  if (cpu.cpus) s.add("cpuset", "cpuset.cpus", cpu.cpus, "cpu.cpus");
  if (cpu.mems) s.add("cpuset", "cpuset.mems", cpu.mems, "cpu.mems");
}

function memorySettings({ memory }: Resources, s: Settings, swapMayMiss: boolean): void {
  if (memory === undefined) return;
  if (memory.useHierarchy !== undefined)
    s.add("memory", "memory.use_hierarchy", memory.useHierarchy ? 1 : 0, "memory.useHierarchy");
  if (memory.limit) s.add("memory", "memory.limit_in_bytes", memory.limit, "memory.limit");
  // No limit of memory is one of memory and swap neither, which otherwise could not be smaller.
  const swap = memory.swap || (memory.limit === -1 ? -1 : undefined);
  if (swap !== undefined)
    // Where the kernel does not count swap there is no such file, and no limit.
    s.add(
      "memory",
      "memory.memsw.limit_in_bytes",
      swap,
      "memory.swap",
      swapMayMiss || swap < 0 ? { absent: ["ENOENT", "EACCES"] } : {},
    );
  if (memory.reservation) s.add("memory", "memory.soft_limit_in_bytes", memory.reservation, "memory.reservation");
  if (memory.kernel) s.add("memory", "memory.kmem.limit_in_bytes", memory.kernel, "memory.kernel");
  if (memory.kernelTCP) s.add("memory", "memory.kmem.tcp.limit_in_bytes", memory.kernelTCP, "memory.kernelTCP");
  if (memory.swappiness !== undefined) s.add("memory", "memory.swappiness", memory.swappiness, "memory.swappiness");
  if (memory.disableOOMKiller !== undefined)
    s.add("memory", "memory.oom_control", memory.disableOOMKiller ? 1 : 0, "memory.disableOOMKiller");
}

/** The BFQ scheduler has files of its own; those without "bfq" were CFQ's, which Linux 5.0 dropped. */
function weightSettings({ blockIO }: Resources, s: Settings): void {
  if (blockIO === undefined) return;
  const weight = (file: string, text: string, path: string): void =>
    s.add("blkio", `blkio.${file}`, text, path, { instead: { file: `blkio.bfq.${file}`, text } });
  if (blockIO.weight) weight("weight", String(blockIO.weight), "blockIO.weight");
  if (blockIO.leafWeight) s.add("blkio", "blkio.leaf_weight", blockIO.leafWeight, "blockIO.leafWeight");
  (blockIO.weightDevice ?? []).forEach((each, index) => {
    const device = `${each.major}:${each.minor}`;
    const path = `blockIO.weightDevice[${index}]`;
    if (each.weight) weight("weight_device", `${device} ${each.weight}`, path);
    if (each.leafWeight) s.add("blkio", "blkio.leaf_weight_device", `${device} ${each.leafWeight}`, path);
  });
}

function otherSettings(resources: Resources, s: Settings): void {
  (resources.hugepageLimits ?? []).forEach(({ pageSize, limit }, index) => {
    const path = `hugepageLimits[${index}]`;
    s.add("hugetlb", `hugetlb.${pageSize}.limit_in_bytes`, limit, path);
    s.add("hugetlb", `hugetlb.${pageSize}.rsvd.limit_in_bytes`, limit, path, { absent: ["ENOENT"] });
  });
  const { network, pids } = resources;
  if (network?.classID) s.add("net_cls", "net_cls.classid", network.classID, "network.classID");
  (network?.priorities ?? []).forEach(({ name, priority }, index) => {
    s.add("net_prio", "net_prio.ifpriomap", `${name} ${priority}`, `network.priorities[${index}]`);
  });
  if (pids?.limit !== undefined) s.add("pids", "pids.max", pids.limit === 0 ? "max" : orMax(pids.limit), "pids.limit");
}

/**
 * All of linux.resources but the devices, in the order in which a new cgroup takes them.
 * @param swapMayMiss a limit of swap is left out where the kernel does not count swap
 * @throws OciboxError INVALID, UNSUPPORTED naming the field
 */
export function settingsV1(resources: Resources, swapMayMiss = false): Setting[] {
  const s = new Settings();
  checkResources(resources, s);
  for (const key in resources.unified)
    s.refuse(`unified[${key}]`, "this host has cgroup v1, where there is nothing to write it to");
  cpuSettings(resources, s);
  memorySettings(resources, s, swapMayMiss);
  weightSettings(resources, s);
  throttleSettings(resources, s, "v1");
  otherSettings(resources, s);
  rdmaSettings(resources, s);
  return s.all;
}
