/** linux.resources for cgroup v2: Documentation/admin-guide/cgroup-v2.rst. runtime-spec speaks of v1; here it is converted. */
import type { Resources } from "../../spec/runtime.ts";
import { checkResources, orMax, rdmaSettings, type Setting, Settings, throttleSettings } from "./settings.ts";

/** cpu.shares (2 to 262144) as cpu.weight (1 to 10000), as runc and crun reckon it. */
export function weightOfShares(shares: number): number {
  const within = Math.min(Math.max(shares, 2), 262_144);
  return 1 + Math.floor(((within - 2) * 9999) / 262_142);
}

/** blkio.weight (10 to 1000) as io.weight (1 to 10000). */
export function ioWeightOf(weight: number): number {
  return 1 + Math.floor(((Math.min(Math.max(weight, 10), 1000) - 10) * 9999) / 990);
}

/**
 * v2 counts swap by itself, runtime-spec memory and swap together.
 * @returns bytes or "max"; undefined where nothing was asked for
 */
function swapOf(swap: number | undefined, limit: number | undefined, s: Settings): string | undefined {
  if (limit === -1 && !swap) return "max";
  if (!swap) return undefined;
  if (swap < 0) return "max";
  if (limit === -1) return orMax(swap);
  if (!limit) s.invalid("memory.swap", "cgroup v2 counts swap alone: it can be reckoned only with memory.limit");
  return orMax(swap - limit);
}

function cpuSettings({ cpu }: Resources, s: Settings): void {
  if (cpu === undefined) return;
  if (cpu.realtimePeriod) s.refuse("cpu.realtimePeriod", "cgroup v2 has no limits of realtime");
  if (cpu.realtimeRuntime) s.refuse("cpu.realtimeRuntime", "cgroup v2 has no limits of realtime");
  if (cpu.shares) s.add("cpu", "cpu.weight", weightOfShares(cpu.shares), "cpu.shares");
  if (cpu.idle !== undefined)
    s.add("cpu", "cpu.idle", cpu.idle, "cpu.idle", cpu.idle === 0 ? { absent: ["ENOENT"] } : {});
  if (cpu.quota || cpu.period) {
    const quota = cpu.quota !== undefined && cpu.quota > 0 ? String(cpu.quota) : "max";
    s.add("cpu", "cpu.max", cpu.period ? `${quota} ${cpu.period}` : quota, cpu.quota ? "cpu.quota" : "cpu.period");
  }
  if (cpu.burst !== undefined)
    s.add("cpu", "cpu.max.burst", cpu.burst, "cpu.burst", cpu.burst === 0 ? { absent: ["ENOENT"] } : {});
  if (cpu.cpus) s.add("cpuset", "cpuset.cpus", cpu.cpus, "cpu.cpus");
  if (cpu.mems) s.add("cpuset", "cpuset.mems", cpu.mems, "cpu.mems");
}

function memorySettings({ memory }: Resources, s: Settings, swapMayMiss: boolean): void {
  if (memory === undefined) return;
  if (memory.kernel !== undefined && memory.kernel > 0)
    s.refuse("memory.kernel", "cgroup v2 counts the kernel's memory with all other");
  if (memory.kernelTCP !== undefined && memory.kernelTCP > 0)
    s.refuse("memory.kernelTCP", "cgroup v2 counts the kernel's memory with all other");
  if (memory.swappiness !== undefined) s.refuse("memory.swappiness", "cgroup v2 has no swappiness of its own");
  if (memory.disableOOMKiller === true)
    s.refuse("memory.disableOOMKiller", "cgroup v2 cannot do without the OOM killer");
  if (memory.useHierarchy === false) s.refuse("memory.useHierarchy", "cgroup v2 is always hierarchical");
  const swap = swapOf(memory.swap, memory.limit, s);
  // No such file where the kernel does not count swap: then it is not limited, and there may be none.
  if (swap !== undefined)
    s.add(
      "memory",
      "memory.swap.max",
      swap,
      "memory.swap",
      swapMayMiss || swap === "max" || swap === "0" ? { absent: ["ENOENT"] } : {},
    );
  if (memory.limit) s.add("memory", "memory.max", orMax(memory.limit), "memory.limit");
  if (memory.reservation) s.add("memory", "memory.low", orMax(memory.reservation), "memory.reservation");
}

/** The BFQ scheduler has its own file, with v1's numbers; io.weight is of the io.cost controller. */
function weightSettings({ blockIO }: Resources, s: Settings): void {
  if (blockIO === undefined) return;
  if (blockIO.leafWeight) s.refuse("blockIO.leafWeight", "cgroup v2 has no leaf weight");
  if (blockIO.weight)
    s.add("io", "io.bfq.weight", blockIO.weight, "blockIO.weight", {
      instead: { file: "io.weight", text: `default ${ioWeightOf(blockIO.weight)}` },
    });
  (blockIO.weightDevice ?? []).forEach(({ major, minor, weight, leafWeight }, index) => {
    const path = `blockIO.weightDevice[${index}]`;
    if (leafWeight) s.refuse(`${path}.leafWeight`, "cgroup v2 has no leaf weight");
    if (!weight) return;
    s.add("io", "io.bfq.weight", `${major}:${minor} ${weight}`, path, {
      instead: { file: "io.weight", text: `${major}:${minor} ${ioWeightOf(weight)}` },
    });
  });
}

function otherSettings(resources: Resources, s: Settings): void {
  (resources.hugepageLimits ?? []).forEach(({ pageSize, limit }, index) => {
    const path = `hugepageLimits[${index}]`;
    s.add("hugetlb", `hugetlb.${pageSize}.max`, limit, path);
    s.add("hugetlb", `hugetlb.${pageSize}.rsvd.max`, limit, path, { absent: ["ENOENT"] });
  });
  const { network, pids } = resources;
  if (network?.classID) s.refuse("network.classID", "cgroup v2 has no net_cls controller");
  if ((network?.priorities ?? []).length > 0) s.refuse("network.priorities", "cgroup v2 has no net_prio controller");
  if (pids?.limit !== undefined) s.add("pids", "pids.max", pids.limit === 0 ? "max" : orMax(pids.limit), "pids.limit");
}

/** Whatever the configuration wants written. The kernel reads one line a write, where a file has several. */
function unifiedSettings({ unified }: Resources, s: Settings): void {
  for (const file in unified) {
    const path = `unified[${file}]`;
    if (!/^[A-Za-z0-9_]+(?:\.[A-Za-z0-9_-]+)+$/.test(file)) s.invalid(path, "this is no name of a file in a cgroup");
    const controller = file.slice(0, file.indexOf("."));
    for (const text of (unified[file] ?? "").split("\n")) if (text !== "") s.add(controller, file, text, path);
  }
}

/**
 * All of linux.resources but the devices, in the order in which a new cgroup takes them; `unified` has the last word.
 * @param swapMayMiss a limit of swap is left out where the kernel does not count swap
 * @throws OciboxError INVALID, UNSUPPORTED naming the field
 */
export function settingsV2(resources: Resources, swapMayMiss = false): Setting[] {
  const s = new Settings();
  checkResources(resources, s);
  cpuSettings(resources, s);
  memorySettings(resources, s, swapMayMiss);
  weightSettings(resources, s);
  throttleSettings(resources, s, "v2");
  otherSettings(resources, s);
  rdmaSettings(resources, s);
  unifiedSettings(resources, s);
  return s.all;
}
