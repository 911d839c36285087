/** What linux.resources asks for, as texts to be written into files of a cgroup: cgroups(7). The same for a plan and for `update`. */
import type { ErrnoName } from "../../../ffi/errno.ts";
import { OciboxError } from "../../errors.ts";
import type { Resources } from "../../spec/runtime.ts";

/** One text for one file. */
export interface Setting {
  /** The controller: of v1 it names the hierarchy; "cgroup" is the core. */
  readonly controller: string;
  readonly file: string;
  readonly text: string;
  /** The field of config.json: "linux.resources.memory.limit". */
  readonly field: string;
  /** What is written where `file` is not there: the file of another I/O scheduler. */
  readonly instead?: { readonly file: string; readonly text: string };
  /** Errnos of open(2) that leave things as they are wanted: a limit that is off, in a file that is not there. */
  readonly absent?: readonly ErrnoName[];
}

/** Collects settings of one part of linux.resources. */
export class Settings {
  readonly all: Setting[] = [];

  constructor(readonly root = "linux.resources") {}

  /** @param path below linux.resources, its first word being the part */
  add(controller: string, file: string, value: number | string, path: string, more: Partial<Setting> = {}): void {
    this.all.push({ controller, file, text: decimal(value), field: `${this.root}.${path}`, ...more });
  }

  refuse(path: string, why: string): never {
    throw new OciboxError("UNSUPPORTED", `${this.root}.${path}: ${why}`);
  }

  invalid(path: string, why: string): never {
    throw new OciboxError("INVALID", `${this.root}.${path}: ${why}`);
  }
}

/** Numbers above 2^53 in full: "1e+21" and the like are not for the kernel. */
function decimal(value: number | string): string {
  return typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER
    ? BigInt(value).toString()
    : String(value);
}

/** -1 is no limit. */
export function orMax(value: number): string {
  return value < 0 ? "max" : decimal(value);
}

/** What both versions refuse. */
export function checkResources(resources: Resources, s: Settings): void {
  const { cpu, memory, pids } = resources;
  if (cpu?.burst !== undefined && cpu.quota !== undefined && cpu.quota > 0 && cpu.burst > cpu.quota)
    s.invalid("cpu.burst", `${cpu.burst} is more than the quota, ${cpu.quota}`);
  if (memory?.limit !== undefined && memory.swap !== undefined && memory.swap > 0 && memory.limit > memory.swap)
    s.invalid(
      "memory.swap",
      `${memory.swap} is less than the limit, ${memory.limit}: it counts memory and swap together`,
    );
  if (memory?.swappiness !== undefined && memory.swappiness > 100)
    s.invalid("memory.swappiness", `${memory.swappiness} is not from 0 to 100`);
  if (pids?.limit !== undefined && pids.limit < -1)
    s.invalid("pids.limit", `${pids.limit} is neither a number of tasks nor -1`);
}

/** "mlx5_1 hca_handle=3 hca_object=10000"; Documentation/admin-guide/cgroup-v1/rdma.rst, the same in v2. */
export function rdmaSettings(resources: Resources, s: Settings): void {
  const { rdma } = resources;
  for (const device in rdma) {
    const { hcaHandles, hcaObjects } = rdma[device] ?? {};
    const limits = [
      ...(hcaHandles === undefined ? [] : [`hca_handle=${hcaHandles}`]),
      ...(hcaObjects === undefined ? [] : [`hca_object=${hcaObjects}`]),
    ];
    if (limits.length === 0) s.invalid(`rdma[${device}]`, "neither hcaHandles nor hcaObjects is given");
    s.add("rdma", "rdma.max", `${device} ${limits.join(" ")}`, `rdma[${device}]`);
  }
}

const throttles = [
  ["throttleReadBpsDevice", "read_bps_device", "rbps"],
  ["throttleWriteBpsDevice", "write_bps_device", "wbps"],
  ["throttleReadIOPSDevice", "read_iops_device", "riops"],
  ["throttleWriteIOPSDevice", "write_iops_device", "wiops"],
] as const;

/** The four lists of rates, by the names that v1 and v2 have for them. */
export function throttleSettings(resources: Resources, s: Settings, version: "v1" | "v2"): void {
  for (const [list, fileOfV1, keyOfV2] of throttles) {
    (resources.blockIO?.[list] ?? []).forEach(({ major, minor, rate }, index) => {
      const path = `blockIO.${list}[${index}]`;
      if (version === "v1") s.add("blkio", `blkio.throttle.${fileOfV1}`, `${major}:${minor} ${decimal(rate)}`, path);
      // v2 takes no rate of 0, by which v1 lifts a limit.
      else s.add("io", "io.max", `${major}:${minor} ${keyOfV2}=${rate === 0 ? "max" : decimal(rate)}`, path);
    });
  }
}
