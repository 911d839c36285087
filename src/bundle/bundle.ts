/**
 * An image's configuration and the flags of `run` become a runtime-spec config.json. Pure: files of the image and facts
 * of the host come in as values.
 */
import { isMapped } from "../../ffi/user.ts";
import { OciboxError } from "../errors.ts";
import type { HostFacts } from "../plan/facts.ts";
import { defaultProfile } from "../plan/seccomp/filter.ts";
import type { ContainerDefaults } from "../spec/image.ts";
import type { Linux, LinuxSeccomp, Mount, Process, Resources, Rlimit, Spec } from "../spec/runtime.ts";
import { runtimeSpecVersion } from "../spec/version.ts";
import { argsOf, type CommandInput, environmentOf, hostnameOf, parseHostname, type RunOptions } from "./command.ts";
import { type Account, lookUpUser } from "./user.ts";
import {
  capabilities,
  cleanPath,
  cpuQuota,
  parseSize,
  parseUlimit,
  tmpfsMount,
  usualCapabilities,
  volumeMount,
} from "./values.ts";

export interface BundleInput extends CommandInput {
  readonly image: ContainerDefaults;
  readonly passwd: Uint8Array | undefined;
  readonly group: Uint8Array | undefined;
  readonly facts: HostFacts;
  readonly cgroupsPath: string;
  /** Directory with hostname, hosts and resolv.conf. */
  readonly files: string;
}

/** docker's and podman's lists together; docs/security.md. */
const maskedPaths = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/dev/block",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
  "/sys/fs/selinux",
];
const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** The group of terminals, everywhere. */
const ttyGroup = 5;

function baseMounts(facts: HostFacts, network: "none" | "host"): Mount[] {
  const mounts: Mount[] = [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: [
        ...["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ...(facts.ids === undefined || isMapped(facts.ids.gids, ttyGroup) ? [`gid=${ttyGroup}`] : []),
      ],
    },
    // With the host's network namespace, sysfs would show its devices all the same: it is read-only in either case. Who may
    // not mount one, as the network is not theirs, has the host's.
    facts.userNamespace && network === "host"
      ? { destination: "/sys", type: "bind", source: "/sys", options: ["rbind", "nosuid", "noexec", "nodev", "rro"] }
      : { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev/shm",
      type: "tmpfs",
      source: "shm",
      options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
  ];
  if (facts.cgroup.mode !== "none")
    mounts.push({
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "ro"],
    });
  return mounts;
}

function fileMounts(input: BundleInput, taken: ReadonlySet<string>): Mount[] {
  const mounts: Mount[] = [];
  for (const name of ["hostname", "hosts", "resolv.conf"]) {
    const destination = `/etc/${name}`;
    if (taken.has(destination)) continue;
    mounts.push({
      destination,
      type: "bind",
      source: `${input.files}/${name}`,
      options: ["bind", "nodev", "nosuid", "rprivate"],
    });
  }
  return mounts;
}

function mountsOf(input: BundleInput): Mount[] {
  const { options } = input;
  const own = [...options.volumes.map(volumeMount), ...options.tmpfs.map(tmpfsMount)];
  const taken = new Set(own.map((mount) => mount.destination));
  if (taken.size !== own.length) throw new OciboxError("USAGE", "two mounts have the same destination");
  const base = baseMounts(input.facts, options.network).filter((mount) => !taken.has(mount.destination));
  // A mount on a directory must come before the mounts below it.
  own.sort((a, b) => a.destination.split("/").length - b.destination.split("/").length);
  return [...base, ...fileMounts(input, taken), ...own];
}

interface Security {
  noNewPrivileges: boolean;
  seccomp: LinuxSeccomp | undefined;
}

function securityOf(options: RunOptions, facts: HostFacts, bounding: readonly string[]): Security {
  const found: Security = { noNewPrivileges: options.strict, seccomp: undefined };
  let unconfined = false;
  for (const option of options.securityOpt) {
    const [key = "", ...rest] = option.split(/[=:]/);
    const value = option.slice(key.length + 1);
    if (key === "no-new-privileges" && ["", "true", "false"].includes(value)) found.noNewPrivileges = value !== "false";
    else if (key === "seccomp" && value === "unconfined") unconfined = true;
    else if (key === "seccomp" && rest.length > 0) found.seccomp = readProfile(value);
    else if (key === "apparmor" && value === "unconfined") continue;
    else if (key === "label" && value === "disable") continue;
    else if (key === "apparmor" || key === "label")
      throw new OciboxError(
        "UNSUPPORTED",
        `--security-opt ${option}: ${key === "apparmor" ? "AppArmor" : "SELinux"} ${
          (key === "apparmor" ? facts.apparmor : facts.selinux)
            ? "profiles are not there yet"
            : "is not active on this machine"
        }`,
      );
    else throw new OciboxError("USAGE", `--security-opt has no "${option}"`);
  }
  if (!unconfined) found.seccomp ??= defaultProfile(facts.machine, bounding, isUsual(bounding));
  return found;
}

function isUsual(bounding: readonly string[]): boolean {
  return bounding.length === usualCapabilities.length && usualCapabilities.every((each) => bounding.includes(each));
}

function readProfile(text: string): LinuxSeccomp {
  try {
    const profile = JSON.parse(text) as LinuxSeccomp;
    if (typeof profile.defaultAction === "string") return profile;
  } catch {
    // said below
  }
  throw new OciboxError("INVALID", "the seccomp profile is not JSON with a defaultAction");
}

const controllerOf = { memory: "memory", cpus: "cpu", pidsLimit: "pids" } as const;

/** A limit that was asked for and cannot be had is an error; one that is ours alone is left out. */
function needController(facts: HostFacts, flag: keyof typeof controllerOf, given: boolean): boolean {
  const name = controllerOf[flag];
  if (facts.cgroup.writable && facts.cgroup.controllers.includes(name)) return true;
  if (!given) return false;
  const shown = flag === "pidsLimit" ? "--pids-limit" : `--${flag}`;
  throw new OciboxError(
    "HOST",
    `${shown} cannot be kept: this machine offers no writable cgroup with the ${name} controller`,
    {
      hint: "see: ocibox info",
    },
  );
}

function resourcesOf(options: RunOptions, facts: HostFacts): Resources {
  const resources: Resources = { devices: [{ allow: false, access: "rwm" }] };
  if (options.memory !== undefined && needController(facts, "memory", true)) {
    const limit = parseSize(options.memory, "--memory");
    if (limit < 6 << 20)
      throw new OciboxError("USAGE", `--memory is "${options.memory}", and less than 6m is too little to start`);
    resources.memory = { limit, swap: limit * 2 };
  }
  if (options.cpus !== undefined && needController(facts, "cpus", true)) resources.cpu = cpuQuota(options.cpus);
  const limit = Number(options.pidsLimit ?? "2048");
  if (!Number.isSafeInteger(limit) || limit < -1)
    throw new OciboxError("USAGE", `--pids-limit is "${options.pidsLimit}", which is not a number, or -1 for no limit`);
  if (limit > 0 && needController(facts, "pidsLimit", options.pidsLimit !== undefined)) resources.pids = { limit };
  return resources;
}

function rlimitsOf(options: RunOptions, facts: HostFacts): Rlimit[] {
  const given = options.ulimits.map(parseUlimit);
  if (given.some((each) => each.type === "RLIMIT_NOFILE")) return given;
  return [{ type: "RLIMIT_NOFILE", ...facts.nofile }, ...given];
}

/**
 * Whether the options make sense, whatever the image is: a mistyped flag should not cost a pull.
 * @throws OciboxError as createSpec does
 */
export function checkOptions(options: RunOptions, facts: HostFacts): void {
  resourcesOf(options, facts);
  rlimitsOf(options, facts);
  const bounding = capabilities(options.capAdd, options.capDrop, options.strict, facts.permitted);
  securityOf(options, facts, bounding);
  for (const mount of options.volumes) volumeMount(mount);
  for (const text of options.tmpfs) tmpfsMount(text);
  if (options.hostname !== undefined) parseHostname(options.hostname);
  if (options.workdir !== undefined) cleanPath(options.workdir, "the working directory");
}

/** Whoever the command is to run as is somebody here. @throws OciboxError HOST */
export function checkIds({ uid, gid }: Account, { ids }: HostFacts): void {
  if (ids === undefined || (isMapped(ids.uids, uid) && isMapped(ids.gids, gid))) return;
  throw new OciboxError("HOST", `the command cannot run as ${uid}:${gid}, whom this user has no ids for`, {
    hint: "install uidmap, and give the user ranges in /etc/subuid and /etc/subgid; or run it as root: -u 0",
  });
}

function processOf(input: BundleInput, account: Account, bounding: string[], noNewPrivileges: boolean): Process {
  const { image, options, facts } = input;
  // As docker: what a user who is not root may have, it has to get by a file's capabilities.
  const held = account.uid === 0 ? bounding : [];
  checkIds(account, facts);
  // Where they cannot be had, as with a user's own id alone, they are the user's own groups, which nothing is lost by.
  const groups = facts.ids?.setgroups === false ? [] : account.additionalGids;
  return {
    terminal: options.tty,
    user: { uid: account.uid, gid: account.gid, ...(groups.length > 0 ? { additionalGids: groups } : {}) },
    args: argsOf(input),
    env: environmentOf(input, account.home),
    cwd: cleanPath(options.workdir ?? (image.WorkingDir || "/"), "the working directory"),
    capabilities: { bounding, effective: held, permitted: held, inheritable: [], ambient: [] },
    rlimits: rlimitsOf(options, facts),
    noNewPrivileges,
    // A user may not lower what a session has set.
    ...(facts.userNamespace ? {} : { oomScoreAdj: 0 }),
  };
}

function linuxOf(input: BundleInput, seccomp: LinuxSeccomp | undefined): Linux {
  const { options, facts } = input;
  const isolated = options.network === "none";
  return {
    namespaces: [
      { type: "pid" },
      { type: "ipc" },
      { type: "uts" },
      { type: "mount" },
      ...(isolated ? [{ type: "network" } as const] : []),
      ...(facts.cgroup.mode === "none" ? [] : [{ type: "cgroup" } as const]),
    ],
    cgroupsPath: input.cgroupsPath,
    resources: resourcesOf(options, facts),
    ...(seccomp === undefined ? {} : { seccomp }),
    ...(isolated ? { sysctl: { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 0" } } : {}),
    maskedPaths,
    readonlyPaths,
  };
}

/** Who the command runs as, by the image's own passwd and group. @throws OciboxError INVALID */
export function accountOf({ image, options, passwd, group }: BundleInput): Account {
  return lookUpUser(options.user ?? image.User ?? "", passwd, group);
}

/**
 * The config.json of a container.
 * @throws OciboxError USAGE or INVALID naming the flag or the image's field, HOST for a limit that cannot be had
 */
export function createSpec(input: BundleInput, account = accountOf(input)): Spec {
  const { options, facts } = input;
  const bounding = capabilities(options.capAdd, options.capDrop, options.strict, facts.permitted);
  const security = securityOf(options, facts, bounding);
  return {
    ociVersion: runtimeSpecVersion,
    process: processOf(input, account, bounding, security.noNewPrivileges),
    root: { path: "rootfs", readonly: options.readOnly || options.strict },
    hostname: hostnameOf(input),
    mounts: mountsOf(input),
    linux: linuxOf(input, security.seccomp),
  };
}
