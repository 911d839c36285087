/** What containers use at a moment, as docker counts it. */
import { readText } from "../../ffi/files.ts";
import { statsOf } from "../runtime/cgroup-stats.ts";
import { processesIn } from "../runtime/cgroups.ts";
import { statOf, ticksPerSecond } from "../runtime/process-mark.ts";
import { ownCgroups } from "./own-cgroups.ts";
import type { ContainerStatus } from "./record.ts";

export interface Usage {
  /** ms, of the monotonic clock. */
  readonly at: number;
  /** CPU time, nanoseconds. */
  readonly cpu: number;
  /** Bytes, without what the page cache could give back. */
  readonly memory: number;
  /** Bytes: its limit, or all that the machine has. */
  readonly memoryLimit: number;
  /** Bytes over its own devices. */
  readonly received: number;
  readonly sent: number;
  /** Bytes from and to disks. */
  readonly read: number;
  readonly written: number;
  readonly pids: number;
}

/** A number somewhere in statistics; 0 where nobody counts it. */
function numberAt(stats: unknown, ...path: readonly string[]): number {
  let value: unknown = stats;
  for (const key of path) value = typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
  return typeof value === "bigint" ? Number(value) : typeof value === "number" ? value : 0;
}

function diskBytes(stats: unknown, direction: string): number {
  const list =
    (stats as { blkio?: { ioServiceBytesRecursive?: readonly unknown[] } }).blkio?.ioServiceBytesRecursive ?? [];
  return list
    .filter((each) => (each as { op?: unknown }).op === direction)
    .reduce<number>((sum, each) => sum + numberAt(each, "value"), 0);
}

/** /proc/PID/net/dev: bytes received and sent over all devices but loopback. */
function networkBytes(pid: number | undefined): readonly [received: number, sent: number] {
  let [received, sent] = [0, 0];
  for (const line of (pid === undefined ? "" : (readText(`/proc/${pid}/net/dev`) ?? "")).split("\n")) {
    const [name = "", rest] = line.split(":");
    if (rest === undefined || name.trim() === "lo") continue;
    const numbers = rest.trim().split(/\s+/).map(Number);
    received += numbers[0] ?? 0;
    sent += numbers[8] ?? 0;
  }
  return [received, sent];
}

/** Nanoseconds. */
const tick = 1e9 / ticksPerSecond;

/** What processes say of themselves, where no cgroup counts: what has ended is not in it. */
function sumOf(pids: readonly number[], file: string, pattern: RegExp): number {
  return pids.reduce((sum, pid) => sum + Number(pattern.exec(readText(`/proc/${pid}/${file}`) ?? "")?.[1] ?? 0), 0);
}

/** utime and stime. */
function processorTime(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const { fields } = statOf(readText(`/proc/${pid}/stat`) ?? "");
    return sum + (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * tick;
  }, 0);
}

function machineMemory(): number {
  return Number(/^MemTotal:\s+(\d+) kB/m.exec(readText("/proc/meminfo") ?? "")?.[1] ?? 0) * 1024;
}

/** @throws OciboxError INVALID for one that does not run, HOST where it has no cgroup */
export function usageOf(root: string, container: ContainerStatus): Usage {
  const cgroups = ownCgroups(root, container);
  const stats = statsOf(cgroups);
  const pids = processesIn(cgroups);
  const [received, sent] = container.network === "host" ? [0, 0] : networkBytes(pids[0]);
  const cache =
    numberAt(stats, "memory", "raw", "total_inactive_file") || numberAt(stats, "memory", "raw", "inactive_file");
  const used = numberAt(stats, "memory", "usage", "usage");
  const machine = machineMemory();
  const limit = numberAt(stats, "memory", "usage", "limit");
  return {
    at: performance.now(),
    // With v1 `run` makes the cgroups of what it limits, and no others.
    cpu: numberAt(stats, "cpu", "usage", "total") || processorTime(pids),
    memory: used === 0 ? sumOf(pids, "smaps_rollup", /^Pss:\s+(\d+) kB/m) * 1024 : Math.max(0, used - cache),
    memoryLimit: limit === 0 || limit > machine ? machine : limit,
    received,
    sent,
    read: diskBytes(stats, "Read") || sumOf(pids, "io", /^read_bytes: (\d+)/m),
    written: diskBytes(stats, "Write") || sumOf(pids, "io", /^write_bytes: (\d+)/m),
    pids: numberAt(stats, "pids", "current") || pids.length,
  };
}
