/** What a container has used, in the structure of runc's `events --stats`. */
import { type CgroupFiles, directoryFor, filesIn, numberOf } from "./cgroup-files.ts";
import type { Cgroups } from "./cgroups.ts";

/** Integers are bigints: limits go to 2^64-1. */
type Stats = { readonly [name: string]: unknown };

/** USER_HZ of every machine ocibox runs on, in nanoseconds: times(2). */
const tick = 10_000_000n;

/** Go's omitempty: what is 0 or empty is left out. */
function filled(fields: Readonly<Record<string, unknown>>): Stats {
  const kept: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields))
    if (value !== undefined && value !== 0n && !(Array.isArray(value) && value.length === 0)) kept[name] = value;
  return kept;
}

function numbers(text: string | undefined): bigint[] {
  return (text ?? "")
    .trim()
    .split(/\s+/)
    .filter((each) => each !== "")
    .map(numberOf);
}

/** "0-2,5" → 0, 1, 2, 5 */
function listOf(text: string | undefined): number[] {
  const found: number[] = [];
  for (const part of (text ?? "").trim().split(",")) {
    const [first, last] = part.split("-");
    if (first === undefined || first === "") continue;
    for (let at = Number(first); at <= Number(last ?? first); at++) found.push(at);
  }
  return found;
}

function cpuOfV1(cpu: CgroupFiles | undefined, acct: CgroupFiles | undefined): Stats {
  const each = (acct?.text("cpuacct.usage_all") ?? "").trim().split("\n").slice(1).map(numbers);
  const used = acct?.table("cpuacct.stat") ?? {};
  const throttling = cpu?.table("cpu.stat") ?? {};
  return {
    usage: {
      ...filled({
        total: acct?.number("cpuacct.usage"),
        percpu: numbers(acct?.text("cpuacct.usage_percpu")),
        percpu_kernel: each.map(([, , system = 0n]) => system),
        percpu_user: each.map(([, user = 0n]) => user),
      }),
      kernel: (used.system ?? 0n) * tick,
      user: (used.user ?? 0n) * tick,
    },
    throttling: filled({
      periods: throttling.nr_periods,
      throttledPeriods: throttling.nr_throttled,
      throttledTime: throttling.throttled_time,
    }),
  };
}

function cpuOfV2(files: CgroupFiles): Stats {
  const stat = files.table("cpu.stat");
  const nanoseconds = (name: string): bigint => (stat[name] ?? 0n) * 1000n;
  return {
    usage: {
      ...filled({ total: nanoseconds("usage_usec") }),
      kernel: nanoseconds("system_usec"),
      user: nanoseconds("user_usec"),
    },
    throttling: filled({
      periods: stat.nr_periods,
      throttledPeriods: stat.nr_throttled,
      throttledTime: nanoseconds("throttled_usec"),
    }),
  };
}

function cpusetOf(files: CgroupFiles | undefined): Stats {
  const flags = [
    ...["cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page"],
    ...["memory_spread_slab", "memory_pressure", "sched_load_balance"],
  ];
  if (files === undefined) return {};
  return {
    ...filled({ cpus: listOf(files.text("cpuset.cpus")), mems: listOf(files.text("cpuset.mems")) }),
    ...Object.fromEntries(flags.map((name) => [name, files.number(`cpuset.${name}`)])),
    sched_relax_domain_level: Number(files.text("cpuset.sched_relax_domain_level") ?? 0),
  };
}

function entry(limit: bigint, usage: bigint, max: bigint, failcnt: bigint): Stats {
  return { limit, ...filled({ usage, max }), failcnt };
}

function memoryOfV1(files: CgroupFiles | undefined): Stats {
  if (files === undefined) return {};
  const of = (prefix: string): Stats =>
    entry(
      files.number(`memory.${prefix}limit_in_bytes`),
      files.number(`memory.${prefix}usage_in_bytes`),
      files.number(`memory.${prefix}max_usage_in_bytes`),
      files.number(`memory.${prefix}failcnt`),
    );
  const raw = files.table("memory.stat");
  return {
    ...filled({ cache: raw.cache }),
    usage: of(""),
    swap: of("memsw."),
    kernel: of("kmem."),
    kernelTCP: of("kmem.tcp."),
    raw,
  };
}

function memoryOfV2(files: CgroupFiles): Stats {
  const raw = files.table("memory.stat");
  const usage = files.number("memory.current");
  const limit = files.number("memory.max");
  const swapLimit = files.number("memory.swap.max");
  const most = 2n ** 64n - 1n;
  // As v1 has it: memory and swap together.
  const both = swapLimit === most || limit === most ? most : swapLimit + limit;
  return {
    ...filled({ cache: raw.file }),
    usage: entry(limit, usage, files.number("memory.peak"), files.table("memory.events").max ?? 0n),
    swap: entry(both, files.number("memory.swap.current") + usage, 0n, 0n),
    kernel: entry(0n, 0n, 0n, 0n),
    kernelTCP: entry(0n, 0n, 0n, 0n),
    raw,
  };
}

/** "8:0 Read 4096"; the lines with a sum of all devices are not one's. */
function blkioOfV1(files: CgroupFiles | undefined): Stats {
  const list = (...names: string[]): Stats[] => {
    for (const name of names) {
      const found = [...(files?.text(name) ?? "").matchAll(/^(\d+):(\d+) ([A-Za-z]+) (\d+)$/gm)].map(
        ([, major = "", minor = "", op, value = ""]) =>
          filled({ major: BigInt(major), minor: BigInt(minor), op, value: BigInt(value) }),
      );
      if (found.length > 0) return found;
    }
    return [];
  };
  return filled({
    ioServiceBytesRecursive: list("blkio.bfq.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive"),
    ioServicedRecursive: list("blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"),
  });
}

/** "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0" */
function blkioOfV2(files: CgroupFiles): Stats {
  const bytes: Stats[] = [];
  const operations: Stats[] = [];
  const words = {
    rbytes: [bytes, "Read"],
    wbytes: [bytes, "Write"],
    rios: [operations, "Read"],
    wios: [operations, "Write"],
  } as const;
  for (const line of (files.text("io.stat") ?? "").split("\n")) {
    const [device = "", ...rest] = line.split(" ");
    const [major = "", minor = ""] = device.split(":");
    if (!/^\d+$/.test(major) || !/^\d+$/.test(minor)) continue;
    for (const word of rest) {
      const [name = "", value = "0"] = word.split("=");
      if (!Object.hasOwn(words, name)) continue;
      const [list, op] = words[name as keyof typeof words];
      list.push(filled({ major: BigInt(major), minor: BigInt(minor), op, value: numberOf(value) }));
    }
  }
  return filled({ ioServiceBytesRecursive: bytes, ioServicedRecursive: operations });
}

function hugetlbOf(files: CgroupFiles | undefined, v2: boolean): Stats {
  const found: Record<string, unknown> = {};
  const pattern = v2 ? /^hugetlb\.(\d+[KMG]B)\.current$/ : /^hugetlb\.(\d+[KMG]B)\.usage_in_bytes$/;
  for (const name of files?.names() ?? []) {
    const size = pattern.exec(name)?.[1];
    if (size === undefined || files === undefined) continue;
    const max = v2 ? 0n : files.number(`hugetlb.${size}.max_usage_in_bytes`);
    const failcnt = v2 ? files.table(`hugetlb.${size}.events`).max : files.number(`hugetlb.${size}.failcnt`);
    found[size] = { ...filled({ usage: files.number(name), max }), failcnt: failcnt ?? 0n };
  }
  return found;
}

function pidsOf(files: CgroupFiles | undefined): Stats {
  if (files === undefined) return {};
  const limit = files.text("pids.max")?.trim() === "max" ? 0n : files.number("pids.max");
  return filled({ current: files.number("pids.current"), limit });
}

export function statsOf(cgroups: Cgroups): Stats {
  const of = (controller: string): CgroupFiles | undefined => {
    const directory = directoryFor(cgroups, controller);
    return directory === undefined ? undefined : filesIn(directory);
  };
  const common = { intel_rdt: {}, network_interfaces: null };
  const [directory] = cgroups.directories;
  if (cgroups.mode === "v2" && directory !== undefined) {
    const files = filesIn(directory);
    return {
      cpu: cpuOfV2(files),
      cpuset: {},
      memory: memoryOfV2(files),
      pids: pidsOf(files),
      blkio: blkioOfV2(files),
      hugetlb: hugetlbOf(files, true),
      ...common,
    };
  }
  return {
    cpu: cpuOfV1(of("cpu"), of("cpuacct")),
    cpuset: cpusetOf(of("cpuset")),
    memory: memoryOfV1(of("memory")),
    pids: pidsOf(of("pids")),
    blkio: blkioOfV1(of("blkio")),
    hugetlb: hugetlbOf(of("hugetlb"), false),
    ...common,
  };
}

/** How often the kernel has ended a process of the container's for want of memory; undefined where nobody counts it. */
export function oomKills(cgroups: Cgroups): bigint | undefined {
  const directory = directoryFor(cgroups, "memory");
  if (directory === undefined) return undefined;
  return filesIn(directory).table(cgroups.mode === "v2" ? "memory.events" : "memory.oom_control").oom_kill;
}

/** JSON with bigints as numbers. */
export function jsonOf(value: unknown): string {
  const text = JSON.stringify(value, (_, each) => (typeof each === "bigint" ? `\u0001${each}` : each));
  return text.replace(/"\\u0001(\d+)"/g, "$1");
}
