/** linux.resources as properties of a unit: systemd.resource-control(5). The kernel's files are written all the same. */
import { ioWeightOf, weightOfShares } from "../plan/cgroups/v2.ts";
import type { CgroupMode } from "../plan/facts.ts";
import type { Resources } from "../spec/runtime.ts";
import type { Variant } from "./dbus-wire.ts";

export type Property = readonly [name: string, value: Variant];

const infinity = 2n ** 64n - 1n;

function amount(value: number): bigint {
  return value < 0 ? infinity : BigInt(value);
}

/** Microseconds of CPU in a second; systemd keeps full percents of it. */
function quotaPerSecond(quota: number, period: number): bigint {
  if (quota <= 0) return infinity;
  return BigInt(Math.ceil((quota * 1_000_000) / period / 10_000) * 10_000);
}

/** "0-2,8" as a mask of bits, the first byte for the first eight. */
export function maskOf(list: string): number[] {
  const mask: number[] = [];
  for (const part of list.split(",")) {
    const [first = "", last = first] = part.trim().split("-");
    for (let at = Number(first); first !== "" && at <= Math.min(Number(last), 65_535); at++) {
      while (mask.length <= at >> 3) mask.push(0);
      mask[at >> 3] = (mask[at >> 3] ?? 0) | (1 << (at & 7));
    }
  }
  return mask;
}

/** Limits that a starting ocibox, which is in the unit for a moment, could fall over are left to the kernel's files. */
const leastMemory = 64 << 20;
const leastTasks = 64;

/** Files of v2 that a unit has a property for: systemd would write its own "no limit" over them. */
const unifiedProperties: Readonly<Record<string, string>> = {
  "cpu.weight": "CPUWeight",
  "memory.high": "MemoryHigh",
  "memory.low": "MemoryLow",
  "memory.max": "MemoryMax",
  "memory.min": "MemoryMin",
  "memory.swap.max": "MemorySwapMax",
  "pids.max": "TasksMax",
};

function unifiedLimits(unified: Readonly<Record<string, string>>): Property[] {
  const found: Property[] = [];
  for (const [file, text] of Object.entries(unified)) {
    const name = unifiedProperties[file];
    const value = text.trim();
    const amountOf = value === "max" ? infinity : /^\d+$/.test(value) ? BigInt(value) : undefined;
    const tooSmall = file === "pids.max" ? leastTasks : /^memory\.(?:max|high)$/.test(file) ? leastMemory : 0;
    if (name !== undefined && amountOf !== undefined && amountOf >= tooSmall)
      found.push([name, { signature: "t", value: amountOf }]);
  }
  return found;
}

export function limitProperties(resources: Resources, mode: CgroupMode): Property[] {
  const { cpu, memory, pids, blockIO, unified } = resources;
  const found: Property[] = [];
  const put = (name: string, value: bigint): void => {
    found.push([name, { signature: "t", value }]);
  };
  const v2 = mode === "v2";
  if (memory?.limit !== undefined && (memory.limit < 0 || memory.limit >= leastMemory))
    put(v2 ? "MemoryMax" : "MemoryLimit", amount(memory.limit));
  if (v2 && memory?.reservation) put("MemoryLow", amount(memory.reservation));
  if (v2 && memory?.swap && memory.limit !== undefined && (memory.swap < 0 || memory.limit > 0))
    put("MemorySwapMax", memory.swap < 0 ? infinity : BigInt(memory.swap - memory.limit));
  if (cpu?.shares) put(v2 ? "CPUWeight" : "CPUShares", BigInt(v2 ? weightOfShares(cpu.shares) : cpu.shares));
  if (cpu?.quota) put("CPUQuotaPerSecUSec", quotaPerSecond(cpu.quota, cpu.period || 100_000));
  if (cpu?.period) put("CPUQuotaPeriodUSec", BigInt(cpu.period));
  for (const [name, list] of v2
    ? ([
        ["AllowedCPUs", cpu?.cpus],
        ["AllowedMemoryNodes", cpu?.mems],
      ] as const)
    : [])
    if (list) found.push([name, { signature: "ay", value: maskOf(list) }]);
  if (pids?.limit !== undefined && (pids.limit < 0 || pids.limit >= leastTasks)) put("TasksMax", amount(pids.limit));
  if (blockIO?.weight) put(v2 ? "IOWeight" : "BlockIOWeight", BigInt(v2 ? ioWeightOf(blockIO.weight) : blockIO.weight));
  // The last of two settings of one property holds: `unified` has the last word in the files as well.
  return v2 && unified !== undefined ? [...found, ...unifiedLimits(unified)] : found;
}
