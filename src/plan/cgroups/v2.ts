/** linux.resources for cgroup v2: Documentation/admin-guide/cgroup-v2.rst; values of v1 are converted as runc does. */
import { AT_FDCWD, O } from "../../../ffi/constants.ts";
import type { BlockIo, MemoryResources, Resources } from "../../spec/runtime.ts";
import { OciboxError } from "../../errors.ts";
import type { Builder } from "../builder.ts";
import { type Limit, rdmaText } from "./v1.ts";

/**
 * Shares (2 to 262144, 1024 by default) as a weight (1 to 10000, 100 by default): a curve through the three points, as
 * runc 1.3 and later have it.
 */
export function weightOfShares(shares: number): number {
  if (shares <= 2) return 1;
  if (shares >= 262_144) return 10_000;
  const log = Math.log2(shares);
  return Math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34));
}

/** 10 to 1000 of v1 as 1 to 10000 of v2. */
export function ioWeight(weight: number): number {
  return 1 + Math.floor(((weight - 10) * 9999) / 990);
}

function max(value: number): string {
  return value < 0 ? "max" : String(value);
}

/** v2 counts swap alone, the specification memory and swap together. */
function swapOf({ limit, swap }: MemoryResources): string | undefined {
  if (swap === undefined || swap === 0) return undefined;
  if (swap < 0) return "max";
  if (limit === undefined || limit === 0 || limit < 0)
    throw new OciboxError("INVALID", "linux.resources.memory.swap cannot be set without memory.limit on cgroup v2");
  if (swap < limit)
    throw new OciboxError("INVALID", `linux.resources.memory.swap is ${swap}, and less than memory.limit`);
  return String(swap - limit);
}

const throttles = {
  throttleReadBpsDevice: "rbps",
  throttleWriteBpsDevice: "wbps",
  throttleReadIOPSDevice: "riops",
  throttleWriteIOPSDevice: "wiops",
} as const;

function blockIo(blockIO: BlockIo): Limit[] {
  const limits: Limit[] = [];
  if (blockIO.weight !== undefined && blockIO.weight !== 0)
    limits.push({
      controller: "io",
      file: "io.weight",
      value: `default ${ioWeight(blockIO.weight)}`,
      field: "blockIO.weight",
    });
  (blockIO.weightDevice ?? []).forEach(({ major, minor, weight }, index) => {
    if (weight !== undefined)
      limits.push({
        controller: "io",
        file: "io.weight",
        value: `${major}:${minor} ${ioWeight(weight)}`,
        field: `blockIO.weightDevice[${index}]`,
      });
  });
  for (const key in throttles) {
    const name = key as keyof typeof throttles;
    (blockIO[name] ?? []).forEach(({ major, minor, rate }, index) => {
      const value = `${major}:${minor} ${throttles[name]}=${rate === 0 ? "max" : rate}`;
      limits.push({ controller: "io", file: "io.max", value, field: `blockIO.${name}[${index}]` });
    });
  }
  return limits;
}

/** Every value of linux.resources but the devices. */
export function limitsOfV2(resources: Resources): Limit[] {
  const limits: Limit[] = [];
  const put = (controller: string, file: string, value: number | string | undefined, field: string): void => {
    if (value !== undefined) limits.push({ controller, file: `${controller}.${file}`, value: String(value), field });
  };
  const { memory, cpu, pids, hugepageLimits, rdma, unified } = resources;
  if (pids?.limit !== undefined) put("pids", "max", pids.limit > 0 ? pids.limit : "max", "pids.limit");
  if (memory !== undefined) {
    if (memory.limit !== undefined && memory.limit !== 0) put("memory", "max", max(memory.limit), "memory.limit");
    const swap = swapOf(memory);
    if (swap !== undefined)
      limits.push({
        controller: "memory",
        file: "memory.swap.max",
        value: swap,
        field: "memory.swap",
        optional: ["ENOENT"],
      });
    if (memory.reservation !== undefined && memory.reservation !== 0)
      put("memory", "low", max(memory.reservation), "memory.reservation");
  }
  if (cpu !== undefined) {
    put("cpu", "idle", cpu.idle, "cpu.idle");
    if (cpu.shares !== undefined && cpu.shares !== 0 && cpu.idle !== 1)
      put("cpu", "weight", weightOfShares(cpu.shares), "cpu.shares");
    if ((cpu.quota ?? 0) !== 0 || (cpu.period ?? 0) !== 0) {
      const quota = cpu.quota !== undefined && cpu.quota > 0 ? String(cpu.quota) : "max";
      put("cpu", "max", `${quota} ${cpu.period || 100_000}`, cpu.quota === undefined ? "cpu.period" : "cpu.quota");
    }
    put("cpu", "max.burst", cpu.burst, "cpu.burst");
    put("cpuset", "cpus", cpu.cpus === "" ? undefined : cpu.cpus, "cpu.cpus");
    put("cpuset", "mems", cpu.mems === "" ? undefined : cpu.mems, "cpu.mems");
  }
  if (resources.blockIO !== undefined) limits.push(...blockIo(resources.blockIO));
  (hugepageLimits ?? []).forEach(({ pageSize, limit }, index) => {
    put("hugetlb", `${pageSize}.max`, limit, `hugepageLimits[${index}]`);
  });
  for (const device in rdma ?? {}) put("rdma", "max", rdmaText(device, rdma?.[device] ?? {}), `rdma[${device}]`);
  for (const file in unified ?? {}) {
    if (file.includes("/") || !file.includes("."))
      throw new OciboxError("INVALID", `linux.resources.unified: ${JSON.stringify(file)} is no file of a cgroup`);
    const controller = file.slice(0, file.indexOf("."));
    limits.push({ controller, file, value: unified?.[file] ?? "", field: `unified[${file}]` });
  }
  return limits;
}

/** Hands every controller down to the container's cgroup, from the root on: cgroup-v2.rst, "Controlling Controllers". */
export function enableControllers(b: Builder, directory: string): void {
  const { p } = b;
  const parts = directory.split("/").slice(4);
  let above = directory.split("/").slice(0, 4).join("/");
  for (const part of parts) {
    p.field(`the controllers of ${above}`);
    const done = p.newLabel(`controllers of ${above}`);
    const errnos = ["ENOENT", "EACCES", "EPERM", "EROFS"] as const;
    const file = p
      .orElse(done, ...errnos)
      .openat(AT_FDCWD, `${above}/cgroup.subtree_control`, O.O_WRONLY | O.O_CLOEXEC, 0);
    // One by one: a controller that is not there, or that has processes beside it, does not stand in another's way.
    for (const name of ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"])
      p.tolerate("ENOENT", "EINVAL", "EBUSY", "EPERM", "EACCES", "EOPNOTSUPP").write(file, `+${name}`, name.length + 1);
    b.close(file);
    p.place(done);
    above = `${above}/${part}`;
  }
}

/** @param enabled whether the controllers have been handed down already */
export function limitsV2(b: Builder, directory: string, resources: Resources, enabled: boolean): void {
  const { p } = b;
  const limits = limitsOfV2(resources);
  const top = directory.split("/").slice(0, 4).join("/");
  for (const controller of enabled ? [] : new Set(limits.map((each) => each.controller))) {
    p.field(`the ${controller} controller`);
    const errnos = ["ENOENT", "EACCES", "EPERM", "EROFS"] as const;
    b.write(AT_FDCWD, `${top}/cgroup.subtree_control`, `+${controller}`, ...errnos);
  }
  for (const { file, value, field, optional } of limits) {
    p.field(`linux.resources.${field}`);
    b.write(AT_FDCWD, `${directory}/${file}`, value, ...(optional ?? []));
  }
}
