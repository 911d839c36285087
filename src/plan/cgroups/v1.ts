/** linux.resources for cgroup v1: Documentation/admin-guide/cgroup-v1, config-linux.md#control-groups. */
import { AT_FDCWD, O } from "../../../ffi/constants.ts";
import type { ErrnoName } from "../../../ffi/errno.ts";
import { OciboxError } from "../../errors.ts";
import type { BlockIo, DeviceRule, Resources } from "../../spec/runtime.ts";
import type { Builder } from "../builder.ts";
import type { CgroupPlan } from "./plan.ts";

/** One value in one file. */
export interface Limit {
  readonly controller: string;
  readonly file: string;
  readonly value: string;
  /** What asked for it, below linux.resources. */
  readonly field: string;
  /** Errnos of opening the file that mean that this kernel does not count such a thing. */
  readonly optional?: readonly ErrnoName[];
}

/** Devices every container may use, beside making nodes that it then cannot open: runc's and crun's list. */
export const defaultDevices: readonly DeviceRule[] = [
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  ...([3, 5, 7, 8, 9] as const).map((minor) => ({ allow: true, type: "c", major: 1, minor, access: "rwm" })),
  { allow: true, type: "c", major: 5, minor: 0, access: "rwm" },
  { allow: true, type: "c", major: 5, minor: 2, access: "rwm" },
  { allow: true, type: "c", major: 136, access: "rwm" },
];

function ruleText(rule: DeviceRule): string {
  if (rule.type === undefined || rule.type === "a") return "a";
  const number = (value: number | undefined): string => (value === undefined || value < 0 ? "*" : String(value));
  return `${rule.type} ${number(rule.major)}:${number(rule.minor)} ${rule.access ?? "rwm"}`;
}

function writeDevices(b: Builder, directory: string, rules: readonly DeviceRule[]): void {
  const { p } = b;
  rules.forEach((rule, index) => {
    p.field(`linux.resources.devices[${index}]`);
    b.write(AT_FDCWD, `${directory}/devices.${rule.allow ? "allow" : "deny"}`, ruleText(rule));
  });
  p.field("the default devices");
  const allow = p.sys.openat(AT_FDCWD, `${directory}/devices.allow`, O.O_WRONLY | O.O_CLOEXEC, 0);
  for (const rule of defaultDevices) {
    const text = ruleText(rule);
    p.sys.write(allow, text, text.length);
  }
  b.close(allow);
}

const throttles = {
  throttleReadBpsDevice: "read_bps",
  throttleWriteBpsDevice: "write_bps",
  throttleReadIOPSDevice: "read_iops",
  throttleWriteIOPSDevice: "write_iops",
} as const;

function blockIo(blockIO: BlockIo): Limit[] {
  const limits: Limit[] = [];
  const controller = "blkio";
  const put = (file: string, value: string, field: string): void => {
    limits.push({ controller, file, value, field: `blockIO.${field}` });
  };
  if (blockIO.weight !== undefined && blockIO.weight !== 0) put("blkio.weight", String(blockIO.weight), "weight");
  if (blockIO.leafWeight !== undefined && blockIO.leafWeight !== 0)
    put("blkio.leaf_weight", String(blockIO.leafWeight), "leafWeight");
  (blockIO.weightDevice ?? []).forEach(({ major, minor, weight, leafWeight }, index) => {
    if (weight !== undefined) put("blkio.weight_device", `${major}:${minor} ${weight}`, `weightDevice[${index}]`);
    if (leafWeight !== undefined)
      put("blkio.leaf_weight_device", `${major}:${minor} ${leafWeight}`, `weightDevice[${index}]`);
  });
  for (const key in throttles) {
    const name = key as keyof typeof throttles;
    (blockIO[name] ?? []).forEach(({ major, minor, rate }, index) => {
      put(`blkio.throttle.${throttles[name]}_device`, `${major}:${minor} ${rate}`, `${name}[${index}]`);
    });
  }
  return limits;
}

/** Every value of linux.resources but the devices, in an order in which the kernel takes them. */
export function limitsOfV1(resources: Resources): Limit[] {
  const limits: Limit[] = [];
  const put = (controller: string, file: string, value: number | string | undefined, field: string): void => {
    if (value !== undefined) limits.push({ controller, file: `${controller}.${file}`, value: String(value), field });
  };
  const { memory, cpu, pids, network, hugepageLimits, rdma, unified } = resources;
  if (unified !== undefined && Object.keys(unified).length > 0)
    throw new OciboxError("INVALID", "linux.resources.unified is for cgroup v2, and this machine has v1");
  if (pids?.limit !== undefined) put("pids", "max", pids.limit > 0 ? pids.limit : "max", "pids.limit");
  if (memory !== undefined) {
    put("memory", "limit_in_bytes", memory.limit, "memory.limit");
    if (memory.swap !== undefined)
      limits.push({
        controller: "memory",
        file: "memory.memsw.limit_in_bytes",
        value: String(memory.swap),
        field: "memory.swap",
        // Not there where the kernel does not count swap.
        optional: ["ENOENT", "EACCES"],
      });
    put("memory", "soft_limit_in_bytes", memory.reservation, "memory.reservation");
    put("memory", "kmem.tcp.limit_in_bytes", memory.kernelTCP, "memory.kernelTCP");
    put("memory", "swappiness", memory.swappiness, "memory.swappiness");
    if (memory.disableOOMKiller === true) put("memory", "oom_control", 1, "memory.disableOOMKiller");
  }
  if (cpu !== undefined) {
    put("cpu", "shares", cpu.shares === 0 ? undefined : cpu.shares, "cpu.shares");
    put("cpu", "cfs_period_us", cpu.period === 0 ? undefined : cpu.period, "cpu.period");
    put("cpu", "cfs_quota_us", cpu.quota === 0 ? undefined : cpu.quota, "cpu.quota");
    put("cpu", "cfs_burst_us", cpu.burst, "cpu.burst");
    put("cpu", "rt_period_us", cpu.realtimePeriod === 0 ? undefined : cpu.realtimePeriod, "cpu.realtimePeriod");
    put("cpu", "rt_runtime_us", cpu.realtimeRuntime === 0 ? undefined : cpu.realtimeRuntime, "cpu.realtimeRuntime");
    put("cpu", "idle", cpu.idle, "cpu.idle");
    put("cpuset", "cpus", cpu.cpus === "" ? undefined : cpu.cpus, "cpu.cpus");
    put("cpuset", "mems", cpu.mems === "" ? undefined : cpu.mems, "cpu.mems");
  }
  if (resources.blockIO !== undefined) limits.push(...blockIo(resources.blockIO));
  (hugepageLimits ?? []).forEach(({ pageSize, limit }, index) => {
    put("hugetlb", `${pageSize}.limit_in_bytes`, limit, `hugepageLimits[${index}]`);
  });
  put("net_cls", "classid", network?.classID === 0 ? undefined : network?.classID, "network.classID");
  (network?.priorities ?? []).forEach(({ name, priority }, index) => {
    put("net_prio", "ifpriomap", `${name} ${priority}`, `network.priorities[${index}]`);
  });
  for (const device in rdma ?? {}) put("rdma", "max", rdmaText(device, rdma?.[device] ?? {}), `rdma[${device}]`);
  return limits;
}

/** rdma.max, the same in v1 and v2: "mlx4_0 hca_handle=2 hca_object=max". */
export function rdmaText(device: string, limits: { hcaHandles?: number; hcaObjects?: number }): string {
  return `${device} hca_handle=${limits.hcaHandles ?? "max"} hca_object=${limits.hcaObjects ?? "max"}`;
}

/** @throws OciboxError HOST for a limit whose controller is not there */
export function limitsV1(b: Builder, plan: CgroupPlan, resources: Resources): void {
  const directory = (controller: string, field: string): string => {
    const found = plan.hierarchies.find((each) => each.options.some(([key]) => key === controller));
    if (found !== undefined) return found.directory;
    throw new OciboxError(
      "HOST",
      `linux.resources.${field} cannot be kept: this machine has no ${controller} controller of cgroup v1`,
    );
  };
  for (const { controller, file, value, field, optional } of limitsOfV1(resources)) {
    b.p.field(`linux.resources.${field}`);
    b.write(AT_FDCWD, `${directory(controller, field)}/${file}`, value, ...(optional ?? []));
  }
  const devices = plan.hierarchies.find((each) => each.options.some(([key]) => key === "devices"));
  if (devices !== undefined && resources.devices !== undefined)
    writeDevices(b, devices.directory, resources.devices);
}
