/** Flags of `run` that limit a container: linux.resources of its config.json. Pure. */
import { OciboxError } from "../errors.ts";
import type { HostFacts } from "../plan/facts.ts";
import type { DeviceRule, Resources } from "../spec/runtime.ts";
import type { RunOptions } from "./command.ts";
import { cpuQuota, numberOf, parseSize } from "./values.ts";

/** A limit that was asked for and cannot be had is an error; one that is ours alone is left out. */
function needController({ cgroup }: HostFacts, name: string, flag: string, given = true): boolean {
  if (cgroup.writable && cgroup.controllers.includes(name)) return true;
  if (!given) return false;
  throw new OciboxError(
    "HOST",
    `${flag} cannot be kept: this machine offers no writable cgroup with the ${name} controller`,
    { hint: "see: ocibox info" },
  );
}

function refuse(message: string): never {
  throw new OciboxError("USAGE", message);
}

function memoryOf({ memory, more }: RunOptions, facts: HostFacts): Resources["memory"] {
  const { memorySwap, memoryReservation } = more;
  const found: NonNullable<Resources["memory"]> = {};
  if (memory !== undefined && needController(facts, "memory", "--memory")) {
    found.limit = parseSize(memory, "--memory");
    if (found.limit < 6 << 20) refuse(`--memory is "${memory}", and less than 6m is too little to start`);
    found.swap = found.limit * 2;
  }
  if (memorySwap !== undefined && memorySwap !== "0") {
    if (found.limit === undefined) refuse("--memory-swap is for memory and swap together, and wants --memory as well");
    found.swap = memorySwap === "-1" ? -1 : parseSize(memorySwap, "--memory-swap");
    if (found.swap !== -1 && found.swap < found.limit)
      refuse(`--memory-swap is "${memorySwap}", and less than --memory: it is for both together`);
  }
  if (memoryReservation !== undefined && needController(facts, "memory", "--memory-reservation")) {
    found.reservation = parseSize(memoryReservation, "--memory-reservation");
    if (found.limit !== undefined && found.reservation > found.limit)
      refuse(`--memory-reservation is "${memoryReservation}", and more than --memory`);
  }
  return Object.keys(found).length === 0 ? undefined : found;
}

/** "0-3,5" */
function processors(text: string, flag: string): string {
  if (/^\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*$/.test(text)) return text;
  return refuse(`${flag} is "${text}", which is not a list like 0-3,5`);
}

function cpuOf({ cpus, more }: RunOptions, facts: HostFacts): Resources["cpu"] {
  const { cpuShares, cpuPeriod, cpuQuota: quota, cpusetCpus, cpusetMems } = more;
  const found: NonNullable<Resources["cpu"]> = {};
  if (cpus !== undefined && needController(facts, "cpu", "--cpus")) {
    if (cpuPeriod !== undefined || quota !== undefined)
      refuse("--cpus is a quota and a period, and does not go with --cpu-quota and --cpu-period");
    Object.assign(found, cpuQuota(cpus));
  }
  if (cpuShares !== undefined && needController(facts, "cpu", "--cpu-shares"))
    found.shares = numberOf(cpuShares, "--cpu-shares", 0, 262_144);
  if (cpuPeriod !== undefined && needController(facts, "cpu", "--cpu-period"))
    found.period = numberOf(cpuPeriod, "--cpu-period", 1000, 1_000_000);
  if (quota !== undefined && needController(facts, "cpu", "--cpu-quota"))
    found.quota = numberOf(quota, "--cpu-quota", -1, Number.MAX_SAFE_INTEGER);
  if (cpusetCpus !== undefined && needController(facts, "cpuset", "--cpuset-cpus"))
    found.cpus = processors(cpusetCpus, "--cpuset-cpus");
  if (cpusetMems !== undefined && needController(facts, "cpuset", "--cpuset-mems"))
    found.mems = processors(cpusetMems, "--cpuset-mems");
  return Object.keys(found).length === 0 ? undefined : found;
}

/** --device-cgroup-rule: "c 1:3 rwm", as the kernel has it in v1. */
function parseRule(text: string): DeviceRule {
  const [, type, major, minor, access] = /^([abc]) (\d+|\*):(\d+|\*) ([rwm]{1,3})$/.exec(text) ?? [];
  if (type === undefined || access === undefined)
    return refuse(`--device-cgroup-rule is "${text}", which is not like "c 10:200 rwm"`);
  const number = (word = "*"): number => (word === "*" ? -1 : Number(word));
  return { allow: true, type, major: number(major), minor: number(minor), access };
}

/** @throws OciboxError USAGE naming the flag, HOST for a limit that cannot be had */
export function resourcesOf(options: RunOptions, facts: HostFacts): Resources {
  const { devices = [], deviceRules = [] } = options.more;
  const resources: Resources = {
    devices: [
      { allow: options.more.privileged === true, access: "rwm" },
      ...devices.map(({ type, major, minor, access }) => ({ allow: true, type, major, minor, access })),
      ...deviceRules.map(parseRule),
    ],
  };
  const memory = memoryOf(options, facts);
  if (memory !== undefined) resources.memory = memory;
  const cpu = cpuOf(options, facts);
  if (cpu !== undefined) resources.cpu = cpu;
  const limit = Number(options.pidsLimit ?? "2048");
  if (!Number.isSafeInteger(limit) || limit < -1)
    refuse(`--pids-limit is "${options.pidsLimit}", which is not a number, or -1 for no limit`);
  if (limit > 0 && needController(facts, "pids", "--pids-limit", options.pidsLimit !== undefined))
    resources.pids = { limit };
  return resources;
}
